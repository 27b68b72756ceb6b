"""J, F and their statistics: golden values, the definition written out, and what must hold for any masks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from util.errors import InputError
from util.metrics import (
    PackedMask,
    boundary_f,
    boundary_radius,
    frame_scores,
    jaccard,
    sequence_statistics,
    video_scores,
)

VISIBLE = Path(__file__).resolve().parents[1] / "data" / "metrics_visible.npz"


def boundary_pixels(mask: np.ndarray) -> list[tuple[int, int]]:
    """Pixels that differ from their right, lower or lower-right neighbour, by the definition."""
    height, width = mask.shape
    pixels = []
    for y in range(height):
        for x in range(width):
            around = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if any(mask[y, x] != mask[v, u] for v, u in around if v < height and u < width):
                pixels.append((y, x))
    return pixels


def matched(pixels: list[tuple[int, int]], others: list[tuple[int, int]], radius: int) -> float:
    """Share of `pixels` with one of `others` within `radius`."""
    first, second = np.array(pixels), np.array(others)
    distances = ((first[:, None] - second[None]) ** 2).sum(axis=2)
    return float((distances.min(axis=1) <= radius**2).mean())


def boundary_f_by_definition(prediction: np.ndarray, target: np.ndarray) -> float:
    first, second = boundary_pixels(prediction), boundary_pixels(target)
    if not first or not second:
        return float(len(first) == len(second))
    radius = math.ceil(0.008 * math.sqrt(prediction.shape[0] ** 2 + prediction.shape[1] ** 2))
    precision, recall = matched(first, second, radius), matched(second, first, radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@st.composite
def mask_pairs(draw: st.DrawFn, longest: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Two masks (H, W) of a few rectangles and single pixels, often at the border; the radius is up to 3."""
    sides = (draw(st.integers(1, 12)), draw(st.integers(1, longest)))
    size = sides if draw(st.booleans()) else sides[::-1]
    pair = []
    for _ in range(2):
        mask = np.full(size, draw(st.booleans()))
        for _ in range(draw(st.integers(0, 4))):
            top, left = (draw(st.integers(0, side - 1)) for side in size)
            height, width = (draw(st.sampled_from((1, 2, 5, 40, 300))) for _ in size)
            mask[top : top + height, left : left + width] ^= True
        pair.append(mask)
    return pair[0], pair[1]


