"""What every video benchmark consists of: videos, their frames and expressions, and lazily decoded ground truth.

Axes: T frames of a video, H rows, W columns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from datasets.masks import decode_rle, image_size, read_labels, rle_runs
from datasets.validation import (
    Check,
    Fault,
    get_object,
    is_path_component,
    missing_files,
    missing_folder,
    raise_on_faults,
    read_json,
    run_checks,
    sentence,
    shape,
    size_faults,
)
from util.errors import InputError

logger = logging.getLogger(__name__)

FRAME_SUFFIX = ".jpg"
MASK_SUFFIX = ".png"


@dataclass(frozen=True)
class Expression:
    """One sentence about a video.

    Attributes:
        id: its key in the metadata; unique within its video.
        text: the sentence as the metadata hold it.
        obj_ids: numbers of the objects it means; empty where the metadata name none (no target, or a hidden one).
        anno_ids: keys of the mask dictionary (MeViS); empty elsewhere.
    """

    id: str
    text: str
    obj_ids: tuple[int, ...]
    anno_ids: tuple[str, ...]

    @property
    def caption(self) -> str:
        """The sentence in lower case with white space folded, as training reads it."""
        return fold(self.text)


@dataclass(frozen=True)
class Video:
    """One video: frames on disk and what is said about it. `frames` are file names without suffix, in order."""

    name: str
    frame_dir: Path
    frames: tuple[str, ...]
    expressions: tuple[Expression, ...]

    def frame_path(self, index: int) -> Path:
        """The file of frame `index`, counted from 0."""
        return self.frame_dir / f"{self.frames[index]}{FRAME_SUFFIX}"

    def frame_size(self) -> tuple[int, int]:
        """(H, W) of the first frame, read from its header.

        Raises:
            InputError: the frame is not readable.
        """
        try:
            return image_size(self.frame_path(0))
        except ValueError as error:
            raise InputError(f"{self.frame_path(0)}: {error}; tools/data/check_dataset.py checks all files") from None


class GroundTruth(Protocol):
    """Masks of a data set, decoded when asked for."""

    def mask(self, video: Video, expression: Expression, index: int) -> NDArray[np.bool_]:
        """The target of `expression` in frame `index` as (H, W): the union of its objects, empty without any.

        Raises:
            InputError: a mask does not decode, or has another size than the video's frames.
        """

    def check(self, video: Video, size: tuple[int, int] | None, full: bool) -> list[Fault]:
        """Faults of one video's masks, whose frames are `size` (H, W).

        `full` decodes all; otherwise only sizes are compared: those that run lengths state, that of the first PNG.
        """


@dataclass(frozen=True)
class MaskDictionary:
    """Ground truth of MeViS: annotation id -> one COCO RLE, or None, per frame (`mask_dict.json`)."""

    path: Path
    masks: Mapping[str, Any]

    def mask(self, video: Video, expression: Expression, index: int) -> NDArray[np.bool_]:
        """See `GroundTruth.mask`."""
        union = np.zeros(video.frame_size(), dtype=bool)
        for anno_id in expression.anno_ids:
            rle = self.masks[anno_id][index]
            if rle is None:
                continue
            try:
                mask = decode_rle(rle)
                if mask.shape != union.shape:
                    raise ValueError(f"the mask is {shape(mask.shape)}, the frame {shape(union.shape)}")
                union |= mask
            except ValueError as error:
                raise InputError(f"{self.path}: {anno_id}/{index} (video {video.name}): {error}") from None
        return union

    def check(self, video: Video, size: tuple[int, int] | None, full: bool) -> list[Fault]:
        """See `GroundTruth.check`."""
        faults = []
        for anno_id in dict.fromkeys(anno_id for e in video.expressions for anno_id in e.anno_ids):
            masks = self.masks.get(anno_id)
            where = f"{anno_id} (video {video.name})"
            if not isinstance(masks, list):
                faults.append(Fault(self.path, where, "the annotation is missing, but an expression names it"))
            elif len(masks) != len(video.frames):
                problem = f"{len(masks)} masks for {len(video.frames)} frames, expected one (or null) per frame"
                faults.append(Fault(self.path, where, problem))
            else:
                faults += self._mask_faults(masks, where, size, full)
        return faults

    def _mask_faults(
        self, masks: Iterable[Any], where: str, size: tuple[int, int] | None, full: bool
    ) -> Iterator[Fault]:
        for index, rle in enumerate(masks):
            try:
                mask_size = rle_runs(rle)[1] if full and rle is not None else _stated_size(rle)
            except ValueError as error:
                yield Fault(self.path, f"{where}/{index}", f"the mask does not decode ({error})")
                continue
            if size is not None and mask_size is not None and mask_size != size:
                yield _other_size(self.path, f"{where}/{index}", mask_size, size)


def _stated_size(rle: Any) -> tuple[int, int] | None:
    """(H, W) that run lengths say, without a look at them."""
    match rle:
        case {"size": [int() as height, int() as width]}:
            return height, width
    return None


def _other_size(path: Path, where: str, mask: tuple[int, ...], frame: tuple[int, ...]) -> Fault:
    return Fault(path, where, f"the mask is {shape(mask)}, the frame {shape(frame)}")


@dataclass(frozen=True)
class LabelImages:
    """Ground truth as PNGs of object numbers, `root`/VIDEO/FRAME.png (Ref-YouTube-VOS, Ref-DAVIS)."""

    root: Path

    def labels(self, video: Video, index: int) -> NDArray[np.uint8]:
        """The object numbers (H, W) of frame `index`, 0 for the background.

        Raises:
            InputError: the PNG does not decode.
        """
        path = self.root / video.name / f"{video.frames[index]}{MASK_SUFFIX}"
        try:
            return read_labels(path)
        except ValueError as error:
            raise InputError(f"{path}: {error}; tools/data/check_dataset.py checks all files") from None

    def mask(self, video: Video, expression: Expression, index: int) -> NDArray[np.bool_]:
        """See `GroundTruth.mask`."""
        return np.isin(self.labels(video, index), expression.obj_ids)

    def check(self, video: Video, size: tuple[int, int] | None, full: bool) -> list[Fault]:
        """See `GroundTruth.check`."""
        folder = self.root / video.name
        names = [f"{frame}{MASK_SUFFIX}" for frame in video.frames]
        faults = missing_files(folder, names, video.name, "masks")
        if faults or not folder.is_dir():
            return faults
        for path in (folder / name for name in (names if full else names[:1])):
            try:
                mask_size = read_labels(path).shape if full else image_size(path)
            except ValueError as error:
                faults.append(Fault(path, video.name, str(error)))
                continue
            if size is not None and mask_size != size:
                faults.append(_other_size(path, video.name, mask_size, size))
        return faults


@dataclass(frozen=True)
class VideoDataset:
    """One split of a video benchmark.

    Attributes:
        name: as in `--dataset_file`: mevis, ytvos, davis.
        split: train, valid, valid_u or test.
        meta_path: the file that lists videos and expressions.
        videos: in the order of that file.
        ground_truth: None where the owners keep it hidden.
    """

    name: str
    split: str
    meta_path: Path
    videos: tuple[Video, ...]
    ground_truth: GroundTruth | None

    def expression_count(self) -> int:
        """Number of (video, expression) pairs."""
        return sum(len(video.expressions) for video in self.videos)

    def sentences(self) -> Iterator[tuple[str, str]]:
        """Every sentence, after the place where it stands."""
        for video in self.videos:
            for expression in video.expressions:
                yield f"{self.meta_path}: videos/{video.name}/expressions/{expression.id}", expression.text

    def frame_count(self) -> int:
        """Number of frames of all videos."""
        return sum(len(video.frames) for video in self.videos)

    def check_video(self, video: Video, full: bool) -> list[Fault]:
        """Faults of one video: missing files, unreadable first frame, missing annotations.

        `full` reads the header of every frame and decodes every mask.
        """
        faults = missing_files(
            video.frame_dir, [f"{frame}{FRAME_SUFFIX}" for frame in video.frames], video.name, "frames"
        )
        size = None
        if not faults and video.frame_dir.is_dir():
            count = len(video.frames) if full else 1
            size, faults = size_faults(map(video.frame_path, range(count)), video.name)
        if self.ground_truth is not None:
            faults += self.ground_truth.check(video, size, full)
        return faults

    def checks(self, full: bool) -> list[Check]:
        """One check per video, to be run by `run_checks`."""
        return [partial(self.check_video, video, full) for video in self.videos]

    def validated(self, faults: list[Fault]) -> VideoDataset:
        """This data set, after the fast part of the check.

        Raises:
            InputError: `faults` (found while the metadata were read) is not empty, or a video has a fault.
        """
        what = f"{self.name} ({self.split})"
        if not faults and not self.expression_count():
            lacks = "expressions" if self.videos else "videos"
            faults = [Fault(self.meta_path, "videos", f"there are no {lacks}: is the file complete?")]
        raise_on_faults(faults, what)
        raise_on_faults(run_checks(self.checks(full=False)), what)
        logger.info(
            "%s: %d videos, %d expressions, %d frames",
            what,
            len(self.videos),
            self.expression_count(),
            self.frame_count(),
        )
        return self


def fold(text: str) -> str:
    """`text` in lower case, runs of white space as single spaces."""
    return " ".join(text.lower().split())


# (video name, expression id, its metadata entry) -> obj_ids, anno_ids; raises ValueError with what is wrong.
TargetReader = Callable[[str, str, Mapping[str, Any]], tuple[tuple[int, ...], tuple[str, ...]]]


def hidden_target(video: str, expression: str, entry: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The TargetReader of splits whose targets are not published."""
    return (), ()


