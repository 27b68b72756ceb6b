"""RefCOCO measures against COCO's evaluation of the same files and against counting by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from datasets.refcoco import RefCocoDataset, open_refcoco
from engine.evaluate_masks import evaluate_refcoco
from engine.scoring.refcoco import score_refcoco
from tests.benchmark_files import SIZE, encode_rle, write_coco
from util.errors import InputError


@pytest.fixture
def dataset(tmp_path: Path) -> RefCocoDataset:
    """Three sentences: a triangle, the whole image, the triangle."""
    write_coco(tmp_path)
    return open_refcoco(tmp_path, "refcocog", "val")


def result(image_id: int, mask: np.ndarray, score: float = 0.9) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 77, "segmentation": encode_rle(mask), "score": score}


def perfect(dataset: RefCocoDataset) -> list[dict[str, Any]]:
    return [result(item.id, dataset.mask(item)) for item in dataset.objects]


def test_perfect_masks_score_one(dataset: RefCocoDataset) -> None:
    summary, scores = score_refcoco(dataset, perfect(dataset))
    names = ["mAP", "AP50", "AP75", "P@0.5", "P@0.6", "P@0.7", "P@0.8", "P@0.9", "overall_iou", "mean_iou"]
    assert summary == pytest.approx(dict.fromkeys(names, 1.0))
    assert [score.item for score in scores] == list(dataset.objects)


def test_precision_and_iou_are_counted_per_sentence(dataset: RefCocoDataset) -> None:
    half = np.zeros(SIZE, bool)
    half[: SIZE[0] // 2] = True
    results = perfect(dataset)
    results[1] = result(2, half)  # an IoU of exactly 0.5, which is not above 0.5
    results[2] = result(3, np.zeros(SIZE, bool))
    summary, scores = score_refcoco(dataset, results)
    assert [score.iou for score in scores] == pytest.approx([1, 0.5, 0])
    assert summary["P@0.5"] == summary["P@0.9"] == pytest.approx(1 / 3)
    assert summary["mean_iou"] == pytest.approx(0.5)
    triangle = int(dataset.mask(dataset.objects[0]).sum())
    assert summary["overall_iou"] == pytest.approx((triangle + half.sum()) / (2 * triangle + half.size))


def test_the_best_scored_mask_counts_and_the_last_of_equals(dataset: RefCocoDataset) -> None:
    nothing = np.zeros(SIZE, bool)
    worse = [result(item.id, nothing, 0.1) for item in dataset.objects]
    assert score_refcoco(dataset, perfect(dataset) + worse)[0]["mean_iou"] == 1
    equal = [result(item.id, nothing, 0.9) for item in dataset.objects]
    assert score_refcoco(dataset, perfect(dataset) + equal)[0]["mean_iou"] == 0


def test_average_precision_is_that_of_coco(shared: Path, tmp_path: Path) -> None:
    """COCO reads the annotation file itself; categories are ignored there by `useCats = 0`."""
    golden = shared / "data" / "coco" / "golden_converter" / "refcoco" / "instances_refcoco_train.json"
    (tmp_path / "refcoco").mkdir()
    (tmp_path / "refcoco" / golden.name).write_bytes(golden.read_bytes())
    (tmp_path / "train2014").symlink_to(shared / "data" / "coco" / "train2014")
    dataset = open_refcoco(tmp_path, "refcoco", "train")
    rng = np.random.default_rng(0)
    results = []
    for item in dataset.objects:
        for score in rng.random(2):
            shifted = np.roll(dataset.mask(item), rng.integers(0, 15), axis=1)
            results.append({**result(item.id, shifted, float(score)), "category_id": 1})
    summary, _ = score_refcoco(dataset, results)

    truth = COCO(str(golden))
    evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), "segm")
    evaluation.params.useCats = 0
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert [summary["mAP"], summary["AP50"], summary["AP75"]] == pytest.approx(evaluation.stats[:3].tolist(), abs=1e-9)
    assert 0 < summary["mAP"] < 1

    ious = []
    for item in dataset.objects:
        own = [entry for entry in results if entry["image_id"] == item.id]
        predicted = coco_mask.decode(max(own, key=lambda entry: entry["score"])["segmentation"]).astype(bool)
        target = dataset.mask(item)
        ious.append((predicted & target).sum() / (predicted | target).sum())
    assert summary["mean_iou"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert summary["P@0.7"] == np.mean(np.array(ious) > 0.7)


def test_results_come_from_a_file_too_with_uncompressed_masks(dataset: RefCocoDataset, tmp_path: Path) -> None:
    results = perfect(dataset)
    results[1]["segmentation"] = {"size": list(SIZE), "counts": [0, SIZE[0] * SIZE[1]]}
    (tmp_path / "results.json").write_text(json.dumps(results))
    summary = evaluate_refcoco(dataset, tmp_path / "results.json", tmp_path / "out")
    assert summary["mean_iou"] == 1
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == {"refcocog/val": summary}
    rows = (tmp_path / "out" / "expressions.csv").read_text().splitlines()
    assert rows[1].startswith("1,00000.jpg,a Triangle,1.0,")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, "result 1 has the image_id 9, which is no sentence"),
        ({"image_id": [1]}, "result 1 has the image_id"),
        ({"score": None}, "has the score None"),
        ({"score": float("nan")}, "has the score nan"),
        ({"segmentation": {"size": [24, 32], "counts": "%%"}}, "mask that cannot be decoded"),
        ({"segmentation": {"size": [2, 3], "counts": [0, 6]}}, "is 3x2, its image 32x24"),
    ],
)
def test_results_that_are_refused(dataset: RefCocoDataset, change: dict[str, Any], message: str) -> None:
    results = perfect(dataset)
    results[1].update(change)
    with pytest.raises(InputError, match=message):
        score_refcoco(dataset, results)


def test_files_that_are_refused(dataset: RefCocoDataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 of the 3 sentences .* image_id 2"):
        score_refcoco(dataset, [entry for entry in perfect(dataset) if entry["image_id"] != 2])
    with pytest.raises(InputError, match="result 0 is a int"):
        score_refcoco(dataset, [1])  # type: ignore[list-item]
    path = tmp_path / "results.json"
    for content, message in (("{", "not readable as JSON"), ("{}", "expected a list")):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            evaluate_refcoco(dataset, path, tmp_path / "out")
    with pytest.raises(InputError, match="does not exist"):
        evaluate_refcoco(dataset, tmp_path / "nowhere.json", tmp_path / "out")
