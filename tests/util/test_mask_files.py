"""Masks as PNGs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from util.masks import mask_area, save_mask


@pytest.mark.parametrize("size", [(1, 1), (5, 5), (47, 63), (720, 1280)])
def test_masks_are_grey_with_two_values(tmp_path: Path, size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(size) < 0.5
    path = tmp_path / "new folder" / "mask.png"
    save_mask(path, mask)
    with Image.open(path) as image:
        assert (image.mode, image.format) == ("L", "PNG")
        np.testing.assert_array_equal(np.asarray(image), np.where(mask, 255, 0))
    assert [file.name for file in path.parent.iterdir()] == ["mask.png"]


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_mask_area(mask: np.ndarray) -> None:
    area = mask_area(mask)
    assert area == mask.sum()
    assert type(area) is int  # for JSON
