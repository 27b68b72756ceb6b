"""Reading ahead and writing behind: order, bounds, errors, and no thread left over."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from util.background import WriteBehind, map_ahead, prefetch


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & {"prefetch", "write-behind"}


class Source:
    """A generator of numbers that records how far it was read, and whether it was closed."""

    def __init__(self, length: int, fails_at: int | None = None) -> None:
        self.length, self.fails_at = length, fails_at
        self.made = 0
        self.closed = False

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(self.length):
                if number == self.fails_at:
                    raise OSError("broken")
                self.made = number + 1
                yield number
        finally:
            self.closed = True


@pytest.mark.parametrize("length", [0, 1, 100])
@pytest.mark.parametrize("depth", [1, 8])
def test_prefetch_keeps_order(length: int, depth: int) -> None:
    assert list(prefetch(range(length), depth)) == list(range(length))
    assert not threads()


def test_prefetch_is_bounded_and_runs_ahead() -> None:
    source = Source(100)
    items = prefetch(source, 3)
    assert next(items) == 0
    deadline = time.monotonic() + 10
    while source.made < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    # one taken, three wait, one is held by the thread that waits for a place
    assert source.made == 5
    assert list(items) == list(range(1, 100))


def test_prefetch_passes_an_error_on_in_its_place() -> None:
    source = Source(10, fails_at=4)
    seen = []
    with pytest.raises(OSError, match="broken"):
        seen.extend(prefetch(source, 2))
    assert not seen or seen == list(range(4))
    items = prefetch(Source(10, fails_at=4), 8)
    assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="broken"):
        next(items)
    assert not threads()


def test_prefetch_closes_its_source_when_abandoned() -> None:
    source = Source(10**9)
    items = prefetch(source, 4)
    next(items)
    items.close()
    assert source.closed
    assert not threads()


def test_prefetch_does_nothing_before_it_is_used() -> None:
    source = Source(3)
    prefetch(source, 2).close()
    assert source.made == 0


def test_write_behind_writes_in_order_and_finishes_last() -> None:
    done: list[object] = []
    writer = WriteBehind(done.append, lambda: done.append("finished"), 2)
    for number in range(50):
        writer.submit(number)
    writer.end()
    writer.join()
    assert done == [*range(50), "finished"]
    assert writer.written == 50
    assert writer.seconds > 0
    assert not threads()


def test_write_behind_reports_an_error_and_never_blocks_after_it() -> None:
    done: list[int] = []

    def write(number: int) -> None:
        if number == 2:
            raise OSError("disk full")
        done.append(number)

    writer = WriteBehind(write, lambda: done.append(-1), 1)
    with pytest.raises(OSError, match="disk full"):
        list(map(writer.submit, range(1000)))
    for number in range(10):
        with pytest.raises(OSError, match="disk full"):
            writer.submit(number)
    writer.end()
    with pytest.raises(OSError, match="disk full"):
        writer.join()
    assert done == [0, 1, -1]  # what was written is completed
    assert writer.written == 2


def test_write_behind_reports_an_error_of_the_last_step() -> None:
    def finish() -> None:
        raise OSError("cannot finish")

    writer: WriteBehind[int] = WriteBehind(lambda _: None, finish, 1)
    writer.submit(1)
    writer.end()
    with pytest.raises(OSError, match="cannot finish"):
        writer.join()


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("length", [0, 1, 50])
def test_map_ahead_keeps_order(length: int, threads: int) -> None:
    def square(number: int) -> int:
        time.sleep(0.002 * (number % 3))  # later items are ready earlier
        return number * number

    assert list(map_ahead(square, range(length), threads)) == [number * number for number in range(length)]


def test_map_ahead_works_on_several_items_at_once_and_not_on_all() -> None:
    together = threading.Barrier(3)  # passes only when three items wait at it
    source = Source(90)

    def meet(number: int) -> int:
        together.wait(timeout=10)
        return number

    results = map_ahead(meet, source, 3)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert source.made == 9  # 2 * threads of them wait or are in work
    assert list(results) == list(range(3, 90))


@pytest.mark.parametrize("threads", [1, 4])
def test_map_ahead_raises_in_the_place_of_the_result(threads: int) -> None:
    def fail(number: int) -> int:
        if number >= 4:
            raise OSError(f"broken {number}")
        return number

    results = map_ahead(fail, range(100), threads)
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="broken 4"):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("map-ahead")]


def test_map_ahead_ends_its_threads_when_abandoned() -> None:
    done = []
    results = map_ahead(done.append, Source(10**9), 2)
    next(results)
    results.close()
    assert len(done) <= 6
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("map-ahead")]
