"""MeViS: what is read, what its masks are, and that every fault names file and key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.mevis import open_mevis, scan_mevis, versions_present
from datasets.validation import run_checks
from tests.benchmark_files import SIZE, encode_rle, labels, write_frames, write_json, write_mevis
from util.errors import InputError


def test_videos_and_expressions_are_read_in_file_order(tmp_path: Path) -> None:
    write_mevis(tmp_path)
    dataset = open_mevis(tmp_path, "valid_u")
    assert [video.name for video in dataset.videos] == ["one", "two"]
    assert (dataset.expression_count(), dataset.frame_count()) == (6, 4)
    one = dataset.videos[0]
    assert one.frames == ("00000", "00001", "00002")
    assert one.frame_path(2) == tmp_path / "valid_u/JPEGImages/one/00002.jpg"
    assert one.frame_size() == SIZE
    assert [expression.id for expression in one.expressions] == ["0", "1", "2", "3", "4"]
    assert one.expressions[2].obj_ids == (1, 2)
    assert one.expressions[2].anno_ids == ("10", "11")
    assert one.expressions[0].text == "The  walker"
    assert one.expressions[0].caption == one.expressions[3].caption == "the walker"


def test_a_mask_is_the_union_of_its_objects(tmp_path: Path) -> None:
    write_mevis(tmp_path)
    dataset = open_mevis(tmp_path, "valid_u")
    one = dataset.videos[0]
    assert dataset.ground_truth is not None
    walker, bottom, both, _, nothing = one.expressions
    for index in range(3):
        first, second = labels(index) == 1, (labels(index) == 2) & (index != 1)
        assert np.array_equal(dataset.ground_truth.mask(one, walker, index), first)
        assert np.array_equal(dataset.ground_truth.mask(one, bottom, index), second)
        assert np.array_equal(dataset.ground_truth.mask(one, both, index), first | second)
        empty = dataset.ground_truth.mask(one, nothing, index)
        assert empty.shape == SIZE
        assert not empty.any()


def test_version_2_is_found_and_version_1_comes_first(tmp_path: Path) -> None:
    write_mevis(tmp_path, meta="meta_expressions_v2.json")
    assert open_mevis(tmp_path, "valid_u").meta_path.name == "meta_expressions_v2.json"
    write_mevis(tmp_path)
    assert versions_present(tmp_path, "valid_u") == (1, 2)
    assert open_mevis(tmp_path, "valid_u").meta_path.name == "meta_expressions.json"
    assert open_mevis(tmp_path, "valid_u", version=2).meta_path.name == "meta_expressions_v2.json"


def test_hidden_targets_need_no_masks(tmp_path: Path) -> None:
    write_mevis(tmp_path, "valid")
    (tmp_path / "valid/mask_dict.json").unlink()
    dataset = open_mevis(tmp_path, "valid")
    assert dataset.ground_truth is None
    assert all(expression.obj_ids == () for video in dataset.videos for expression in video.expressions)


def test_a_link_that_became_a_file_is_followed(tmp_path: Path) -> None:
    write_mevis(tmp_path)
    (tmp_path / "valid_u/JPEGImages").rename(tmp_path / "frames")
    (tmp_path / "valid_u/JPEGImages").write_text("../frames\n")
    dataset = open_mevis(tmp_path, "valid_u")
    assert dataset.videos[0].frame_path(0).is_file()


def test_real_layout(shared: Path) -> None:
    dataset = open_mevis(shared / "data/mevis", "valid_u")
    assert (len(dataset.videos), dataset.expression_count(), dataset.frame_count()) == (5, 12, 230)
    assert run_checks(dataset.checks(full=True)) == []
    kite = next(video for video in dataset.videos if video.name == "kite-surf")
    assert dataset.ground_truth is not None
    board = [dataset.ground_truth.mask(kite, kite.expressions[1], index).any() for index in range(50)]
    assert board.count(False) == 19
    assert open_mevis(shared / "data/mevis", "valid").ground_truth is None


def change(path: Path, mutate: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    mutate(value)
    write_json(path, value)


def change_meta(mutate: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda folder: change(folder / "meta_expressions.json", lambda value: mutate(value["videos"]["one"]))


def change_masks(mutate: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda folder: change(folder / "mask_dict.json", mutate)


def rename_video(folder: Path) -> None:
    meta = folder / "meta_expressions.json"
    change(meta, lambda value: value["videos"].update({"../one": value["videos"].pop("one")}))


# What is broken -> file and key (or what was found) that the message has to name.
def no_sentences(folder: Path) -> None:
    path = folder / "meta_expressions.json"
    meta = json.loads(path.read_text())
    for video in meta["videos"].values():
        video["expressions"] = {}
    path.write_text(json.dumps(meta))


FAST_FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no folder": (lambda f: f.rename(f.parent / "elsewhere"), ("valid_u: the folder is missing",)),
    "no metadata": (lambda f: (f / "meta_expressions.json").unlink(), ("meta_expressions.json: the file is missing",)),
    "cut metadata": (lambda f: (f / "meta_expressions.json").write_text('{"videos": {'), ("not readable as JSON",)),
    "binary metadata": (lambda f: (f / "meta_expressions.json").write_bytes(b"\xff\xfe\x00"), ("not readable",)),
    "list as metadata": (lambda f: (f / "meta_expressions.json").write_text("[]"), ("expected a JSON object",)),
    "no videos": (lambda f: (f / "meta_expressions.json").write_text("{}"), ("videos: missing",)),
    "an empty list of videos": (lambda f: (f / "meta_expressions.json").write_text('{"videos": {}}'), ("no videos",)),
    "no sentence at all": (no_sentences, ("videos: there are no expressions",)),
    "an expression twice": (
        lambda f: (f / "meta_expressions.json").write_text('{"videos": {"one": {"x": 1, "y": 2, "x": 3}}}'),
        ("the key 'x' is there twice",),
    ),
    "no frames": (change_meta(lambda v: v.update(frames=[])), ("videos/one/frames", "no frames")),
    "a frame twice": (change_meta(lambda v: v["frames"].append("00000")), ("videos/one/frames", "twice")),
    "an evil frame": (change_meta(lambda v: v["frames"].append("../x")), ("videos/one/frames",)),
    "no expressions": (change_meta(lambda v: v.pop("expressions")), ("videos/one/expressions: missing",)),
    "no exp": (change_meta(lambda v: v["expressions"]["2"].pop("exp")), ("videos/one/expressions/2", "'exp'")),
    "blank exp": (change_meta(lambda v: v["expressions"]["2"].update(exp=" ")), ("videos/one/expressions/2",)),
    "half a character": (
        change_meta(lambda v: v["expressions"]["2"].update(exp="a \ud83d dog")),
        ("videos/one/expressions/2", "'exp' is 'a \\ud83d dog'", "surrogate"),
    ),
    "half a name": (change_meta(lambda v: v["frames"].append("\udc80")), ("videos/one/frames",)),
    "one obj_id": (change_meta(lambda v: v["expressions"]["2"].update(obj_id="1")), ("expressions/2", "'obj_id'")),
    "no anno_id": (change_meta(lambda v: v["expressions"]["0"].pop("anno_id")), ("expressions/0", "'anno_id'")),
    "an evil id": (change_meta(lambda v: v["expressions"].update({"a/b": {"exp": "x"}})), ("expressions/a/b",)),
    "an evil video": (rename_video, ("videos/../one",)),
    "no images": (lambda f: (f / "JPEGImages").rename(f / "x"), ("JPEGImages: the folder is missing",)),
    "no video": (lambda f: (f / "JPEGImages/two").rename(f / "x"), ("JPEGImages/two: two: the folder is missing",)),
    "no frame": (lambda f: (f / "JPEGImages/one/00001.jpg").unlink(), ("one: 1 of 3 frames", "00001.jpg")),
    "no image": (lambda f: (f / "JPEGImages/one/00000.jpg").write_bytes(b""), ("one/00000.jpg", "no readable image")),
    "no masks": (lambda f: (f / "mask_dict.json").unlink(), ("mask_dict.json: the file is missing",)),
    "no annotation": (change_masks(lambda m: m.pop("11")), ("mask_dict.json: 11 (video one)", "missing")),
    "too few masks": (
        change_masks(lambda m: m["11"].pop()),
        ("mask_dict.json: 11 (video one)", "2 masks for 3 frames"),
    ),
    "a mask of another size": (
        change_masks(lambda m: m["11"].__setitem__(2, encode_rle(labels(0, (32, 20))))),
        ("mask_dict.json: 11 (video one)/2", "the mask is 20x32 (width x height), the frame 32x24"),
    ),
}
FULL_FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "other frame size": (lambda f: Image.new("RGB", (9, 9)).save(f / "JPEGImages/one/00001.jpg"), ("00001.jpg", "9x9")),
    "damaged frame": (lambda f: (f / "JPEGImages/one/00002.jpg").write_bytes(b"x"), ("one/00002.jpg",)),
    "damaged mask": (
        change_masks(lambda m: m["10"][1].update(counts="~~")),
        ("10 (video one)/1", "does not decode"),
    ),
    "cut mask": (
        change_masks(lambda m: m["10"][1].update(counts=m["10"][1]["counts"][:-3])),
        ("10 (video one)/1", "does not decode"),
    ),
    "mask as text": (change_masks(lambda m: m["10"].__setitem__(0, "x")), ("10 (video one)/0",)),
    "mask of other size": (
        change_masks(lambda m: m["12"].__setitem__(0, encode_rle(labels(0)))),
        ("12 (video two)/0", "the mask is 32x24", "20x32"),
    ),
}


@pytest.mark.parametrize("case", FAST_FAULTS)
def test_faults_are_reported_when_it_is_opened(tmp_path: Path, case: str) -> None:
    write_mevis(tmp_path)
    spoil, words = FAST_FAULTS[case]
    spoil(tmp_path / "valid_u")
    with pytest.raises(InputError) as caught:
        open_mevis(tmp_path, "valid_u")
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("case", FULL_FAULTS)
def test_faults_that_only_the_full_check_finds(tmp_path: Path, case: str) -> None:
    write_mevis(tmp_path)
    spoil, words = FULL_FAULTS[case]
    spoil(tmp_path / "valid_u")
    dataset, faults = scan_mevis(tmp_path, "valid_u")
    faults += run_checks(dataset.checks(full=True))
    assert len(faults) == 1
    assert all(word in str(faults[0]) for word in words), str(faults[0])


def test_masks_of_frames_that_are_resized_later_are_named_when_they_are_read(tmp_path: Path) -> None:
    write_mevis(tmp_path)
    dataset = open_mevis(tmp_path, "valid_u")
    write_frames(tmp_path / "valid_u" / "JPEGImages" / "one", 3, (12, 16))
    assert dataset.ground_truth is not None
    with pytest.raises(InputError, match=r"10/1 \(video one\): the mask is 32x24 \(width x height\), the frame 16x12"):
        dataset.ground_truth.mask(dataset.videos[0], dataset.videos[0].expressions[0], 1)


def test_a_mask_that_does_not_decode_is_named_when_it_is_read(tmp_path: Path) -> None:
    write_mevis(tmp_path)
    FULL_FAULTS["damaged mask"][0](tmp_path / "valid_u")
    dataset = open_mevis(tmp_path, "valid_u")
    assert dataset.ground_truth is not None
    with pytest.raises(InputError, match=r"mask_dict\.json: 10/1 \(video one\)"):
        dataset.ground_truth.mask(dataset.videos[0], dataset.videos[0].expressions[0], 1)
