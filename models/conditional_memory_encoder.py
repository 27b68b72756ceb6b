"""Conditional memory encoder (CME): is the tracked object still the one the sentence means? SAMWISE, section 3.3.

Axes: B samples, C width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cmt_adapter import PackedAttention

HIDDEN = 128


class DecisionBlock(nn.Module):
    """One post-norm transformer layer. `norm2` is published and trained with the rest, but nothing reads it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.self_attn = PackedAttention(dim, dropout=0.1)
        self.linear1 = nn.Linear(dim, HIDDEN)
        self.linear2 = nn.Linear(HIDDEN, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, C) -> (B, 3, C)."""
        x = self.norm1(x + self.dropout(self.self_attn(x, x)))
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm3(x + self.dropout(self.linear2(hidden)))


class ConditionalMemoryEncoder(nn.Module):
    """Compares the object pointer with memory to the early pointer without.

    Args:
        dim: C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.transformerBlock = DecisionBlock(dim)
        self.decision_token = nn.Embedding(1, dim)
        self.decision_class_head = nn.Linear(dim, 2)

    def forward(self, pointer: Tensor, early_pointer: Tensor) -> Tensor:
        """Decide for one frame.

        Args:
            pointer: (B, C) object pointer decoded with memory.
            early_pointer: (B, C) early pointer decoded without memory.

        Returns:
            (B, 2) logits; class 1 means that the sentence speaks of another object.
        """
        decision = self.decision_token.weight.expand(pointer.shape[0], -1)
        tokens = self.transformerBlock(torch.stack([decision, pointer, early_pointer], dim=1))
        return self.decision_class_head(tokens[:, 0])


def switched_logits(mode: str, tracked: Tensor, memoryless: Tensor) -> Tensor:
    """The logits that enter memory when CME switches.

    Args:
        mode: `reweight` (10 x the memory-less logits wherever those are positive, else the tracked ones), `all_mask`
            (the memory-less logits) or `avg` (the mean).
        tracked: (..., H, W) logits decoded with memory.
        memoryless: (..., H, W) logits decoded without.

    Returns:
        (..., H, W).
    """
    if mode == "reweight":
        return torch.where(memoryless > 0, 10 * memoryless, tracked)
    if mode == "all_mask":
        return memoryless
    assert mode == "avg", mode
    return (tracked + memoryless) / 2
