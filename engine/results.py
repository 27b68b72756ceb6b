"""The files of a demo run: masks, overlays and videos per prompt, written in the background while the model works."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from util.background import WriteBehind
from util.drawing import Colour, draw_overlay, palette
from util.errors import InputError
from util.masks import mask_area, save_mask
from util.naming import safe_names
from util.paths import atomic_path, atomic_write, atomic_write_json, remove_temporary_files

COMBINED = "all_prompts"
RECORD = "result.json"
FRAMES = "frames.jsonl"  # of a live run
SHEET = "contact_sheet.jpg"  # of a run that was compared with a truth
_BT601, _LIMITED_RANGE = 6, 1  # what cv2's conversion to YUV produces, as H.264 numbers it (SMPTE 170M)
_JPEG_QUALITY = 92
_LARGEST_JPEG = 65500  # side of a picture that libjpeg writes
_WHOLE = {"movflags": "+faststart"}
_GROWING = {"movflags": "+frag_keyframe+empty_moov+default_base_moof", "frag_duration": "1000000", "flush_packets": "1"}
_TICK = Fraction(1, 90000)  # seconds
_LARGEST_FRAME = 16384  # side of a picture that H.264 encoders take
_NUMBER = re.compile(r"[0-9]{5,}")  # `Media.frame_name` of a video


class VideoFile:
    """An MP4 being written (H.264, yuv420p, even size); it appears under its name when it is finished.

    Frames with a side of more than 16384 pixels, which no encoder of H.264 takes, are reduced.

    Args:
        path: the file.
        fps: frames per second.
        growing: make a file that can be played while it is written, and after its writer was killed: it has its name
            from the first frame on, consists of fragments of at most a second, and every frame has its own time.
        timed: every frame has its own time; `fps` is then what the frame rate is about.
    """

    def __init__(self, path: Path, fps: Fraction, *, growing: bool = False, timed: bool = False) -> None:
        self.path = path
        self.fps = fps
        self.growing = growing
        self.timed = timed or growing
        self._tick = -1  # of the last frame
        self._cleanup = contextlib.ExitStack()
        self._output: tuple[OutputContainer, VideoStream] | None = None

    def add(self, frame: np.ndarray, seconds: float = 0.0) -> None:
        """Append a frame.

        Args:
            frame: (H, W, 3) uint8 RGB.
            seconds: when it is shown, from the beginning; rising. Where frames have no times of their own, it says
                nothing.

        Raises:
            OSError: it cannot be written; the file is then given up (a growing one keeps what it has).
        """
        frame = _reduced(frame, _LARGEST_FRAME)
        height, width = frame.shape[:2]
        even = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        pixels = cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420).astype(np.uint8, copy=False)
        picture = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
        picture.colorspace, picture.color_range = _BT601, _LIMITED_RANGE
        if self.timed:
            self._tick = max(round(seconds / _TICK), self._tick + 1)
            picture.pts, picture.time_base = self._tick, _TICK
            picture.duration = round(1 / self.fps / _TICK)  # of the last one; others last until the next
        with self._giving_up():
            if self._output is None:
                self._output = self._open(even.shape[0], even.shape[1])
            container, stream = self._output
            container.mux(stream.encode(picture))

    def finish(self) -> None:
        """Complete the file under its name; nothing if no frame was added."""
        if self._output is None:
            return
        with self._giving_up():
            container, stream = self._output
            container.mux(stream.encode())
            container.close()
            self._cleanup.close()

    def _open(self, height: int, width: int) -> tuple[OutputContainer, VideoStream]:
        if self.growing:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            target, muxer, tuning = self.path, _GROWING, {"tune": "zerolatency"}
        else:
            target, muxer = self._cleanup.enter_context(atomic_path(self.path)), _WHOLE
            tuning = {"bf": "0"} if self.timed else {}  # frames out of order would be left out of the file's duration
        # With the "file:" prefix no colon in a name is taken for a protocol.
        container = av.open(f"file:{target}", "w", format="mp4", options=muxer)
        stream = container.add_stream("libx264", rate=self.fps, options={"preset": "veryfast", "crf": "20", **tuning})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = _BT601, _LIMITED_RANGE
        if self.timed:
            stream.codec_context.time_base = _TICK
        return container, stream

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        """On an error remove what was written, and report FFmpeg's errors as the operating system's."""
        try:
            yield
        except BaseException as error:
            given_up, self._output = self._output, None  # `finish` has nothing to complete any more
            if given_up is not None:
                with contextlib.suppress(FFmpegError, OSError):
                    given_up[0].close()
            self._cleanup.__exit__(type(error), error, error.__traceback__)
            if isinstance(error, FFmpegError):
                raise OSError(f"{self.path} cannot be written ({error.strerror})") from error
            raise


@dataclass(frozen=True)
class FrameJob:
    """One frame to write.

    Attributes:
        name: of its files.
        frame: (H, W, 3) uint8 RGB.
        masks: (k, H, W) bool, one per label of the track.
        time: when it is shown, in seconds.
    """

    name: str
    frame: np.ndarray
    masks: np.ndarray
    time: float


@dataclass(frozen=True)
class Track:
    """What becomes of the masks of one prompt, or of all of them together.

    Attributes:
        labels, colours: one per mask.
        video: of the overlays, or None.
        masks: folder of the mask PNGs, or None for none.
        overlays: folder of the overlay JPEGs, or None for none.
        picture: file name of the overlay of a single image, instead of one per frame.
    """

    labels: Sequence[str]
    colours: Sequence[Colour]
    video: VideoFile | None
    masks: Path | None = None
    overlays: Path | None = None
    picture: str | None = None

    def write(self, job: FrameJob) -> None:
        """Write everything that one frame gives."""
        if self.masks is not None:
            save_mask(self.masks / f"{job.name}.png", job.masks[0])
        overlay = draw_overlay(job.frame, list(job.masks), self.colours, self.labels)
        if self.overlays is not None:
            save_jpeg(self.overlays / f"{self.picture or job.name}.jpg", overlay)
        if self.video is not None:
            self.video.add(overlay, job.time)

    def finish(self) -> None:
        """Complete the video."""
        if self.video is not None:
            self.video.finish()


def save_jpeg(path: Path, frame: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as a JPEG, atomically; raises OSError if that fails. Too large a picture is reduced."""
    picture = cv2.cvtColor(_reduced(frame, _LARGEST_JPEG), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    with atomic_write(path, "wb") as handle:
        handle.write(data.tobytes())


def _reduced(frame: np.ndarray, side: int) -> np.ndarray:
    """The frame (H, W, 3), if need be smaller, so that no side has more than `side` pixels."""
    scale = side / max(frame.shape[:2])
    if scale >= 1:
        return frame
    height, width = (max(round(size * scale), 1) for size in frame.shape[:2])
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


@dataclass
class _PromptRecord:
    areas: list[int] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)


