"""From a live source and some sentences to an overlay that grows as frames come, until the stream ends or Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.media import LiveSource, Media
from datasets.media_live import LiveReader
from datasets.media_stream import LiveFrame
from engine.demo import clean_prompts, segment_media
from engine.infer import FrameResult, VideoSession, open_session
from engine.results import COMBINED, FRAMES, RECORD, VideoFile, remove_earlier_results
from models.samwise import SAMWISE
from util.background import WriteBehind
from util.drawing import draw_overlay, palette
from util.errors import InputError
from util.interrupts import StopRequest
from util.masks import mask_area, save_mask
from util.naming import safe_names
from util.paths import atomic_write_json, hide_secrets, writable_folder

logger = logging.getLogger(__name__)

_NOMINAL_FPS = Fraction(25)
_STATUS_SECONDS = 1.0
_RATE_SECONDS = 10.0  # over which frames per second are counted
_KILL_SECONDS = 1.0  # after which another Ctrl-C means that the user cannot wait


@dataclass(frozen=True)
class LiveOptions:
    """How a live source is treated.

    Attributes:
        drop: throw frames away rather than fall behind; otherwise every frame is segmented and the source has to wait.
        status: every second, show the delay and the frames per second in place of a plain counter.
        save_masks: also write the mask of every frame and sentence as a PNG.
    """

    drop: bool = False
    status: bool = False
    save_masks: bool = False


def segment_source(
    model: SAMWISE,
    source: Media | LiveSource,
    prompts: Sequence[str],
    output_dir: str | Path,
    *,
    live: LiveOptions,
    facts: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """`segment_live` for a live source, `segment_media` for everything else; `options` are what both take.

    Addresses among `facts` are written down without passwords.
    """
    facts = _with_texts(facts or {}, hide_secrets)
    if isinstance(source, LiveSource):
        return segment_live(model, source, prompts, output_dir, live=live, facts=facts, **options)
    return segment_media(model, source, prompts, output_dir, facts=facts, **options)


def segment_live(
    model: SAMWISE,
    source: LiveSource,
    prompts: Sequence[str],
    output_dir: str | Path,
    *,
    live: LiveOptions,
    window: int = 8,
    threshold: float = 0.5,
    precision: str = "fp32",
    facts: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Segment all prompts until the source ends, or Ctrl-C or SIGTERM stops it, in constant memory.

    Writes `LiveFolder`'s files as it goes. Being stopped is the usual end and no error: the clip in hand is finished,
    and everything is complete. A second Ctrl-C, a second or more after the first, kills the process, and leaves what
    kill -9 leaves. Of a source that breaks off, all frames that came before are segmented.

    Args: as for `segment_media`, and
        source: where frames come from.
        live: see `LiveOptions`.
        progress: whether to draw the counter or the status on standard error.

    Returns:
        the path of result.json.

    Raises:
        InputError: a prompt that cannot be used, or a source that broke off or fell silent.
        OSError: a file that cannot be written.
    """
    prompts = clean_prompts(prompts)
    session = open_session(model, prompts, window=window, precision=precision)
    folder = LiveFolder(writable_folder(output_dir), prompts, live.save_masks, depth=window)
    record = _facts_of(source, dict(facts or {}))
    error: BaseException | None = None
    with StopRequest(_KILL_SECONDS) as stop:
        with source.read(window, live.drop, lambda: stop.requested is not None) as reader:
            try:
                folder.begin(record)
                with _showing(folder, reader, stop, live.status, progress):
                    _run(session, reader, folder, stop, threshold)
            except BaseException as caught:  # what is done is completed first
                error = caught
        end = "the stream ended" if stop.requested is None else "stopped"
        try:
            folder.finish()
        except Exception as caught:
            error = error or caught
        with contextlib.nullcontext() if error is None else contextlib.suppress(OSError):
            folder.write_record({**record, "complete": error is None, **_counts(folder, reader)})
    if error is not None:
        raise error
    logger.info("%s after %s", end, _summary(folder, reader))
    return folder.root / RECORD


def _run(session: VideoSession, reader: LiveReader, folder: LiveFolder, stop: StopRequest, threshold: float) -> None:
    """Segment what the reader gives; unless told to stop, and before an error is raised, also an unfinished clip."""
    waiting: deque[LiveFrame] = deque()

    def submit(results: Sequence[FrameResult]) -> None:
        for result in results:
            folder.add(waiting.popleft(), result.masks(threshold), result.object_scores.tolist())

    broken: InputError | None = None
    try:
        for frame in reader:
            waiting.append(frame)
            submit(session.feed([frame.pixels]))
    except InputError as error:
        broken = error
    if stop.requested is None:
        submit(session.flush())
    if broken is not None:
        raise broken


