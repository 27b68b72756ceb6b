"""Make COCO files of RefCOCO, RefCOCO+ and RefCOCOg: one image entry with one annotation per sentence.

    python3 tools/data/convert_refexp_to_coco.py --coco_path data/coco

Reads NAME/refs(unc).p (RefCOCOg: refs(umd).p) and NAME/instances.json, writes NAME/instances_NAME_SPLIT.json beside
them, and changes nothing else. The pickle is read without ever creating an object of a class.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tqdm import tqdm

from datasets.refcoco import SPLITS, annotation_path
from util.command_line import Parser
from util.errors import InputError, run_script
from util.paths import atomic_write

REFS_FILES = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p"}
ANNOTATION_KEYS = ("segmentation", "area", "iscrowd", "bbox", "image_id", "category_id", "id")
# What damaged pickles raise, beyond UnpicklingError.
PICKLE_ERRORS = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
)


class PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers; refuses everything that would import or call something."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse the class or function that the pickle names."""
        raise pickle.UnpicklingError(f"it names {module}.{name}, but only plain lists, dicts, texts and numbers belong")


def load_refs(path: Path) -> list[Any]:
    """The list in a pickle of plain containers (of Python 2 or 3).

    Raises:
        InputError: the file is damaged, or holds anything but plain containers.
    """
    with path.open("rb") as handle:
        try:
            refs = PlainUnpickler(handle, encoding="utf-8").load()
        except PICKLE_ERRORS as error:
            raise InputError(f"{path} is refused: {error or type(error).__name__}; download it again") from None
    if not isinstance(refs, list):
        raise InputError(f"{path}: expected a list of references, found a {type(refs).__name__}")
    return refs


def load_instances(path: Path) -> dict[str, Any]:
    """The COCO object of `instances.json`, with "images" and "annotations" as dicts by id.

    Raises:
        InputError: the file is no COCO file.
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable as JSON ({error}); download it again") from None
    for key in ("images", "annotations"):
        entries = value.get(key) if isinstance(value, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) and "id" in entry for entry in entries):
            raise InputError(f"{path}: {key}: expected a list of objects with an id, as COCO files have")
        value[key] = {entry["id"]: entry for entry in entries}
    return value


def sentence_entries(
    ref: Any, name: str, instances: Mapping[str, Any], first_id: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The image entries and annotations of one reference, one each per sentence, with ids from `first_id` on.

    Raises:
        ValueError: the reference does not have what it needs.
    """
    image, annotation = instances["images"].get(ref["image_id"]), instances["annotations"].get(ref["ann_id"])
    if image is None or annotation is None:
        raise ValueError(f"instances.json lacks image {ref['image_id']} or annotation {ref['ann_id']}")
    images, annotations = [], []
    for entry_id, sentence in enumerate(ref["sentences"], first_id):
        if not isinstance(sentence["sent"], str):
            raise ValueError("'sent' is no text")
        images.append(
            {
                "file_name": image["file_name"],
                "height": image["height"],
                "width": image["width"],
                "original_id": image["id"],
                "id": entry_id,
                "caption": sentence["sent"],
                "dataset_name": name,
            }
        )
        copied = {key: annotation[key] for key in ANNOTATION_KEYS}
        copied |= {"image_id": entry_id, "id": entry_id, "original_id": annotation["id"]}
        annotations.append(copied)
    return images, annotations


def convert(root: Path, name: str) -> dict[str, int]:
    """Write the COCO files of all splits of `name`, each atomically.

    Returns:
        split -> number of sentences.

    Raises:
        InputError: an input is missing or malformed; nothing is written then.
    """
    refs_path, instances_path = root / name / REFS_FILES[name], root / name / "instances.json"
    for path in (refs_path, instances_path):
        if not path.is_file():
            raise InputError(f"{path} is missing; docs/data.md tells where it comes from")
    instances = load_instances(instances_path)
    splits: dict[str, tuple[list[Any], list[Any]]] = {split: ([], []) for split in SPLITS[name]}
    for index, ref in enumerate(tqdm(load_refs(refs_path), desc=name, unit="ref")):
        try:
            images, annotations = splits[ref["split"]]
            entries = sentence_entries(ref, name, instances, len(images) + 1)
        except KeyError as error:
            raise InputError(f"{refs_path}: reference {index}: {error} is missing or no split of {name}") from None
        except (TypeError, ValueError) as error:
            raise InputError(f"{refs_path}: reference {index}: {error}") from None
        images += entries[0]
        annotations += entries[1]
    shared: dict[str, Any] = {key: instances[key] for key in ("info", "licenses") if key in instances}
    for split, (images, annotations) in splits.items():
        content = {
            **shared,
            "images": images,
            "annotations": annotations,
            "categories": instances.get("categories", []),
        }
        with atomic_write(annotation_path(root, name, split), "w") as handle:
            handle.write(json.dumps(content))
    return {split: len(images) for split, (images, _) in splits.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Convert the data sets that are there, or the one that is asked for."""
    parser = Parser(description=__doc__)
    parser.add_argument("--coco_path", type=Path, default=Path("data/coco"), help="default: data/coco")
    choices = (*REFS_FILES, "all")
    parser.add_argument("--dataset_file", choices=choices, default="all", help="default: every one that is there")
    args = parser.parse_args(argv)
    names = [args.dataset_file]
    if args.dataset_file == "all":
        names = [name for name in REFS_FILES if (args.coco_path / name).is_dir()]
        print(f"{args.coco_path}: found {', '.join(names) or 'nothing'}")
    if not names:
        raise InputError(
            f"{args.coco_path} has none of the folders {', '.join(REFS_FILES)}; docs/data.md describes them"
        )
    for name in names:
        for split, count in convert(args.coco_path, name).items():
            print(f"{annotation_path(args.coco_path, name, split)}: {count} sentences")


if __name__ == "__main__":
    run_script(main)
