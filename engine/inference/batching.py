"""How many expressions and videos run together, and what to do when memory does not suffice."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from datasets.video_index import Video

MOST_ON_GPU = 16
VIDEOS_ON_GPU = 4  # of few expressions, whose steps are small alone
MOST_ON_CPU = 4  # little is shared between expressions: more of them need more memory and save little time
# Peak memory of one expression, in bytes per pixel of network input and frame of a clip. Measured on a CPU for tiny
# and base with HSA and CME: about 110, with frames encoded one by one; a GPU encodes them together, for which the
# double and a reserve are assumed. Where that is too little, the batch is halved.
BYTES_PER_PIXEL = {"cpu": 128, "cuda": 256}
MEMORY_SHARE = {"cpu": 0.25, "cuda": 0.8}  # of the computer's memory, of the free memory of the GPU


def automatic_batch(image_size: int, window: int, device: torch.device) -> int:
    """How many expressions should fit into memory together, at least 1.

    On a CPU it depends on the size of the memory, not on what is free, so that it is the same in every run.

    Args:
        image_size: side of the network input in pixels.
        window: frames per clip.
        device: where the network is.
    """
    if device.type == "cuda":
        available, most = torch.cuda.mem_get_info(device)[0], MOST_ON_GPU
    else:
        available, most = _physical_memory(), MOST_ON_CPU
    kind = device.type if device.type in BYTES_PER_PIXEL else "cpu"
    each = BYTES_PER_PIXEL[kind] * image_size * image_size * window
    return max(1, min(most, int(available * MEMORY_SHARE[kind]) // each))


def automatic_videos(device: torch.device) -> int:
    """How many videos run together at most: several on a GPU, one on a CPU, which has enough to do with it."""
    return VIDEOS_ON_GPU if device.type == "cuda" else 1


def group_videos(videos: Sequence[Video], most: int, expressions: int) -> list[list[Video]]:
    """Videos that run together, neighbours in length, so that they end at about the same time.

    It depends on its arguments alone, whatever is finished and how many processes there are: other neighbours may round
    differently.

    Args:
        videos: of a split.
        most: videos of a group at most, at least 1.
        expressions: of a group of several videos at most, in all.

    Returns:
        Groups that together hold every video once, in the order of their first videos.
    """
    order = sorted(range(len(videos)), key=lambda number: (len(videos[number].frames), number))
    groups: list[list[int]] = []
    count = 0
    for number in order:
        own = len(videos[number].expressions)
        if groups and len(groups[-1]) < most and count + own <= expressions:
            groups[-1].append(number)
            count += own
        else:
            groups.append([number])
            count = own
    return [[videos[number] for number in numbers] for numbers in sorted(map(sorted, groups))]


def _physical_memory() -> int:
    """Bytes of memory of this computer; 8 GiB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return 8 << 30


def partition(count: int, most: int) -> list[range]:
    """Cut 0 ... count - 1 into the fewest ranges of at most `most`, of about equal length."""
    parts = -(-count // most)
    bounds = [count * part // parts for part in range(parts + 1)] if parts else [0]
    return [range(start, end) for start, end in zip(bounds, bounds[1:], strict=False)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory did not suffice, on any device.

    Or the one behind it: a CUDA graph whose recording runs out of memory complains of how the recording ends.
    """
    if not isinstance(error, RuntimeError | MemoryError):
        return False
    text = str(error).lower()
    marks = ("out of memory", "not enough memory", "can't allocate memory", "status_alloc_failed")
    if isinstance(error, MemoryError) or any(mark in text for mark in marks):
        return True
    earlier = error.__cause__ or error.__context__
    return earlier is not None and is_out_of_memory(earlier)
