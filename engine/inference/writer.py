"""Writing masks behind the model, in several threads and bounded memory."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from util.paths import atomic_write

T = TypeVar("T")

MAX_WAITING_BYTES = 256 << 20


class MaskWriter:
    """Encodes and writes images in threads. To be used by one thread, and closed at the end.

    Args:
        threads: at least 1.
        max_bytes: of images that may wait; `write` blocks while more do.
    """

    def __init__(self, threads: int, max_bytes: int = MAX_WAITING_BYTES) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="mask-writer")
        self._max_bytes = max_bytes
        self._waiting = 0
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._seconds = 0.0
        self._pending: set[Future] = set()

    @property
    def seconds(self) -> float:
        """Time spent encoding and writing, summed over the threads."""
        return self._seconds

    def write(self, path: Path, image: np.ndarray, encode: Callable[[np.ndarray], bytes]) -> Future[str]:
        """Write `encode(image)` to `path`, atomically, later.

        Returns:
            the SHA-256 of the file's bytes, to come.

        Raises:
            OSError: an earlier file could not be written.
        """
        with self._changed:
            while self._waiting > self._max_bytes and self._error is None:
                self._changed.wait()
            self._waiting += image.nbytes
        return self._submit(lambda: self._write(path, image, encode))

    def after(self, futures: Sequence[Future[T]], function: Callable[[list[T]], None]) -> None:
        """Call `function` with the results of `futures`, which earlier calls returned, in a thread; not if one failed.

        Raises what `write` raises.
        """
        self._submit(lambda: function([future.result() for future in futures]))

    def drain(self) -> None:
        """Wait until everything is done. Raises the first error of a thread."""
        with self._changed:
            while self._pending and self._error is None:
                self._changed.wait()
        self._raise()

    def close(self) -> None:
        """Write what waits, unless something could not be written before, and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=self._error is not None)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        self._raise()
        future = self._pool.submit(work)
        with self._changed:
            self._pending.add(future)
        future.add_done_callback(self._note)
        return future

    def _write(self, path: Path, image: np.ndarray, encode: Callable[[np.ndarray], bytes]) -> str:
        started = time.perf_counter()
        try:
            data = encode(image)
            with atomic_write(path) as handle:
                handle.write(data)
            return hashlib.sha256(data).hexdigest()
        except OSError as error:
            if error.errno is not None and error.filename is None:  # a full disk does not say whose
                error.filename = str(path)
            raise
        finally:
            with self._changed:
                self._waiting -= image.nbytes
                self._seconds += time.perf_counter() - started
                self._changed.notify_all()

    def _note(self, future: Future) -> None:
        error = None if future.cancelled() else future.exception()
        with self._changed:
            self._pending.discard(future)
            self._error = self._error or error
            self._changed.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
