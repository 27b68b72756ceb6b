"""How much memory a process has needed, and what becomes of memory that is free again."""

from __future__ import annotations

import ctypes
import functools
import platform
import resource
import sys

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_MOST_BYTES_KEPT = (1 << 31) - 1
_LARGEST_BLOCK_KEPT = 1 << 30


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 2 GiB of freed memory for the tensors that follow, for good; with glibc only.

    By default glibc gives large blocks back to the system, so that every large tensor meets new pages, each of which
    costs a page fault: for an addition of 26 MB more than the addition. Memory comes back with `malloc_trim`.

    Returns:
        whether it does.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK_KEPT) and mallopt(_TRIM_THRESHOLD, _MOST_BYTES_KEPT))


def peak_memory(device: torch.device) -> int:
    """The most bytes held so far: allocated on a GPU, otherwise resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