def _facts_of(source: LiveSource, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is known beforehand, for result.json."""
    height, width = source.frame_size
    fps = None if source.fps is None else float(source.fps)
    known = _with_texts(facts, source.without_password)
    return {"input": {"path": source.path, "kind": "live", "height": height, "width": width, "fps": fps}, **known}


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of what JSON can hold, with all its texts changed; names stay as they are."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _with_texts(item, change) for name, item in value.items()}
    return [_with_texts(item, change) for item in value] if isinstance(value, (list, tuple)) else value


def _counts(folder: LiveFolder, reader: LiveReader) -> dict[str, Any]:
    done = folder.progress.snapshot()
    return {
        "counts": {"written": done.frames, "dropped": reader.dropped, "damaged": reader.damaged},
        "delay_ms": {"mean": round(done.mean_delay, 1), "max": round(done.max_delay, 1)},
    }


def _summary(folder: LiveFolder, reader: LiveReader) -> str:
    return f"{folder.progress.snapshot().frames} frames, {reader.dropped} dropped, {reader.damaged} damaged"


@contextlib.contextmanager
def _showing(folder: LiveFolder, reader: LiveReader, stop: StopRequest, status: bool, progress: bool) -> Iterator[None]:
    """While the block runs, show every second on one line how it goes."""
    stopped = threading.Event()
    with tqdm(bar_format="{desc}", disable=not progress) as line:

        def work() -> None:
            while not stopped.wait(_STATUS_SECONDS):
                done = folder.progress.snapshot()
                numbers = f"delay {done.last_delay:.0f} ms, {done.rate:.1f} frame/s, " if status else ""
                ending = "" if stop.requested is None else "; stopping, Ctrl-C again to end at once"
                line.set_description_str(numbers + _summary(folder, reader) + ending)

        thread = threading.Thread(target=work, name="live-status", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


@dataclass(frozen=True)
class Done:
    """How far a run is.

    Attributes:
        frames: written so far.
        rate: frames per second over the last seconds.
        last_delay, mean_delay, max_delay: milliseconds between a frame's arrival and its overlay being written.
    """

    frames: int
    rate: float
    last_delay: float
    mean_delay: float
    max_delay: float


class Progress:
    """Counts written frames in one thread, and is looked at from others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._recent: deque[float] = deque()
        self._frames = 0
        self._last = self._sum = self._max = 0.0

    def note(self, arrived: float) -> None:
        """A frame that arrived at this `time.monotonic()` is written."""
        now = time.monotonic()
        with self._lock:
            self._frames += 1
            self._recent.append(now)
            self._forget(now)
            self._last = 1000 * (now - arrived)
            self._sum += self._last
            self._max = max(self._max, self._last)

    def snapshot(self) -> Done:
        """How far it is now."""
        now = time.monotonic()
        with self._lock:
            self._forget(now)
            rate = len(self._recent) / min(max(now - self._started, _STATUS_SECONDS), _RATE_SECONDS)
            return Done(self._frames, rate, self._last, self._sum / max(self._frames, 1), self._max)

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0] < now - _RATE_SECONDS:
            self._recent.popleft()


@dataclass(frozen=True)
class _Job:
    """One frame to write: masks (E, H, W) bool, and E object scores."""

    frame: LiveFrame
    masks: np.ndarray
    scores: Sequence[float]


@dataclass
class LiveFolder:
    """The files of a live run; each is valid at any time, whatever ends the program.

    all_prompts.mp4 is the overlay of all prompts and grows by fragments; its frames have the times of the source.
    frames.jsonl has a line per written frame: its number in the source (`index`, which dropped frames have used up),
    its `time` in seconds, and per prompt the mask's area in pixels and the object score. `<prompt>/masks/<index>.png`
    is written on demand. result.json is there from the beginning and is completed at the end.

    Attributes:
        root: the folder. Files in it that an earlier run made for the same prompts are replaced.
        prompts: E different texts.
        save_masks: whether to write mask PNGs.
        depth: how many frames may wait to be written.
        progress: what is written so far.
    """

    root: Path
    prompts: Sequence[str]
    save_masks: bool
    depth: int
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self._folders = safe_names(self.prompts, reserved=(COMBINED,))
        self._colours = palette(len(self.prompts))
        self._video = VideoFile(self.root / f"{COMBINED}.mp4", _NOMINAL_FPS, growing=True)
        self._cleanup = contextlib.ExitStack()
        self._writer: WriteBehind[_Job] | None = None

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Remove what an earlier run left, write result.json, and start to wait for frames."""
        remove_earlier_results(self.root, self._folders)
        self.write_record({**facts, "complete": False})
        self._lines = self._cleanup.enter_context((self.root / FRAMES).open("w", encoding="utf-8", buffering=1))
        self._writer = WriteBehind(self._write, self._video.finish, self.depth)

    def add(self, frame: LiveFrame, masks: np.ndarray, scores: Sequence[float]) -> None:
        """Hand over a frame with its masks (E, H, W) bool and E scores; raises what writing an earlier one raised."""
        assert self._writer is not None
        self._writer.submit(_Job(frame, masks, scores))

    def finish(self) -> None:
        """Wait until everything is written and close the files. Raises the first error of writing."""
        with self._cleanup:
            if self._writer is not None:
                self._writer.end()
                self._writer.join()

    def write_record(self, facts: Mapping[str, Any]) -> None:
        """Write result.json: `facts`, and where the files of each prompt are."""
        prompts = [
            {
                "text": text,
                "folder": folder,
                "colour": list(colour),
                "masks": f"{folder}/masks" if self.save_masks else None,
            }
            for text, folder, colour in zip(self.prompts, self._folders, self._colours, strict=True)
        ]
        record = {**facts, "frames_file": FRAMES, "prompts": prompts, COMBINED: f"{COMBINED}.mp4"}
        atomic_write_json(self.root / RECORD, record)

    def _write(self, job: _Job) -> None:
        frame = job.frame
        if self.save_masks:
            for folder, mask in zip(self._folders, job.masks, strict=True):
                save_mask(self.root / folder / "masks" / f"{frame.index:05d}.png", mask)
        self._video.add(draw_overlay(frame.pixels, list(job.masks), self._colours, self.prompts), frame.time)
        line = {
            "index": frame.index,
            "time": round(frame.time, 3),
            "areas": [mask_area(mask) for mask in job.masks],
            "object_scores": [round(score, 4) if math.isfinite(score) else None for score in job.scores],
        }
        self._lines.write(json.dumps(line) + "\n")
        self.progress.note(frame.arrived)
