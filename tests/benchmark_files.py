"""Writes data sets of a few tiny frames in the true layouts, for tests."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from tools.data.convert_davis_to_ytvos import TEXT_FILES

SIZE = (24, 32)  # H, W of a frame


def write_json(path: Path, value: Any) -> None:
    """`value` as JSON; parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def frame_names(count: int) -> list[str]:
    """00000, 00001, ..."""
    return [f"{index:05d}" for index in range(count)]


def write_frames(folder: Path, count: int, size: tuple[int, int] = SIZE) -> None:
    """`count` JPEGs."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(frame_names(count)):
        Image.new("RGB", size[::-1], (index, 50, 200)).save(folder / f"{name}.jpg")


def labels(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Object numbers (H, W) of frame `index`: object 1 walks to the right, object 2 stands at the bottom."""
    image = np.zeros(size, np.uint8)
    image[2:10, index : index + 8] = 1
    image[-6:, -9:] = 2
    return image


def write_labels(folder: Path, count: int, size: tuple[int, int] = SIZE) -> None:
    """`labels` of `count` frames as palette PNGs."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(frame_names(count)):
        image = Image.fromarray(labels(index, size)).convert("P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        image.save(folder / f"{name}.png")


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """A COCO RLE, as JSON holds it."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}


def write_mevis(root: Path, split: str = "valid_u", meta: str = "meta_expressions.json") -> None:
    """MeViS: videos "one" (3 frames) and "two" (1 frame).

    In "one", object 2 (annotation 11) is absent from frame 1, expression 2 means both objects, expression 3 repeats a
    sentence, and expression 4 has no target.
    """
    folder = root / split
    write_frames(folder / "JPEGImages" / "one", 3)
    write_frames(folder / "JPEGImages" / "two", 1, (32, 20))
    one = {
        "0": {"exp": "The  walker", "obj_id": [1], "anno_id": [10]},
        "1": {"exp": "the one at the bottom", "obj_id": [2], "anno_id": [11]},
        "2": {"exp": "everything", "obj_id": [1, 2], "anno_id": [10, 11]},
        "3": {"exp": "the walker", "obj_id": [1], "anno_id": [10]},
        "4": {"exp": "a flying elephant", "obj_id": [], "anno_id": []},
    }
    two = {"0": {"exp": "the walker", "obj_id": [1], "anno_id": [12]}}
    videos = {
        "one": {"expressions": one, "vid_id": 0, "frames": frame_names(3)},
        "two": {"expressions": two, "vid_id": 1, "frames": frame_names(1)},
    }
    write_json(folder / meta, {"videos": videos})
    masks = {
        "10": [encode_rle(labels(index) == 1) for index in range(3)],
        "11": [encode_rle(labels(0) == 2), None, encode_rle(labels(2) == 2)],
        "12": [encode_rle(labels(0, (32, 20)) == 1)],
    }
    write_json(folder / "mask_dict.json", masks)


def write_ytvos(root: Path, split: str, videos: list[str], objects: bool = True, frames: int = 1) -> None:
    """Ref-YouTube-VOS metadata and frames; with `objects`, expressions name theirs and masks are written."""
    expressions = [{"exp": "the walker", "obj_id": "1"}, {"exp": "the one at the bottom", "obj_id": "2"}]
    if not objects:
        expressions = [{"exp": expression["exp"]} for expression in expressions]
    entry = {"expressions": dict(enumerate(expressions)), "frames": frame_names(frames)}
    write_json(root / "meta_expressions" / split / "meta_expressions.json", {"videos": dict.fromkeys(videos, entry)})
    for video in videos:
        write_frames(root / split / "JPEGImages" / video, frames)
        if objects:
            write_labels(root / split / "Annotations" / video, frames)


