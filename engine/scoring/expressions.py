"""J and F of referring expressions: MeViS (several targets, or none) and Ref-YouTube-VOS (one target)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from datasets.video_index import MASK_SUFFIX, Expression, GroundTruth, MaskDictionary, Video, VideoDataset
from engine.scoring.mask_store import MaskStore
from util.errors import InputError
from util.metrics import PackedMask


@dataclass(frozen=True)
class ExpressionTask:
    """One expression to score: its PNGs are `VIDEO/EXPRESSION_ID/FRAME.png` in the store.

    It is sent to worker processes, so `ground_truth` holds no more than the expression's own masks.
    """

    video: Video
    expression: Expression
    ground_truth: GroundTruth

    def names(self) -> list[str]:
        """The expected PNGs, one per frame."""
        return [f"{self.video.name}/{self.expression.id}/{frame}{MASK_SUFFIX}" for frame in self.video.frames]


def expression_tasks(dataset: VideoDataset) -> list[ExpressionTask]:
    """Every (video, expression) of a MeViS or Ref-YouTube-VOS split, in the order of its metadata file.

    Raises:
        InputError: the split has no ground truth.
    """
    if dataset.ground_truth is None:
        raise InputError(
            f"{dataset.name} ({dataset.split}) has no ground truth in the folder of {dataset.meta_path}; send the zip "
            "to the benchmark's server, or score a split with annotations"
        )
    return [
        ExpressionTask(video, expression, _own_masks(dataset.ground_truth, expression))
        for video in dataset.videos
        for expression in video.expressions
    ]


def _own_masks(ground_truth: GroundTruth, expression: Expression) -> GroundTruth:
    if isinstance(ground_truth, MaskDictionary):
        return replace(ground_truth, masks={key: ground_truth.masks[key] for key in expression.anno_ids})
    return ground_truth


@dataclass(frozen=True)
class ExpressionScore:
    """Means over the frames of one expression, and what reports are sorted and grouped by.

    Attributes:
        frames: number of frames.
        target_area: mean share of a frame that the target covers, 0 to 1.
        has_target: the expression refers to something.
        is_empty: the prediction is empty in every frame.
    """

    video: str
    expression_id: str
    text: str
    j: float
    f: float
    frames: int
    target_area: float
    has_target: bool
    is_empty: bool

    @property
    def j_and_f(self) -> float:
        """The mean of J and F."""
        return (self.j + self.f) / 2

    def as_dict(self) -> dict[str, Any]:
        """For `scores.json`."""
        names = {"j": "J", "f": "F"}
        return {names.get(key, key): value for key, value in asdict(self).items()} | {"J&F": self.j_and_f}


def score_expression(task: ExpressionTask, store: MaskStore) -> ExpressionScore:
    """Score one expression from its PNGs; every value but 0 is foreground.

    Raises:
        InputError: a PNG is missing, cannot be decoded, or differs in size from the ground truth.
    """
    return _score(task, (store.read(name) for name in task.names()))


def score_masks(task: ExpressionTask, masks: Sequence[np.ndarray] | np.ndarray) -> ExpressionScore:
    """Score one expression from its masks: one (H, W) array per frame, every value but 0 is foreground.

    Raises:
        InputError: the number or the size of the masks differs from the ground truth's.
    """
    if len(masks) != len(task.video.frames):
        name = f"{task.video.name}/{task.expression.id}"
        raise InputError(f"{name} has {len(masks)} predicted masks; expected one per frame: {len(task.video.frames)}")
    return _score(task, masks)


def _score(task: ExpressionTask, masks: Iterable[np.ndarray]) -> ExpressionScore:
    scores, areas, predicted_pixels = [], [], 0
    for index, (name, mask) in enumerate(zip(task.names(), masks, strict=True)):
        truth = task.ground_truth.mask(task.video, task.expression, index)
        if truth.shape != mask.shape:
            sizes = ", the true mask is ".join(f"{m.shape[1]}x{m.shape[0]}" for m in (mask, truth))
            wrong = "the true masks" if mask.shape == task.video.frame_size() else "predictions"
            raise InputError(f"{name} is {sizes} (width x height); {wrong} must have the size of the source frame")
        predicted, target = PackedMask(mask), PackedMask(truth)
        scores.append((predicted.jaccard(target), predicted.boundary_f(target)))
        areas.append(target.area / truth.size)
        predicted_pixels += predicted.area
    j, f = np.mean(scores, axis=0)
    return ExpressionScore(
        video=task.video.name,
        expression_id=task.expression.id,
        text=task.expression.text,
        j=float(j),
        f=float(f),
        frames=len(scores),
        target_area=float(np.mean(areas)),
        has_target=bool(task.expression.obj_ids or task.expression.anno_ids),
        is_empty=predicted_pixels == 0,
    )


def summarise(scores: Sequence[ExpressionScore]) -> dict[str, Any]:
    """The content of `scores.json` for MeViS and Ref-YouTube-VOS; values are fractions.

    "official" averages over (video, expression id), as the benchmark's evaluator does. "by_text" averages over distinct
    sentences, the last one of equal sentences in the order of `scores` (that of the metadata file), as the published
    figures do. Where expressions without a target exist there is also "no_target": "no_target_accuracy" is the share of
    them whose prediction is empty in every frame, "target_accuracy" the share of the others for which it is not.

    Raises:
        InputError: there are no scores.
    """
    if not scores:
        raise InputError("expected at least one expression to score, found none; check --split and the metadata file")
    summary: dict[str, Any] = {
        "official": mean_scores(scores),
        "by_text": mean_scores(list({score.text: score for score in scores}.values())),
    }
    empty_of = {flag: [score.is_empty for score in scores if score.has_target is flag] for flag in (False, True)}
    if empty_of[False]:
        summary["no_target"] = {
            "expressions": len(empty_of[False]),
            "no_target_accuracy": float(np.mean(empty_of[False])),
            "target_accuracy": 1 - float(np.mean(empty_of[True])) if empty_of[True] else None,
        }
    summary["expressions"] = [score.as_dict() for score in scores]
    return summary


def mean_scores(scores: Sequence[ExpressionScore]) -> dict[str, float]:
    """{"J", "F", "J&F"}: means over `scores`."""
    j = float(np.mean([score.j for score in scores]))
    f = float(np.mean([score.f for score in scores]))
    return {"J": j, "F": f, "J&F": (j + f) / 2}
