"""Masks decode exactly as COCO's own code does, and nothing that is malformed gets through or crashes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask

from datasets.masks import decode_rle, decode_segmentation, image_size, read_frame, read_labels, rle_runs
from util.errors import InputError

SIDES = st.integers(1, 40)
MASKS = st.tuples(SIDES, SIDES).flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, 1)))


@given(MASKS)
def test_decode_rle_inverts_cocos_encoding(mask: np.ndarray) -> None:
    rle = coco_mask.encode(np.asfortranarray(mask))
    decoded = decode_rle({"size": list(rle["size"]), "counts": rle["counts"].decode()})
    assert decoded.dtype == bool
    assert np.array_equal(decoded, mask.astype(bool))
    assert rle_runs(rle)[1] == mask.shape


@given(st.integers(200, 3000), st.integers(200, 3000), st.data())
def test_long_runs_decode(height: int, width: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, height * width))
    second = data.draw(st.integers(0, height * width - first))
    runs = [first, second, height * width - first - second]
    packed = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    assert rle_runs(packed)[0].sum() == height * width
    assert rle_runs({"size": [height, width], "counts": runs})[0].tolist() == runs
    assert rle_runs(packed)[0].tolist()[: len(runs)] == runs


@given(st.binary(max_size=30), SIDES, SIDES)
def test_random_text_is_refused_or_fills_its_size(text: bytes, height: int, width: int) -> None:
    try:
        mask = decode_rle({"size": [height, width], "counts": text})
    except ValueError:
        return
    assert mask.shape == (height, width)


@pytest.mark.parametrize(
    "rle",
    [
        None,
        "x",
        {"size": [2, 2]},
        {"size": [2, 2], "counts": None},
        {"size": [2], "counts": [4]},
        {"size": [2, 2.0], "counts": [4]},
        {"size": [2, 0], "counts": [0]},
        {"size": [2, 2], "counts": [5]},
        {"size": [2, 2], "counts": [5, -1]},
        {"size": [2, 2], "counts": ["4"]},
        {"size": [2, 2], "counts": [10**30]},  # more than 64 bits hold
        {"size": [2, 2], "counts": [2**62, 2**62, 2**62, 2**62, 4]},  # whose sum is 4 in 64 bits
        {"size": [2, 2], "counts": ""},
        {"size": [2, 2], "counts": "é"},
        {"size": [2, 2], "counts": "oooooooooo0"},
    ],
)
def test_malformed_rle_is_refused(rle: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_rle(rle)


@given(st.lists(st.tuples(st.floats(-5, 45), st.floats(-5, 45)), min_size=3, max_size=8), SIDES, SIDES)
def test_polygons_are_filled_as_coco_does(points: list[tuple[float, float]], height: int, width: int) -> None:
    polygon = [value for point in points for value in point]
    expected = decode_rle(coco_mask.frPyObjects([polygon], height, width)[0])
    assert np.array_equal(decode_segmentation([polygon], (height, width)), expected)


def test_several_polygons_are_one_mask() -> None:
    parts = [[0, 0, 4, 0, 4, 4, 0, 4], [6, 6, 9, 6, 9, 9, 6, 9]]
    mask = decode_segmentation(parts, (10, 10))
    assert mask[1, 1]
    assert mask[7, 7]
    assert not mask[5, 5]


@pytest.mark.parametrize(
    "segmentation",
    [None, [], "x", [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4, 5, "6"]], [[1, 2, 3, 4, 5, 1e9]], [{}],
     [[1, 2, 3, 4, 5, float("nan")]], {"size": [5, 5], "counts": [25]}],
)  # fmt: skip
def test_malformed_segmentation_is_refused(segmentation: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_segmentation(segmentation, (10, 10))


def test_labels_are_read_from_palette_and_grey_but_not_from_colours(tmp_path):
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = Image.fromarray(numbers).convert("P")
    palette.putpalette(list(range(255, 0, -1)))
    palette.save(tmp_path / "palette.png")
    Image.fromarray(numbers).save(tmp_path / "grey.png")
    for name in ("palette.png", "grey.png"):
        assert np.array_equal(read_labels(tmp_path / name), numbers)
        assert image_size(tmp_path / name) == (3, 4)
    Image.new("RGB", (4, 3)).save(tmp_path / "colour.png")
    with pytest.raises(ValueError, match="colour mode RGB"):
        read_labels(tmp_path / "colour.png")


def test_broken_and_missing_images_are_refused(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for cut in (0, 10, 60, len(data) // 2):
        (tmp_path / "cut.png").write_bytes(data[:cut])
        with pytest.raises(ValueError, match="does not decode"):
            read_labels(tmp_path / "cut.png")
    with pytest.raises(ValueError, match="missing"):
        read_labels(tmp_path / "none.png")
    with pytest.raises(ValueError, match="missing"):
        image_size(tmp_path / "none.png")
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(ValueError, match="no readable image"):
        image_size(tmp_path / "text.jpg")


def test_a_frame_that_is_cut_off_after_its_header_is_found_when_it_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8)).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 2 // 3])
    assert image_size(tmp_path / "a.jpg") == (50, 50)
    with pytest.raises(InputError, match=r"a\.jpg: the image does not decode .*reads headers only"):
        read_frame(tmp_path / "a.jpg")
