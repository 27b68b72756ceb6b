"""The order of training clips and the processes that load them."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datasets.training_clips import ClipBatch, TrainingClip
from util.errors import InputError

PREFETCH = 2  # batches that each process has ready
_POLL_SECONDS = 0.5
# On Linux processes are forked, as ever: they share the index of the data, and see by their parent whether the main one
# lives. Python 3.14 would fork them from a server. None: what the system does, which is to spawn them.
_START_METHOD = "fork" if sys.platform == "linux" else None
# Sent to all processes of a run by terminals and schedulers; the main one may still need batches to come to a good end.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")


class BatchSampler(Sampler[list[tuple[int, int]]]):
    """The batches of this process, epoch by epoch.

    The order of an epoch is a permutation that depends on seed and epoch. It is cut into global batches, an incomplete
    last one is left out, and of every global batch each process takes an equal contiguous part: the global batches are
    the same for any number of processes. A set that is smaller than a batch is repeated to fill one.

    Args:
        length: number of clips of the set, at least 1.
        batch_size: clips of a global batch, all processes together.
        seed: of the order, at least 0.
        rank: number of this process, from 0.
        world_size: number of processes.

    Raises:
        InputError: `batch_size` cannot be divided among the processes.
    """

    def __init__(self, length: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise InputError(
                f"--batch_size {batch_size} is the total of all processes and has to be a multiple of their number, "
                f"{world_size}"
            )
        self._length = length
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._epoch = 0
        self._start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """What the next iteration gives: the batches of `epoch` (from 0 on) but the first `start`, which are done."""
        if not 0 <= start <= len(self):
            raise ValueError(f"iteration {start} of an epoch with {len(self)} iterations")
        self._epoch = epoch
        self._start = start

    def __len__(self) -> int:
        """Batches of a whole epoch, at least 1."""
        return max(self._length // self._batch_size, 1)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Lists of (epoch, index), `batch_size / world_size` long."""
        epoch, start = self._epoch, self._start
        # A spawn key keeps this apart from the generators of the clips, which are seeded with numbers alone.
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, epoch], spawn_key=(0,)))
        order = np.resize(rng.permutation(self._length), len(self) * self._batch_size)
        parts = order.reshape(len(self), self._world_size, -1)[start:, self._rank]
        for part in parts.tolist():
            yield [(epoch, index) for index in part]


class ClipLoader:
    """Batches of the epoch that the sampler is set to, loaded by other processes. `make_loader` makes one.

    The processes stay for the next epoch. They end with `close`, when the loader is dropped, and when the main process
    dies, however it does. Torch's global random state is not touched.
    """

    def __init__(self, loader: DataLoader[Any], sampler: BatchSampler, ending: Any) -> None:
        self._loader: DataLoader[Any] | None = loader
        self._sampler = sampler
        self._at_exit = partial(_set, ending)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[ClipBatch]:
        """Yield the batches of the epoch; one iteration at a time.

        Raises:
            InputError: no clip with a visible target was found, or a loading process died.
        """
        assert self._loader is not None, "the loader is closed"
        batches = _start(self._loader)
        atexit.unregister(self._at_exit)
        atexit.register(self._at_exit)  # runs before multiprocessing waits for processes that are still there
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, ConnectionError, FileNotFoundError, EOFError) as error:
                if not _tells_of_a_death(error):
                    raise
                raise InputError(
                    "a data loading process was killed: out of memory, or of shared memory (docker --shm-size)? "
                    "Run again with a smaller --num_workers"
                ) from error
            if isinstance(batch, InputError):
                raise batch
            yield batch

    def close(self) -> None:
        """End the processes. Can be called twice."""
        self._loader = None
        atexit.unregister(self._at_exit)


def make_loader(
    clip_set: Dataset[TrainingClip], sampler: BatchSampler, num_workers: int, *, pin_memory: bool = False
) -> ClipLoader:
    """Load the clips that `sampler` names.

    Args:
        clip_set: takes (epoch, index).
        sampler: call its `set_epoch` before each iteration.
        num_workers: loading processes, of which there are no more than cores; 0 loads in this one. The result is the
            same for any number.
        pin_memory: put batches into page-locked memory (for a GPU).
    """
    num_workers = min(num_workers, _cores())  # PyTorch warns of more, which only get into each other's way
    ending = multiprocessing.RawValue("b", 0)  # without a lock, which a process that is killed could hold for ever
    loader = DataLoader(
        _ErrorsAsItems(clip_set),
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        worker_init_fn=partial(_start_worker, os.getpid(), ending),
        generator=torch.Generator(),  # otherwise every epoch would draw a number from the global one
        prefetch_factor=PREFETCH if num_workers else None,
        persistent_workers=num_workers > 0,
        multiprocessing_context=_START_METHOD if num_workers else None,
    )
    return ClipLoader(loader, sampler, ending)


def _cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _ErrorsAsItems(Dataset[TrainingClip | InputError]):
    """Returns what a user can mend instead of raising it: another process would add its traceback to the message."""

    def __init__(self, clip_set: Dataset[TrainingClip]) -> None:
        self._clip_set = clip_set

    def __getitem__(self, key: tuple[int, int]) -> TrainingClip | InputError:
        try:
            return self._clip_set[key]
        except InputError as error:
            return error


def _collate(items: Sequence[TrainingClip | InputError]) -> ClipBatch | InputError:
    """A batch, or the first error."""
    clips = []
    for item in items:
        if isinstance(item, InputError):
            return item
        clips.append(item)
    return ClipBatch(tuple(clips))


def _start(loader: DataLoader[Any]) -> Iterator[Any]:
    """Iterate, without torch's handler of SIGCHLD: it would raise in whatever line the main process then is.

    A dead process is noticed when a batch is asked for, within 5 seconds.
    """
    signals = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    earlier = signal.getsignal(signal.SIGCHLD) if signals else None
    batches = iter(loader)
    if earlier is not None:
        signal.signal(signal.SIGCHLD, earlier)
    return batches


def _tells_of_a_death(error: Exception) -> bool:
    """Whether torch noticed a dead process, or a connection to one broke (not: an exception in a living one)."""
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid" in str(error)
    return "DataLoader worker process" not in str(error)


def _start_worker(main_pid: int, ending: Any, worker: int) -> None:
    """Set up a loading process: signals are the main process's to handle, and its objects stay shared."""
    gc.freeze()  # collecting garbage would write to, and so copy, the memory that is shared since the fork
    for name in _SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_main, args=(main_pid, ending), daemon=True).start()


def _end_with_main(main_pid: int, ending: Any) -> None:
    """End this process when the main one dies or comes to its end."""
    while os.getppid() == main_pid and not ending.value:
        time.sleep(_POLL_SECONDS)
    os._exit(0)


def _set(flag: Any) -> None:
    flag.value = 1