def read_videos(meta_path: Path, frame_root: Path, targets: TargetReader, faults: list[Fault]) -> tuple[Video, ...]:
    """The videos of a `meta_expressions.json`; what is wrong with its structure is added to `faults`.

    Args:
        frame_root: the folder that holds one folder of frames per video.
        targets: reads what an expression means.
    """
    missing = len(faults)
    meta = read_json(meta_path, faults)
    if len(faults) > missing:
        return ()
    faults += missing_folder(frame_root)
    videos = []
    for name, entry in get_object(meta, "videos", meta_path, "", faults).items():
        where = f"videos/{name}"
        if not is_path_component(name):
            faults.append(Fault(meta_path, where, "the video's name cannot be the name of a folder"))
        elif not isinstance(entry, dict):
            faults.append(Fault(meta_path, where, f"expected an object, found a {type(entry).__name__}"))
        else:
            expressions = _read_expressions(name, entry, meta_path, targets, faults)
            frames = _read_frames(entry, where, meta_path, faults)
            if frames:
                videos.append(Video(name, frame_root / name, frames, expressions))
    return tuple(videos)


def _read_frames(entry: Mapping[str, Any], where: str, path: Path, faults: list[Fault]) -> tuple[str, ...]:
    frames = entry.get("frames")
    if not isinstance(frames, list) or not frames:
        faults.append(Fault(path, f"{where}/frames", "the video has no frames, expected a list of frame names"))
        return ()
    if not all(map(is_path_component, frames)) or len(set(frames)) != len(frames):
        faults.append(Fault(path, f"{where}/frames", "a frame name is listed twice or cannot be the name of a file"))
        return ()
    return tuple(frames)


def _read_expressions(
    video: str, entry: Mapping[str, Any], path: Path, targets: TargetReader, faults: list[Fault]
) -> tuple[Expression, ...]:
    expressions = []
    for key, item in get_object(entry, "expressions", path, f"videos/{video}", faults).items():
        where = f"videos/{video}/expressions/{key}"
        if not is_path_component(key):
            faults.append(Fault(path, where, "the expression's id cannot be the name of a folder"))
            continue
        try:
            known = item if isinstance(item, dict) else {}
            expressions.append(Expression(key, sentence(known, "exp", "expression"), *targets(video, key, known)))
        except ValueError as error:
            faults.append(Fault(path, where, str(error)))
    return tuple(expressions)


def object_number(value: object) -> int:
    """The object number that `value` ("3" or 3) means, from 1 to 255: a value of a label PNG.

    Raises:
        ValueError: it is none.
    """
    text = str(value)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 256):
        raise ValueError(f"'obj_id' is {value!r}, expected the number of an object (1 to 255)")
    return int(text)
