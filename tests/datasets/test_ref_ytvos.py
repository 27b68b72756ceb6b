"""Ref-YouTube-VOS: which videos are validated, when it can be scored, and its faults."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets.ref_ytvos import TARGET_FILE, open_ref_ytvos, scan_ref_ytvos
from datasets.validation import run_checks
from tests.benchmark_files import labels, write_json, write_labels, write_ytvos
from util.errors import InputError

VALID = [f"v{number:03d}" for number in range(202)]


def write_valid(root: Path, kept: list[str]) -> None:
    """A valid split that also lists one test video, without frames for it."""
    write_ytvos(root, "valid", kept, objects=False)
    write_ytvos(root, "test", ["t000"], objects=False)
    path = root / "meta_expressions/valid/meta_expressions.json"
    meta = json.loads(path.read_text())
    meta["videos"]["t000"] = meta["videos"][kept[0]]
    write_json(path, meta)


def test_valid_is_what_is_not_a_test_video(tmp_path: Path) -> None:
    write_valid(tmp_path, VALID)
    dataset = open_ref_ytvos(tmp_path)
    assert [video.name for video in dataset.videos] == VALID
    assert dataset.ground_truth is None
    assert [video.name for video in open_ref_ytvos(tmp_path, "test").videos] == ["t000"]


def test_another_number_of_videos_is_allowed_only_on_demand(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_valid(tmp_path, VALID[:3])
    with pytest.raises(InputError, match=r"valid/meta_expressions\.json: videos: 3 videos .* 202; --allow_partial"):
        open_ref_ytvos(tmp_path)
    with caplog.at_level(logging.WARNING):
        dataset = open_ref_ytvos(tmp_path, allow_partial=True)
    assert len(dataset.videos) == 3
    assert "3 videos" in caplog.text
    assert "meta_expressions.json" in caplog.text


def test_a_missing_list_of_test_videos_is_named(tmp_path: Path) -> None:
    write_valid(tmp_path, VALID)
    (tmp_path / "meta_expressions/test/meta_expressions.json").unlink()
    with pytest.raises(InputError, match=r"203 videos .*test/meta_expressions\.json, is missing"):
        open_ref_ytvos(tmp_path)


def test_train_has_ground_truth(tmp_path: Path) -> None:
    write_ytvos(tmp_path, "train", ["a", "b"], frames=3)
    dataset = open_ref_ytvos(tmp_path, "train")
    assert dataset.ground_truth is not None
    video = dataset.videos[1]
    assert [expression.obj_ids for expression in video.expressions] == [(1,), (2,)]
    for expression, number in zip(video.expressions, (1, 2), strict=True):
        assert np.array_equal(dataset.ground_truth.mask(video, expression, 2), labels(2) == number)
    assert run_checks(dataset.checks(full=True)) == []


def test_valid_can_be_scored_once_masks_and_objects_are_published(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_ytvos(tmp_path, "valid", ["a"], frames=2)  # with masks, and obj_id in the metadata
    assert open_ref_ytvos(tmp_path, allow_partial=True).ground_truth is not None
    path = tmp_path / "meta_expressions/valid/meta_expressions.json"
    meta = json.loads(path.read_text())
    objects = {key: {"obj_id": entry.pop("obj_id")} for key, entry in meta["videos"]["a"]["expressions"].items()}
    write_json(path, meta)
    assert open_ref_ytvos(tmp_path, allow_partial=True).ground_truth is None
    assert TARGET_FILE in caplog.text
    write_json(tmp_path / TARGET_FILE, {"a": objects})
    dataset = open_ref_ytvos(tmp_path, allow_partial=True)
    assert dataset.ground_truth is not None
    video = dataset.videos[0]
    assert np.array_equal(dataset.ground_truth.mask(video, video.expressions[1], 0), labels(0) == 2)


def test_masks_of_first_frames_only_are_no_ground_truth(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_ytvos(tmp_path, "valid", ["a"], frames=2)
    (tmp_path / "valid/Annotations/a/00001.png").unlink()
    assert open_ref_ytvos(tmp_path, allow_partial=True).ground_truth is None
    assert "1 of 2 masks are missing" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "train/Annotations").rename(root / "x"), "train/Annotations: the folder is missing"),
        (lambda root: (root / "train/Annotations/a").rename(root / "x"), "Annotations/a: a: the folder is missing"),
        (lambda root: (root / "train/Annotations/a/00000.png").unlink(), "1 of 1 masks are missing"),
        (
            lambda root: write_labels(root / "train/Annotations/a", 1, (30, 40)),
            r"a/00000\.png: a: the mask is 40x30 \(width x height\), the frame 32x24",
        ),
        (lambda root: (root / "train/JPEGImages").rename(root / "x"), "train/JPEGImages: the folder is missing"),
        (lambda root: root.rename(root.with_name("gone")), "the folder is missing"),
    ],
)
def test_faults_of_train(tmp_path: Path, spoil: Callable[[Path], object], words: str) -> None:
    root = tmp_path / "root"
    write_ytvos(root, "train", ["a"])
    spoil(root)
    with pytest.raises(InputError, match=words):
        open_ref_ytvos(root, "train")


@pytest.mark.parametrize("number", [None, "0", "256", "x", -1, 1.5, [1]])
def test_an_object_number_that_is_none(tmp_path: Path, number: object) -> None:
    write_ytvos(tmp_path, "train", ["a"])
    path = tmp_path / "meta_expressions/train/meta_expressions.json"
    meta = json.loads(path.read_text())
    meta["videos"]["a"]["expressions"]["1"]["obj_id"] = number
    write_json(path, meta)
    with pytest.raises(InputError, match=r"meta_expressions\.json: videos/a/expressions/1: 'obj_id'"):
        open_ref_ytvos(tmp_path, "train")


def test_a_damaged_or_misfitting_mask_is_found_by_the_full_check(tmp_path: Path) -> None:
    write_ytvos(tmp_path, "train", ["a", "b"])
    (tmp_path / "train/Annotations/a/00000.png").write_bytes(b"no image")
    write_labels(tmp_path / "train/Annotations/b", 1, (30, 40))
    dataset, faults = scan_ref_ytvos(tmp_path, "train")
    found = [str(fault) for fault in faults + run_checks(dataset.checks(full=True))]
    assert len(found) == 2
    assert "a/00000.png: a: the mask does not decode" in found[0]
    assert "b/00000.png: b: the mask is 40x30 (width x height), the frame 32x24" in found[1]


def test_official_file(shared: Path) -> None:
    dataset, faults = scan_ref_ytvos(shared / "data/ref-youtube-vos")
    assert len(dataset.videos) == 202
    assert dataset.expression_count() == 834
    expected = json.loads((shared / "data/ref-youtube-vos/valid_202_video_ids.json").read_text())
    assert sorted(video.name for video in dataset.videos) == sorted(expected)
    assert [fault.problem for fault in faults] == ["the folder is missing"]  # the frames of valid
    assert len(open_ref_ytvos(shared / "data/ref-youtube-vos", "train").videos) == 5
