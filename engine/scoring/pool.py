"""Worker processes that score while the main process runs a model, or reads."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from types import TracebackType
from typing import ParamSpec, TypeVar

import cv2
from tqdm import tqdm

from util.errors import InputError

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
_script_lock = threading.Lock()


class _Process(SpawnProcess):
    """A spawned process that does not load the script of this one: with PyTorch that takes seconds, and 0.7 GB."""

    def start(self) -> None:
        with _script_hidden():
            super().start()


class _Context(SpawnContext):
    Process = _Process


class ScorePool:
    """Runs functions in spawned processes (safe beside CUDA and threads); use it as a context manager.

    Functions have to come from modules: the processes do not know those of the script that was started. Work starts as
    soon as it is submitted. Leaving the context after an exception drops what has not started.

    Args:
        num_workers: number of processes; 0 runs everything in the caller, at once.
    """

    def __init__(self, num_workers: int) -> None:
        if num_workers < 0:
            raise InputError(f"--num_workers is the number of processes, 0 or more; found {num_workers}")
        self._executor = ProcessPoolExecutor(num_workers, _Context(), _start_worker) if num_workers else None

    def __enter__(self) -> ScorePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=kind is not None)

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start `function(*args, **kwargs)`; function, arguments and result must be picklable."""
        if self._executor is not None:
            try:
                return self._executor.submit(function, *args, **kwargs)
            except BrokenProcessPool as error:
                raise _dead_worker() from error
        future: Future[T] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except (InputError, OSError) as error:
            future.set_exception(error)
        return future

    def map(
        self, function: Callable[[S], T], tasks: Sequence[S], sizes: Sequence[int], description: str, unit: str
    ) -> list[T]:
        """`function` of every task, in the order of the tasks, with a progress bar; see `collect` for the rest."""
        if self._executor is not None:
            return collect([self.submit(function, task) for task in tasks], sizes, description, unit)
        results = []
        with tqdm(total=sum(sizes), desc=description, unit=unit) as bar:
            for task, size in zip(tasks, sizes, strict=True):
                results.append(function(task))
                bar.update(size)
        return results


def collect(futures: Sequence[Future[T]], sizes: Sequence[int], description: str, unit: str) -> list[T]:
    """The results in the order of `futures`, with a progress bar if any is still to come.

    Args:
        futures: what `ScorePool.submit` returned.
        sizes: how many units (frames, say) each of them scores.
        description, unit: of the bar.

    Raises:
        InputError: a worker process was killed, or what the first failed function raised.
    """
    size_of = dict(zip(futures, sizes, strict=True))
    done = all(future.done() for future in futures)
    with tqdm(total=sum(sizes), desc=description, unit=unit, disable=done) as bar:
        try:
            for future in as_completed(futures):
                future.result()
                bar.update(size_of[future])
        except BrokenProcessPool as error:
            raise _dead_worker() from error
    return [future.result() for future in futures]


@contextlib.contextmanager
def _script_hidden() -> Iterator[None]:
    """Within, `__main__` does not say where it comes from: a process that is spawned would load it from there."""
    script = vars(sys.modules["__main__"])
    with _script_lock:
        hidden: dict[str, object] = {name: script[name] for name in ("__file__", "__spec__") if name in script}
        script.update(dict.fromkeys(hidden))
        try:
            yield
        finally:
            script.update(hidden)


def _dead_worker() -> InputError:
    return InputError("a worker process was killed (out of memory?); run again with fewer (--num_workers, --workers)")


def _start_worker() -> None:
    for number in ("SIGINT", "SIGUSR1"):  # Ctrl-C, and a scheduler's warning, are the main process's to handle
        if hasattr(signal, number):
            signal.signal(getattr(signal, number), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)


def _end_with_parent() -> None:
    """A main process that was killed leaves no worker behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
