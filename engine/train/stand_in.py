"""Losses for training a small stand-in for SAM 2 and RoBERTa from nothing, where every parameter has to learn.

Axes: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.train.network import TrainingNetwork
from models.samwise import FramePrediction


class StandInNetwork(TrainingNetwork):
    """Adds the losses by which SAM 2 learns whether an object is visible, and how good its mask is."""

    def losses(self, predictions: list[FramePrediction], targets: Tensor) -> dict[str, Tensor]:
        """The losses of `TrainingNetwork`, "score": cross-entropy of the object scores, and "iou": squared error of
        the predicted IoU (SAM 2, arXiv 2408.00714, section D.2.2; there with other weights)."""
        losses = super().losses(predictions, targets)
        with torch.autocast(targets.device.type, enabled=False):
            truth = targets.bool()  # (B, T, H, W)
            visible = truth.flatten(2).any(2).float()
            if self.model.config.pred_obj_score:
                scores = torch.stack([p.decoded.score.float() for p in predictions], dim=1)
                losses["score"] = F.binary_cross_entropy_with_logits(scores, visible)
            with torch.no_grad():
                masks = [self.at_frame_size(p.decoded.logits, *truth.shape[-2:]) > 0 for p in predictions]
                found = torch.stack(masks, dim=1)
                both, either = (found & truth).flatten(2).sum(2), (found | truth).flatten(2).sum(2)
                iou = both / either.clamp(min=1)
            predicted = torch.stack([p.decoded.iou.float() for p in predictions], dim=1)
            losses["iou"] = (((predicted - iou) ** 2) * visible).mean()
        return losses
