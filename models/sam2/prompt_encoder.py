"""Prompt encoder: the sentence, and with motion prompts its verbs, as sparse tokens for the mask decoder.

Axes: B batch, L text tokens, P prompt tokens, C width, D text width, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.sam2.layers import MLP
from models.sam2.position_encoding import RandomFourierEncoding

SENTENCE_TOKENS = 3  # two "not a point" embeddings and the sentence


class PromptEncoder(nn.Module):
    """See the module's first line.

    Args:
        dim: C.
        text_dim: D.
        motion_prompt: whether verb tokens are projected as further prompts.
    """

    def __init__(self, dim: int, text_dim: int, motion_prompt: bool) -> None:
        super().__init__()
        self.pe_layer = RandomFourierEncoding(dim)
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.no_mask_embed = nn.Embedding(1, dim)
        self.project_text = MLP((text_dim, dim, dim, dim))
        if motion_prompt:
            self.project_motion_prompts = MLP((text_dim, dim, dim, dim))

    def forward(self, sentence: Tensor, verbs: Tensor | None = None) -> Tensor:
        """Sparse prompt tokens: two "not a point" embeddings, the sentence, then the verbs.

        Args:
            sentence: (B, D), the `<s>` token after the last text layer.
            verbs: (B, V, D), only with motion prompts.

        Returns:
            (B, 3 + V, C).
        """
        tokens = [
            self.not_a_point_embed.weight.expand(sentence.shape[0], 2, -1),
            self.project_text(sentence)[:, None],
        ]
        if verbs is not None:
            tokens.append(self.project_motion_prompts(verbs))
        return torch.cat(tokens, dim=1)

    def image_position(self, height: int, width: int) -> Tensor:
        """Position encoding of the feature map for the decoder: (1, H * W, C)."""
        return self.pe_layer(height, width).flatten(1).transpose(0, 1)[None]
