"""Several processes that share one run, as torchrun starts them. Objects travel through gloo, whatever the device."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from util.errors import InputError
from util.interrupts import stop_with_parent

T = TypeVar("T")

START_TIMEOUT = timedelta(minutes=30)
WAIT_TIMEOUT = timedelta(days=7)  # the fastest waits for the slowest; a process that dies is noticed at once
_LOST_PARTNER = "another process of this run failed or was killed: its own message says why"
_CONNECTION = re.compile("gloo|nccl|connection|broken pipe", re.IGNORECASE)  # in what torch says where one breaks
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run; by default it is alone.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local_rank: its number on this computer.
        group: torch's process group for objects, None for a process alone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    group: Any = None

    @property
    def is_main(self) -> bool:
        """Whether it is the one that merges and reports."""
        return self.rank == 0

    @property
    def log_level(self) -> int:
        """From which level on its notices are shown: those of the others only if they are warnings."""
        return logging.INFO if self.is_main else logging.WARNING

    def gather(self, value: T) -> list[T]:
        """The values of all processes in the order of their ranks, for each of them; waits until all have called it.

        Raises:
            InputError: another process failed.
        """
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(values, value, group=self.group)
        except RuntimeError as error:
            raise InputError(_LOST_PARTNER) from error
        return values

    def largest(self, values: Sequence[int]) -> list[int]:
        """The largest of each value over all processes, for each of them: a few bytes, cheap enough for every step.

        Raises:
            InputError: another process failed.
        """
        if self.group is None:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.int64)
        try:
            dist.all_reduce(numbers, op=dist.ReduceOp.MAX, group=self.group)
        except RuntimeError as error:
            raise InputError(_LOST_PARTNER) from error
        return numbers.tolist()

    def barrier(self) -> None:
        """Wait until all processes have come here; raises as `gather` does."""
        self.gather(None)

    def device(self, name: str) -> str:
        """The device `name`, with a GPU for each process of this computer where `name` is just cuda."""
        if name == "cuda" and self.size > 1 and torch.cuda.is_available():
            return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return name


@contextlib.contextmanager
def expecting_partners(processes: Processes) -> Iterator[None]:
    """A block in which torch itself talks to the other processes, as while it sums gradients.

    Raises:
        InputError: a connection broke, since another process failed.
    """
    try:
        yield
    except RuntimeError as error:
        if processes.group is None or not _CONNECTION.search(str(error)):
            raise
        raise InputError(_LOST_PARTNER) from error


@contextlib.contextmanager
def joined_processes(enabled: bool = True) -> Iterator[Processes]:
    """Join the processes that torchrun (or another launcher with its environment variables) started, for a block.

    Args:
        enabled: False ignores the launcher (`--no_distributed`).

    Raises:
        InputError: the launcher's environment is incomplete or wrong, or the processes do not find each other.
    """
    size = _number("WORLD_SIZE", 1) if enabled else 1
    if size == 1:
        yield Processes()
        return
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set: start the script with torchrun, or give "
            "--no_distributed"
        )
    rank = _number("RANK", 0)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        stop_with_parent()
    try:
        dist.init_process_group("gloo", timeout=START_TIMEOUT)
        group = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"process {rank} of {size} found no connection to the others ({error})") from error
    try:
        yield Processes(rank, size, _number("LOCAL_RANK", rank), group)
    finally:
        time.sleep(0.1)  # torch 2.4 hangs if gloo's threads have not let go of the last tensors
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise InputError(f"the environment variable {name} is {text!r}: expected a number; give --no_distributed")
    return int(text)
