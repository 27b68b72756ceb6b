"""Ref-DAVIS17: four annotators' sentences per object, in order, with label images as ground truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.ref_davis import annotator_expressions, open_ref_davis
from datasets.validation import run_checks
from datasets.video_index import LabelImages
from tests.benchmark_files import labels, write_davis, write_json
from util.errors import InputError


def change_expressions(root: Path, mutate: Callable[[dict[str, Any]], object]) -> None:
    path = root / "meta_expressions/valid/meta_expressions.json"
    meta = json.loads(path.read_text())
    mutate(meta["videos"]["walk"]["expressions"])
    write_json(path, meta)


def test_every_annotator_has_one_sentence_per_object(tmp_path: Path) -> None:
    write_davis(tmp_path)
    change_expressions(tmp_path, lambda e: e.update({"0": e.pop("0")}))  # the order in the file does not matter
    video = open_ref_davis(tmp_path).videos[0]
    assert [expression.id for expression in video.expressions] == [str(number) for number in range(8)]
    for annotator in range(4):
        expressions = annotator_expressions(video, annotator)
        assert [expression.obj_ids for expression in expressions] == [(1,), (2,)]
        assert [expression.text for expression in expressions] == [
            f"object {number} of annotator {annotator}" for number in (1, 2)
        ]


def test_ground_truth_is_the_label_image(tmp_path: Path) -> None:
    write_davis(tmp_path)
    dataset = open_ref_davis(tmp_path)
    video = dataset.videos[0]
    assert isinstance(dataset.ground_truth, LabelImages)
    assert np.array_equal(dataset.ground_truth.labels(video, 1), labels(1))
    assert np.array_equal(dataset.ground_truth.mask(video, video.expressions[4], 1), labels(1) == 2)
    (tmp_path / "valid/Annotations/walk/00001.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"walk/00001\.png: the mask does not decode"):
        dataset.ground_truth.labels(video, 1)


@pytest.mark.parametrize(
    ("mutate", "words"),
    [
        (lambda e: e.pop("3"), "4 sentences per object"),
        (lambda e: e.update({"8": e["0"]}), "4 sentences per object"),
        (lambda e: e["1"].update(obj_id="2"), "sentences from 0 on mean different objects"),
        (lambda e: e["1"].pop("obj_id"), "expressions/1: 'obj_id' is None"),
    ],
)
def test_sentences_that_do_not_fit_the_objects(
    tmp_path: Path, mutate: Callable[[dict[str, Any]], object], words: str
) -> None:
    write_davis(tmp_path)
    change_expressions(tmp_path, mutate)
    with pytest.raises(InputError, match=words) as caught:
        open_ref_davis(tmp_path)
    assert "meta_expressions.json: videos/walk/expressions" in str(caught.value)


@pytest.mark.parametrize("folder", ["", "valid/JPEGImages", "valid/Annotations", "meta_expressions"])
def test_a_missing_folder(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "root"
    write_davis(root)
    (root / folder).rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=rf"{folder}.*is missing"):
        open_ref_davis(root)


def test_real_layout(shared: Path) -> None:
    dataset = open_ref_davis(shared / "data/ref-davis")
    assert (len(dataset.videos), dataset.expression_count(), dataset.frame_count()) == (5, 36, 230)
    assert run_checks(dataset.checks(full=True)) == []
