"""Benchmarks in miniature, and a network to match: true layouts, every oddity of the real ones, seconds of compute.

The scripts' own `main` runs on them with `ARGUMENTS` and the configuration folder that `write_configuration` makes.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from configs import loading
from tests.benchmark_files import encode_rle, frame_names, write_json
from tests.conftest import MICRO

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
    for split, names in (("valid", [*VIDEOS, "hidden"]), ("test", ["hidden"])):
        videos: dict[str, Any] = {}
        for name in names:
            count, size = VIDEOS.get(name, (2, (24, 32)))
            expressions = {str(key): {"exp": text} for key, text in enumerate(SENTENCES[:2])}
            if annotations:
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


def write_configuration(folder: Path) -> Path:
    """The configuration folder with the numbers of the micro network in the place of tiny's; returns it."""
    shutil.copytree(loading.CONFIG_DIR, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name, value in MICRO.items():
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
