"""Losses of SAMWISE (paper, section 4): focal and dice over a whole clip, and the cross-entropy of CME.

Axes: B clips, T frames, H rows, W columns, k frames at which CME looked.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED, SAME_OBJECT, OTHER_OBJECT = -1, 0, 1
MIN_AREA = 50
MAX_OVERLAP = 0.1
CLASS_WEIGHTS = (1.0, 2.0)
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid focal loss (arXiv 1708.02002), alpha 0.25, gamma 2: mean over the pixels of a clip, then over clips.

    Args:
        logits: (B, T, H, W).
        targets: (B, T, H, W) in {0, 1}.
    """
    targets = targets.to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    miss = probability + targets - 2 * probability * targets
    weight = FOCAL_ALPHA * targets + (1 - FOCAL_ALPHA) * (1 - targets)
    return (weight * entropy * miss**FOCAL_GAMMA).flatten(1).mean(1).mean()


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 |P T| + 1) / (|P| + |T| + 1) of each clip (arXiv 1606.04797), then the mean over clips.

    Args:
        logits: (B, T, H, W).
        targets: (B, T, H, W) in {0, 1}.
    """
    probability, targets = logits.sigmoid().flatten(1), targets.to(logits.dtype).flatten(1)
    both, either = (probability * targets).sum(1), probability.sum(1) + targets.sum(1)
    return (1 - (2 * both + 1) / (either + 1)).mean()


def fit_to_targets(logits: Tensor, targets: Tensor, multiple: int = 32) -> tuple[Tensor, Tensor]:
    """Pad targets with zeros (right, bottom) to a multiple of 32 and resize predictions bilinearly to that size.

    Args:
        logits: (B, T, h, w).
        targets: (B, T, H, W).

    Returns:
        both at (B, T, H', W').
    """
    height, width = targets.shape[-2:]
    targets = F.pad(targets, (0, -width % multiple, 0, -height % multiple))
    if logits.shape[-2:] != targets.shape[-2:]:
        logits = F.interpolate(logits, targets.shape[-2:], mode="bilinear", align_corners=False)
    return logits, targets


def memory_labels(tracked: Tensor, memoryless: Tensor, memoryless_score: Tensor) -> Tensor:
    """What CME should say: 1 where the two masks show different objects.

    Args:
        tracked: (k, H, W) mask logits decoded with memory, at frame size.
        memoryless: (k, H, W) mask logits decoded without.
        memoryless_score: (k,) object score of the latter.

    Returns:
        (k,) int64: -1 (ignored) if that score is negative or both areas are at most 50 pixels, 1 if intersection /
        smaller area < 0.1, otherwise 0.
    """
    first, second = (tracked > 0).flatten(1), (memoryless > 0).flatten(1)
    areas = torch.stack([first.sum(1), second.sum(1)])
    overlap = (first & second).sum(1) / areas.amin(0).clamp(min=1)
    labels = torch.where(overlap < MAX_OVERLAP, OTHER_OBJECT, SAME_OBJECT)
    ignored = (memoryless_score < 0) | (areas <= MIN_AREA).all(0)
    return labels.masked_fill(ignored, IGNORED)


def memory_loss(
    logits: Tensor, labels: Tensor, mean_over_processes: Callable[[Tensor], Tensor] = lambda value: value
) -> Tensor:
    """Cross-entropy of CME with class weights 1 and 2; zero if every label is ignored.

    Args:
        logits: (k, 2).
        labels: (k,) from `memory_labels`.
        mean_over_processes: the mean over processes of a tensor. The sum of weights that divides the loss is taken from
            all of them, so that the mean of their losses is the loss of all labels together.
    """
    weights = logits.new_tensor(CLASS_WEIGHTS)
    total = F.cross_entropy(logits, labels, weights, ignore_index=IGNORED, reduction="sum")
    counted = torch.where(labels == IGNORED, 0.0, weights[labels.clamp(min=0)]).sum()
    return total / mean_over_processes(counted).clamp(min=torch.finfo(logits.dtype).tiny)
