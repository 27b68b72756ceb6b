"""From the files of a training split to clips."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.mevis import open_mevis
from datasets.packed import PackedLists
from datasets.training import open_training_set
from datasets.transforms import resize_masks
from tests.benchmark_files import labels, write_coco, write_davis, write_json, write_labels, write_mevis, write_ytvos
from tests.training_sets import content, cut_jpeg, opened
from util.errors import InputError


def frame_numbers(files: tuple[str, ...]) -> list[int]:
    return [int(Path(file).stem) for file in files]


def test_ytvos_clips(tmp_path: Path) -> None:
    write_ytvos(tmp_path, "train", ["a", "b"], frames=7)
    clips = opened("ytvos", tmp_path, num_frames=4)
    assert len(clips) == 2 * 2 * 2  # videos, expressions, starts (0 and 4)
    for index in range(len(clips)):
        clip = clips[0, index]
        numbers = frame_numbers(clip.files)
        assert clip.caption == ("the walker" if index % 4 < 2 else "the one at the bottom")
        assert clip.files == tuple(
            str(tmp_path / f"train/JPEGImages/{'ab'[index // 4]}/{number:05d}.jpg") for number in numbers
        )
        assert len(set(numbers)) == 4
        assert clip.frames.shape == (4, 3, 48, 64)
        assert clip.frames.dtype == torch.uint8
        assert [int(frame[0].median()) for frame in clip.frames] == pytest.approx(numbers, abs=2)  # red is the number
        target = torch.from_numpy(np.stack([labels(number) == (1 if index % 4 < 2 else 2) for number in numbers]))
        assert torch.equal(clip.masks, resize_masks(target, (48, 64)))
        assert clip.faults == ()


def test_mevis_clips_show_the_union_of_their_objects_and_never_nothing(tmp_path: Path) -> None:
    write_mevis(tmp_path, "train", "meta_expressions_v2.json")
    clips = opened("mevis", tmp_path, num_frames=1)
    assert len(clips) == 5 * 3 + 1
    assert clips[0, 0].caption == "the walker"  # lower case and folded
    both = [clips[epoch, 6] for epoch in range(3)]
    assert [frame_numbers(clip.files) for clip in both] == [[0]] * 3
    assert torch.equal(both[0].masks, resize_masks(torch.from_numpy(labels(0) > 0)[None], (48, 64)))
    replaced = [clips[epoch, index] for epoch in range(8) for index in (4, 12, 13, 14)]  # 4: absent; others: no target
    assert all(clip.masks.any() and clip.faults == () for clip in replaced)
    assert len({(clip.files, clip.caption) for clip in replaced}) > 3
    assert [content(clips[5, 12]) for _ in range(2)] == [content(clips[5, 12])] * 2


def test_the_target_may_be_absent_from_some_frames(tmp_path: Path) -> None:
    write_mevis(tmp_path, "train")
    clip = opened("mevis", tmp_path, num_frames=5)[0, 1]  # longer than its video of 3 frames
    assert clip.caption == "the one at the bottom"
    assert [bool(mask.any()) for mask in clip.masks] == [number != 1 for number in frame_numbers(clip.files)]
    assert set(frame_numbers(clip.files)) == {0, 1, 2}


def test_davis_clips(tmp_path: Path) -> None:
    write_davis(tmp_path)
    (tmp_path / "valid").rename(tmp_path / "train")
    (tmp_path / "meta_expressions/valid").rename(tmp_path / "meta_expressions/train")
    clips = opened("davis", tmp_path, num_frames=4)
    assert len(clips) == 8
    assert frame_numbers(clips[0, 0].files) == [0, 0, 1, 1]
    assert torch.equal(clips[0, 0].frames[0], clips[0, 0].frames[1])


def test_frames_are_read_as_they_are_stored_like_their_masks(tmp_path: Path) -> None:
    write_ytvos(tmp_path, "train", ["a"], frames=1)
    path = tmp_path / "train/JPEGImages/a/00000.jpg"
    upright = opened("ytvos", tmp_path, num_frames=1)[0, 0]
    exif = Image.Exif()
    exif[0x0112] = 3  # to be shown upside down
    with Image.open(path) as image:
        image.save(path, quality="keep", exif=exif)
    assert content(opened("ytvos", tmp_path, num_frames=1)[0, 0]) == content(upright)


def test_all_joins_the_three_sets_of_images(tmp_path: Path) -> None:
    for name in ("refcoco", "refcoco+", "refcocog"):
        write_coco(tmp_path, name, "train")
    single = opened("refcoco+", tmp_path, num_frames=1)
    clips = opened("all", tmp_path, num_frames=1)
    assert (len(single), len(clips)) == (3, 9)
    assert [clips[0, index].caption for index in range(9)] == ["a triangle", "all of it", "the rest"] * 3
    assert clips[0, 4].masks.shape == (1, 48, 64)
    assert clips[0, 4].masks.all()
    assert [content(single[0, index]) for index in range(3)] == [content(clips[0, index]) for index in range(3, 6)]


def test_only_seed_epoch_and_index_matter(tmp_path: Path) -> None:
    write_ytvos(tmp_path, "train", ["a"], frames=30)
    keys = [(epoch, index) for epoch in range(2) for index in range(4)]
    clips = opened("ytvos", tmp_path, num_frames=4, augment=True)
    made = [content(clips[key]) for key in keys]
    again = pickle.loads(pickle.dumps(opened("ytvos", tmp_path, num_frames=4, augment=True)))
    assert [content(again[key]) for key in reversed(keys)] == made[::-1]
    assert len({clip[3] for clip in made}) == len(keys)  # other frames
    assert content(opened("ytvos", tmp_path, num_frames=4, augment=True, seed=1)[0, 0]) != made[0]


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda f: (f / "JPEGImages/a/00001.jpg").write_bytes(cut_jpeg()),
            "JPEGImages/a/00001.jpg: the image does not",
        ),
        (lambda f: (f / "JPEGImages/a/00001.jpg").unlink(), "JPEGImages/a/00001.jpg: the image does not decode"),
        (lambda f: (f / "JPEGImages/a/00001.jpg").write_bytes(b"x"), "JPEGImages/a/00001.jpg: the image does not"),
        (lambda f: (f / "Annotations/a/00001.png").write_bytes(b"x"), "Annotations/a/00001.png: the mask does not"),
        (lambda f: write_labels(f / "Annotations/a", 2, (9, 9)), "a/00000.jpg: the frame is 32x24 .*, its mask 9x9"),
        (lambda f: (f / "Annotations/a/00001.png").unlink(), "Annotations/a/00001.png: the file is missing"),
    ],
)
def test_what_cannot_be_read_is_replaced_and_named(tmp_path: Path, spoil: Spoil, words: str) -> None:
    write_ytvos(tmp_path, "train", ["a", "b"], frames=2)
    clips = opened("ytvos", tmp_path)
    spoil(tmp_path / "train")
    clip = clips[0, 0]
    assert len(clip.faults) >= 1
    with pytest.raises(InputError, match=words):
        raise InputError(clip.faults[0])
    assert all("\n" not in fault for fault in clip.faults)
    assert "/b/" in clip.files[0]
    assert content(clip) == content(clips[0, 0])
    assert clips[0, 2].faults == ()


def test_masks_of_one_clip_that_differ_in_size(tmp_path: Path) -> None:
    write_ytvos(tmp_path, "train", ["a", "b"], frames=2)
    clips = opened("ytvos", tmp_path)
    write_labels(tmp_path / "train/Annotations/a", 1, (9, 9))
    clip = clips[0, 0]
    assert "the masks of its video differ in size: 00000 9x9 (width x height), 00001 32x24" in clip.faults[0]


def test_a_damaged_rle_is_a_fault(tmp_path: Path) -> None:
    write_mevis(tmp_path, "train")
    path = tmp_path / "train/mask_dict.json"
    masks = json.loads(path.read_text())
    masks["12"][0]["counts"] = "~~"
    write_json(path, masks)
    clips = opened("mevis", tmp_path)
    assert "mask_dict.json: 12/0 (video two): 'counts' is not" in clips[0, len(clips) - 1].faults[0]


def test_a_set_without_any_visible_target_ends_with_one_line(tmp_path: Path) -> None:
    write_mevis(tmp_path, "train")
    path = tmp_path / "train/meta_expressions.json"
    meta = json.loads(path.read_text())
    meta["videos"] = {"one": {**meta["videos"]["one"], "expressions": {"4": meta["videos"]["one"]["expressions"]["4"]}}}
    write_json(path, meta)
    with pytest.raises(InputError, match=r"mevis: none of 1000 clips shows its target \(all were readable"):
        opened("mevis", tmp_path)[0, 0]


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("coco", {}, "--dataset_file coco: no such training set, expected one of ytvos, mevis, davis, refcoco"),
        ("refcoco", {}, "--num_frames 2: refcoco consists of images; give --num_frames 1"),
        ("all", {"num_frames": 1}, r"nowhere: the folder is missing \(--coco_path\); .*convert_refexp_to_coco"),
        ("davis", {}, r"nowhere/train: the folder is missing \(--davis_path\); .*convert_davis_to_ytvos"),
        ("mevis", {}, r"nowhere: the folder is missing \(--mevis_path\)"),
        ("ytvos", {}, r"nowhere: the folder is missing \(--ytvos_path\)"),
    ],
)
def test_sets_that_are_not_there(tmp_path: Path, name: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        opened(name, tmp_path / "nowhere", **values)
    assert "\n" not in str(caught.value)


def test_one_missing_file_of_all(tmp_path: Path) -> None:
    for name in ("refcoco", "refcocog"):
        write_coco(tmp_path, name, "train")
    with pytest.raises(
        InputError, match=r"instances_refcoco\+_train\.json: the file is missing; tools/data/convert_ref"
    ):
        opened("all", tmp_path, num_frames=1)


def test_packed_masks_are_the_masks(tmp_path: Path) -> None:
    write_mevis(tmp_path)
    masks = open_mevis(tmp_path, "valid_u").ground_truth.masks  # type: ignore[union-attr]
    packed = PackedLists.pack({**masks, "empty": []})
    assert {key: list(values) for key, values in packed.items()} == {**masks, "empty": []}
    assert list(packed["11"][1:]) == masks["11"][1:]
    assert "13" not in packed


def test_real_training_split(shared: Path) -> None:
    data = shared / "data"
    paths = {"ytvos_path": data / "ref-youtube-vos", "mevis_path": "", "davis_path": "", "coco_path": ""}
    clips = open_training_set("ytvos", **paths, num_frames=3, side=256, augment=False, seed=0)
    clip = clips[0, len(clips) - 1]
    assert clip.frames.shape == (3, 3, 144, 256)
    assert clip.masks.any()
    assert clip.faults == ()
