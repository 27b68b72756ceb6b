"""SAM 2 as SAMWISE uses it: its parts under the published keys, and the verbs read, decode, point and memorise.

Axes: B samples, N = H * W tokens of the stride-16 map, C width, D memory channels, S side of the network input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import Sam2Config
from models.sam2.fpn import FeaturePyramid
from models.sam2.hiera import Hiera
from models.sam2.layers import MLP
from models.sam2.mask_decoder import DecodedMask, MaskDecoder
from models.sam2.memory_attention import MemoryAttention
from models.sam2.memory_encoder import MemoryEncoder
from models.sam2.position_encoding import sine_2d, sine_of_age
from models.sam2.prompt_encoder import PromptEncoder

FEATURE_STRIDE = 16
INVISIBLE_LOGIT = -1024.0


class ImageEncoder(nn.Module):
    """Hiera and its feature pyramid under `trunk` and `neck`."""

    def __init__(self, config: Sam2Config) -> None:
        super().__init__()
        self.trunk = Hiera(config.hiera)
        self.neck = FeaturePyramid(self.trunk.channels, config.model_dim)


class SAM2(nn.Module):
    """See the module's first line.

    Args:
        config: sizes.
        text_dim: width of the sentence token.
        object_score: whether objects are scored, and invisible ones hidden.
        motion_prompt: whether verbs are prompts.
    """

    def __init__(self, config: Sam2Config, text_dim: int, object_score: bool, motion_prompt: bool) -> None:
        super().__init__()
        dim, memory_dim = config.model_dim, config.memory_dim
        self.config = config
        self.object_score = object_score
        self.image_encoder = ImageEncoder(config)
        self.memory_attention = MemoryAttention(
            config.memory_attention_layers, dim, memory_dim, config.memory_attention_hidden
        )
        self.memory_encoder = MemoryEncoder(dim, memory_dim)
        self.sam_prompt_encoder = PromptEncoder(dim, text_dim, motion_prompt)
        self.sam_mask_decoder = MaskDecoder(dim, config.decoder_hidden, object_score)
        self.obj_ptr_proj = MLP((dim, dim, dim, dim))
        self.maskmem_tpos_enc = nn.Parameter(torch.randn(config.max_memories + 1, 1, 1, memory_dim) * 0.02)
        self.no_mem_embed = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        if object_score:
            self.no_obj_ptr = nn.Parameter(torch.randn(1, dim) * 0.02)
        if config.no_object_memory:
            self.no_obj_embed_spatial = nn.Parameter(torch.randn(1, memory_dim) * 0.02)
        if config.pointer_time:
            self.obj_ptr_tpos_proj = nn.Linear(dim, memory_dim)

    def read_memory(
        self, features: Tensor, memories: Sequence[Tensor], pointers: Sequence[Tensor], grid: tuple[int, int]
    ) -> Tensor:
        """Condition a feature map on the past.

        Args:
            features: (B, N, C).
            memories: (B, N, D) each, oldest first, the last one a frame old; empty for the first frame.
            pointers: (B, C) each, newest first, the first one a frame old.
            grid: (H, W).

        Returns:
            (B, N, C).
        """
        if not memories:
            return self.without_memory(features)
        memory_dim = memories[0].shape[-1]
        place = sine_2d(*grid, memory_dim, features.device).to(features.dtype)
        ages = range(len(memories), 0, -1)
        tokens = torch.stack(list(pointers), dim=1).unflatten(-1, (-1, memory_dim))  # (B, pointers, parts, D)
        position = [place + self.maskmem_tpos_enc[age - 1].flatten(0, 1) for age in ages]
        position.append(self._pointer_position(tokens))
        tokens = tokens.flatten(1, 2)
        memory = torch.cat([*memories, tokens], dim=1)
        return self.memory_attention(features, memory, torch.cat(position)[None], grid, tokens.shape[1])

    def _pointer_position(self, tokens: Tensor) -> Tensor:
        """Position of pointer tokens (B, P, parts, D): (P * parts, D); zero but for SAM 2.1."""
        count, parts, memory_dim = tokens.shape[1:]
        if not self.config.pointer_time:
            return tokens.new_zeros(count * parts, memory_dim)
        ages = torch.arange(1, count + 1, dtype=torch.float32, device=tokens.device)
        encoding = sine_of_age(ages, self.config.max_pointers, self.config.model_dim).to(tokens.dtype)
        return self.obj_ptr_tpos_proj(encoding).repeat_interleave(parts, dim=0)

    def without_memory(self, features: Tensor) -> Tensor:
        """The feature map (B, N, C) as it is read where there is no memory."""
        return features + self.no_mem_embed

    def decode(
        self,
        features: Tensor,
        prompts: tuple[Tensor, Tensor | None],
        fine: tuple[Tensor, Tensor],
        grid: tuple[int, int],
    ) -> DecodedMask:
        """Decode a mask; outside training an invisible object's logits become -1024.

        Args:
            features: (B, N, C), after `read_memory` or `without_memory`.
            prompts: (B, P, C) sparse tokens, and (B, P) bool that is False for padding, or None.
            fine: high-resolution features of the decoder.
            grid: (H, W).
        """
        image = features + self.sam_prompt_encoder.no_mask_embed.weight
        position = self.sam_prompt_encoder.image_position(*grid).to(image.dtype)
        decoded = self.sam_mask_decoder(image, position, prompts, fine, grid)
        if not self.object_score or self.training:
            return decoded
        return decoded.hide(INVISIBLE_LOGIT)

    def object_pointer(self, decoded: DecodedMask) -> Tensor:
        """(B, C): the projected mask token, or the fixed no-object pointer where the object is invisible."""
        pointer = self.obj_ptr_proj(decoded.mask_token)
        if not self.object_score:
            return pointer
        return torch.where(decoded.visible[:, None], pointer, self.no_obj_ptr.to(pointer.dtype))

    def memorize(self, features: Tensor, logits: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tensor:
        """Encode a frame for later frames.

        Args:
            features: (B, N, C), not conditioned on memory.
            logits: (B, S, S).
            visible: (B,) bool.
            grid: (H, W).

        Returns:
            (B, N, D).
        """
        memory = self.memory_encoder(features.transpose(1, 2).unflatten(2, grid), logits)
        if self.config.no_object_memory:
            memory = memory + torch.where(visible[:, None], 0.0, self.no_obj_embed_spatial)[:, None]
        return memory

    @staticmethod
    def enlarge(logits: Tensor, side: int) -> Tensor:
        """Bilinear enlargement: (B, h, w) -> (B, side, side)."""
        return F.interpolate(logits[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]
