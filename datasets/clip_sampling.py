"""Which frames a training clip has (benchmarks.md, section 3). Frames are numbered from 0 within their video."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

NEIGHBOUR_REACH = 3  # the neighbours of a global clip's start are at most so many frames away

# (generator, frames of the video, start, frames of the clip) -> sorted frame indices
FrameSampler = Callable[[np.random.Generator, int, int, int], list[int]]


def clip_starts(length: int, num_frames: int) -> range:
    """The frames of a video of `length` frames at which a clip of `num_frames` starts: every `num_frames`-th."""
    return range(0, length, num_frames)


def global_frames(rng: np.random.Generator, length: int, start: int, num_frames: int) -> list[int]:
    """Frames from all over the video (MeViS).

    The start, one frame 1 to 3 before it and one 1 to 3 after it, both clamped to the video (so that the first and the
    last frame can occur twice), of which a clip of one or two frames has the first so many. The others come from
    outside of that span; where too few are left there, from all that are not in the clip yet.

    Args:
        rng: draws the frames.
        length: number of frames of the video, at least 1.
        start: frame index, below `length`.
        num_frames: number of frames of the clip, at least 1; may be above `length`.

    Returns:
        `num_frames` sorted frame indices. What is not clamped repeats only if the video has too few frames.
    """
    before, after = (int(reach) for reach in rng.integers(1, NEIGHBOUR_REACH + 1, size=2))
    near = [start, max(start - before, 0), min(start + after, length - 1)][:num_frames]
    outside = [*range(min(near)), *range(max(near) + 1, length)]
    missing = num_frames - len(near)
    pools = [outside] if len(outside) >= missing else []
    return _filled(rng, near, num_frames, pools, length)


def local_frames(rng: np.random.Generator, length: int, start: int, num_frames: int) -> list[int]:
    """Frames near the start (Ref-YouTube-VOS).

    Half of them come from the `num_frames` frames before the start, the others from the `num_frames` from the start
    on. What is missing comes from the `2 * num_frames` on both sides, then from the whole video.

    Args, Returns: as of `global_frames`; frames repeat only if the video has fewer than `num_frames`.
    """
    earlier = range(max(start - num_frames, 0), start)
    later = range(start, min(start + num_frames, length))
    half = num_frames // 2
    chosen = _some(rng, earlier, half) + _some(rng, later, num_frames - half)
    around = range(max(start - 2 * num_frames, 0), min(start + 2 * num_frames, length))
    return _filled(rng, chosen, num_frames, [around], length)


def _some(rng: np.random.Generator, pool: Iterable[int], count: int) -> list[int]:
    """Up to `count` different members of `pool`."""
    members = list(pool)
    return [members[place] for place in rng.permutation(len(members))[:count]]


def _filled(
    rng: np.random.Generator, chosen: list[int], num_frames: int, pools: Iterable[Iterable[int]], length: int
) -> list[int]:
    """`chosen` with new frames from one pool after the other, then from the whole video, then repeated ones; sorted."""
    frames = list(chosen)
    for pool in (*pools, range(length)):
        taken = set(frames)
        frames += _some(rng, (frame for frame in pool if frame not in taken), num_frames - len(frames))
    while len(frames) < num_frames:
        frames += _some(rng, range(length), num_frames - len(frames))
    return sorted(frames)
