"""Ref-DAVIS17 in the layout that `tools/data/convert_davis_to_ytvos.py` makes of DAVIS-2017 and its sentences.

Every object has four sentences: two annotators, who each saw the first frame, then the full video. The id of an
expression is 4 * (place of the object among the video's objects) + annotator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets.validation import Fault, follow_link_file, missing_folder
from datasets.video_index import Expression, LabelImages, Video, VideoDataset, object_number, read_videos

ANNOTATORS = 4


def annotator_expressions(video: Video, annotator: int) -> tuple[Expression, ...]:
    """The sentences of one annotator (0 to 3), one per object, in the order of the objects."""
    return video.expressions[annotator::ANNOTATORS]


def scan_ref_davis(root: str | Path, split: str = "valid") -> tuple[VideoDataset, list[Fault]]:
    """Read the metadata of one split; arguments as for `open_ref_davis`. Returns it with the faults of the metadata."""
    root = Path(root)
    meta_path = root / "meta_expressions" / split / "meta_expressions.json"
    faults: list[Fault] = []
    if not root.is_dir():
        return VideoDataset("davis", split, meta_path, (), None), [Fault(root, "", "the folder is missing")]
    videos = read_videos(meta_path, follow_link_file(root / split / "JPEGImages"), _targets, faults)
    videos = tuple(_in_annotator_order(video, meta_path, faults) for video in videos)
    annotations = LabelImages(follow_link_file(root / split / "Annotations"))
    faults += missing_folder(annotations.root)
    return VideoDataset("davis", split, meta_path, videos, annotations), faults


def open_ref_davis(root: str | Path, split: str = "valid") -> VideoDataset:
    """Open one split of Ref-DAVIS17 and check it (fast part).

    Args:
        root: the folder that holds `meta_expressions` and the splits (`--davis_path`).
        split: train or valid.

    Returns:
        The split; its `ground_truth` is a `LabelImages`. `annotator_expressions` picks one annotator's sentences.

    Raises:
        InputError: files are missing or malformed; file and key are named.
    """
    dataset, faults = scan_ref_davis(root, split)
    return dataset.validated(faults)


def _targets(video: str, expression: str, entry: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    return (object_number(entry.get("obj_id")),), ()


def _in_annotator_order(video: Video, path: Path, faults: list[Fault]) -> Video:
    """`video` with its expressions sorted by number; a fault if they are not four per object."""
    by_id = {expression.id: expression for expression in video.expressions}
    expected = [str(number) for number in range(len(by_id))]
    where = f"videos/{video.name}/expressions"
    if set(by_id) != set(expected) or len(by_id) % ANNOTATORS:
        problem = f"expected ids 0, 1, ... with {ANNOTATORS} sentences per object, found {', '.join(by_id)}"
        faults.append(Fault(path, where, problem))
        return video
    ordered = tuple(by_id[key] for key in expected)
    for first in range(0, len(ordered), ANNOTATORS):
        if len({expression.obj_ids for expression in ordered[first : first + ANNOTATORS]}) > 1:
            problem = f"the {ANNOTATORS} sentences from {first} on mean different objects, expected one"
            faults.append(Fault(path, where, problem))
    return replace(video, expressions=ordered)
