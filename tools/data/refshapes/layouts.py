"""Metadata of MeViS, Ref-YouTube-VOS and Ref-DAVIS, from the records of the videos."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tools.data.convert_davis_to_ytvos import TEXT_FILES
from tools.data.convert_davis_to_ytvos import main as convert_davis
from tools.data.refshapes.records import Record
from util.paths import atomic_write

OBJECTS_PER_VIDEO = 10  # annotation ids of MeViS: 10 * video + object


def write_json(path: Path, value: Any) -> None:
    """`value` in one line, atomically."""
    with atomic_write(path, "w") as handle:
        handle.write(json.dumps(value))


def of_split(records: Iterable[Record], *splits: str) -> list[Record]:
    """The records of some splits, in their order."""
    return [record for record in records if record["split"] in splits]


def write_mevis(root: Path, records: Sequence[Record]) -> None:
    """meta_expressions.json (with targets), meta_expressions_v2.json (those and some without), mask_dict.json."""
    for split in ("train", "valid_u", "valid"):
        chosen = of_split(records, split)
        for version, name in ((1, "meta_expressions.json"), (2, "meta_expressions_v2.json")):
            videos = {
                record["name"]: {
                    "expressions": _mevis_expressions(record, number, version, hidden=split == "valid"),
                    "vid_id": number,
                    "frames": record["frames"],
                }
                for number, record in enumerate(chosen)
            }
            write_json(root / split / name, {"videos": videos})
        if split != "valid":
            masks = {
                str(OBJECTS_PER_VIDEO * number + index): rles
                for number, record in enumerate(chosen)
                for index, rles in enumerate(record["masks"])
            }
            write_json(root / split / "mask_dict.json", masks)


def _mevis_expressions(record: Record, video: int, version: int, hidden: bool) -> Record:
    items = record["expressions"] + (record["no_target"] if version == 2 else [])
    expressions = {}
    for key, item in enumerate(items):
        entry: Record = {"exp": item["exp"]}
        if not hidden:
            entry["obj_id"] = item["targets"]
            entry["anno_id"] = [OBJECTS_PER_VIDEO * video + target for target in item["targets"]]
        expressions[str(key)] = entry | {"kind": item["kind"]}
    return expressions


def single_targets(record: Record) -> list[Record]:
    """The expressions that mean one object: the only ones that Ref-YouTube-VOS can hold."""
    return [item for item in record["expressions"] if len(item["targets"]) == 1]


def write_ytvos(root: Path, records: Sequence[Record]) -> None:
    """meta_expressions of the three splits, train/meta.json, and which objects valid and test mean.

    The file of valid also lists the test videos, as the real one does.
    """
    for split, members in (("train", ["train"]), ("valid", ["valid", "test"]), ("test", ["test"])):
        videos = {}
        for record in of_split(records, *members):
            expressions: Record = {}
            for key, item in enumerate(single_targets(record)):
                target = {"obj_id": str(item["targets"][0] + 1)} if split == "train" else {}
                expressions[str(key)] = {"exp": item["exp"], **target, "kind": item["kind"]}
            videos[record["name"]] = {"expressions": expressions, "frames": record["frames"]}
        write_json(root / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})
    published = {
        record["name"]: {
            str(key): {"obj_id": str(item["targets"][0] + 1)} for key, item in enumerate(single_targets(record))
        }
        for record in of_split(records, "valid", "test")
    }
    write_json(root / "valid_test_exp_to_object.json", published)
    objects = {
        record["name"]: {
            "objects": {
                str(index + 1): {
                    "category": item["shape"],
                    "frames": [record["frames"][frame] for frame in item["frames_visible"]],
                }
                for index, item in enumerate(record["objects"])
            }
        }
        for record in of_split(records, "train")
    }
    write_json(root / "train" / "meta.json", {"videos": objects})


def write_davis(root: Path, records: Sequence[Record]) -> None:
    """The lists and texts of the original, then everything that the converter makes of them."""
    davis = root / "DAVIS"
    described = [record for record in of_split(records, "train", "valid") if record["davis"]]
    for split, name in (("train", "train"), ("valid", "val")):
        lines = [record["name"] for record in of_split(described, split)]
        _write_text(davis / "ImageSets" / "2017" / f"{name}.txt", lines, "utf-8")
    for annotator, (name, encoding) in enumerate(TEXT_FILES):
        lines = [
            f'{record["name"]} {number} "{item["sentences"][annotator]}"'
            for record in described
            for number, item in enumerate(record["davis"], 1)
        ]
        _write_text(root / "davis_text_annotations" / name, lines, encoding)
    semantics = {
        record["name"]: {
            str(number): record["objects"][item["object"]]["shape"] for number, item in enumerate(record["davis"], 1)
        }
        for record in described
    }
    write_json(davis / "davis_semantics.json", semantics)
    convert_davis(["--davis_path", str(root)])


def _write_text(path: Path, lines: Sequence[str], encoding: str) -> None:
    with atomic_write(path, "wb") as handle:
        handle.write("".join(f"{line}\n" for line in lines).encode(encoding.removesuffix("-sig")))
