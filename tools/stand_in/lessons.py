"""What a stand-in for SAM 2 and RoBERTa learns: masks of what sentences mean, and on the way there what objects are.

Grounding learned from masks alone begins late: a small network first has to find out that there are objects, how they
look, and what words mean. So every stage of the trunk also answers directly, through heads that are thrown away
afterwards (deep supervision, arXiv 1409.5185): how the object under a pixel looks, where it is, how it moves, and
whether the sentence means it, has a noun that fits it, or looks from it ("left of the green star"), and how much it has
of what the sentence asks for: of lying to the left, of speed, of coming late.

Axes: V clips, B samples (clip and sentence), T frames, S side of the network input, h rows and columns of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.losses import dice_loss, focal_loss
from models.sam2.mask_decoder import DecodedMask
from models.sam2.sam2 import FEATURE_STRIDE
from models.samwise import SAMWISE, ClipFeatures
from tools.stand_in.scenes import MAX_OBJECTS, PROPERTIES, QUANTITIES, SceneBatch
from tools.stand_in.sentences import SentenceLessons, asked_loss
from tools.stand_in.tracking import adapters_over_the_frame, tracking_loss, watched

# Values of each property, and 0: the ground, or a property that a sentence does not name.
CLASSES = tuple(len(options) + 1 for options in PROPERTIES.values())
_MATCH_DIM, _QUESTIONS = 64, 3  # meant, fitted by the noun, looked from: see `SceneBatch.members`
_PLACE = 3  # column and row of the centre in sides of the input, logarithm of the area over that of the input
_PLACE_SCALE = (8.0, 8.0, 1.0)  # a velocity is a small difference of places
_MOTION = 3  # right and down in sides of the input per 16 frames, growth of the logarithm of the area per 8 frames
_MOTION_SCALE = (16.0, 16.0, 8.0)
# Of `QUANTITIES`, so that each spreads over about one unit.
_SCALES = (4.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0)
_OBJECT_WEIGHT, _GROUND_WEIGHT = 4.0, 0.3
FOCAL_WEIGHT, SCORE_WEIGHT, IOU_WEIGHT, PROPERTY_WEIGHT, PLACE_WEIGHT, MOTION_WEIGHT = 20.0, 0.1, 0.1, 0.25, 0.5, 1.0
AMOUNT_WEIGHT, TRACKING_WEIGHT, VELOCITY_WEIGHT = 1.0, 0.2, 4.0


@dataclass(frozen=True)
class Outcome:
    """What a batch gave.

    Attributes:
        losses: to be summed, weights included.
        iou: mean intersection over union of the masks, over frames in which the target is visible; None without masks.
    """

    losses: dict[str, Tensor]
    iou: float | None = None


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
        self.place = nn.ModuleList(nn.Linear(width, _PLACE) for width in widths[1:])
        self.motion = nn.ModuleList(nn.Linear(width, _MOTION) for width in widths[1:])
        over_the_frame = map(str, adapters_over_the_frame(model))
        self.velocity = nn.ModuleDict({key: nn.Linear(model.config.adapter_dim, _MOTION) for key in over_the_frame})
        self.match = nn.ModuleList(nn.Linear(width, _QUESTIONS * (_MATCH_DIM + 1)) for width in widths[1:])
        self.sentence = nn.Linear(text.hidden_size, _QUESTIONS * _MATCH_DIM)
        self.amount = nn.ModuleList(nn.Linear(width, _MATCH_DIM) for width in widths[1:])
        self.wanted = nn.Linear(text.hidden_size, _MATCH_DIM)
        self.asked = nn.Linear(text.hidden_size, len(QUANTITIES))
        self.named = nn.Linear(text.hidden_size, sum(CLASSES))
        self.words = SentenceLessons(model)

    def forward(self, model: SAMWISE, batch: SceneBatch, alone: Sequence[int] = ()) -> Outcome:
        """Encode a batch, segment its frames in turn, or some of them alone, and compare."""
        assert model.tokenizer is not None
        outputs: list[Tensor] = []
        adapters = adapters_over_the_frame(model)
        with watched(adapters) as seen:
            features = model.encode(batch.frames, model.tokenizer(batch.texts), batch.clip_of, outputs)
        targets = batch.targets[:, list(alone)] if alone else batch.targets
        losses, iou = mask_losses(segment(model, features, alone), targets)
        losses["named"] = self._named_loss(features, batch)
        losses["asked"] = asked_loss(self.asked(features.sentence), batch.asked)
        place = object_place(batch.labels)
        motion = object_motion(place)
        amount = object_amount(batch, place, motion)
        wanted = self.sentence(features.sentence).unflatten(-1, (_QUESTIONS, _MATCH_DIM))
        for stage, output in enumerate(outputs):
            x = output.unflatten(0, (-1, batch.frames.shape[1]))
            spread = batch.clip_of if x.shape[0] == len(batch.texts) else torch.arange(x.shape[0])
            labels = shrink_labels(batch.labels, x.shape[2])[spread]
            if stage < len(self.properties):
                losses[f"properties{stage}"] = self._property_loss(stage, x, labels, batch.properties[spread])
            if stage > 0:
                answers = self.place[stage - 1](x)
                truth = place[spread] * place.new_tensor(_PLACE_SCALE)
                losses[f"place{stage}"] = PLACE_WEIGHT * known_loss(answers, labels, truth)
                answers = self.motion[stage - 1](x)
                losses[f"motion{stage}"] = MOTION_WEIGHT * known_loss(answers, labels, motion[spread])
                answers = torch.einsum("bthwc,bc->bthw", self.amount[stage - 1](x), self.wanted(features.sentence))
                answers = answers[..., None] / _MATCH_DIM**0.5
                losses[f"amount{stage}"] = AMOUNT_WEIGHT * known_loss(answers, labels, amount)
                losses[f"match{stage}"] = self._match_loss(stage, x, wanted, batch)
        for number, (x, y) in seen.items() if batch.frames.shape[1] > 1 else ():
            spread = batch.clip_of if number else torch.arange(x.shape[0])
            labels = shrink_labels(batch.labels, outputs[model.config.fusion_stages[number]].shape[1])[spread]
            losses[f"tracking{number}"] = TRACKING_WEIGHT * tracking_loss(adapters[number], x, labels)
            answers = self.velocity[str(number)](y).view(*labels.shape, _MOTION)
            losses[f"velocity{number}"] = VELOCITY_WEIGHT * known_loss(answers, labels, motion[spread])
        return Outcome(losses, iou)

    def _named_loss(self, features: ClipFeatures, batch: SceneBatch) -> Tensor:
        answers = self.named(features.sentence).split(CLASSES, dim=-1)
        losses = [F.cross_entropy(answer, batch.named[:, place]) for place, answer in enumerate(answers)]
        return torch.stack(losses).mean()

    def _property_loss(self, stage: int, x: Tensor, labels: Tensor, properties: Tensor) -> Tensor:
        """Of x (K, T, h, h, C), labels (K, T, h, h), properties (K, MAX_OBJECTS + 1, 4)."""
        answers = self.properties[stage](x).flatten(0, 3).split(CLASSES, dim=-1)
        truth = look_up(properties, labels).flatten(0, 3)
        weight = torch.where(labels.flatten() > 0, _OBJECT_WEIGHT, _GROUND_WEIGHT)
        losses = [
            F.cross_entropy(answer, truth[:, place], reduction="none") @ weight for place, answer in enumerate(answers)
        ]
        return PROPERTY_WEIGHT * torch.stack(losses).sum() / weight.sum()

    def _match_loss(self, stage: int, x: Tensor, wanted: Tensor, batch: SceneBatch) -> Tensor:
        """Of x (B, T, h, h, C), sentences (B, _QUESTIONS, _MATCH_DIM)."""
        answer = self.match[stage - 1](x).unflatten(-1, (_QUESTIONS, _MATCH_DIM + 1))
        scores = torch.einsum("bthwqc,bqc->bqthw", answer[..., :-1], wanted) / _MATCH_DIM**0.5
        scores = scores + rearrange(answer[..., -1], "b t h w q -> b q t h w")
        shares = label_shares(batch.labels, x.shape[2])[batch.clip_of]
        truth = torch.einsum("bthwn,bqn->bqthw", shares, batch.members)
        asked = batch.members.any(-1)  # few sentences look from another object
        scores, truth = scores[asked], truth[asked]
        return F.binary_cross_entropy_with_logits(scores, truth) + 0.3 * dice_loss(scores, truth)


def known_loss(answers: Tensor, labels: Tensor, table: Tensor) -> Tensor:
    """Smooth L1 distance where there is an object whose values are known.

    Args:
        answers: (K, T, h, h, c).
        labels: (K, T, h, h).
        table: (K, T, MAX_OBJECTS + 1, c) by label, NaN where unknown.
    """
    truth = look_up(table.flatten(0, 1), labels.flatten(0, 1)).view_as(answers)
    known = ~truth.isnan().any(-1) & (labels > 0)
    if not known.any():
        return answers.sum() * 0
    return F.smooth_l1_loss(answers[known], truth[known], beta=0.3)


def segment(model: SAMWISE, features: ClipFeatures, alone: Sequence[int] = ()) -> list[DecodedMask]:
    """The masks of all frames, with memory where there are several; or of some frames alone, without."""
    length = features.map.shape[1]
    if length > 1 and not alone:
        session = model.new_session()
        return [model.step(features.frame(t), session).decoded for t in range(length)]
    side = model.config.sam2.image_size // FEATURE_STRIDE
    frames = [features.frame(t) for t in alone or (0,)]
    return [
        model.sam.decode(model.sam.without_memory(frame.map), frame.prompts, frame.fine, (side, side))
        for frame in frames
    ]


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


def label_shares(labels: Tensor, side: int) -> Tensor:
    """(V, T, S, S) -> (V, T, side, side, MAX_OBJECTS + 1): the share of every cell that has a label."""
    cell = labels.shape[-1] // side
    cells = rearrange(labels, "v t (h p) (w q) -> v t h w (p q)", p=cell, q=cell).long()
    shares = torch.zeros(*cells.shape[:-1], MAX_OBJECTS + 1, device=labels.device)
    return shares.scatter_add_(-1, cells, torch.full(cells.shape, 1 / cell**2, device=labels.device))


def object_place(labels: Tensor) -> Tensor:
    """Where objects are and how large.

    Args:
        labels: (V, T, S, S).

    Returns:
        (V, T, MAX_OBJECTS + 1, 3), see `_PLACE`; NaN where an object is not visible.
    """
    side = labels.shape[-1]
    numbers = torch.arange(MAX_OBJECTS + 1, device=labels.device, dtype=labels.dtype)
    one_hot = (labels.flatten(2)[..., None] == numbers).float()  # (V, T, S * S, MAX_OBJECTS + 1)
    place = torch.stack(torch.meshgrid(*[torch.arange(side) / side] * 2, indexing="xy"), dim=-1).view(-1, 2)
    share = one_hot.mean(2)
    centre = torch.einsum("vtpn,pc->vtnc", one_hot, place.to(labels.device)) / (share[..., None] * side**2)
    return torch.cat([centre, share.log()[..., None]], dim=-1).where(share[..., None] > 0, torch.nan)


def object_motion(place: Tensor) -> Tensor:
    """How objects move: half the differences between the frames before and after.

    Args:
        place: (V, T, MAX_OBJECTS + 1, 3), see `object_place`.

    Returns:
        (V, T, MAX_OBJECTS + 1, 3), see `_MOTION`; NaN in the first and last frame and where an object is not visible.
    """
    motion = torch.full_like(place, torch.nan)
    if place.shape[1] > 2:
        motion[:, 1:-1] = (place[:, 2:] - place[:, :-2]) / 2 * place.new_tensor(_MOTION_SCALE)
    return motion


def object_amount(batch: SceneBatch, place: Tensor, motion: Tensor) -> Tensor:
    """How much objects have of what a sentence asks for: of all that its noun fits, what it means often has most.

    It counts from the middle of the input and from rest, from the objects that the noun fits, or from the object beside
    which the sentence looks.

    Args:
        batch: B sentences.
        place, motion: (V, T, MAX_OBJECTS + 1, 3), see `object_place` and `object_motion`.

    Returns:
        (B, T, MAX_OBJECTS + 1, 1), NaN where unknown or where the sentence asks for nothing that is known.
    """
    speed = motion[..., :2].norm(dim=-1).nanmean(dim=1, keepdim=True).expand(place.shape[:-1])
    history = batch.history[:, None].expand(-1, place.shape[1], -1, -1)
    values = [place[..., :2], motion[..., :2], speed[..., None], place[..., 2:], motion[..., 2:], history]
    values_all = (torch.cat(values, dim=-1) * place.new_tensor(_SCALES))[batch.clip_of]
    asked = batch.asked[:, None, None]
    value = torch.where(asked == 0, 0.0, asked * values_all).sum(-1)  # (B, T, MAX_OBJECTS + 1)
    middle = 0.5 * place.new_tensor(
        [scale * (name[0] in "xy") for name, scale in zip(QUANTITIES, _SCALES, strict=True)]
    )
    origins = [(batch.asked @ middle)[:, None, None].expand(-1, place.shape[1], 1)]
    for row in (1, 2):  # see `SceneBatch.members`
        origins.append(value.where(batch.members[:, row, None] > 0, torch.nan).nanmean(dim=2, keepdim=True))
    value = value - torch.stack(origins)[batch.origins, torch.arange(len(batch.origins))]
    return value.where(batch.asked.any(-1)[:, None, None], torch.nan)[..., None]


def look_up(table: Tensor, labels: Tensor) -> Tensor:
    """table (K, MAX_OBJECTS + 1, c), labels (K, ...) -> (K, ..., c)."""
    rows = labels.flatten(1)[..., None].expand(-1, -1, table.shape[-1])
    return table.gather(1, rows).view(*labels.shape, table.shape[-1])
