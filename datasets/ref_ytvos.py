"""Ref-YouTube-VOS: ROOT/meta_expressions/SPLIT/meta_expressions.json, ROOT/SPLIT/{JPEGImages,Annotations}/VIDEO."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.validation import Fault, follow_link_file, get_object, missing_files, missing_folder, read_json
from datasets.video_index import (
    MASK_SUFFIX,
    LabelImages,
    TargetReader,
    Video,
    VideoDataset,
    hidden_target,
    object_number,
    read_videos,
)

logger = logging.getLogger(__name__)

VALIDATION_VIDEOS = 202
# The objects that the expressions of the valid and test videos mean: {VIDEO: {EXPRESSION: {"obj_id": "1", ...}}}.
TARGET_FILE = "valid_test_exp_to_object.json"


def meta_path_of(root: str | Path, split: str) -> Path:
    """The file that lists the videos of `split`."""
    return Path(root) / "meta_expressions" / split / "meta_expressions.json"


def scan_ref_ytvos(
    root: str | Path, split: str = "valid", allow_partial: bool = False
) -> tuple[VideoDataset, list[Fault]]:
    """Read the metadata of one split; arguments as for `open_ref_ytvos`. Returns it with the faults of the metadata."""
    root = Path(root)
    meta_path = meta_path_of(root, split)
    faults: list[Fault] = []
    folder = root / split
    if not root.is_dir():
        return VideoDataset("ytvos", split, meta_path, (), None), [Fault(root, "", "the folder is missing")]
    targets = _meta_target if split == "train" else _published_targets(root, faults)
    videos = read_videos(meta_path, follow_link_file(folder / "JPEGImages"), targets, faults)
    if split == "valid" and videos:
        videos = _without_test_videos(root, videos, allow_partial, faults)
    annotations = LabelImages(follow_link_file(folder / "Annotations"))
    if split == "train":
        faults += missing_folder(annotations.root)
    scored = split == "train" or _is_complete(annotations.root, videos)
    return VideoDataset("ytvos", split, meta_path, videos, annotations if scored else None), faults


def open_ref_ytvos(root: str | Path, split: str = "valid", allow_partial: bool = False) -> VideoDataset:
    """Open one split of Ref-YouTube-VOS and check it (fast part).

    Args:
        root: the folder that holds `meta_expressions` and the splits (`--ytvos_path`).
        split: train, valid or test. The file of valid also lists the test videos; they are left out.
        allow_partial: accept a number of valid videos other than 202.

    Returns:
        The split; with ground truth for train, and for the others if their `Annotations` are complete and
        `valid_test_exp_to_object.json` (or the metadata themselves) tell which objects the expressions mean.

    Raises:
        InputError: files are missing or malformed, or the number of videos is not 202; file and key are named.
    """
    dataset, faults = scan_ref_ytvos(root, split, allow_partial)
    return dataset.validated(faults)


def _meta_target(video: str, expression: str, entry: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    return (object_number(entry.get("obj_id")),), ()


def _published_targets(root: Path, faults: list[Fault]) -> TargetReader:
    """A reader of targets that takes `obj_id` from the metadata, else from the published file, else none."""
    path = root / TARGET_FILE
    published = read_json(path, faults) if path.is_file() else {}

    def targets(video: str, expression: str, entry: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
        if "obj_id" in entry:
            return _meta_target(video, expression, entry)
        try:
            return _meta_target(video, expression, published[video][expression])
        except (KeyError, TypeError, AttributeError):
            return hidden_target(video, expression, entry)

    return targets


def _without_test_videos(
    root: Path, videos: tuple[Video, ...], allow_partial: bool, faults: list[Fault]
) -> tuple[Video, ...]:
    """The videos that are not in the test split. There should be 202."""
    test_path = meta_path_of(root, "test")
    listed: Mapping[str, Any] = {}
    if test_path.is_file():
        listed = get_object(read_json(test_path, faults), "videos", test_path, "", faults)
    kept = tuple(video for video in videos if video.name not in listed)
    if len(kept) == VALIDATION_VIDEOS:
        return kept
    problem = f"{len(kept)} videos are not test videos, expected {VALIDATION_VIDEOS}"
    if not test_path.is_file():
        problem += f" (the list of test videos, {test_path}, is missing)"
    if allow_partial:
        logger.warning("%s: %s; going on because of --allow_partial", meta_path_of(root, "valid"), problem)
    else:
        faults.append(Fault(meta_path_of(root, "valid"), "videos", f"{problem}; --allow_partial goes on with them"))
    return kept


def _is_complete(annotations: Path, videos: tuple[Video, ...]) -> bool:
    """Whether every target is known and every frame annotated (YouTube-VOS itself ships first frames only)."""
    if not annotations.is_dir():
        return False
    if not all(expression.obj_ids for video in videos for expression in video.expressions):
        logger.warning(
            "%s cannot be scored: %s, which tells the expressions' objects, is missing or incomplete",
            annotations,
            annotations.parents[1] / TARGET_FILE,
        )
        return False
    for video in videos:
        names = [f"{frame}{MASK_SUFFIX}" for frame in video.frames]
        faults = missing_files(annotations / video.name, names, video.name, "masks")
        if faults:
            logger.warning("%s cannot be scored: %s", annotations, faults[0])
            return False
    return True