class ResultFolder:
    """A folder of results: `<prompt>/masks`, `<prompt>/overlays`, `<prompt>.mp4`, all_prompts.mp4 and result.json.

    Every prompt, and the picture of all of them, is written by a thread of its own.

    Args:
        root: the folder. Files in it that an earlier run made for the same prompts are replaced.
        prompts: E different texts.
        fps: frame rate of the videos; None for a single image, which gets pictures only.
        depth: how many frames may wait to be written.
        source: what is segmented, for `refuse_own_results`; nothing if it is not on disk.
        timed: whether frames in the videos have their own times.

    Raises:
        InputError: the results would replace the source.
    """

    def __init__(
        self,
        root: Path,
        prompts: Sequence[str],
        fps: Fraction | None,
        depth: int,
        source: str = "",
        *,
        timed: bool = False,
    ) -> None:
        self.root = root
        self.prompts = prompts
        self.timed = timed
        self.folders = safe_names(prompts, reserved=(COMBINED,))
        refuse_own_results(root, self.folders, source)
        self.colours = palette(len(prompts))
        self.is_video = fps is not None
        self._names: list[str] = []
        self._times: list[float] = []
        self._records = [_PromptRecord() for _ in prompts]
        self._depth = depth
        self._tracks = [*map(self._track, range(len(prompts)), [fps] * len(prompts)), self._combined_track(fps)]
        self._writers: list[WriteBehind[FrameJob]] = []

    def _track(self, index: int, fps: Fraction | None) -> Track:
        folder = self.folders[index]
        video = None if fps is None else VideoFile(self.root / f"{folder}.mp4", fps, timed=self.timed)
        masks, overlays = self.root / folder / "masks", self.root / folder / "overlays"
        return Track([self.prompts[index]], [self.colours[index]], video, masks, overlays)

    def _combined_track(self, fps: Fraction | None) -> Track:
        if fps is None:
            return Track(self.prompts, self.colours, None, overlays=self.root, picture=COMBINED)
        return Track(self.prompts, self.colours, VideoFile(self.root / f"{COMBINED}.mp4", fps, timed=self.timed))

    @property
    def written_names(self) -> list[str]:
        """Names of the frames whose files are all written."""
        return self._names[: min((writer.written for writer in self._writers), default=0)]

    @property
    def write_seconds(self) -> float:
        """Time spent writing, summed over the threads."""
        return sum(writer.seconds for writer in self._writers)

    def add(self, name: str, frame: np.ndarray, masks: np.ndarray, scores: Sequence[float], time: float) -> None:
        """Take one frame's result and return before it is written, if not too many wait.

        Args:
            name: of the files of this frame.
            frame: (H, W, 3) uint8 RGB.
            masks: (E, H, W) bool.
            scores: E object scores; infinite ones (scores switched off) are recorded as null.
            time: when the frame is shown, in seconds from the first one.

        Raises:
            OSError: an earlier frame could not be written.
        """
        if not self._writers:
            remove_earlier_results(self.root, self.folders)
            self.write_record({"complete": False})  # whoever is killed leaves files that the next run may remove
            self._writers = [WriteBehind(track.write, track.finish, self._depth) for track in self._tracks]
        for index, writer in enumerate(self._writers):
            own = masks[index : index + 1] if index < len(self.prompts) else masks
            writer.submit(FrameJob(name, frame, own, time))
        for record, mask, score in zip(self._records, masks, scores, strict=True):
            record.areas.append(mask_area(mask))
            record.scores.append(score if math.isfinite(score) else None)
        self._names.append(name)
        self._times.append(round(time, 6))

    def finish(self) -> None:
        """Wait until all frames are written and the videos are complete. Raises the first error of a thread."""
        for writer in self._writers:
            writer.end()
        errors = []
        for writer in self._writers:
            try:
                writer.join()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def write_record(self, facts: dict[str, Any]) -> Path:
        """Write result.json, after `finish`: `facts`, the frames, and each prompt's files, areas and object scores."""
        names = self.written_names
        record = {
            **facts,
            "frames": names,
            "frame_times": self._times[: len(names)],
            "prompts": [self._describe(i) for i in range(len(self.prompts))],
            COMBINED: self._existing(f"{COMBINED}.mp4" if self.is_video else f"{COMBINED}.jpg"),
        }
        atomic_write_json(self.root / RECORD, record)
        return self.root / RECORD

    def _existing(self, name: str) -> str | None:
        return name if (self.root / name).is_file() else None

    def _describe(self, index: int) -> dict[str, Any]:
        folder, record, names = self.folders[index], self._records[index], self.written_names
        return {
            "text": self.prompts[index],
            "folder": folder,
            "colour": list(self.colours[index]),
            "video": self._existing(f"{folder}.mp4"),
            "masks": [f"{folder}/masks/{name}.png" for name in names],
            "overlays": [f"{folder}/overlays/{name}.jpg" for name in names],
            "areas": record.areas[: len(names)],
            "object_scores": record.scores[: len(names)],
        }


