"""RefCOCO, RefCOCO+ and RefCOCOg: COCO AP of the masks, precision at IoU thresholds, overall and mean IoU."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from datasets.masks import rle_runs
from datasets.refcoco import RefCocoDataset, ReferredObject
from util.errors import InputError

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
_CATEGORY = 1  # of every mask: categories are ignored
_AP_75 = 5  # place among COCO's thresholds 0.5, 0.55, ...


@dataclass(frozen=True)
class SentenceScore:
    """The overlap of the best-scored mask of one sentence with the true one; areas in pixels."""

    item: ReferredObject
    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """Intersection over union; 1 if both masks are empty."""
        return self.intersection / self.union if self.union else 1.0


def score_refcoco(
    dataset: RefCocoDataset, results: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, float], list[SentenceScore]]:
    """Score COCO results: one or several {"image_id", "segmentation" (RLE), "score"} per sentence.

    Args:
        dataset: sentences and true masks; its ids are the image ids of the results.
        results: other keys are ignored, `category_id` too.

    Returns:
        {"mAP", "AP50", "AP75", "P@0.5", ..., "P@0.9", "overall_iou", "mean_iou"} as fractions, and the overlap of every
        sentence's best-scored mask, in the order of the data set. P@k counts sentences with an IoU above k.

    Raises:
        InputError: a sentence has no result, or a result is malformed or belongs to no sentence.
    """
    best = _best_results(dataset, results)
    scores = []
    truth = []
    for item in tqdm(dataset.objects, desc=f"{dataset.name}/{dataset.split}", unit="sentence"):
        rle = coco_mask.encode(np.asfortranarray(dataset.mask(item), dtype=np.uint8))
        truth.append(rle)
        prediction = _compressed(best[item.id]["segmentation"])
        intersection = int(coco_mask.area(coco_mask.merge([rle, prediction], intersect=True)))
        union = int(coco_mask.area(coco_mask.merge([rle, prediction])))
        scores.append(SentenceScore(item, intersection, union))
    summary = _average_precisions(dataset, truth, results)
    ious = np.array([score.iou for score in scores])
    summary.update({f"P@{threshold}": float((ious > threshold).mean()) for threshold in PRECISION_THRESHOLDS})
    total = sum(score.union for score in scores)
    summary["overall_iou"] = sum(score.intersection for score in scores) / total if total else 1.0
    summary["mean_iou"] = float(ious.mean())
    return summary, scores


def _best_results(dataset: RefCocoDataset, results: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """The result of highest score (the last of equals) of every sentence, after a check of all."""
    items = {item.id: item for item in dataset.objects}
    best: dict[int, Mapping[str, Any]] = {}
    for place, result in enumerate(results):
        fault = _result_fault(result, items)
        if fault:
            raise InputError(f"result {place} {fault}; expected image_id, segmentation (RLE) and score of a sentence")
        held = best.get(result["image_id"])
        if held is None or result["score"] >= held["score"]:
            best[result["image_id"]] = result
    missing = [item.id for item in dataset.objects if item.id not in best]
    if missing or not items:
        raise InputError(
            f"{len(missing)} of the {len(items)} sentences of {dataset.path} have no result, the first is image_id "
            f"{missing[0] if missing else 'none'}; run the inference for the whole split"
        )
    return best


def _result_fault(result: Any, items: Mapping[int, ReferredObject]) -> str | None:
    if not isinstance(result, Mapping):
        return f"is a {type(result).__name__}"
    image_id: Any = result.get("image_id")
    score: Any = result.get("score")
    item = items.get(image_id) if type(image_id) is int else None
    if item is None:
        return f"has the image_id {image_id!r}, which is no sentence of this split"
    if type(score) not in (int, float) or not math.isfinite(score):
        return f"(image_id {item.id}) has the score {score!r}"
    try:
        size = rle_runs(result.get("segmentation"))[1]
    except ValueError as error:
        return f"(image_id {item.id}) has a mask that cannot be decoded ({error})"
    if size != item.size:
        return f"(image_id {item.id}) is {size[1]}x{size[0]}, its image {item.size[1]}x{item.size[0]} (width x height)"
    return None


def _compressed(rle: Mapping[str, Any]) -> Any:
    """An RLE with its counts as text, which is all that pycocotools can combine."""
    return coco_mask.frPyObjects(dict(rle), *rle["size"]) if isinstance(rle["counts"], list) else dict(rle)


def _average_precisions(
    dataset: RefCocoDataset, truth: Sequence[Any], results: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """{"mAP", "AP50", "AP75"} by COCO's own evaluation, categories ignored."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        coco = COCO()
        coco.dataset = {
            "images": [{"id": item.id, "height": item.size[0], "width": item.size[1]} for item in dataset.objects],
            "categories": [{"id": _CATEGORY, "name": "object"}],
            "annotations": [
                {
                    "id": number,
                    "image_id": item.id,
                    "category_id": _CATEGORY,
                    "segmentation": rle,
                    "area": float(coco_mask.area(rle)),
                    "iscrowd": 0,
                }
                for number, (item, rle) in enumerate(zip(dataset.objects, truth, strict=True), start=1)
            ],
        }
        coco.createIndex()
        found = [
            {
                "image_id": result["image_id"],
                "category_id": _CATEGORY,
                "segmentation": _compressed(result["segmentation"]),
                "score": result["score"],
            }
            for result in results
        ]
        evaluation = COCOeval(coco, coco.loadRes(found), "segm")
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
    # precision: (threshold, recall, category, area range, number of masks); all areas, up to 100 masks
    precision = evaluation.eval["precision"][:, :, 0, 0, -1]
    return {"mAP": float(precision.mean()), "AP50": float(precision[0].mean()), "AP75": float(precision[_AP_75].mean())}
