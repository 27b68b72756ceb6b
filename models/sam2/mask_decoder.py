"""Mask decoder of SAM 2 with its two-way transformer; one mask, no multimask output.

Axes: B batch, N = H * W tokens of the feature map, P prompt tokens, K output plus prompt tokens, C width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.sam2.layers import MLP, Attention, LayerNorm2d

HEADS = 8
MASK_TOKENS = 4


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves and to the image, then the image attends to the tokens.

    Args:
        dim: C.
        hidden: feed-forward width.
        first: in the first block self-attention has neither position nor residual.
    """

    def __init__(self, dim: int, hidden: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, dim, HEADS)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, dim // 2, HEADS)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP((dim, hidden, dim))
        self.norm3 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, dim // 2, HEADS)
        self.norm4 = nn.LayerNorm(dim)

    def forward(
        self, tokens: Tensor, image: Tensor, token_position: Tensor, position: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """tokens (B, K, C), image (B, N, C), their position encodings, and (B, K) bool -> new tokens and image."""
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens, keep))
        else:
            query = tokens + token_position
            tokens = self.norm1(tokens + self.self_attn(query, query, tokens, keep))
        key = image + position
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_position, key, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(key, tokens + token_position, tokens, keep))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two blocks and a final attention from tokens to image."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([TwoWayBlock(dim, hidden, first=True), TwoWayBlock(dim, hidden, first=False)])
        self.final_attn_token_to_image = Attention(dim, dim // 2, HEADS)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(
        self, prompts: Tensor, image: Tensor, position: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the transformer.

        Args:
            prompts: (B, K, C).
            image: (B, N, C).
            position: (1, N, C).
            keep: (B, K) bool, False for padding; None if there is none.

        Returns:
            tokens (B, K, C), image (B, N, C), and the tokens as they left the first block (B, K, C).
        """
        early, image = self.layers[0](prompts, image, prompts, position, keep)
        tokens, image = self.layers[1](early, image, prompts, position, keep)
        final = self.final_attn_token_to_image(tokens + prompts, image + position, image)
        return self.norm_final_attn(tokens + final), image, early


@dataclass(frozen=True)
class DecodedMask:
    """What the decoder says about one frame.

    Attributes:
        logits: (B, 4 H, 4 W) mask logits.
        mask_token: (B, C) mask token 0 at the end; becomes the object pointer.
        early_token: (B, C) mask token 0 after the first two-way block.
        iou: (B,) predicted IoU, 0 to 1.
        score: (B,) object-score logits; plus infinity where object scores are switched off.
    """

    logits: Tensor
    mask_token: Tensor
    early_token: Tensor
    iou: Tensor
    score: Tensor

    @property
    def visible(self) -> Tensor:
        """(B,) bool: whether the object is in the frame."""
        return self.score > 0

    def hide(self, logit: float) -> DecodedMask:
        """The same with `logit` everywhere in the masks of invisible objects."""
        return replace(self, logits=self.logits.masked_fill(~self.visible[:, None, None], logit))

    def halves(self) -> tuple[DecodedMask, DecodedMask]:
        """The first and the second half of the samples."""
        parts = (self.logits, self.mask_token, self.early_token, self.iou, self.score)
        first, second = zip(*(x.unflatten(0, (2, -1)).unbind() for x in parts), strict=True)
        return DecodedMask(*first), DecodedMask(*second)


class MaskDecoder(nn.Module):
    """See the module's first line.

    Args:
        dim: C.
        hidden: feed-forward width of the two-way transformer.
        object_score: whether there is an object-score token with its head.
    """

    def __init__(self, dim: int, hidden: int, object_score: bool) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(dim, hidden)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(MASK_TOKENS, dim)
        self.object_score = object_score
        if object_score:
            self.obj_score_token = nn.Embedding(1, dim)
            self.pred_obj_score_head = MLP((dim, dim, dim, 1))
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
        )
        self.conv_s0 = nn.Conv2d(dim, dim // 8, kernel_size=1)
        self.conv_s1 = nn.Conv2d(dim, dim // 4, kernel_size=1)
        # Published as a list with one MLP per mask token; only that of token 0 runs.
        self.output_hypernetworks_mlps = nn.ModuleList([MLP((dim, dim, dim, dim // 8))])
        self.iou_prediction_head = MLP((dim, dim, dim, MASK_TOKENS))

    def forward(
        self,
        image: Tensor,
        position: Tensor,
        prompts: tuple[Tensor, Tensor | None],
        high_resolution: tuple[Tensor, Tensor],
        grid: tuple[int, int],
    ) -> DecodedMask:
        """Decode one frame.

        Args:
            image: (B, N, C) feature map with the dense prompt added.
            position: (1, N, C).
            prompts: (B, P, C), and (B, P) bool that is False for padding, or None if there is none.
            high_resolution: (B, C / 8, 4 H, 4 W) and (B, C / 4, 2 H, 2 W).
            grid: (H, W).
        """
        outputs = [self.iou_token.weight, self.mask_tokens.weight]
        if self.object_score:
            outputs.insert(0, self.obj_score_token.weight)
        sparse, keep = prompts
        own = torch.cat(outputs).expand(sparse.shape[0], -1, -1)
        if keep is not None:
            keep = torch.cat([keep.new_ones(own.shape[:2]), keep], dim=1)
        hidden, image, early = self.transformer(torch.cat([own, sparse], dim=1), image, position, keep)
        iou_index = int(self.object_score)
        mask_index = iou_index + 1
        upscaled = self._upscale(image.transpose(1, 2).unflatten(2, grid), high_resolution)
        kernel = self.output_hypernetworks_mlps[0](hidden[:, mask_index])
        logits = torch.einsum("bc,bchw->bhw", kernel, upscaled)
        iou = self.iou_prediction_head(hidden[:, iou_index])[:, 0].sigmoid()
        if self.object_score:
            score = self.pred_obj_score_head(hidden[:, 0])[:, 0]
        else:
            score = torch.full_like(iou, torch.inf)
        return DecodedMask(logits, hidden[:, mask_index], early[:, mask_index], iou, score)

    def _upscale(self, image: Tensor, high_resolution: tuple[Tensor, Tensor]) -> Tensor:
        """(B, C, H, W) -> (B, C / 8, 4 H, 4 W)."""
        fine, middle = high_resolution
        first, norm, activation, second = self.output_upscaling
        x = activation(norm(first(image) + middle))
        return F.gelu(second(x) + fine)
