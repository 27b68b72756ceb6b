"""Small numbers that the processes of a run must agree on in every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from util.errors import InputError

if TYPE_CHECKING:  # util.distributed imports this module's user
    from util.distributed import Processes


def largest(processes: Processes, values: Sequence[int]) -> list[int]:
    """The largest of each value over all processes, the same for each of them; waits until all have called it.

    One all-reduce of a few bytes between CPUs, nothing for a process alone.

    Raises:
        InputError: another process failed.
    """
    if processes.group is None:
        return list(values)
    numbers = torch.tensor(values, dtype=torch.int64)
    try:
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX, group=processes.group)
    except RuntimeError as error:
        raise InputError("another process of this run failed or was killed: its own message says why") from error
    return numbers.tolist()
