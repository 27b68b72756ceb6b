"""One clip of an import: checks that its masks fit, then frames as JPEGs and masks as run lengths.

Runs in worker processes; what is written depends on the arguments alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.media import Media, open_media
from datasets.validation import shape
from tools.data.importing.masks import Masks, open_masks
from tools.data.importing.plan import Clip
from tools.data.importing.problems import Note
from tools.data.refshapes.files import encode_rle
from util.errors import InputError

VERSION = 1  # part of what decides a record: raise it when the same input gives other files
JPEG_QUALITY = 95
FRAMES, RECORD = "frames", "record.json"


@dataclass(frozen=True)
class Options:
    """What applies to all clips.

    Attributes:
        fps: frames per second to keep; None: all.
        max_side: of a frame in pixels; larger ones are reduced; None: none are.
    """

    fps: float | None
    max_side: int | None


@dataclass(frozen=True)
class Task:
    """A clip to convert; `folder` appears when it is done, with `FRAMES`/NUMBER.jpg and `RECORD`.

    Attributes:
        digest: stands for all that decides the result; goes into the record.
    """

    clip: Clip
    options: Options
    folder: Path
    digest: str


@dataclass(frozen=True)
class OpenClip:
    """A clip whose parts fit together.

    Attributes:
        media: the video.
        frames: which of its frames are used, ascending.
        size: (H, W) of the frames that are written.
        masks: of every source, with the places in it of the masks of `frames`.
        faults, warnings: of sources that do not fit, or not quite.
    """

    media: Media
    frames: Sequence[int]
    size: tuple[int, int]
    masks: Sequence[tuple[Masks, Sequence[int]]]
    faults: list[Note]
    warnings: list[tuple[int, str]]  # place of the mask source, what is odd


def inspect(task: Task) -> list[Note]:
    """The faults of a clip that show without decoding it."""
    try:
        return open_clip(task.clip, task.options).faults
    except InputError as error:
        return [Note(task.clip.rows(), str(error))]


def convert(task: Task) -> list[Note]:
    """Make `task.folder`; returns faults, with which nothing is written.

    Raises:
        OSError: the disk is full, a file is not readable.
    """
    temporary = task.folder.with_name(f".{task.folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        opened = open_clip(task.clip, task.options)
        if opened.faults:
            return opened.faults
        _write_frames(opened, temporary / FRAMES)
        masks, faults = _encode_masks(task.clip, opened)
        if faults:
            return faults
        record = {
            "digest": task.digest,
            "frames": len(opened.frames),
            "size": list(opened.size),
            "masks": masks,
            "warnings": opened.warnings,
        }
        (temporary / RECORD).write_text(json.dumps(record), "utf-8")
        shutil.rmtree(task.folder, ignore_errors=True)
        temporary.replace(task.folder)
    except InputError as error:
        return [Note(task.clip.rows(), str(error))]
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return []


def open_clip(clip: Clip, options: Options) -> OpenClip:
    """Open a video and its masks, and see whether they fit.

    Raises:
        InputError: the video cannot be used.
    """
    media = open_media(str(clip.path))
    length = media.length if media.length is not None else sum(1 for _ in media)
    start, end = clip.start or 0, length if clip.end is None else clip.end + 1
    if not 0 <= start < end <= length:
        raise InputError(f"{clip.video}: frames {start} to {end - 1} are asked for, the video has 0 to {length - 1}")
    frames = _chosen(start, end, media, options.fps)
    faults, warnings, masks = [], [], []
    for place, source in enumerate(clip.masks):
        try:
            opened = open_masks(source)
            masks.append((opened, _positions(opened.count, length, start, end, frames, source.shown)))
            warning = opened.warning, _size_warning(opened.size, media.frame_size, source.shown)
            warnings += [(place, text) for text in warning if text]
        except InputError as error:
            faults.append(Note(clip.rows(place), str(error)))
    return OpenClip(media, frames, _reduced(media.frame_size, options.max_side), masks, faults, warnings)


def _chosen(start: int, end: int, media: Media, fps: float | None) -> list[int]:
    """The frames from `start` to before `end`, thinned out to `fps` by the video's average rate."""
    if fps is None or media.fps is None or fps >= media.fps:
        return list(range(start, end))
    kept = (np.floor(np.arange(end - start) * (fps / float(media.fps)) + 1e-9)).astype(int)
    return (start + np.flatnonzero(np.diff(kept, prepend=-1))).tolist()


def _positions(count: int, length: int, start: int, end: int, frames: Sequence[int], shown: str) -> Sequence[int]:
    """Which of `count` masks belong to `frames`: there may be one per frame of the video, of the part, or of those."""
    if count == length:
        return frames
    if count == end - start:
        return [frame - start for frame in frames]
    if count == len(frames):
        return range(count)
    wanted = " or ".join(map(str, dict.fromkeys((length, end - start, len(frames)))))
    raise InputError(f"{shown}: {count} masks, expected {wanted}: one for every frame of the video")


def _reduced(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    scale = 1.0 if max_side is None else min(1.0, max_side / max(size))
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def _size_warning(masks: tuple[int, int] | None, frames: tuple[int, int], shown: str) -> str:
    """A warning if masks have another size than the frames, but the same proportions to the pixel.

    Raises:
        InputError: they have other proportions.
    """
    if masks is None or masks == frames:
        return ""
    (mask_height, mask_width), (height, width) = masks, frames
    off = abs(mask_height * width / mask_width - height)
    if off >= max(1.0, width / mask_width):
        raise InputError(
            f"{shown}: the masks are {shape(masks)}, the frames {shape(frames)}: these proportions differ, make masks "
            "of the whole frames"
        )
    return f"{shown}: the masks are {shape(masks)}, the frames {shape(frames)}: scaled to the nearest neighbour"


def _write_frames(opened: OpenClip, folder: Path) -> None:
    folder.mkdir(parents=True)
    wanted, written = set(opened.frames), 0
    for index, frame in enumerate(opened.media):
        if index in wanted:
            same = frame.shape[:2] == opened.size
            fitted = frame if same else cv2.resize(frame, opened.size[::-1], interpolation=cv2.INTER_AREA)
            done, data = cv2.imencode(".jpg", fitted[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            assert done
            (folder / f"{written:05d}.jpg").write_bytes(data.tobytes())
            written += 1
        if written == len(wanted):
            return
    raise InputError(f"{opened.media.path}: {len(wanted)} frames were expected, but only {written} could be decoded")


def _encode_masks(clip: Clip, opened: OpenClip) -> tuple[list[list[Any]], list[Note]]:
    """The run lengths of every source, one or None per frame; and the faults of those that do not decode."""
    encoded, faults = [], []
    for place, (masks, positions) in enumerate(opened.masks):
        wanted, found = set(positions), {}
        try:
            for index, mask in enumerate(masks.read()):
                if index in wanted:
                    found[index] = None if mask is None else encode_rle(_fitted(mask, opened.size))
            if len(found) < len(wanted):
                raise InputError(
                    f"{clip.masks[place].shown}: {masks.count} masks were expected, fewer could be decoded"
                )
            encoded.append([found[index] for index in positions])
        except InputError as error:
            faults.append(Note(clip.rows(place), str(error)))
    return encoded, faults


def _fitted(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool to `size` (H, W), every pixel as its nearest neighbour."""
    if mask.shape == size:
        return mask
    return cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0
