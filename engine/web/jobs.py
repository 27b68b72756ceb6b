"""The one thread that runs the network, and the jobs that wait for it: visitors take turns, video by video."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

import torch

from datasets.media import Frame, Media
from engine.infer import open_session
from engine.inference.batching import is_out_of_memory
from engine.web.store import RunStore
from models.samwise import SAMWISE
from util.background import prefetch
from util.errors import InputError, describe

logger = logging.getLogger(__name__)

_CLOSING_SECONDS = 60.0


@dataclass(frozen=True)
class RunOptions:
    """How videos are segmented, the same for all visitors; see `engine.infer.open_session`."""

    window: int = 8
    precision: str = "fp32"


class Job:
    """A video to segment by some sentences.

    Attributes:
        media, store: where frames come from and results go to; `store.sentences` are the sentences.
        state: "waiting", "running", and at the end "done", "cancelled" or "failed".
        message: why it failed, for the visitor.
    """

    def __init__(self, media: Media, store: RunStore) -> None:
        self.media = media
        self.store = store
        self.state = "waiting"
        self.message = ""
        self._cancelled = threading.Event()
        self._news = threading.Condition()
        self._started = 0.0
        self._seconds = 0.0

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("done", "cancelled", "failed")

    @property
    def cancelled(self) -> bool:
        """Whether it is to stop."""
        return self._cancelled.is_set()

    @property
    def seconds(self) -> float:
        """For how long it has been running."""
        return time.monotonic() - self._started if self.state == "running" else self._seconds

    def cancel(self) -> None:
        """Stop before the next clip; a job that waits ends without having begun."""
        self._cancelled.set()
        with self._news:
            if self.state == "waiting":
                self.state = "cancelled"
            self._news.notify_all()

    def start(self) -> bool:
        """Note that it is running; False if it was cancelled before."""
        with self._news:
            if self.state != "waiting":
                return False
            self.state, self._started = "running", time.monotonic()
            self._news.notify_all()
            return True

    def end(self, state: str, message: str = "") -> None:
        """Note how it ended."""
        with self._news:
            self._seconds = self.seconds
            self.state, self.message = state, message
            self._news.notify_all()

    def tell(self) -> None:
        """Wake up whoever waits for further frames."""
        with self._news:
            self._news.notify_all()

    def wait(self, known: int, seconds: float) -> None:
        """Wait until there are more than `known` frames or it is over, or so many seconds."""
        with self._news:
            self._news.wait_for(lambda: self.over or len(self.store) > known, seconds)


class Worker:
    """Segments one job after the other in a thread of its own.

    Args:
        model: the network; nobody else may use it meanwhile.
        options: how it is used.
        most_frames: of a video whose length is not known before it is decoded.
    """

    def __init__(self, model: SAMWISE, options: RunOptions, most_frames: int) -> None:
        self._model = model
        self._options = options
        self._most_frames = most_frames
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="segmenting", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job at the end of the queue."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()

    def ahead(self, job: Job) -> int:
        """How many jobs come before one that waits."""
        with self._changed:
            before = [*([self._running] if self._running else []), *self._waiting]
        return sum(not other.over for other in before[: before.index(job)]) if job in before else 0

    def close(self) -> None:
        """Cancel everything and wait until the network is free."""
        with self._changed:
            self._closed = True
            jobs = [*self._waiting, *([self._running] if self._running else [])]
            self._changed.notify_all()
        for job in jobs:
            job.cancel()
        self._thread.join(_CLOSING_SECONDS)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if job.start():
                self._run(job)
            job = None  # a finished run is its visitor's only
            with self._changed:
                self._running = None

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            self._running = self._waiting.popleft()
            return self._running

    def _run(self, job: Job) -> None:
        """Segment a job; whatever happens, the thread goes on with the next one."""
        try:
            self._segment(job)
            job.end("cancelled" if job.cancelled else "done")
        except Exception as error:
            if job.cancelled:  # its files may be gone already
                job.end("cancelled")
            elif isinstance(error, InputError):
                job.end("failed", str(error).replace(str(job.store.path.parent), "…"))
            elif shortage := shortage_of(error):
                logger.warning("%s Until then %d frames of %s", shortage, len(job.store), job.media.path)
                job.end("failed", shortage)
            else:
                logger.exception("a run failed after %d frames", len(job.store))
                job.end("failed", "Something went wrong; the log of the server says what. You can try again.")
        finally:
            return_memory()

    def _segment(self, job: Job) -> None:
        options = self._options
        session = open_session(self._model, job.store.sentences, window=options.window, precision=options.precision)
        kept: deque[Frame] = deque()
        with contextlib.closing(prefetch(job.media, options.window)) as frames:
            for number, frame in enumerate(frames):
                if number == self._most_frames:
                    raise InputError(f"The video has more than {number:,} frames; those are done. Cut it shorter.")
                if job.cancelled:
                    return
                kept.append(frame)
                results = session.feed([frame])
                for result in results:
                    job.store.append(kept.popleft(), result)
                if results:
                    job.tell()
        if not job.cancelled:
            for result in session.flush():
                job.store.append(kept.popleft(), result)


def shortage_of(error: Exception) -> str | None:
    """What has run out, for the visitor; None if an error says nothing of the kind."""
    if is_out_of_memory(error):
        return "Memory ran out. Take a smaller video or fewer sentences, or try again later."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"On the server {describe(OSError(error.errno, ''))}."  # without the file's name
    return None


def return_memory() -> None:
    """Give memory that is free, but kept for later, back to the system: that of a GPU, and that of the C library."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
