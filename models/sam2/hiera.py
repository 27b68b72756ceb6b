"""Hiera, the image encoder of SAM 2 (arXiv 2306.00989; SAM 2, arXiv 2408.00714, section 4).

Features keep their channels last: (B, H, W, C). Further axes: w side of a window, d channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from configs.schema import HieraConfig
from models.sam2.layers import MLP, Linear, attend, kept

PATCH_STRIDE = 4
MLP_RATIO = 4
NORM_EPS = 1e-6


def split_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (windows, w * w, C); H and W are multiples of w."""
    return rearrange(x, "b (h p) (w q) c -> (b h w) (p q) c", p=window, q=window)


def join_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """Inverse of `split_windows`: (windows, w * w, C) -> (B, H, W, C)."""
    return rearrange(x, "(b h w) (p q) c -> b (h p) (w q) c", h=height // window, w=width // window, p=window, q=window)


@kept
def window_order(height: int, width: int, window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which token stands in which place of windows that pad a map on the right and at the bottom.

    Returns:
        (windows * w * w,) int64, the token of each place, H * W where it is padding; and (H * W,) int64, the place of
        each token.
    """
    with torch.inference_mode(False):
        padded = height + -height % window, width + -width % window
        tokens = torch.full(padded, height * width, device=device)
        tokens[:height, :width] = torch.arange(height * width, device=device).view(height, width)
        places = torch.arange(tokens.numel(), device=device).view(-1, window * window, 1)
        joined = join_windows(places, window, *padded)[0, :height, :width]
        return split_windows(tokens[None, :, :, None], window).flatten(), joined.flatten()


def max_pool(x: Tensor) -> Tensor:
    """2x2 maxima: (B, H, W, C) -> (B, H / 2, W / 2, C)."""
    rows = torch.maximum(x[:, 0::2], x[:, 1::2])
    return torch.maximum(rows[:, :, 0::2], rows[:, :, 1::2])


class PatchEmbedding(nn.Module):
    """7x7 convolution with stride 4; parameter `proj`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, kernel_size=7, stride=PATCH_STRIDE, padding=3)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H / 4, W / 4, C)."""
        frames = frames.contiguous(memory_format=torch.channels_last)
        return self.proj(frames).permute(0, 2, 3, 1).contiguous()


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, or over the whole map; parameters `qkv` and `proj`.

    Args:
        dim: input channels.
        dim_out: output channels.
        heads: number of heads.
        window: side of a window in tokens, 0 for the whole map.
        pool: whether the queries are max-pooled 2x2, which halves the map.
    """

    def __init__(self, dim: int, dim_out: int, heads: int, window: int, pool: bool) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.pool = pool
        self.qkv = Linear(dim, 3 * dim_out)
        self.proj = Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, H', W', dim_out), H' = H / 2 with pooling, otherwise H."""
        height, width = x.shape[1:3]
        out_height, out_width = (height // 2, width // 2) if self.pool else (height, width)
        if self.window == 0:
            attended = self._attend(self.qkv(x).flatten(1, 2), height, width)
            return self.proj(attended).unflatten(1, (out_height, out_width))
        out_window = self.window // 2 if self.pool else self.window
        if height % self.window or width % self.window:
            attended = self._attend(self._padded_qkv(x), self.window, self.window)
            places = window_order(out_height, out_width, out_window, x.device)[1]
            found = attended.unflatten(0, (x.shape[0], -1)).flatten(1, 2).index_select(1, places)
            return self.proj(found).unflatten(1, (out_height, out_width))
        attended = self._attend(self.qkv(split_windows(x, self.window)), self.window, self.window)
        return self.proj(join_windows(attended, out_window, out_height, out_width))

    def _padded_qkv(self, x: Tensor) -> Tensor:
        """Project before splitting, with one token of zeros for all padding.

        (B, H, W, dim) -> (windows, w * w, 3 * dim_out).
        """
        qkv = self.qkv(F.pad(x.flatten(1, 2), (0, 0, 0, 1)))
        tokens = window_order(x.shape[1], x.shape[2], self.window, x.device)[0]
        return qkv.index_select(1, tokens).unflatten(1, (-1, self.window**2)).flatten(0, 1)

    def _attend(self, qkv: Tensor, height: int, width: int) -> Tensor:
        """(B, H * W, 3 * dim_out) -> (B, H' * W', dim_out)."""
        q, k, v = qkv.unflatten(-1, (3, -1)).unbind(2)
        if self.pool:
            q = max_pool(q.unflatten(1, (height, width))).flatten(1, 2)
        q, k, v = (rearrange(x, "b n (heads d) -> b heads n d", heads=self.heads) for x in (q, k, v))
        return rearrange(attend(q, k, v), "b heads n d -> b n (heads d)")


class Block(nn.Module):
    """Pre-norm transformer block; where a stage begins it doubles the channels and halves the map.

    Args:
        dim: input channels.
        dim_out: output channels.
        heads: attention heads.
        window: side of the attention window, 0 for global attention.
    """

    def __init__(self, dim: int, dim_out: int, heads: int, window: int) -> None:
        super().__init__()
        self.begins_stage = dim != dim_out
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = WindowAttention(dim, dim_out, heads, window, pool=self.begins_stage)
        self.norm2 = nn.LayerNorm(dim_out, eps=NORM_EPS)
        self.mlp = MLP((dim_out, MLP_RATIO * dim_out, dim_out), "gelu")
        if self.begins_stage:
            self.proj = Linear(dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, H', W', dim_out)."""
        normed = self.norm1(x)
        shortcut = max_pool(self.proj(normed)) if self.begins_stage else x
        x = shortcut + self.attn(normed)
        return x + self.mlp(self.norm2(x))


class Hiera(nn.Module):
    """The four stages, run one by one so that text can enter between them.

    Args:
        config: sizes of the encoder.
    """

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        dim, heads = config.embed_dim, config.num_heads
        self.channels = tuple(dim << stage for stage in range(len(config.stages)))
        self.stage_ends = tuple(sum(config.stages[: stage + 1]) for stage in range(len(config.stages)))
        self.patch_embed = PatchEmbedding(dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, config.background_grid, config.background_grid))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, dim, config.windows[0], config.windows[0]))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.pos_embed_window, std=0.02)
        self.blocks = nn.ModuleList()
        for stage, depth in enumerate(config.stages):
            for position in range(depth):
                dim_out = config.embed_dim << stage
                # The first block of a stage still sees the map, and so uses the window, of the stage before.
                window = config.windows[max(stage - 1, 0) if position == 0 else stage]
                window = 0 if len(self.blocks) in config.global_blocks else window
                self.blocks.append(Block(dim, dim_out, heads << stage, window))
                dim = dim_out

    def embed(self, frames: Tensor, position: Tensor) -> Tensor:
        """Patches plus `position`: (B, 3, H, W) -> (B, H / 4, W / 4, C)."""
        return self.patch_embed(frames) + position

    def position(self, height: int, width: int) -> Tensor:
        """Position embedding (1, H, W, C) of a map: the background grid enlarged, plus the window embedding tiled."""
        window = self.pos_embed_window
        background = F.interpolate(self.pos_embed.float(), size=(height, width), mode="bicubic")
        repeats = (-(-height // window.shape[2]), -(-width // window.shape[3]))
        tiled = window.tile(1, 1, *repeats)[:, :, :height, :width]
        return (background.to(window.dtype) + tiled).permute(0, 2, 3, 1)

    def stage_blocks(self, stage: int) -> list[Block]:
        """The blocks of one stage."""
        start = self.stage_ends[stage - 1] if stage else 0
        return [cast(Block, block) for block in self.blocks[start : self.stage_ends[stage]]]

    @staticmethod
    def rows_alone(blocks: Sequence[Block]) -> int:
        """The fewest rows of a map that `blocks` treat without the other rows; 0 if they need all."""
        rows, scale = 1, 1
        for block in blocks:
            rows = math.lcm(rows, block.attn.window * scale)
            scale *= 2 if block.begins_stage else 1
        return rows

    @staticmethod
    def run_blocks(blocks: Sequence[Block], x: Tensor) -> Tensor:
        """One block after the other: (B, H, W, C) -> (B, H', W', C')."""
        for block in blocks:
            x = block(x)
        return x
