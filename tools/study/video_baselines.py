"""The baselines of `tools/study/baselines.py` for one video."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from configs.loading import load_model_config
from datasets.video_index import MASK_SUFFIX, Expression, MaskDictionary, Video, VideoDataset
from engine.scoring.mask_store import MaskStore
from models.sam2.hiera import PATCH_STRIDE
from util.errors import InputError
from util.metrics import PackedMask

LARGEST, EVERYTHING, OTHER, DISJOINT, CHOSEN, GRID = "largest", "all", "other", "disjoint", "chosen", "grid"
BASELINES = (LARGEST, EVERYTHING, OTHER, DISJOINT, CHOSEN, GRID)
Masks = list[PackedMask]
Entry = dict[str, Any]


@dataclass(frozen=True)
class VideoTask:
    """One video to score; it is sent to worker processes.

    Attributes:
        video: with the expressions that have targets.
        objects: an expression for each object of the scene.
        truth: the masks of these objects.
    """

    video: Video
    objects: tuple[Expression, ...]
    truth: MaskDictionary


def video_tasks(dataset: VideoDataset, objects: Mapping[str, int]) -> list[VideoTask]:
    """The videos of a split.

    Args:
        dataset: with ground truth.
        objects: video -> number of objects in it.

    Raises:
        InputError: the data set is another one.
    """
    assert isinstance(dataset.ground_truth, MaskDictionary)
    tasks = []
    for video in dataset.videos:
        meant = tuple(expression for expression in video.expressions if expression.obj_ids)
        if not meant:
            continue
        first = int(meant[0].anno_ids[0]) - meant[0].obj_ids[0]  # annotation ids of a video follow each other
        ids = [str(first + number) for number in range(objects.get(video.name, 0))]
        if not ids or not all(key in dataset.ground_truth.masks for key in ids):
            raise InputError(
                f"{dataset.meta_path}: {video.name} is not as refshapes.json says; are both of one data set?"
            )
        truth = replace(dataset.ground_truth, masks={key: dataset.ground_truth.masks[key] for key in ids})
        scene = tuple(Expression("", "", (number,), (key,)) for number, key in enumerate(ids))
        tasks.append(VideoTask(replace(video, expressions=meant), scene, truth))
    return tasks


def mean_jf(predictions: Iterable[PackedMask], truths: Iterable[PackedMask]) -> tuple[float, float]:
    """Means of J and F over the frames of a video."""
    frames = [(own.jaccard(truth), own.boundary_f(truth)) for own, truth in zip(predictions, truths, strict=True)]
    j, f = np.mean(frames, axis=0)
    return float(j), float(f)


def score_video(task: VideoTask, store: MaskStore) -> dict[str, list[Entry]]:
    """All baselines of one video: name -> an entry of J and F per expression.

    Entries of "other" and "disjoint" also hold J and F of the sentences themselves, as own_J and own_F; sentences
    without another one are left out there.

    Raises:
        InputError: a predicted mask is missing or of another size.
    """
    video, frames = task.video, range(len(task.video.frames))
    scene = np.array([[task.truth.mask(video, item, index) for index in frames] for item in task.objects])
    truths = {own.id: _packed(_union(scene[list(own.obj_ids)])) for own in video.expressions}
    predictions = {own.id: _predicted(video, own, store) for own in video.expressions}
    largest = _packed(scene[scene.mean(axis=(1, 2, 3)).argmax()])
    everything = _packed(_union(scene))
    entries: dict[str, list[Entry]] = {name: [] for name in BASELINES}
    for own in video.expressions:
        place = {"video": video.name, "expression_id": own.id}
        meant = _union(scene[list(own.obj_ids)])
        chosen_masks = _most_overlapped(predictions[own.id], [*map(_packed, scene), truths[own.id]])
        for name, masks in (
            (LARGEST, largest), (EVERYTHING, everything), (CHOSEN, chosen_masks), (GRID, _on_grid(meant, mask_side()))
        ):  # fmt: skip
            j, f = mean_jf(masks, truths[own.id])
            entries[name].append({**place, "J": j, "F": f})
        pairs = {
            other.id: mean_jf(predictions[other.id], truths[own.id])
            for other in video.expressions
            if other is own or set(other.obj_ids) != set(own.obj_ids)
        }
        own_j, own_f = pairs.pop(own.id)
        for name, fits in ((OTHER, _any_other), (DISJOINT, _nothing_in_common)):
            chosen = [pairs[other.id] for other in video.expressions if other.id in pairs and fits(own, other)]
            if chosen:
                j, f = (float(value) for value in np.mean(chosen, axis=0))
                entries[name].append({**place, "J": j, "F": f, "own_J": own_j, "own_F": own_f, "others": len(chosen)})
    return entries


def _any_other(own: Expression, other: Expression) -> bool:
    return True


def _nothing_in_common(own: Expression, other: Expression) -> bool:
    return not set(own.obj_ids) & set(other.obj_ids)


def _union(objects: np.ndarray) -> np.ndarray:
    """(objects, T, H, W) -> (T, H, W)."""
    return np.asarray(objects.any(axis=0))


def mask_side() -> int:
    """Side of nano's masks in pixels, before they are enlarged."""
    return load_model_config("nano").sam2.image_size // PATCH_STRIDE


def _on_grid(masks: np.ndarray, side: int) -> Masks:
    """(T, H, W) masks as a network draws them whose own masks are `side` pixels wide."""
    height, width = masks.shape[1:]
    scale = side / max(height, width)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    shares = [cv2.resize(mask.astype(np.float32), small, interpolation=cv2.INTER_AREA) for mask in masks]
    return [PackedMask(cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5) for share in shares]


def _most_overlapped(prediction: Masks, candidates: Sequence[Masks]) -> Masks:
    """The candidate with the largest mean J; the last of equals."""
    overlaps = [
        np.mean([own.jaccard(truth) for own, truth in zip(prediction, masks, strict=True)]) for masks in candidates
    ]
    return candidates[len(overlaps) - 1 - int(np.argmax(overlaps[::-1]))]


def _packed(masks: np.ndarray) -> Masks:
    return [PackedMask(mask) for mask in masks]


def _predicted(video: Video, expression: Expression, store: MaskStore) -> Masks:
    names = (f"{video.name}/{expression.id}/{frame}{MASK_SUFFIX}" for frame in video.frames)
    return [PackedMask(store.read(name)) for name in names]
