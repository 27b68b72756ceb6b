"""RefCOCO: sentences with their masks, and its faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.refcoco import annotation_path, open_refcoco, scan_refcoco
from datasets.validation import run_checks
from tests.benchmark_files import SIZE, write_coco, write_frames, write_json
from util.errors import InputError


def change(root: Path, mutate: Callable[[dict[str, Any]], object]) -> None:
    path = annotation_path(root, "refcocog", "val")
    value = json.loads(path.read_text())
    mutate(value)
    write_json(path, value)


def test_every_sentence_has_its_object(tmp_path: Path) -> None:
    write_coco(tmp_path)
    dataset = open_refcoco(tmp_path, "refcocog", "val")
    assert [item.caption for item in dataset.objects] == ["a triangle", "all of it", "the rest"]
    assert [len(items) for items in dataset.by_image().values()] == [2, 1]
    assert dataset.image_path(dataset.objects[2]) == tmp_path / "train2014/00001.jpg"
    triangle, whole = dataset.mask(dataset.objects[0]), dataset.mask(dataset.objects[1])
    assert triangle.shape == whole.shape == SIZE
    assert whole.all()
    rows, columns = np.indices(SIZE)
    assert triangle[(rows >= 3) & (columns >= 3) & (rows + columns < 20)].all()
    assert not triangle[rows + columns > 24].any()
    assert run_checks(dataset.checks(full=True)) == []


@pytest.mark.parametrize(
    ("mutate", "words"),
    [
        (lambda v: v.pop("images"), "images: missing, expected a list"),
        (lambda v: v.update(annotations={}), "annotations: missing, expected a list"),
        (lambda v: v["images"][1].pop("id"), "images/1: expected an object with a number 'id'"),
        (lambda v: v["images"][1].pop("caption"), "images/1: the image has no 'caption'"),
        (
            lambda v: v["images"][1].update(caption="a \ud83d dog"),
            r"images/1: 'caption' is 'a \\ud83d dog', expected text",
        ),
        (lambda v: v["images"][1].update(file_name="../x"), "images/1: 'file_name'"),
        (lambda v: v["images"][1].update(height=0), "images/1: 'height' and 'width'"),
        (lambda v: v["images"][1].update(id=1), "images/1: a second image with the 'id' 1"),
        (lambda v: v["annotations"].pop(1), "images/1: no annotation has the image_id 2"),
        (lambda v: v["annotations"][1].update(image_id=1), "annotations/1: a second annotation of image 1"),
        (lambda v: v["annotations"][1].pop("segmentation"), "annotations/1: expected an object with"),
    ],
)
def test_faults_of_the_file(tmp_path: Path, mutate: Callable[[dict[str, Any]], object], words: str) -> None:
    write_coco(tmp_path)
    change(tmp_path, mutate)
    with pytest.raises(InputError, match=words) as caught:
        open_refcoco(tmp_path, "refcocog", "val")
    assert "instances_refcocog_val.json" in str(caught.value)


def test_missing_files_and_splits(tmp_path: Path) -> None:
    write_coco(tmp_path)
    with pytest.raises(InputError, match=r"instances_refcocog_test\.json.*convert_refexp_to_coco"):
        open_refcoco(tmp_path, "refcocog", "test")
    with pytest.raises(InputError, match="refcocog has no split 'testA'"):
        open_refcoco(tmp_path, "refcocog", "testA")
    (tmp_path / "train2014/00001.jpg").unlink()
    with pytest.raises(InputError, match=r"train2014: refcocog: 1 of 2 images are missing, the first is 00001\.jpg"):
        open_refcoco(tmp_path, "refcocog", "val")
    (tmp_path / "train2014").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="train2014: refcocog: the folder is missing"):
        open_refcoco(tmp_path, "refcocog", "val")


def test_the_full_check_reads_every_image_and_decodes_every_mask(tmp_path: Path) -> None:
    write_coco(tmp_path)
    change(tmp_path, lambda v: v["annotations"][1].update(segmentation=[[1, 2]]))
    write_frames(tmp_path / "other", 2, (10, 10))
    (tmp_path / "other/00001.jpg").replace(tmp_path / "train2014/00001.jpg")
    dataset, faults = scan_refcoco(tmp_path, "refcocog", "val")
    faults += run_checks(dataset.checks(full=True))
    assert len(faults) == 2
    assert "instances_refcocog_val.json: image 2: the mask does not decode" in str(faults[0])
    assert "image 3: 'width' and 'height' say 32x24 (width x height), but 00001.jpg is 10x10" in str(faults[1])
    with pytest.raises(InputError, match=r"instances_refcocog_val\.json: annotation of image 2: a polygon"):
        dataset.mask(dataset.objects[1])


def test_real_annotations(shared: Path, tmp_path: Path) -> None:
    for name in ("refcoco", "refcocog"):
        for path in (shared / "data/coco/golden_converter" / name).iterdir():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / path.name).symlink_to(path)
    (tmp_path / "train2014").symlink_to(shared / "data/coco/train2014")
    for name, split, sentences in (("refcocog", "val", 6), ("refcoco", "testA", 7), ("refcocog", "test", 0)):
        dataset = open_refcoco(tmp_path, name, split)
        assert len(dataset.objects) == sentences
        assert run_checks(dataset.checks(full=True)) == []
        areas = {entry["image_id"]: entry["area"] for entry in json.loads(dataset.path.read_text())["annotations"]}
        for item in dataset.objects:
            assert dataset.mask(item).sum() == pytest.approx(areas[item.id], rel=0.15)
