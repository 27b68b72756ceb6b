"""Benchmarks in miniature, and a network to match: true layouts, every oddity of the real ones, seconds of compute.

The scripts' own `main` runs on them with `ARGUMENTS` and the configuration folder that `write_configuration` makes.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from configs import loading
from tests.benchmark_files import encode_rle, frame_names, write_json
from tests.conftest import MICRO, SHALLOW

Size = tuple[int, int]

# name -> (frames, (H, W)): lengths around the window of 8, landscape, portrait and square
VIDEOS: dict[str, tuple[int, Size]] = {
    "one": (1, (24, 32)),
    "eight": (8, (30, 20)),
    "nine": (9, (24, 40)),
    "seventeen": (17, (26, 26)),
}
SENTENCES = ("The  disc", "the square at the bottom", "everything that can be seen in this little video", "the disc")
NO_TARGET = "a flying elephant"
ARGUMENTS = [
    *("--untrained", "--device", "cpu", "--sam2_version", "tiny", "--HSA", "--use_cme_head"),
    *("--adapter_dim", "32", "--fusion_stages_txt", "1", "2", "3", "--disable_pred_obj_score"),
]


def labels(index: int, size: Size) -> np.ndarray:
    """Object numbers (H, W) of frame `index`: object 1 moves to the right, object 2 stands at the bottom."""
    image = np.zeros(size, np.uint8)
    left = index % (size[1] - 8)
    image[2:10, left : left + 8] = 1
    image[-6:, -9:] = 2
    return image


def write_frames(folder: Path, count: int, size: Size, seed: int = 0) -> None:
    """`count` JPEGs of the two objects over noise."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    colours = np.array([[90, 90, 90], [230, 40, 40], [40, 60, 230]])
    for index, name in enumerate(frame_names(count)):
        pixels = colours[labels(index, size)] + noise.integers(-40, 40, (*size, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.jpg", quality=95)


def write_labels(folder: Path, count: int, size: Size) -> None:
    """`labels` of `count` frames as palette PNGs."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(frame_names(count)):
        image = Image.fromarray(labels(index, size)).convert("P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        image.save(folder / f"{name}.png")


def write_mevis(root: Path, split: str, videos: dict[str, tuple[int, Size]] | None = None) -> None:
    """MeViS: a sentence that occurs twice (but for case and space), one of several targets, one without a target."""
    folder, meta, masks = root / split, {}, {}
    for number, (name, (count, size)) in enumerate((videos or VIDEOS).items()):
        write_frames(folder / "JPEGImages" / name, count, size, number)
        targets = [[1], [2], [1, 2], [1]]
        entries = {
            str(key): {"exp": text, "obj_id": own, "anno_id": [10 * number + target for target in own]}
            for key, (text, own) in enumerate(zip(SENTENCES, targets, strict=True))
        }
        entries["4"] = {"exp": NO_TARGET, "obj_id": [], "anno_id": []}
        meta[name] = {"expressions": entries, "vid_id": number, "frames": frame_names(count)}
        for target in (1, 2):
            rles = [encode_rle(labels(index, size) == target) for index in range(count)]
            masks[str(10 * number + target)] = [*rles[:-1], None] if target == 2 and count > 1 else rles
    if split in ("valid", "test"):
        for video in meta.values():
            video["expressions"] = {key: {"exp": entry["exp"]} for key, entry in video["expressions"].items()}
    else:
        write_json(folder / "mask_dict.json", masks)
    write_json(folder / "meta_expressions.json", {"videos": meta})


def write_ytvos(root: Path, annotations: bool = True) -> None:
    """Ref-YouTube-VOS: the file of valid also lists the test video."""
    for split, names in (("train", [*VIDEOS]), ("valid", [*VIDEOS, "hidden"]), ("test", ["hidden"])):
        videos: dict[str, Any] = {}
        for name in names:
            count, size = VIDEOS.get(name, (2, (24, 32)))
            expressions = {str(key): {"exp": text} for key, text in enumerate(SENTENCES[:2])}
            if annotations or split == "train":
                for key, entry in expressions.items():
                    entry["obj_id"] = str(int(key) + 1)
                write_labels(root / split / "Annotations" / name, count, size)
            videos[name] = {"expressions": expressions, "frames": frame_names(count)}
            write_frames(root / split / "JPEGImages" / name, count, size)
        write_json(root / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})


def write_davis(root: Path) -> None:
    """Ref-DAVIS17: two objects with the sentences of four annotators, and DAVIS's own tree."""
    videos = {}
    for number, (name, (count, size)) in enumerate(VIDEOS.items()):
        sentences = [f"object {place + 1} says annotator {annotator}" for place in range(2) for annotator in range(4)]
        expressions = {str(key): {"exp": text, "obj_id": str(key // 4 + 1)} for key, text in enumerate(sentences)}
        videos[name] = {"expressions": expressions, "frames": frame_names(count)}
        write_frames(root / "valid" / "JPEGImages" / name, count, size, number)
        write_labels(root / "valid" / "Annotations" / name, count, size)
        write_labels(root / "DAVIS" / "Annotations_unsupervised" / "480p" / name, count, size)
    write_json(root / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": videos})
    listing = root / "DAVIS" / "ImageSets" / "2017" / "val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("\n".join(VIDEOS) + "\n")


# RefCOCO's images: landscape, portrait and square, of other sizes than the videos
IMAGES: tuple[Size, ...] = ((30, 44), (48, 27), (33, 33), (24, 60))
COCO_SENTENCES = (("the  Disc", 1), ("square at the bottom", 2), ("red thing near the upper edge", 1), ("blue box", 2))


def write_refcoco(root: Path, sets: Sequence[str] = ("refcoco/train", "refcoco/val")) -> None:
    """RefCOCO as the converter leaves it: image k has k + 1 sentences; masks are polygons and both kinds of RLE.

    Args:
        root: gets train2014 and a folder per data set.
        sets: NAME/SPLIT, each with images of its own.
    """
    number = 0
    for name, split in (entry.split("/") for entry in sets):
        images, annotations = [], []
        for index, size in enumerate(IMAGES):
            number += 1
            write_frames(root / "train2014" / "one", 1, size, number)
            file_name = f"COCO_train2014_{number:012d}.jpg"
            (root / "train2014" / "one" / "00000.jpg").replace(root / "train2014" / file_name)
            for text, target in COCO_SENTENCES[: index + 1]:
                own = len(images) + 1
                place = {"file_name": file_name, "height": size[0], "width": size[1], "original_id": number}
                images.append({**place, "id": own, "caption": text, "dataset_name": name})
                mask = _segmentation(labels(0, size) == target, own)
                annotations.append({"id": own, "image_id": own, "category_id": 1, "iscrowd": 0, "segmentation": mask})
        categories = [{"id": 1, "name": "object"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(root / name / f"instances_{name}_{split}.json", content)
    (root / "train2014" / "one").rmdir()


def _segmentation(mask: np.ndarray, number: int) -> Any:
    """A rectangular mask as a polygon, or (every third number each) as a compressed or an uncompressed RLE."""
    if number % 3 == 0:
        return encode_rle(mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = float(rows[0]), rows[-1] + 1.0, float(columns[0]), columns[-1] + 1.0
    if number % 3 == 1:
        return [[left, top, right, top, right, bottom, left, bottom]]
    flat = mask.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": runs if flat[0] == 0 else [0, *runs]}


def write_configuration(folder: Path) -> Path:
    """The configuration folder with the numbers of a shallow micro network in the place of tiny's; returns it."""
    shutil.copytree(loading.CONFIG_DIR, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name, value in {**MICRO, **SHALLOW}.items():
        *parents, leaf = name.split("__")
        if not parents:
            file, keys = folder / "model.yaml", [leaf]
        elif parents[0] == "text":
            file, keys = folder / "text" / "roberta_base.yaml", [leaf]
        else:
            common = len(parents) == 1
            file, keys = folder / "sam2" / ("common.yaml" if common else "tiny.yaml"), [*parents[1:], leaf]
        tree = OmegaConf.load(file)
        OmegaConf.update(tree, ".".join(keys), list(value) if isinstance(value, tuple) else value, merge=False)
        OmegaConf.save(tree, file)
    return folder
