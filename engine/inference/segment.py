"""The loop over videos: decoding ahead of the model, all expressions of a video beside each other, writing behind.

The expressions of one video run in batches that advance together, clip by clip: each frame is decoded once, however
many batches there are, and no more than a few clips are in memory, however long the video is. Videos of few expressions
may run in groups, whose expressions are one batch.
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
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from datasets.masks import read_frame
from datasets.transforms import ResizedFrame, prepare_frame
from datasets.video_index import MASK_SUFFIX, Video
from engine.infer import FrameResult, VideoSession, open_session
from engine.inference.batching import group_videos, is_out_of_memory, partition
from engine.inference.benchmarks import Benchmark, Target
from engine.inference.download import Download, delayed
from engine.inference.manifest import digest_of
from engine.inference.options import InferenceOptions
from engine.inference.together import segment_together
from engine.inference.writer import MaskWriter
from models.samwise import SAMWISE
from util.background import map_ahead, prefetch
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


Group = tuple[VideoWork, ...]


@dataclass
class Clocks:
    """Where the time goes: decoding runs beside the model, and `wait` is what the model waits for it.

    A GPU draws masks behind the network's own work: both count as `model` there, and `postprocess` is next to nothing.
    """

    decode: Stopwatch = field(default_factory=Stopwatch)
    wait: Stopwatch = field(default_factory=Stopwatch)
    model: Stopwatch = field(default_factory=Stopwatch)
    postprocess: Stopwatch = field(default_factory=Stopwatch)


@dataclass
class RunningVideo:
    """A video that is being segmented.

    Attributes:
        work: what is to be written.
        batches: places of its expressions that run together.
        sessions: one per batch.
        hashes: of the files written so far, by the target's folder.
    """

    work: VideoWork
    batches: list[range]
    sessions: list[VideoSession]
    hashes: dict[str, list[Future[str]]]

    def names(self, start: int, window: int) -> list[str]:
        """File names of the masks of the clip that begins with frame `start`; none after the video's end."""
        return [f"{frame}{MASK_SUFFIX}" for frame in self.work.video.frames[start : start + window]]


@dataclass(frozen=True)
class DrawnClip:
    """A clip whose masks are to be written.

    Attributes:
        own: its video.
        start: number of its first frame.
        frames: of each frame the masks (H, W) uint8, one per target.
    """

    own: RunningVideo
    start: int
    frames: Iterable[Download]


