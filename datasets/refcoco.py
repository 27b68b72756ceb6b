"""RefCOCO, RefCOCO+ and RefCOCOg as COCO files, which `tools/data/convert_refexp_to_coco.py` makes.

ROOT/train2014/*.jpg and ROOT/NAME/instances_NAME_SPLIT.json; every sentence is an image entry with one annotation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.masks import decode_segmentation, image_size
from datasets.validation import (
    Check,
    Fault,
    follow_link_file,
    is_path_component,
    missing_files,
    raise_on_faults,
    read_json,
    run_checks,
    sentence,
    shape,
)
from datasets.video_index import fold
from util.errors import InputError

logger = logging.getLogger(__name__)

SPLITS = {
    "refcoco": ("train", "val", "testA", "testB"),
    "refcoco+": ("train", "val", "testA", "testB"),
    "refcocog": ("train", "val", "test"),
}
IMAGE_FOLDER = "train2014"


@dataclass(frozen=True)
class ReferredObject:
    """One sentence about one image, with the object it means.

    Attributes:
        id: the sentence's number in its file (`image_id` of results for COCO's evaluation).
        text: the sentence.
        file_name: the image, in the data set's image folder.
        size: (H, W) in pixels.
        segmentation: polygons or run lengths, as COCO stores them.
    """

    id: int
    text: str
    file_name: str
    size: tuple[int, int]
    segmentation: Any

    @property
    def caption(self) -> str:
        """The sentence in lower case with white space folded, as the network reads it."""
        return fold(self.text)


@dataclass(frozen=True)
class RefCocoDataset:
    """One split of RefCOCO, RefCOCO+ or RefCOCOg; `objects` in the order of the file `path`."""

    name: str
    split: str
    path: Path
    image_dir: Path
    objects: tuple[ReferredObject, ...]

    def image_path(self, item: ReferredObject) -> Path:
        """The image that `item` is about."""
        return self.image_dir / item.file_name

    def mask(self, item: ReferredObject) -> NDArray[np.bool_]:
        """The object (H, W).

        Raises:
            InputError: the mask does not decode.
        """
        try:
            return decode_segmentation(item.segmentation, item.size)
        except ValueError as error:
            raise InputError(f"{self.path}: annotation of image {item.id}: {error}") from None

    def sentences(self) -> Iterator[tuple[str, str]]:
        """Every sentence as the network reads it, after the place where it stands."""
        for item in self.objects:
            yield f"{self.path}: image {item.id}", item.caption

    def by_image(self) -> dict[str, list[ReferredObject]]:
        """The sentences of every image file, in order."""
        images: dict[str, list[ReferredObject]] = {}
        for item in self.objects:
            images.setdefault(item.file_name, []).append(item)
        return images

    def check_image(self, items: list[ReferredObject]) -> list[Fault]:
        """Faults of one image and of the masks of its sentences `items`: reads its header, decodes them all."""
        path = self.image_path(items[0])
        if not path.is_file():
            return []  # `checks` reports missing images of the folder together
        faults = []
        try:
            size = image_size(path)
        except ValueError as error:
            return [Fault(path, f"image {items[0].id}", str(error))]
        for item in items:
            key = f"image {item.id}"
            if item.size != size:
                problem = f"'width' and 'height' say {shape(item.size)}, but {path.name} is {shape(size)}"
                faults.append(Fault(self.path, key, problem))
            try:
                decode_segmentation(item.segmentation, item.size)
            except ValueError as error:
                faults.append(Fault(self.path, key, f"the mask does not decode ({error})"))
        return faults

    def checks(self, full: bool) -> list[Check]:
        """Checks to be run by `run_checks`: images exist and the first is readable; `full`: all images and masks."""
        images = self.by_image()
        exist: Check = partial(missing_files, self.image_dir, list(images), self.name, "images")
        items = list(images.values())
        return [exist, *(partial(self.check_image, group) for group in (items if full else items[:1]))]


def annotation_path(root: str | Path, name: str, split: str) -> Path:
    """The COCO file of one split."""
    return Path(root) / name / f"instances_{name}_{split}.json"


def scan_refcoco(root: str | Path, name: str, split: str) -> tuple[RefCocoDataset, list[Fault]]:
    """Read the COCO file of one split; arguments as for `open_refcoco`. Returns it with the faults of the file."""
    path = annotation_path(root, name, split)
    faults: list[Fault] = []
    if not path.is_file():
        problem = "the file is missing; tools/data/convert_refexp_to_coco.py makes it"
        return RefCocoDataset(name, split, path, Path(root) / IMAGE_FOLDER, ()), [Fault(path, "", problem)]
    value = read_json(path, faults)
    annotations = _annotations_by_image(value, path, faults)
    objects: dict[int, ReferredObject] = {}
    for index, entry in enumerate(_entries(value, "images", path, faults)):
        try:
            item = _read_object(entry, annotations)
            if item.id in objects:
                raise ValueError(f"a second image with the 'id' {item.id}, expected another number for every sentence")
            objects[item.id] = item
        except ValueError as error:
            faults.append(Fault(path, f"images/{index}", str(error)))
    image_dir = follow_link_file(Path(root) / IMAGE_FOLDER)
    return RefCocoDataset(name, split, path, image_dir, tuple(objects.values())), faults


def open_refcoco(root: str | Path, name: str, split: str) -> RefCocoDataset:
    """Open one split and check it (fast part).

    Args:
        root: the folder that holds `train2014` and one folder per data set (`--coco_path`).
        name: refcoco, refcoco+ or refcocog.
        split: train, val, testA, testB (refcocog: train, val, test).

    Raises:
        InputError: there is no such split, or files are missing or malformed; file and key are named.
    """
    if split not in SPLITS[name]:
        raise InputError(f"{name} has no split {split!r}; its splits are {', '.join(SPLITS[name])}")
    dataset, faults = scan_refcoco(root, name, split)
    what = f"{name} ({split})"
    raise_on_faults(faults, what)
    raise_on_faults(run_checks(dataset.checks(full=False)), what)
    logger.info("%s: %d images, %d sentences", what, len(dataset.by_image()), len(dataset.objects))
    return dataset


def _entries(value: Mapping[str, Any], key: str, path: Path, faults: list[Fault]) -> list[Any]:
    entries = value.get(key)
    if isinstance(entries, list):
        return entries
    if value:
        faults.append(Fault(path, key, "missing, expected a list"))
    return []


def _annotations_by_image(value: Mapping[str, Any], path: Path, faults: list[Fault]) -> dict[int, Any]:
    """image id -> segmentation, one per image."""
    segmentations: dict[int, Any] = {}
    for index, entry in enumerate(_entries(value, "annotations", path, faults)):
        image_id = entry.get("image_id") if isinstance(entry, dict) else None
        if type(image_id) is not int or "segmentation" not in entry:
            faults.append(Fault(path, f"annotations/{index}", "expected an object with 'image_id' and 'segmentation'"))
        elif image_id in segmentations:
            faults.append(Fault(path, f"annotations/{index}", f"a second annotation of image {image_id}, expected one"))
        else:
            segmentations[image_id] = entry["segmentation"]
    return segmentations


def _read_object(entry: Any, segmentations: Mapping[int, Any]) -> ReferredObject:
    if not isinstance(entry, dict) or type(entry.get("id")) is not int:
        raise ValueError("expected an object with a number 'id'")
    caption = sentence(entry, "caption", "image")
    name, height, width = (entry.get(key) for key in ("file_name", "height", "width"))
    if not isinstance(name, str) or not is_path_component(name):
        raise ValueError(f"'file_name' is {name!r}, expected the name of a file")
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        raise ValueError(f"'height' and 'width' are {height!r} and {width!r}, expected pixels")
    if entry["id"] not in segmentations:
        raise ValueError(f"no annotation has the image_id {entry['id']}")
    return ReferredObject(entry["id"], caption, name, (height, width), segmentations[entry["id"]])
