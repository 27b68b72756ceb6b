"""What a stand-in for SAM 2 and RoBERTa learns: masks of what sentences mean, and on the way there what objects are.

Grounding learned from masks alone begins late: a small network first has to find out that there are objects, how they
look, and what words mean. So every stage of the trunk also answers directly, through heads that are thrown away
afterwards (deep supervision, arXiv 1409.5185): what object a pixel belongs to, how it moves, and whether the sentence
means it.

Axes: V clips, B samples (clip and sentence), T frames, S side of the network input, h rows and columns of a stage.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.losses import dice_loss, focal_loss
from models.sam2.mask_decoder import DecodedMask
from models.sam2.sam2 import FEATURE_STRIDE
from models.samwise import SAMWISE, ClipFeatures
from tools.stand_in.scenes import MAX_OBJECTS, PROPERTIES, SceneBatch

# Values of each property, and 0: the ground, or a property that a sentence does not name.
CLASSES = tuple(len(options) + 1 for options in PROPERTIES.values())
_MATCH_DIM = 64
_MOTION = 3  # right and down in sides of the input per 16 frames, growth of the logarithm of the area per 8 frames
_MOTION_SCALE = (16.0, 16.0, 8.0)
_OBJECT_WEIGHT, _GROUND_WEIGHT = 4.0, 0.3
FOCAL_WEIGHT, SCORE_WEIGHT, IOU_WEIGHT, PROPERTY_WEIGHT, MOTION_WEIGHT = 20.0, 0.1, 0.1, 0.25, 1.0


@dataclass(frozen=True)
class Outcome:
    """What a batch gave.

    Attributes:
        losses: to be summed, weights included.
        iou: mean intersection over union of the masks, over frames in which the target is visible.
    """

    losses: dict[str, Tensor]
    iou: float


class Lessons(nn.Module):
    """The heads, and the losses of a network.

    Args:
        model: the network that learns; not registered, it has a checkpoint of its own.
    """

    def __init__(self, model: SAMWISE) -> None:
        super().__init__()
        hiera, text = model.config.sam2.hiera, model.config.text
        widths = [hiera.embed_dim << stage for stage in range(len(hiera.stages))]
        self.properties = nn.ModuleList(nn.Linear(width, sum(CLASSES)) for width in widths[:-1])
        self.motion = nn.ModuleList(nn.Linear(width, _MOTION) for width in widths[1:])
        self.match = nn.ModuleList(nn.Linear(width, _MATCH_DIM + 1) for width in widths[1:])
        self.sentence = nn.Linear(text.hidden_size, _MATCH_DIM)
        self.named = nn.Linear(text.hidden_size, sum(CLASSES))

    def forward(self, model: SAMWISE, batch: SceneBatch) -> Outcome:
        """Segment a batch and compare."""
        assert model.tokenizer is not None
        outputs: list[Tensor] = []
        features = model.encode(batch.frames, model.tokenizer(batch.texts), batch.clip_of, outputs)
        losses, iou = mask_losses(segment(model, features), batch.targets)
        losses["named"] = self._named_loss(features, batch)
        motion = object_motion(batch.labels)
        wanted = self.sentence(features.sentence)
        for stage, output in enumerate(outputs):
            x = output.unflatten(0, (-1, batch.frames.shape[1]))
            spread = batch.clip_of if x.shape[0] == len(batch.texts) else torch.arange(x.shape[0])
            labels = shrink_labels(batch.labels, x.shape[2])[spread]
            if stage < len(self.properties):
                losses[f"properties{stage}"] = self._property_loss(stage, x, labels, batch.properties[spread])
            if stage > 0:
                losses[f"motion{stage}"] = self._motion_loss(stage, x, labels, motion[spread])
                losses[f"match{stage}"] = self._match_loss(stage, x, wanted, batch.targets)
        return Outcome(losses, iou)

    def _named_loss(self, features: ClipFeatures, batch: SceneBatch) -> Tensor:
        answers = self.named(features.sentence).split(CLASSES, dim=-1)
        losses = [F.cross_entropy(answer, batch.named[:, place]) for place, answer in enumerate(answers)]
        return torch.stack(losses).mean()

    def _property_loss(self, stage: int, x: Tensor, labels: Tensor, properties: Tensor) -> Tensor:
        """Of x (K, T, h, h, C), labels (K, T, h, h), properties (K, MAX_OBJECTS + 1, 4)."""
        answers = self.properties[stage](x).flatten(0, 3).split(CLASSES, dim=-1)
        truth = _look_up(properties, labels).flatten(0, 3)
        weight = torch.where(labels.flatten() > 0, _OBJECT_WEIGHT, _GROUND_WEIGHT)
        losses = [
            F.cross_entropy(answer, truth[:, place], reduction="none") @ weight for place, answer in enumerate(answers)
        ]
        return PROPERTY_WEIGHT * torch.stack(losses).sum() / weight.sum()

    def _motion_loss(self, stage: int, x: Tensor, labels: Tensor, motion: Tensor) -> Tensor:
        """Of x (K, T, h, h, C), labels (K, T, h, h), motion (K, T, MAX_OBJECTS + 1, 3), NaN where unknown."""
        truth = _look_up(motion.flatten(0, 1), labels.flatten(0, 1)).view(*labels.shape, _MOTION)
        known = ~truth.isnan().any(-1) & (labels > 0)
        if not known.any():
            return x.new_zeros(())
        return MOTION_WEIGHT * F.smooth_l1_loss(self.motion[stage - 1](x[known]), truth[known])

    def _match_loss(self, stage: int, x: Tensor, wanted: Tensor, targets: Tensor) -> Tensor:
        """Of x (B, T, h, h, C), sentences (B, _MATCH_DIM), targets (B, T, S, S)."""
        answer = self.match[stage - 1](x)
        scores = torch.einsum("bthwc,bc->bthw", answer[..., :-1], wanted) / _MATCH_DIM**0.5 + answer[..., -1]
        shares = F.adaptive_avg_pool2d(targets, x.shape[2])
        return F.binary_cross_entropy_with_logits(scores, shares) + 0.3 * dice_loss(scores, shares)


def segment(model: SAMWISE, features: ClipFeatures) -> list[DecodedMask]:
    """The masks of all frames; images need no memory."""
    length = features.map.shape[1]
    if length == 1:
        frame, side = features.frame(0), model.config.sam2.image_size // FEATURE_STRIDE
        return [model.sam.decode(model.sam.without_memory(frame.map), frame.prompts, frame.fine, (side, side))]
    session = model.new_session()
    return [model.step(features.frame(t), session).decoded for t in range(length)]


def mask_losses(frames: list[DecodedMask], targets: Tensor) -> tuple[dict[str, Tensor], float]:
    """Losses of the masks, of the object scores and of the predicted IoU (SAM 2, arXiv 2408.00714, section D.2.2).

    Args:
        frames: T predictions.
        targets: (B, T, S, S) in {0, 1}.

    Returns:
        the losses, and the mean IoU over frames in which something is to be seen.
    """
    logits = torch.stack([frame.logits for frame in frames], dim=1)
    logits = F.interpolate(logits, targets.shape[-2:], mode="bilinear", align_corners=False)
    visible = targets.flatten(2).any(2).float()
    with torch.no_grad():
        found, truth = logits > 0, targets > 0
        both, either = (found & truth).flatten(2).sum(2), (found | truth).flatten(2).sum(2)
        iou = both / either.clamp(min=1)
    score = torch.stack([frame.score for frame in frames], dim=1)
    predicted = torch.stack([frame.iou for frame in frames], dim=1)
    losses = {
        "mask": FOCAL_WEIGHT * focal_loss(logits, targets),
        "dice": dice_loss(logits, targets),
        "score": SCORE_WEIGHT * F.binary_cross_entropy_with_logits(score, visible),
        "iou": IOU_WEIGHT * (((predicted - iou) ** 2) * visible).mean(),
    }
    return losses, float((iou * visible).sum() / visible.sum().clamp(min=1))


def shrink_labels(labels: Tensor, side: int) -> Tensor:
    """(V, T, S, S) -> (V, T, side, side): the label in the middle of every cell."""
    cell = labels.shape[-1] // side
    return labels[..., cell // 2 :: cell, cell // 2 :: cell].long()


def object_motion(labels: Tensor) -> Tensor:
    """How objects move: differences between the frames before and after, of centre and of the logarithm of the area.

    Args:
        labels: (V, T, S, S).

    Returns:
        (V, T, MAX_OBJECTS + 1, 3), see `_MOTION`; NaN in the first and last frame and where an object is not visible.
    """
    clips, frames, side = labels.shape[:3]
    numbers = torch.arange(MAX_OBJECTS + 1, device=labels.device, dtype=labels.dtype)
    one_hot = (labels.flatten(2)[..., None] == numbers).float()  # (V, T, S * S, MAX_OBJECTS + 1)
    place = torch.stack(torch.meshgrid(*[torch.arange(side) / side] * 2, indexing="xy"), dim=-1).view(1, 1, -1, 2)
    area = one_hot.sum(2)
    centre = torch.einsum("vtpn,uwpc->vtnc", one_hot, place.to(labels.device)) / area[..., None]
    state = torch.cat([centre, area.log()[..., None]], dim=-1)
    motion = torch.full((clips, frames, MAX_OBJECTS + 1, _MOTION), torch.nan, device=labels.device)
    if frames > 2:
        change = (state[:, 2:] - state[:, :-2]) / 2 * torch.tensor(_MOTION_SCALE, device=labels.device)
        motion[:, 1:-1] = torch.where(change.isfinite(), change, torch.nan)
    return motion


def _look_up(table: Tensor, labels: Tensor) -> Tensor:
    """table (K, MAX_OBJECTS + 1, c), labels (K, ...) -> (K, ..., c)."""
    rows = labels.flatten(1)[..., None].expand(-1, -1, table.shape[-1])
    return table.gather(1, rows).view(*labels.shape, table.shape[-1])
