"""Work in other threads beside the model: reading ahead of it and writing behind it, through bounded queues.

KeyboardInterrupt can come between any two instructions of the main thread, and in the middle of a `queue.Queue` leaves
it locked for ever. Here it does no harm: `SimpleQueue` does what it does whole. Nor does anything wait without a limit:
Python sees a signal that came a moment too early, or to another thread, only when the main thread wakes up.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")
_POLL_SECONDS = 0.1
_END = object()
_MOST_PLACES = 1000  # more items that wait would only fill the memory


def take(waiting: SimpleQueue[T]) -> T:
    """Wait for the next item."""
    while True:
        with contextlib.suppress(Empty):
            return waiting.get(timeout=_POLL_SECONDS)


def places_for(number: int) -> SimpleQueue[None]:
    """As many items as may wait somewhere else, 1000 at most."""
    places: SimpleQueue[None] = SimpleQueue()
    for _ in range(min(number, _MOST_PLACES)):
        places.put(None)
    return places


def map_ahead(function: Callable[[S], T], items: Iterable[S], threads: int) -> Generator[T]:
    """`map` in several threads: results in the order of the items, at most 2 * `threads` items ahead of the consumer.

    An exception of `function` is raised here in the place of its result. To be consumed by a thread that gets no
    KeyboardInterrupt, such as that of `prefetch`.

    Args:
        function: called with each item, for several items at once.
        items: are taken by the consumer's thread.
        threads: with 1 or fewer the consumer's thread does all, when it is asked.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    waiting = deque[Future[T]]()
    with ThreadPoolExecutor(threads, thread_name_prefix="map-ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def prefetch(items: Iterable[T], depth: int) -> Generator[T]:
    """Iterate over `items` in another thread, up to `depth` items ahead of the consumer.

    An exception of the source is raised here, after the items that came before it. When the consumer stops early
    (the generator is closed), the source is closed too, in its own thread, before this returns.

    Args:
        items: any iterable; it is iterated, and if it is a generator closed, by the other thread only.
        depth: how many items may wait, at least 1.
    """
    waiting: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    places = places_for(depth)
    stopped = threading.Event()

    def put(item: Any) -> None:
        while not stopped.is_set():
            with contextlib.suppress(Empty):
                places.get(timeout=_POLL_SECONDS)
                waiting.put((item, None))
                return

    def work() -> None:
        source: Iterator[T] | None = None
        try:
            source = iter(items)
            for item in source:
                put(item)
                if stopped.is_set():
                    break
            waiting.put((_END, None))
        except BaseException as error:
            waiting.put((_END, error))
        finally:
            if close := getattr(source, "close", None):
                close()

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = take(waiting)
            places.put(None)
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
        finish: called once at the end in the same thread, also if `write` raised.
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
        self._waiting: SimpleQueue[Any] = SimpleQueue()
        self._places = places_for(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="write-behind", daemon=True)
        self._thread.start()

    def submit(self, item: T) -> None:
        """Hand over one item. Raises what an earlier item raised in the thread."""
        take(self._places)
        self._waiting.put(item)
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Say that no further item comes, without waiting."""
        self._waiting.put(_END)

    def join(self) -> None:
        """Wait, after `end`, until everything is written. Raises what the thread raised."""
        while self._thread.is_alive():
            self._thread.join(_POLL_SECONDS)
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            item = take(self._waiting)
            self._places.put(None)
            if self._error is None or item is _END:
                started = time.perf_counter()
                try:
                    if item is _END:
                        self._finish()
                    else:
                        self._write(item)
                        self.written += 1
                except BaseException as error:
                    # Later items are thrown away, so that nobody waits for a full queue; the first error is reported.
                    self._error = self._error or error
                self.seconds += time.perf_counter() - started
            if item is _END:
                return