def speck(size: tuple[int, int], *pixels: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    for pixel in pixels:
        mask[pixel] = True
    return mask


def test_published_values_of_mask_pairs() -> None:
    pairs = np.load(VISIBLE)
    for index, (j, f) in enumerate(zip(pairs["J"], pairs["F"], strict=True)):
        prediction, target = pairs[f"{index}/pred"], pairs[f"{index}/gt"]
        assert jaccard(prediction, target) == pytest.approx(j, abs=1e-12)
        assert boundary_f(prediction, target) == pytest.approx(f, abs=1e-12)


@settings(deadline=None)
@given(mask_pairs())
@example((speck((2, 9000), (0, 0)), speck((2, 9000), (0, 72), (1, 8999))))  # radius 72: more than one word
@example((speck((2, 9000), (0, 0), (1, 64)), speck((2, 9000), (1, 137))))
@example((speck((9, 900), (3, 0)), speck((9, 900), (2, 899))))  # from one border to the other of the row above
@example((speck((9, 900), (3, 130), (8, 899)), speck((9, 900), (0, 124), (3, 2))))
def test_f_is_its_definition_written_out(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert boundary_f(*pair) == pytest.approx(boundary_f_by_definition(*pair), abs=1e-12)


@settings(deadline=None)
@given(mask_pairs())
def test_j_is_intersection_over_union(pair: tuple[np.ndarray, np.ndarray]) -> None:
    union = np.count_nonzero(pair[0] | pair[1])
    expected = np.count_nonzero(pair[0] & pair[1]) / union if union else 1.0
    assert jaccard(*pair) == pytest.approx(expected, abs=1e-15)


@settings(deadline=None)
@given(mask_pairs())
def test_scores_are_symmetric_fractions(pair: tuple[np.ndarray, np.ndarray]) -> None:
    scores = frame_scores(*pair)
    assert scores == pytest.approx(frame_scores(pair[1], pair[0]), abs=1e-15)
    assert all(0 <= score <= 1 for score in scores)


@settings(deadline=None)
@given(mask_pairs())
def test_equal_masks_score_one(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert frame_scores(pair[0], pair[0].copy()) == (1.0, 1.0)


@settings(deadline=None)
@given(mask_pairs())
def test_what_leaves_scores_as_they_are(pair: tuple[np.ndarray, np.ndarray]) -> None:
    scores = frame_scores(*pair)
    assert frame_scores(pair[0].T, pair[1].T) == pytest.approx(scores)
    assert frame_scores(pair[0] * np.uint8(255), pair[1] * 3.0) == scores  # any value but 0 is foreground
    assert boundary_f(~pair[0], ~pair[1]) == pytest.approx(scores[1])
    one, other = PackedMask(pair[0]), PackedMask(pair[1])
    assert (one.jaccard(other), one.boundary_f(other)) == scores


@settings(max_examples=20, deadline=None)
@given(st.lists(mask_pairs(longest=20), min_size=1, max_size=4))
def test_a_video_is_scored_frame_by_frame(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    j, f = video_scores([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    assert list(zip(j, f, strict=True)) == [frame_scores(*pair) for pair in pairs]


@pytest.mark.parametrize(("size", "radius"), [((480, 854), 8), ((1, 1), 1), ((1080, 1920), 18), ((720, 1280), 12)])
def test_radius_grows_with_the_diagonal(size: tuple[int, int], radius: int) -> None:
    assert boundary_radius(*size) == radius


def test_a_boundary_is_matched_within_a_disk_not_a_square() -> None:
    size = (480, 854)  # radius 8
    point = speck(size, (100, 100))
    assert boundary_f(point, speck(size, (100, 108))) == pytest.approx(boundary_f_by_definition_of_points(8, 0))
    assert boundary_f(point, speck(size, (106, 106))) == pytest.approx(boundary_f_by_definition_of_points(6, 6))


def boundary_f_by_definition_of_points(down: int, right: int) -> float:
    """The F of two single pixels that are that far apart, radius 8: each has a boundary of four pixels."""
    first = [(y, x) for y in (99, 100) for x in (99, 100)]
    second = [(y + down, x + right) for y, x in first]
    precision, recall = matched(first, second, 8), matched(second, first, 8)
    return 2 * precision * recall / (precision + recall)


def test_one_empty_mask() -> None:
    empty, full, half = np.zeros((6, 9), bool), np.ones((6, 9), bool), np.zeros((6, 9), bool)
    half[:, :4] = True
    assert frame_scores(empty, empty) == (1.0, 1.0)
    assert frame_scores(empty, half) == (0.0, 0.0)
    assert frame_scores(full, empty) == (0.0, 1.0)  # neither has a boundary inside the image
    assert frame_scores(full, half) == (pytest.approx(24 / 54), 0.0)


def test_statistics_of_a_sequence() -> None:
    values = np.linspace(1, 0, 9)  # bins of 3 frames that share one at their border
    statistics = sequence_statistics(values)
    assert statistics.mean == pytest.approx(0.5)
    assert statistics.recall == pytest.approx(4 / 9)  # 0.5 itself is not above 0.5
    assert statistics.decay == pytest.approx(0.75)
    assert sequence_statistics([0.25]).decay == 0


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=400))
def test_statistics_are_bounded_and_decay_turns_with_time(values: list[float]) -> None:
    statistics = sequence_statistics(values)
    assert min(values) - 1e-9 <= statistics.mean <= max(values) + 1e-9
    assert 0 <= statistics.recall <= 1
    assert abs(statistics.decay) <= max(values) - min(values) + 1e-9
    if len(values) % 4 == 1:  # equal bins
        assert sequence_statistics(values[::-1]).decay == pytest.approx(-statistics.decay)


def test_errors_are_one_line() -> None:
    with pytest.raises(InputError, match="found 4x3 and 3x4"):
        jaccard(np.zeros((3, 4)), np.zeros((4, 3)))
    with pytest.raises(InputError, match="two dimensions"):
        boundary_f(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)))
    with pytest.raises(InputError, match="3 masks, 2 frames"):
        video_scores(np.zeros((3, 4, 4)), np.zeros((2, 4, 4)))
    with pytest.raises(InputError, match="at least one frame"):
        sequence_statistics([])
