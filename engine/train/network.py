"""The network as training sees it: a batch of clips goes in, losses come out.

Axes: B clips with one sentence each, T frames, H rows, W columns of the batch's common size, S side of the network
input, k looks of CME.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.losses import dice_loss, fit_to_targets, focal_loss, memory_labels, memory_loss
from models.samwise import SAMWISE, FramePrediction
from models.tokenizer import TokenBatch


def alone(value: Tensor) -> Tensor:
    """The mean over processes of a value, for a process alone."""
    return value


class TrainingNetwork(nn.Module):
    """All clips of a batch advance together, frame by frame, each with a fresh memory.

    Args:
        model: the network that learns.
        mean_over_processes: of a tensor without gradient; makes the cross-entropy that of the whole batch.
    """

    def __init__(self, model: SAMWISE, mean_over_processes: Callable[[Tensor], Tensor] = alone) -> None:
        super().__init__()
        self.model = model
        self.mean_over_processes = mean_over_processes

    def forward(
        self, frames: Tensor, ids: Tensor, words: Tensor, targets: Tensor, **verbs: Tensor
    ) -> dict[str, Tensor]:
        """Segment a batch and compare.

        Args:
            frames: (B, T, 3, S, S), normalised and padded.
            ids, words: (B, L), see `TokenBatch`; `verbs` as well with motion prompts.
            targets: (B, T, H, W) in {0, 1}.

        Returns:
            "mask" and "dice", the focal and dice loss over whole clips, and "memory", the cross-entropy of CME (zero if
            it did not look); tensors without axes, to be summed.
        """
        tokens = TokenBatch(ids, words, verbs.get("verbs"))
        return self.losses(self.segment(frames, tokens), targets)

    def losses(self, predictions: list[FramePrediction], targets: Tensor) -> dict[str, Tensor]:
        """See `forward`."""
        masks = [self.at_frame_size(p.decoded.logits, *targets.shape[-2:]) for p in predictions]
        with torch.autocast(targets.device.type, enabled=False):
            logits, fitted = fit_to_targets(torch.stack(masks, dim=1), targets.float())
            losses = {"mask": focal_loss(logits, fitted), "dice": dice_loss(logits, fitted)}
            losses["memory"] = self._memory_loss(predictions, masks)
        return losses

    def segment(self, frames: Tensor, tokens: TokenBatch) -> list[FramePrediction]:
        """The predictions for T frames; frames (B, T, 3, S, S)."""
        features, session = self.model.encode(frames, tokens), self.model.new_session()
        return [self.model.step(features.frame(t), session) for t in range(frames.shape[1])]

    def at_frame_size(self, logits: Tensor, height: int, width: int) -> Tensor:
        """(B, h, w) low-resolution logits -> (B, H, W) float32, without the padding."""
        return self.model.sam.enlarge(logits.float(), self.model.config.sam2.image_size)[:, :height, :width]

    def _memory_loss(self, predictions: list[FramePrediction], masks: list[Tensor]) -> Tensor:
        """Cross-entropy of all decisions of CME in the batch."""
        logits, labels = [], []
        for prediction, mask in zip(predictions, masks, strict=True):
            if (check := prediction.check) is not None:
                memoryless = self.at_frame_size(check.memoryless.logits, *mask.shape[-2:])
                labels.append(memory_labels(mask.detach()[check.samples], memoryless, check.memoryless.score))
                logits.append(check.logits.float())
        if not logits:
            return masks[0].new_zeros(())
        return memory_loss(torch.cat(logits), torch.cat(labels), self.mean_over_processes)