class Segmenter:
    """Segments groups of videos one after the other.

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

    @property
    def behind(self) -> int:
        """How many clips of a video are written behind the one that is computed: a GPU computes it meanwhile.

        The masks of so many clips, and of one more, are in page-locked memory, outside of the writer's limit.
        """
        return 1 if self.model.device.type == "cuda" else 0

    def run(self, groups: Sequence[Group], bar: tqdm) -> None:
        """Segment groups of videos and wait until everything is written.

        Args:
            groups: each has something to write. The expressions of several videos are no more than `batch`.
            bar: is advanced by one for every mask of an expression.

        Raises:
            InputError: a frame that does not decode, or memory does not suffice for a single expression.
            OSError: a mask cannot be written.
        """
        remaining = deque(groups)
        window = self.options.eval_clip_window
        while remaining:
            short_of_memory = False
            videos = [[work.video for work in group] for group in remaining]
            source = decode_groups(videos, window, self.model.config.sam2.image_size, self.options.num_workers)
            depth = 2 * window * max(map(len, remaining))
            with contextlib.closing(prefetch(self.clocks.decode.over(source), depth)) as decoded:
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
                self._halve(remaining[0], bar)
                remaining = deque(part for group in remaining for part in self._cut(group))
        self.writer.drain()

    def _halve(self, group: Group, bar: tqdm) -> None:
        """Go on with smaller batches, from the start of `group`."""
        size = min(self.batch, sum(len(work.video.expressions) for work in group))
        if size == 1:
            raise InputError(
                f"memory does not suffice for video {group[0].video.name} with one expression at a time: try "
                "--precision bf16, a smaller --eval_clip_window (which changes results), or another --device"
            )
        self.batch = size // 2
        logger.warning("out of memory with %d expressions at once: going on with %d", size, self.batch)
        self.writer.drain()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        bar.refresh()

    def _cut(self, group: Group) -> list[Group]:
        """A group as smaller ones that fit the batch."""
        own = {work.video.name: work for work in group}
        parts = group_videos([work.video for work in group], len(group), self.batch)
        cut = [tuple(own[video.name] for video in part) for part in parts]
        return [part for part in cut if any(work.targets for work in part)]

    def _segment(self, group: Group, frames: Iterator[ResizedFrame], bar: tqdm) -> None:
        """Segment the videos of a group, whose frames come next in `frames`."""
        running = [self._start(work, alone=len(group) == 1) for work in group]
        window, before = self.options.eval_clip_window, bar.n
        drawn = (
            self._advance([own for own in running if own.names(start, window)], start, frames)
            for start in range(0, max(len(work.video.frames) for work in group), window)
        )
        try:
            for clips in delayed(drawn, self.behind):
                self._write(clips, bar)
        except BaseException:
            bar.n = before
            raise

    def _start(self, work: VideoWork, alone: bool) -> RunningVideo:
        """Open a video. Beside others all of its expressions run, in one batch, whichever are needed."""
        count = len(work.video.expressions)
        needed = {place for target in work.targets for place in target.expressions}
        batches = [own for own in partition(count, self.batch) if needed & set(own)] if alone else [range(count)]
        batches = [own for own in batches if own]
        sessions = [self._open_session(work.video, own) for own in batches]
        return RunningVideo(work, batches, sessions, {target.folder: [] for target in work.targets})

    def _advance(self, running: Sequence[RunningVideo], start: int, frames: Iterator[ResizedFrame]) -> list[DrawnClip]:
        """Segment and draw the clips that begin with frame `start`."""
        window = self.options.eval_clip_window
        clips = [list(itertools.islice(frames, len(own.names(start, window)))) for own in running]
        drawn = []
        for own, results, clip in zip(running, self._run_clips(running, clips), clips, strict=True):
            masks = self._draw(own, results, len(clip))
            # All at once before a GPU gets the next clip; otherwise frame by frame, as they are written.
            drawn.append(DrawnClip(own, start, list(masks) if self.behind else masks))
        return drawn

    def _write(self, clips: Sequence[DrawnClip], bar: tqdm) -> None:
        """Hand the masks of clips to the writer, and finish the videos that end with them."""
        window = self.options.eval_clip_window
        for clip in clips:
            own = clip.own
            for name, frame in zip(own.names(clip.start, window), clip.frames, strict=True):
                with self.clocks.model:
                    masks = frame.wait()
                for target, mask in zip(own.work.targets, masks, strict=True):
                    path = self.benchmark.masks / target.folder / name
                    own.hashes[target.folder].append(self.writer.write(path, mask, self.benchmark.encode))
                    bar.update(len(target.expressions))
            if own.work.targets and not own.names(clip.start + window, window):
                self._finish(own)

    def _finish(self, own: RunningVideo) -> None:
        """Record a video when its masks are written."""
        flat = [future for hashes in own.hashes.values() for future in hashes]
        self.writer.after(flat, lambda found: self.record(own.work.video, _digests(tuple(own.hashes), found)))

    def _open_session(self, video: Video, places: range) -> VideoSession:
        options = self.options
        return open_session(
            self.model,
            [video.expressions[place].text for place in places],
            window=options.eval_clip_window,
            protocol=options.protocol,
            precision=options.precision,
        )

    def _run_clips(
        self, running: Sequence[RunningVideo], clips: Sequence[Sequence[ResizedFrame]]
    ) -> list[list[list[FrameResult]]]:
        """Per video one list per session, with one result per frame."""
        with self.clocks.model:
            if len(running) == 1:
                results = [[[*own.feed(clips[0]), *own.flush()] for own in running[0].sessions]]
            else:
                open_ones = [number for number, own in enumerate(running) if own.sessions]
                sessions = [running[number].sessions[0] for number in open_ones]
                found = segment_together(sessions, [clips[number] for number in open_ones])
                by_video = dict(zip(open_ones, found, strict=True))
                results = [[by_video[number]] if number in by_video else [] for number in range(len(running))]
        return results

    def _draw(self, own: RunningVideo, results: Sequence[Sequence[FrameResult]], length: int) -> Iterator[Download]:
        """Of each of a clip's `length` frames the masks (H, W), one per target, drawn where the network is."""
        for number in range(length):
            with self.clocks.postprocess:
                rows: dict[int, Tensor] = {}
                for places, clip in zip(own.batches, results, strict=True):
                    rows.update(zip(places, clip[number].probabilities(), strict=True))
                masks = [
                    self.benchmark.draw(
                        torch.stack([rows[place] for place in target.expressions]), self.options.threshold
                    )
                    for target in own.work.targets
                ]
            yield Download(masks)


def _digests(folders: Sequence[str], hashes: Sequence[str]) -> dict[str, str]:
    """Folder -> digest of its files, from the hashes of all files: those of the first folder come first."""
    frames = len(hashes) // len(folders)
    return {folder: digest_of(hashes[i * frames : (i + 1) * frames]) for i, folder in enumerate(folders)}


def decode_groups(
    groups: Iterable[Sequence[Video]], window: int, side: int, threads: int = 1
) -> Iterator[ResizedFrame]:
    """The frames of groups of videos, as they are needed: a clip of each, then the next clip of each.

    Args:
        groups: videos that run together.
        window: frames per clip.
        side: of the network input in pixels.
        threads: that decode and resize; the order does not depend on them.

    Raises:
        InputError: a frame is missing, does not decode, or differs in size from its video's first; it is named.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    places = (
        (video, index)
        for group in groups
        for start in range(0, max(len(video.frames) for video in group), window)
        for video in group
        for index in range(start, min(start + window, len(video.frames)))
    )

    def decode(place: tuple[Video, int]) -> tuple[Video, Path, ResizedFrame]:
        video, index = place
        path = video.frame_path(index)
        return video, path, prepare_frame(read_frame(path), side)

    with contextlib.closing(map_ahead(decode, places, threads)) as decoded:
        for video, path, frame in decoded:
            expected = sizes.setdefault(video.frame_path(0), frame.size)
            if frame.size != expected:
                raise InputError(
                    f"{path}: the frame is {frame.size[1]}x{frame.size[0]}, the video's first is "
                    f"{expected[1]}x{expected[0]}; {CHECK_HINT}"
                )
            yield frame
