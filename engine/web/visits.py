"""Who is on the page: each visitor's video, run and files, which nobody else can reach and which end with the visit."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.media import Media
from engine.infer import open_session
from engine.web.jobs import Job, RunOptions, Worker, return_memory
from engine.web.limits import Limits, check_upload, parse_sentences
from engine.web.store import LEVELS, RunStore, shown_size, shrink, threshold_level
from models.samwise import SAMWISE
from util.errors import InputError

logger = logging.getLogger(__name__)

_SWEEP_SECONDS = 30.0
_TAKING_SECONDS = 60.0  # in which whoever has uploaded a file surely takes it
_UPLOAD_SECONDS = 600.0  # without further data, after which an upload has broken off


class Visit:
    """One visitor's things. Made by `Studio`; its methods may be called by several threads.

    Args:
        folder: of the visit's own; made here, removed by `close`.
        downloads: another, for files that the visitor fetches.

    Attributes:
        media: the video or image, None before there is one.
        first: (h, w, 3) uint8 RGB, its first frame as it is shown.
        job: the run that belongs to `media`, None before one was started.
        threshold: chosen last.
        follows: whether the newest frame is to be shown while a run goes on.
        used: when something was done last, on the clock `time.monotonic`.
    """

    def __init__(self, folder: Path, downloads: Path, threshold: float) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.downloads = downloads
        self.media: Media | None = None
        self.first: np.ndarray | None = None
        self.job: Job | None = None
        self.threshold = threshold
        self.follows = True
        self.used = time.monotonic()
        self.lock = threading.RLock()
        self._upload: Path | None = None
        self._source = folder

    def touch(self) -> None:
        """Note that something is being done."""
        self.used = time.monotonic()

    def open(self, source: Path, name: str, limits: Limits) -> None:
        """Take an uploaded file; the earlier one and its run are given up.

        Args:
            source: the file. It may vanish afterwards.
            name: its owner's name for it.
            limits: of the page.

        Raises:
            InputError: it cannot be used; the visit then has no video.
        """
        with self.lock:
            self.forget()
            own = self.folder / f"{secrets.token_hex(8)}{_safe_suffix(name)}"
            try:
                _link(source, own)
                media = check_upload(own, name, limits)
                first = next(iter(media), None)
                if first is None:
                    raise InputError(f"{media.path} holds no frame that can be decoded. Choose another file.")
            except BaseException:
                own.unlink(missing_ok=True)
                raise
            self.media, self.first, self._upload = media, shrink(first, shown_size(media.frame_size)), own
            self._source = source

    def forget(self) -> None:
        """Give up the video and its run, and delete their files."""
        with self.lock:
            self.end_run()
            self.media = self.first = None
            if self._upload is not None:
                self._upload.unlink(missing_ok=True)
                _remove_if_unused(self._source, self.downloads.parent)
                self._upload = None

    def end_run(self) -> None:
        """Cancel the run and delete its results."""
        with self.lock:
            if self.job is not None:
                self.job.cancel()
                self.job.store.close()
                self.job = None
            shutil.rmtree(self.downloads, ignore_errors=True)

    def close(self) -> None:
        """End the visit: nothing of it remains."""
        self.forget()
        shutil.rmtree(self.folder, ignore_errors=True)


class Studio:
    """Everything behind the page but the page: the visits, and the network that they share.

    Args:
        model: any SAMWISE with a tokenizer.
        limits: for each visitor.
        root: folder that files may be written to.
        options: how videos are segmented.
        threshold: to begin with; the nearest of 0.01, 0.02, ... 0.99 is taken.
    """

    def __init__(
        self, model: SAMWISE, limits: Limits, root: Path, options: RunOptions | None = None, threshold: float = 0.5
    ) -> None:
        self.limits = limits
        self.threshold = threshold_level(threshold) / (LEVELS + 1)
        self.uploads = root / "uploads"  # the web server's, with the files that it hands out
        self._visits_folder = root / "visits"
        self._model = model
        self._options = options or RunOptions()
        self._worker = Worker(model, self._options, limits.frames)
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._sweep, name="ending-visits", daemon=True).start()

    @property
    def visits(self) -> Sequence[Visit]:
        """Those that have not ended."""
        with self._lock:
            return list(self._visits.values())

    def visit(self, key: str | None) -> Visit:
        """The visit with this key, begun if there is none.

        Raises:
            InputError: no key, or as many visitors as the page takes.
        """
        if not key:
            raise InputError("This page needs a browser that keeps a session. Load the page again.")
        with self._lock:
            visit = self._visits.get(key)
            if visit is None:
                if len(self._visits) >= self.limits.visits:
                    raise InputError("The page has as many visitors as it takes. Come back in a few minutes.")
                name = secrets.token_hex(16)
                visit = Visit(self._visits_folder / name, self.uploads / name, self.threshold)
                self._visits[key] = visit
            visit.touch()
            return visit

    def start(self, visit: Visit, text: str) -> Job:
        """Put a run of the visit's video into the queue; an earlier run is given up.

        Args:
            visit: with a video.
            text: sentences, one per line.

        Raises:
            InputError: no video, or sentences that cannot be used.
        """
        with visit.lock:
            if visit.media is None:
                raise InputError("Upload an image or a video first, or pick an example.")
            sentences = parse_sentences(text, self.limits)
            options = self._options
            open_session(self._model, sentences, window=options.window, precision=options.precision)
            visit.end_run()
            path = visit.folder / f"{secrets.token_hex(8)}.run"
            store = RunStore(path, visit.media.frame_size, sentences, self.limits.result_bytes)
            visit.job, visit.follows = Job(visit.media, store), True
            self._worker.submit(visit.job)
            return visit.job

    def ahead(self, job: Job) -> int:
        """How many runs come before one that waits."""
        return self._worker.ahead(job)

    def end_visit(self, key: str | None) -> None:
        """The visitor has gone."""
        with self._lock:
            visit = self._visits.pop(key or "", None)
        if visit is not None:
            visit.close()
            return_memory()

    def end_idle_visits(self) -> None:
        """End the visits in which nothing has happened for too long."""
        latest = time.monotonic() - self.limits.idle_seconds
        with self._lock:
            idle = [
                key
                for key, visit in self._visits.items()
                if visit.used < latest and (visit.job is None or visit.job.over)
            ]
        for key in idle:
            self.end_visit(key)

    def remove_broken_uploads(self) -> None:
        """Delete what uploads that broke off have left with the web server, which knows nothing of it any more."""
        now = time.time()
        for path in self.uploads.glob("tmp*"):
            with contextlib.suppress(OSError):
                found = path.lstat()
                longest = _UPLOAD_SECONDS if found.st_size else _TAKING_SECONDS
                if stat.S_ISREG(found.st_mode) and found.st_mtime + longest < now:
                    path.unlink()

    def close(self) -> None:
        """End all visits and the thread that segments."""
        self._closed.set()
        with self._lock:
            keys = list(self._visits)
        for key in keys:
            self.end_visit(key)
        self._worker.close()

    def _sweep(self) -> None:
        while not self._closed.wait(_SWEEP_SECONDS):
            with contextlib.suppress(OSError):
                self.end_idle_visits()
            self.remove_broken_uploads()


def _safe_suffix(name: str) -> str:
    """The suffix of an uploaded file, which helps to recognise some formats, if it is harmless."""
    suffix = Path(name).suffix.lower()
    return suffix if suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) <= 6 else ""


def _link(source: Path, target: Path) -> None:
    """Have a file under another name too, whatever becomes of the first one."""
    try:
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copyfile(source, target)
    except OSError as error:
        raise InputError("The upload has not arrived. Upload it again.") from error


def _remove_if_unused(source: Path, uploads: Path) -> None:
    """Delete the web server's own copy of an upload; visitors who upload the same file share that copy.

    One that somebody else uses, or may be about to use, is left for the web server to delete after a while.
    """
    with contextlib.suppress(OSError):
        found = source.stat()
        taken = found.st_nlink > 1 or time.time() < found.st_mtime + _TAKING_SECONDS
        if not taken and source.is_relative_to(uploads):
            source.unlink()