def write_davis(root: Path) -> None:
    """Ref-DAVIS, split valid: one video of 2 frames and 2 objects, with the sentences of 4 annotators."""
    expressions = {
        str(4 * place + annotator): {"exp": f"object {place + 1} of annotator {annotator}", "obj_id": str(place + 1)}
        for place in range(2)
        for annotator in range(4)
    }
    videos = {"walk": {"expressions": expressions, "frames": frame_names(2)}}
    write_json(root / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": videos})
    write_frames(root / "valid" / "JPEGImages" / "walk", 2)
    write_labels(root / "valid" / "Annotations" / "walk", 2)


def write_coco(root: Path, name: str = "refcocog", split: str = "val") -> None:
    """RefCOCO: two images; three sentences, two of them about the first image."""
    write_frames(root / "train2014", 2)
    triangle = [[2.0, 2.0, 20.0, 2.0, 2.0, 20.0]]
    whole = {"size": list(SIZE), "counts": [0, SIZE[0] * SIZE[1]]}
    images, annotations = [], []
    sentences = [(0, "a Triangle", triangle), (0, "all of it", whole), (1, "the rest", triangle)]
    for number, (image, caption, segmentation) in enumerate(sentences, 1):
        place = {"file_name": f"{frame_names(2)[image]}.jpg", "height": SIZE[0], "width": SIZE[1], "original_id": image}
        images.append({**place, "id": number, "caption": caption, "dataset_name": name})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "segmentation": segmentation})
    write_json(root / name / f"instances_{name}_{split}.json", {"images": images, "annotations": annotations})


def write_original_davis(root: Path) -> Path:
    """DAVIS's own tree: two sequences in train, one (with two objects) in val, and the sentences about them."""
    for name in ("motorbike", "classic-car", "walk"):
        write_frames(root / "DAVIS/JPEGImages/480p" / name, 2)
        write_labels(root / "DAVIS/Annotations_unsupervised/480p" / name, 2)
    sets = root / "DAVIS/ImageSets/2017"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("classic-car\nmotorbike\n")
    (sets / "val.txt").write_text("walk")
    write_json(root / "DAVIS/davis_semantics.json", {"walk": {"1": "person", "2": "box"}})
    texts = root / "davis_text_annotations"
    texts.mkdir()
    for name, encoding in TEXT_FILES:
        lines = [
            'clasic-car 1 "a car"',
            'motor-bike 1 "a bike"',
            f'walk 2 "a box by {name} \xe9"',
            'walk 1 "a walker"',
            'elsewhere 1 "unused"',
        ]
        (texts / name).write_bytes("\r\n".join([*lines, ""]).encode(encoding))
    return root


def reference(number: int, split: str, *sentences: str) -> dict[str, Any]:
    """One entry of a pickle of sentences."""
    return {
        "ref_id": number,
        "ann_id": 70 + number,
        "image_id": 5,
        "split": split,
        "sentences": [{"raw": text.upper(), "sent": text, "sent_id": 0, "tokens": text.split()} for text in sentences],
    }


def write_original_coco(root: Path) -> Path:
    """RefCOCOg before conversion: one image with two objects."""
    write_frames(root / "train2014", 1)
    image = {"id": 5, "file_name": "00000.jpg", "height": SIZE[0], "width": SIZE[1], "license": 1}
    annotations = [
        {
            "id": number,
            "image_id": 5,
            "category_id": 2,
            "bbox": [0, 0, 4, 4],
            "area": 16.0,
            "iscrowd": 0,
            "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]],
        }
        for number in (70, 71)
    ]
    content = {"info": {}, "licenses": [], "images": [image], "annotations": annotations, "categories": [{"id": 2}]}
    write_json(root / "refcocog/instances.json", content)
    write_refs(root, [reference(0, "val", "a box", "the box"), reference(1, "test", "other")])
    return root


def write_refs(root: Path, refs: Any, protocol: int = 2) -> None:
    """The pickle of sentences of RefCOCOg."""
    (root / "refcocog/refs(umd).p").write_bytes(pickle.dumps(refs, protocol))
