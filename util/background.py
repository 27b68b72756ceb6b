"""Work in other threads beside the model: reading ahead of it and writing behind it, through bounded queues."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.1
_END = object()


def prefetch(items: Iterable[T], depth: int) -> Generator[T]:
    """Iterate over `items` in another thread, up to `depth` items ahead of the consumer.

    An exception of the source is raised here, after the items that came before it. When the consumer stops early
    (the generator is closed), the source is closed too, in its own thread, before this returns.

    Args:
        items: any iterable; it is iterated, and if it is a generator closed, by the other thread only.
        depth: how many items may wait, at least 1.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[Any, BaseException | None]) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(entry, timeout=_POLL_SECONDS)
                return

    def work() -> None:
        source: Iterator[T] | None = None
        try:
            source = iter(items)
            for item in source:
                put((item, None))
                if stopped.is_set():
                    break
            put((_END, None))
        except BaseException as error:
            put((_END, error))
        finally:
            if close := getattr(source, "close", None):
                close()

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        thread.join()


class WriteBehind(Generic[T]):
    """Calls `write` for every submitted item, in order, in another thread.

    Args:
        write: called with each item.
        finish: called once at the end in the same thread, unless `write` raised.
        depth: how many items may wait before `submit` blocks, at least 1.

    Attributes:
        written: how many items were written so far.
        seconds: time spent in `write` and `finish` so far.
    """

    def __init__(self, write: Callable[[T], None], finish: Callable[[], None], depth: int) -> None:
        self.written = 0
        self.seconds = 0.0
        self._write = write
        self._finish = finish
        self._waiting: queue.Queue[Any] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="write-behind", daemon=True)
        self._thread.start()

    def submit(self, item: T) -> None:
        """Hand over one item. Raises what an earlier item raised in the thread."""
        self._waiting.put(item)
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Say that no further item comes, without waiting."""
        self._waiting.put(_END)

    def join(self) -> None:
        """Wait, after `end`, until everything is written. Raises what the thread raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            item = self._waiting.get()
            if self._error is None:
                started = time.perf_counter()
                try:
                    if item is _END:
                        self._finish()
                    else:
                        self._write(item)
                        self.written += 1
                except BaseException as error:
                    self._error = error  # later items are thrown away, so that nobody waits for a full queue
                self.seconds += time.perf_counter() - started
            if item is _END:
                return
