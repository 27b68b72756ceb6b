"""The loop over videos: decoding ahead of the model, all expressions of a video beside each other, writing behind.

The expressions of one video run in batches that advance together, clip by clip: each frame is decoded once, however
many batches there are, and no more than a few clips are in memory, however long the video is.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from datasets.masks import UNREADABLE_IMAGE
from datasets.video_index import MASK_SUFFIX, Video
from engine.infer import Frame, FrameResult, VideoSession, open_session
from engine.inference.batching import is_out_of_memory, partition
from engine.inference.benchmarks import Benchmark, Target
from engine.inference.manifest import digest_of
from engine.inference.options import InferenceOptions
from engine.inference.writer import MaskWriter
from models.samwise import SAMWISE
from util.background import prefetch
from util.errors import InputError
from util.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

CHECK_HINT = "tools/data/check_dataset.py checks all files"
Recorder = Callable[[Video, dict[str, str]], None]


@dataclass(frozen=True)
class VideoWork:
    """A video, and those of its targets that are to be written."""

    video: Video
    targets: tuple[Target, ...]

    @property
    def mask_count(self) -> int:
        """Frames x expressions."""
        return len(self.video.frames) * sum(len(target.expressions) for target in self.targets)


@dataclass
class Clocks:
    """Where the time goes: decoding runs beside the model, and `wait` is what the model waits for it."""

    decode: Stopwatch = field(default_factory=Stopwatch)
    wait: Stopwatch = field(default_factory=Stopwatch)
    model: Stopwatch = field(default_factory=Stopwatch)
    postprocess: Stopwatch = field(default_factory=Stopwatch)


class Segmenter:
    """Segments videos one after the other.

    Args:
        model: the network, on its device.
        benchmark: draws and encodes the masks.
        options: of the run.
        batch: how many expressions run together; halved for good where memory does not suffice.
        writer: gets the masks.
        record: called in a thread of `writer` with a video and the digests of its targets when they are written.
    """

    def __init__(
        self,
        model: SAMWISE,
        benchmark: Benchmark,
        options: InferenceOptions,
        batch: int,
        writer: MaskWriter,
        record: Recorder,
    ) -> None:
        self.model = model
        self.benchmark = benchmark
        self.options = options
        self.batch = batch
        self.writer = writer
        self.record = record
        self.clocks = Clocks()

    def run(self, work: Sequence[VideoWork], bar: tqdm) -> None:
        """Segment `work` and wait until everything is written.

        Args:
            bar: is advanced by one for every mask of an expression.

        Raises:
            InputError: a frame that does not decode, or memory does not suffice for a single expression.
            OSError: a mask cannot be written.
        """
        remaining = deque(work)
        while remaining:
            short_of_memory = False
            source = self.clocks.decode.over(decode_videos([item.video for item in remaining]))
            with contextlib.closing(prefetch(source, depth=2 * self.options.eval_clip_window)) as decoded:
                frames = self.clocks.wait.over(decoded)
                try:
                    while remaining:
                        self._segment(remaining[0], frames, bar)
                        remaining.popleft()
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    short_of_memory = True
            if short_of_memory:  # outside of the handler: its traceback holds on to tensors
                self._halve(remaining[0].video, bar)
        self.writer.drain()

    def _halve(self, video: Video, bar: tqdm) -> None:
        """Go on with smaller batches, from the start of `video`."""
        size = min(self.batch, len(video.expressions))
        if size == 1:
            raise InputError(
                f"memory does not suffice for video {video.name} with one expression at a time: try --precision bf16, "
                "a smaller --eval_clip_window (which changes results), or another --device"
            )
        self.batch = size // 2
        logger.warning("out of memory with %d expressions at once: going on with %d", size, self.batch)
        self.writer.drain()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        bar.refresh()

    def _segment(self, work: VideoWork, frames: Iterator[Frame], bar: tqdm) -> None:
        """Segment one video, whose frames come next in `frames`."""
        video, window = work.video, self.options.eval_clip_window
        needed = {place for target in work.targets for place in target.expressions}
        batches = [own for own in partition(len(video.expressions), self.batch) if needed & set(own)]
        sessions = [self._open_session(video, own) for own in batches]
        hashes: dict[str, list[Future[str]]] = {target.folder: [] for target in work.targets}
        before = bar.n
        try:
            for start in range(0, len(video.frames), window):
                names = [f"{frame}{MASK_SUFFIX}" for frame in video.frames[start : start + window]]
                results = self._run_clip(sessions, list(itertools.islice(frames, len(names))))
                for offset, name in enumerate(names):
                    masks = self._draw(work.targets, batches, [clip[offset] for clip in results])
                    for target, mask in zip(work.targets, masks, strict=True):
                        path = self.benchmark.masks / target.folder / name
                        hashes[target.folder].append(self.writer.write(path, mask, self.benchmark.encode))
                        bar.update(len(target.expressions))
        except BaseException:
            bar.n = before
            raise
        flat = [future for own in hashes.values() for future in own]
        self.writer.after(flat, lambda found: self.record(video, _digests(tuple(hashes), found)))

    def _open_session(self, video: Video, places: range) -> VideoSession:
        options = self.options
        return open_session(
            self.model,
            [video.expressions[place].text for place in places],
            window=options.eval_clip_window,
            protocol=options.protocol,
            precision=options.precision,
        )

    def _run_clip(self, sessions: Sequence[VideoSession], clip: Sequence[Frame]) -> list[list[FrameResult]]:
        """One list per session, with one result per frame."""
        with self.clocks.model:
            results = [[*session.feed(clip), *session.flush()] for session in sessions]
            if self.model.device.type == "cuda":
                torch.cuda.synchronize(self.model.device)
        return results

    def _draw(
        self, targets: Sequence[Target], batches: Sequence[range], results: Sequence[FrameResult]
    ) -> list[NDArray[np.uint8]]:
        """The masks (H, W) of one frame, one per target."""
        with self.clocks.postprocess:
            rows: dict[int, Tensor] = {}
            for places, result in zip(batches, results, strict=True):
                rows.update(zip(places, result.probabilities(), strict=True))
            return [
                self.benchmark.draw(torch.stack([rows[place] for place in target.expressions]), self.options.threshold)
                for target in targets
            ]


def _digests(folders: Sequence[str], hashes: Sequence[str]) -> dict[str, str]:
    """Folder -> digest of its files, from the hashes of all files: those of the first folder come first."""
    frames = len(hashes) // len(folders)
    return {folder: digest_of(hashes[i * frames : (i + 1) * frames]) for i, folder in enumerate(folders)}


def decode_videos(videos: Iterable[Video]) -> Iterator[Frame]:
    """The frames (H, W, 3) uint8 RGB of all videos, in order.

    Raises:
        InputError: a frame is missing, does not decode, or differs in size from its video's first; it is named.
    """
    for video in videos:
        size = None
        for index in range(len(video.frames)):
            path = video.frame_path(index)
            try:
                with Image.open(path) as image:
                    frame = np.asarray(image.convert("RGB"))
            except UNREADABLE_IMAGE as error:
                raise InputError(f"{path}: the frame does not decode ({error}); {CHECK_HINT}") from error
            if size not in (None, frame.shape):
                found, expected = (f"{shape[1]}x{shape[0]}" for shape in (frame.shape, size))
                raise InputError(f"{path}: the frame is {found}, the video's first is {expected}; {CHECK_HINT}")
            size = frame.shape
            yield frame