def refuse_own_results(root: Path, folders: Sequence[str], source: str) -> None:
    """Raise InputError where the results in `root`, of prompts with these folders, would replace what is read.

    Args:
        root, folders: where results will be written.
        source: what is segmented; anything but a file or folder on disk is never refused.
    """
    path = Path(source)
    if not source or not path.exists():
        return
    path = path.resolve()
    files = {file.resolve() for file in (*_common_files(root), *(root / f"{folder}.mp4" for folder in folders))}
    inside = {(root / folder / kind).resolve() for folder in folders for kind in ("masks", "overlays")}
    if path in files or inside & {path, *path.parents}:
        raise InputError(f"{source}: results would replace it there: give another folder than {root} (--output_dir)")


def remove_earlier_results(root: Path, folders: Sequence[str]) -> None:
    """Delete what earlier runs left of these prompts, and of all prompts together, if the last one left its record.

    Of masks and overlays these are the frames that the record lists, and all with numbers for names, which are those of
    videos: they may be from runs before the last one, or from one that was killed.
    """
    try:
        record = json.loads((root / RECORD).read_text(encoding="utf-8"))
        known = {prompt["folder"] for prompt in record["prompts"]}
        frames = set(map(str, record.get("frames", ())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or not one of ours
        return
    files = _common_files(root)
    remove_temporary_files(root)
    for folder in folders:
        names = frames if folder in known else set[str]()
        files += [root / f"{folder}.mp4"] if folder in known else []
        for kind, suffix in (("masks", ".png"), ("overlays", ".jpg")):
            remove_temporary_files(root / folder / kind)
            found = (root / folder / kind).glob(f"*{suffix}")
            files += (file for file in found if file.stem in names or _NUMBER.fullmatch(file.stem))
    for file in files:
        file.unlink(missing_ok=True)


def _common_files(root: Path) -> list[Path]:
    """What is not of one prompt."""
    return [root / name for name in (RECORD, FRAMES, f"{COMBINED}.mp4", f"{COMBINED}.jpg", SHEET)]
