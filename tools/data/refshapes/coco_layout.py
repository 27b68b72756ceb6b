"""RefCOCO, RefCOCO+ and RefCOCOg before conversion, from the records of images: instances.json and refs(...).p."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from tools.data.convert_refexp_to_coco import REFS_FILES
from tools.data.convert_refexp_to_coco import main as convert_refexp
from tools.data.refshapes.layouts import write_json
from tools.data.refshapes.records import Record
from tools.data.refshapes.vocabulary import SHAPES
from util.paths import atomic_write

OBJECTS_PER_IMAGE = 10
# Data set -> our split -> its own name. RefCOCOg has one test split.
SPLITS = {
    "refcoco": {"image_train": "train", "image_val": "val", "image_testA": "testA", "image_testB": "testB"},
    "refcoco+": {"image_train": "train", "image_val": "val", "image_testA": "testA", "image_testB": "testB"},
    "refcocog": {"image_train": "train", "image_val": "val", "image_test": "test"},
}


def write_coco(root: Path, records: Sequence[Record]) -> None:
    """All three data sets, then the COCO files that the converter makes of them."""
    for name, splits in SPLITS.items():
        chosen = [(number, record) for number, record in enumerate(records) if record["split"] in splits]
        write_json(root / name / "instances.json", _instances(chosen))
        refs: list[Record] = []
        sentences = 0
        for number, record in chosen:
            for target in range(len(record["objects"])):
                texts = [e["exp"] for e in record["expressions"] if e["targets"] == [target] and _belongs(name, e)]
                if texts:
                    refs.append(_reference(number, record, target, texts, len(refs), sentences, splits))
                    sentences += len(texts)
        with atomic_write(root / name / REFS_FILES[name], "wb") as handle:
            pickle.dump(refs, handle, protocol=2)
    convert_refexp(["--coco_path", str(root)])


def _belongs(name: str, expression: Record) -> bool:
    """RefCOCO+ has no words about places."""
    return name != "refcoco+" or expression["kind"] == "appearance"


def _reference(
    number: int, record: Record, target: int, texts: Sequence[str], ref: int, sentence: int, splits: dict[str, str]
) -> Record:
    sentences = [
        {"tokens": text.lower().split(), "raw": text, "sent_id": sentence + place, "sent": text.lower()}
        for place, text in enumerate(texts)
    ]
    return {
        "ref_id": ref,
        "ann_id": OBJECTS_PER_IMAGE * number + target + 1,
        "category_id": _category(record["objects"][target]["shape"]),
        "image_id": number + 1,
        "file_name": record["name"],
        "split": splits[record["split"]],
        "sent_ids": [item["sent_id"] for item in sentences],
        "sentences": sentences,
    }


def _category(shape: str) -> int:
    return list(SHAPES).index(shape) + 1


def _instances(chosen: Sequence[tuple[int, Record]]) -> dict[str, Any]:
    images, annotations = [], []
    for number, record in chosen:
        images.append(
            {"id": number + 1, "file_name": record["name"], "height": record["height"], "width": record["width"]}
        )
        for index, rle in enumerate(record["masks"]):
            if rle is None:
                continue
            annotations.append(
                {
                    "id": OBJECTS_PER_IMAGE * number + index + 1,
                    "image_id": number + 1,
                    "category_id": _category(record["objects"][index]["shape"]),
                    "segmentation": rle,
                    "area": float(coco_mask.area(rle)),
                    "bbox": [float(value) for value in coco_mask.toBbox(rle)],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": _category(shape), "name": shape, "supercategory": "shape"} for shape in SHAPES]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
