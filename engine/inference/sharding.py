"""Which process segments which videos. It depends on the data set alone, so that it is the same in every run."""

from __future__ import annotations

from collections.abc import Sequence

from datasets.video_index import Video


def split_groups(groups: Sequence[Sequence[Video]], parts: int) -> list[list[Sequence[Video]]]:
    """Share out groups of videos so that the parts have about the same number of masks (frames x expressions).

    The largest group goes first, each to the part that has least so far.

    Args:
        groups: of a split.
        parts: at least 1; some are empty if there are fewer groups.

    Returns:
        `parts` lists that together hold every group once, each in the order of `groups`.
    """
    costs = [sum(map(mask_count, group)) for group in groups]
    order = sorted(range(len(groups)), key=lambda number: (-costs[number], number))
    numbers: list[list[int]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for number in order:
        part = loads.index(min(loads))
        numbers[part].append(number)
        loads[part] += costs[number]
    return [[groups[number] for number in sorted(own)] for own in numbers]


def mask_count(video: Video) -> int:
    """Frames x expressions: what a video costs."""
    return len(video.frames) * len(video.expressions)
