"""MeViS, versions 1 and 2: ROOT/{train,valid_u,valid,test}/{JPEGImages, meta_expressions.json, mask_dict.json}.

Version 2 lists its expressions, some of which have no target, in `meta_expressions_v2.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.validation import Fault, follow_link_file, read_json
from datasets.video_index import MaskDictionary, VideoDataset, hidden_target, read_videos

META_FILES = {1: "meta_expressions.json", 2: "meta_expressions_v2.json"}
HIDDEN_SPLITS = ("valid", "test")


def versions_present(root: str | Path, split: str) -> tuple[int, ...]:
    """The versions of MeViS (1, 2) whose expressions are in the folder of `split`."""
    return tuple(version for version, name in META_FILES.items() if (Path(root) / split / name).is_file())


def scan_mevis(root: str | Path, split: str, version: int | None = None) -> tuple[VideoDataset, list[Fault]]:
    """Read the metadata of one split; arguments as for `open_mevis`. Returns it with the faults of the metadata."""
    folder = Path(root) / split
    version = version or next(iter(versions_present(root, split)), 1)
    meta_path = folder / META_FILES[version]
    faults: list[Fault] = []
    if not folder.is_dir():
        return VideoDataset("mevis", split, meta_path, (), None), [Fault(folder, "", "the folder is missing")]
    hidden = split in HIDDEN_SPLITS
    frame_root = follow_link_file(folder / "JPEGImages")
    videos = read_videos(meta_path, frame_root, hidden_target if hidden else _targets, faults)
    mask_path = folder / "mask_dict.json"
    ground_truth = None if hidden else MaskDictionary(mask_path, read_json(mask_path, faults))
    return VideoDataset("mevis", split, meta_path, videos, ground_truth), faults


def open_mevis(root: str | Path, split: str, version: int | None = None) -> VideoDataset:
    """Open one split of MeViS and check it (fast part).

    Args:
        root: the folder that holds the splits (`--mevis_path`).
        split: train, valid_u, valid or test; the last two have no ground truth.
        version: 1 or 2; by default the version whose metadata are there, 1 if both are.

    Returns:
        The split. An expression without `anno_ids` in train or valid_u has no target: its masks are empty.

    Raises:
        InputError: files are missing or malformed; file and key are named.
    """
    dataset, faults = scan_mevis(root, split, version)
    return dataset.validated(faults)


def _targets(video: str, expression: str, entry: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """`obj_id` and `anno_id`, two lists of numbers that are both empty if the expression has no target."""
    values: dict[str, list[int]] = {}
    for key in ("obj_id", "anno_id"):
        value = entry.get(key)
        if not isinstance(value, list) or not all(str(number).isdecimal() for number in value):
            raise ValueError(f"{key!r} is {value!r}, expected a list of numbers")
        values[key] = [int(number) for number in value]
    return tuple(values["obj_id"]), tuple(map(str, values["anno_id"]))
