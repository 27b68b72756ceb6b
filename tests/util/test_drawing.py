"""Overlays: colours, outlines, and legends at any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from util.drawing import draw_overlay, palette


def disc(height: int, width: int, radius: float = 0.25) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (x - width / 2) ** 2 + (y - height * 0.6) ** 2 < (radius * min(height, width)) ** 2


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 100, np.uint8)


@pytest.mark.parametrize("count", [0, 1, 3, 8, 9, 50])
def test_palette_has_different_colours(count: int) -> None:
    colours = palette(count)
    assert len(set(colours)) == count
    assert all(isinstance(value, int) and 0 <= value <= 255 for colour in colours for value in colour)
    assert palette(count + 1)[:count] == colours  # a further prompt changes no colour


def test_mask_is_tinted_and_outlined_and_the_rest_is_left_alone() -> None:
    frame = grey(270, 480)
    before = frame.copy()
    mask = disc(270, 480)
    overlay = draw_overlay(frame, [mask], [(255, 0, 0)], [""])
    np.testing.assert_array_equal(frame, before)
    assert overlay.shape == frame.shape
    assert overlay.dtype == np.uint8
    rows = np.s_[60:]  # below the legend
    np.testing.assert_array_equal(overlay[rows][~mask[rows]], frame[rows][~mask[rows]])
    assert (overlay[mask][:, 0] > 150).all()  # red everywhere inside
    centre, rim = overlay[162, 240], overlay[162, 240 - 67]
    assert tuple(rim) == (255, 0, 0)
    assert 40 < centre[1] < 80  # the picture shows through


def test_thick_outline_has_a_dark_seam() -> None:
    mask = disc(1080, 1920)
    overlay = draw_overlay(grey(1080, 1920), [mask], [(255, 0, 0)], ["x"])
    assert (overlay[648, 960 - 271] < 30).all()
    assert tuple(overlay[648, 960 - 267]) == (255, 0, 0)


def test_later_masks_lie_over_earlier_ones() -> None:
    everywhere = np.ones((60, 60), bool)
    overlay = draw_overlay(grey(60, 60), [everywhere, everywhere], [(255, 0, 0), (0, 0, 255)], ["a", "b"])
    assert overlay[55, 30, 2] > overlay[55, 30, 0]


def test_empty_mask_leaves_the_frame() -> None:
    overlay = draw_overlay(grey(8, 8), [np.zeros((8, 8), bool)], [(255, 0, 0)], ["nothing"])
    np.testing.assert_array_equal(overlay, grey(8, 8))  # too small for a legend, too


@pytest.mark.parametrize("size", [(48, 64), (270, 480), (1080, 1920), (1920, 1080)])
def test_caption_is_shown_with_the_colour(size: tuple[int, int]) -> None:
    overlay = draw_overlay(grey(*size), [np.zeros(size, bool)], [(255, 0, 0)], ["the red disc"])
    changed = np.argwhere((overlay != grey(*size)).any(axis=2))
    assert len(changed)
    assert changed.max(axis=0)[0] < size[0] * 0.45
    assert (overlay == (255, 0, 0)).all(axis=2).any()  # the swatch
    assert overlay.max(axis=2).max() > 230  # the letters


def test_long_caption_wraps_and_ends_in_an_ellipsis() -> None:
    size = (270, 480)
    one, long, longer = (
        draw_overlay(grey(*size), [np.zeros(size, bool)], [(255, 0, 0)], ["word " * count]) for count in (1, 60, 3000)
    )
    heights = [int((overlay != grey(*size)).any(axis=(1, 2)).sum()) for overlay in (one, long, longer)]
    assert heights[0] < heights[1] == heights[2] < 0.45 * size[0]


def test_legend_of_many_prompts_stays_in_its_part() -> None:
    size = (360, 640)
    count = 50
    masks = [np.zeros(size, bool)] * count
    overlay = draw_overlay(grey(*size), masks, palette(count), [f"prompt {number}" for number in range(count)])
    assert (overlay != grey(*size)).any(axis=(1, 2)).sum() < 0.45 * size[0]


@pytest.mark.parametrize("label", ["Größe naïve", "красный диск", "红色圆盘", "😀", "قرص", "\u200b", "é" * 500])
def test_any_script_is_drawn(label: str) -> None:
    overlay = draw_overlay(grey(120, 160), [np.zeros((120, 160), bool)], [(255, 0, 0)], [label])
    assert (overlay != grey(120, 160)).any()


def test_accents_are_dropped_where_no_font_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from util import drawing

    monkeypatch.setattr(drawing, "_FALLBACK_FONTS", ())
    drawing._font.cache_clear()
    try:
        assert drawing._drawable("Größe, naïve", 21) == "Große, naive"
    finally:
        drawing._font.cache_clear()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(1, 4), st.lists(st.text(max_size=40), min_size=4, max_size=4)
)
def test_every_size_and_text_works(height: int, width: int, count: int, labels: list[str]) -> None:
    rng = np.random.default_rng(height * 100 + width)
    masks = [rng.random((height, width)) < share for share in (0.5, 0.0, 1.0, 0.1)][:count]
    overlay = draw_overlay(grey(height, width), masks, palette(count), labels[:count])
    assert overlay.shape == (height, width, 3)
