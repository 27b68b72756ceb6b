"""Results on their way from the device to the host, while the device already works on what comes next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")


class Download:
    """Tensors that travel to the host; nobody waits before they are asked for.

    A GPU works in order: what it is given after this does not delay them.

    Args:
        tensors: of one device.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        # From CUDA to page-locked memory, which an event says to be filled; any other copy is waited for.
        self._hosted = [tensor.to("cpu", non_blocking=tensor.is_cuda) for tensor in tensors]
        self._arrived: torch.cuda.Event | None = None
        if tensors and tensors[0].is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(tensors[0].device))

    def wait(self) -> list[NDArray[Any]]:
        """Their content, in the same order."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [np.asarray(tensor) for tensor in self._hosted]


def delayed(items: Iterable[T], behind: int) -> Iterator[T]:
    """Items in their order, each when `behind` more have been taken from their source, or there are no more."""
    waiting = deque[T]()
    for item in items:
        waiting.append(item)
        if len(waiting) > behind:
            yield waiting.popleft()
    yield from waiting
