"""Cross-modal temporal (CMT) adapter with hierarchical selective attention (HSA); SAMWISE, section 3.2.

Axes: B samples (one clip with one sentence each), T frames, H rows, W columns, L text tokens, C visual channels, D text
channels, A adapter width, p side of an HSA patch.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.sam2.layers import Linear, attend, band_rows, linear
from models.sam2.position_encoding import sine_1d

HEADS = 8


class PackedAttention(nn.Module):
    """Multi-head attention whose input projections are one tensor; parameters as in `torch.nn.MultiheadAttention`.

    Args:
        dim: channels.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, memory: Tensor, keep: Tensor | None = None) -> Tensor:
        """Attend from `query` to `memory`, which gives keys and values.

        Args:
            query: (B, N, A).
            memory: (B, M, A).
            keep: (B, M) bool, False for keys that must not be read.

        Returns:
            (B, N, A).
        """
        if query is memory:
            q, k, v = linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            width = query.shape[-1]
            weights, biases = self.in_proj_weight.split([width, 2 * width]), self.in_proj_bias.split([width, 2 * width])
            q = linear(query, weights[0], biases[0])
            k, v = linear(memory, weights[1], biases[1]).chunk(2, dim=-1)
        q, k, v = (rearrange(x, "b n (heads d) -> b heads n d", heads=HEADS) for x in (q, k, v))
        mask = None if keep is None else keep[:, None, None, :]
        dropout = self.dropout.p if self.training else 0.0
        attended = attend(q, k, v, mask, dropout)
        return self.out_proj(rearrange(attended, "b heads n d -> b n (heads d)"))


class CrossAttention(nn.Module):
    """`PackedAttention` under the published key `multihead_attn`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.multihead_attn = PackedAttention(dim)

    def forward(self, query: Tensor, memory: Tensor, keep: Tensor | None = None) -> Tensor:
        """See `PackedAttention.forward`; the result multiplies the query."""
        return query * self.multihead_attn(query, memory, keep)


class Pointwise(nn.Sequential):
    """1x1 (transposed) convolution without bias, BatchNorm and ReLU on features with the channels last.

    Outside training the normalisation is folded into the convolution, and both are one matrix product.

    Args:
        convolution: a 1x1 `nn.Conv2d` or `nn.ConvTranspose2d` without bias.
        channels: its output channels.
    """

    def __init__(self, convolution: nn.Conv2d | nn.ConvTranspose2d, channels: int) -> None:
        super().__init__(convolution, nn.BatchNorm2d(channels), nn.ReLU())
        self.transposed = isinstance(convolution, nn.ConvTranspose2d)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C')."""
        norm = self[1]
        assert isinstance(norm, _BatchNorm)
        weight = cast(Tensor, self[0].weight).flatten(1)
        weight = weight.t() if self.transposed else weight
        if self.training:
            return F.relu(norm(F.linear(x, weight).permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        return linear(x, (weight * scale[:, None]).to(x.dtype), shift.to(x.dtype), "relu")


class HierarchicalSelectiveAttention(nn.Module):
    """Self-attention of one patch over all frames, then a linear layer."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.self_attn = PackedAttention(dim, dropout=0.1)
        self.linear = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(patches, T * p * p, A) -> (patches, T * p * p, A)."""
        return self.linear(self.self_attn(x, x))


class CMTAdapter(nn.Module):
    """Exchanges information between the frames of a clip and the words of its sentence.

    Args:
        visual_dim: C.
        text_dim: D.
        dim: A.
        patch: p, or None to leave HSA out.
    """

    def __init__(self, visual_dim: int, text_dim: int, dim: int, patch: int | None) -> None:
        super().__init__()
        self.patch = patch
        self.proj_vis_down = Pointwise(nn.Conv2d(visual_dim, dim, 1, bias=False), dim)
        self.proj_vis_up = Pointwise(nn.ConvTranspose2d(dim, visual_dim, 1, bias=False), visual_dim)
        self.proj_text_down = nn.Sequential(nn.Linear(text_dim, dim, bias=False))
        self.proj_text_up = nn.Sequential(nn.Linear(dim, text_dim, bias=False))
        self.ca_V2T = CrossAttention(dim)
        self.ca_T2V = CrossAttention(dim)
        if patch is not None:
            self.spatial_pos_embed = nn.Parameter(torch.empty(1, 1, 1, patch * patch, dim))
            nn.init.trunc_normal_(self.spatial_pos_embed, std=0.02)
            self.hsa = HierarchicalSelectiveAttention(dim)
            self.norm_pre_HSA = nn.LayerNorm(dim)

    def look(self, visual: Tensor) -> tuple[Tensor, Tensor]:
        """What needs no text: features after HSA, and the clip's mean before it.

        Args:
            visual: (B, T, H, W, C).

        Returns:
            (B, T, H, W, A) and (B, H, W, A).
        """
        bands = [self._look(band) for band in visual.split(self._band_rows(visual), dim=2)]
        return torch.cat([attended for attended, _ in bands], dim=2), torch.cat([mean for _, mean in bands], dim=1)

    def _look(self, visual: Tensor) -> tuple[Tensor, Tensor]:
        """`look` at whole rows of patches."""
        x = self.proj_vis_down(visual.flatten(0, 1)).unflatten(0, visual.shape[:2])
        attended = x if self.patch is None else x + self._hsa(x)
        return attended, x.mean(dim=1)

    def _band_rows(self, x: Tensor) -> int:
        """Rows of (B, T, H, W, channels) to compute at once; in training all, which BatchNorm sees together."""
        batch, frames, rows, columns = x.shape[:4]
        return rows if self.training else band_rows(x, rows, self.patch or 1, batch * frames * columns)

    def forward(self, attended: Tensor, mean: Tensor, text: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what is added to both streams.

        Args:
            attended, mean: from `look`; `attended` may be a part of the map, `mean` is the whole.
            text: (B, L, D).
            words: (B, L) bool, False for padding.

        Returns:
            visual (B, T, H, W, C) and text (B, L, D).
        """
        t = self.proj_text_down(text)
        text_out = self.ca_T2V(t, mean.flatten(1, 2))
        bands = attended.split(self._band_rows(attended), dim=2)
        visual_out = torch.cat([self._read_text(band, t, words) for band in bands], dim=2)
        return visual_out, self.proj_text_up(text_out)

    def _read_text(self, attended: Tensor, text: Tensor, words: Tensor) -> Tensor:
        """Vision reads text: (B, T, H, W, A) and (B, L, A) -> (B, T, H, W, C)."""
        mixed = self.ca_V2T(attended.flatten(1, 3), text, words).view_as(attended)
        return self.proj_vis_up(mixed.flatten(0, 1)).unflatten(0, attended.shape[:2])

    def _hsa(self, x: Tensor) -> Tensor:
        """HSA over the frames of each clip: (B, T, H, W, A) -> (B, T, H, W, A)."""
        assert self.patch is not None
        frames, height, width, channels = x.shape[1:]
        patches = rearrange(x, "b t (h p) (w q) a -> (b h w) t (p q) a", p=self.patch, q=self.patch)
        time = sine_1d(frames, channels, x.device).to(x.dtype)
        patches = self.norm_pre_HSA(patches + time[:, None] + self.spatial_pos_embed[0, 0])
        out = self.hsa(patches.flatten(1, 2))
        return rearrange(
            out,
            "(b h w) (t p q) a -> b t (h p) (w q) a",
            t=frames, h=height // self.patch, w=width // self.patch, p=self.patch, q=self.patch,
        )  # fmt: skip
