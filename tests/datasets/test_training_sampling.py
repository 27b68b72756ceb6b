"""Which frames a training clip has, for videos and clips of any length."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.clip_sampling import FrameSampler, clip_starts, global_frames, local_frames

LENGTHS = st.integers(1, 60)
CLIPS = st.integers(1, 20)


@st.composite
def draws(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """seed, length, start, num_frames"""
    length = draw(LENGTHS)
    return draw(st.integers(0, 10**6)), length, draw(st.integers(0, length - 1)), draw(CLIPS)


def sample(sampler: FrameSampler, case: tuple[int, int, int, int]) -> list[int]:
    seed, length, start, num_frames = case
    return sampler(np.random.default_rng(seed), length, start, num_frames)


@pytest.mark.parametrize("sampler", [global_frames, local_frames])
@given(case=draws())
def test_any_sample(sampler: FrameSampler, case: tuple[int, int, int, int]) -> None:
    _, length, _, num_frames = case
    frames = sample(sampler, case)
    assert len(frames) == num_frames
    assert frames == sorted(frames)
    assert all(type(frame) is int and 0 <= frame < length for frame in frames)
    assert frames == sample(sampler, case)
    if num_frames >= length + 2:  # too few frames: all are used, and about equally often
        counts = Counter(frames)
        assert set(counts) == set(range(length))
        assert max(counts.values()) <= -(-num_frames // length) + 2


@given(case=draws())
def test_global_samples(case: tuple[int, int, int, int]) -> None:
    _, length, start, num_frames = case
    frames = sample(global_frames, case)
    counts = Counter(frames)
    assert start in counts
    if num_frames >= 3:
        assert any(frame in counts for frame in range(max(start - 3, 0), start)) or start == 0
        assert any(frame in counts for frame in range(start + 1, min(start + 3, length - 1) + 1)) or start == length - 1
    if length >= num_frames:  # only neighbours that are clamped repeat
        ends = {frame for frame in (0, length - 1) if abs(frame - start) <= 3}
        assert all(counts[frame] == 1 or frame in ends for frame in counts)
        if 3 <= start <= length - 4:
            assert len(counts) == num_frames


def test_the_rest_of_a_global_sample_comes_from_outside_its_span() -> None:
    for seed in range(50):
        before, start, after = global_frames(np.random.default_rng(seed), 100, 50, 3)  # the same neighbours are drawn
        assert 47 <= before < start == 50 < after <= 53
        frames = global_frames(np.random.default_rng(seed), 100, 50, 8)
        assert [frame for frame in frames if before <= frame <= after] == [before, start, after]


def test_global_samples_at_the_ends_are_clamped() -> None:
    first = global_frames(np.random.default_rng(0), 100, 0, 8)
    last = global_frames(np.random.default_rng(0), 100, 99, 8)
    assert first.count(0) == last.count(99) == 2
    assert len(set(first)) == len(set(last)) == 7


@given(case=draws())
def test_local_samples(case: tuple[int, int, int, int]) -> None:
    _, length, start, num_frames = case
    frames = sample(local_frames, case)
    if length >= num_frames:
        assert len(set(frames)) == num_frames
    half = num_frames // 2
    before = sum(start - num_frames <= frame < start for frame in frames)
    after = sum(start <= frame < start + num_frames for frame in frames)
    if start >= half and length - start >= num_frames - half and length >= num_frames:
        assert (before, after) == (half, num_frames - half)
    around = range(max(start - 2 * num_frames, 0), min(start + 2 * num_frames, length))
    if len(around) >= num_frames:
        assert set(frames) <= set(around)


def test_every_frame_of_the_span_is_drawn_sooner_or_later() -> None:
    seen = {frame for seed in range(200) for frame in local_frames(np.random.default_rng(seed), 100, 50, 8)}
    assert seen == set(range(42, 58))
    seen = {frame for seed in range(400) for frame in global_frames(np.random.default_rng(seed), 40, 20, 8)}
    assert seen == set(range(40))


@given(length=LENGTHS, num_frames=CLIPS)
def test_starts(length: int, num_frames: int) -> None:
    starts = clip_starts(length, num_frames)
    assert starts[0] == 0
    assert len(starts) == -(-length // num_frames)
    assert all(start % num_frames == 0 for start in starts)
