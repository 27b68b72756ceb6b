"""Images and clips of RefShapes with everything that is known about their objects.

Axes: V images or clips, T frames, S side of the network input, N objects of a scene, B sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from datasets.transforms import MEAN, STD
from tools.data.make_refshapes import SUMMARY
from tools.data.refshapes.coco_layout import OBJECTS_PER_IMAGE
from tools.data.refshapes.layouts import OBJECTS_PER_VIDEO
from tools.data.refshapes.records import FRAMES, IMAGE_FOLDER
from tools.data.refshapes.vocabulary import COLOURS, SHAPES, SIZES, TEXTURES
from util.distributed import Processes
from util.errors import InputError
from util.paths import read_json_object

# What can be said about the looks of an object, and the words for it.
PROPERTIES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS), "shape": tuple(SHAPES), "texture": tuple(TEXTURES), "size": tuple(SIZES)
}  # fmt: skip
# What a sentence can ask an object to have most or least of: its place in the frame, its velocity and speed, area and
# growth, when it comes and goes, and its place when it comes and when it goes.
QUANTITIES = ("x", "y", "vx", "vy", "speed", "area", "growth", "arrival", "departure", "x0", "y0", "x1", "y1")
_HISTORY = QUANTITIES.index("arrival")  # from here on they hold for the whole video
# From what it counts: a fixed value ("on the left"), what the noun fits ("the leftmost"), or another object.
ORIGINS = ("fixed", "candidates", "other")
_UNIT = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_UNIT |= {"top": _UNIT["up"], "above": _UNIT["up"], "bottom": _UNIT["down"], "below": _UNIT["down"]}
_MOVING = ("moves", "keeps_moving", "goes_then_stops", "stops_then_goes")
_MOST = {
    "fastest": ("speed", 1, "candidates"), "slowest": ("speed", -1, "candidates"), "moves": ("speed", 1, "fixed"),
    "stays_still": ("speed", -1, "fixed"), "largest": ("area", 1, "candidates"), "smallest": ("area", -1, "candidates"),
    "grows": ("growth", 1, "fixed"), "shrinks": ("growth", -1, "fixed"), "appears_last": ("arrival", 1, "candidates"),
    "appears_later": ("arrival", 1, "candidates"), "leaves_first": ("departure", -1, "candidates"),
    "leaves": ("departure", -1, "candidates"),
}  # fmt: skip
MAX_OBJECTS = OBJECTS_PER_VIDEO  # more than a scene has
OVER_TIME = ("motion", "order", "late_distractor")  # kinds of sentences that a single frame does not answer
STRIDES, STRIDE_SHARES = (1, 2, 3), (0.5, 0.3, 0.2)  # distance in time of the frames of a clip
_AHEAD = 3  # batches that are read before they are needed


@dataclass(frozen=True)
class Scene:
    """An image or video of a training split: its files, and masks as run-length encodings.

    Attributes:
        frames: image files.
        masks: for each object the encodings of all frames, None where it is hidden.
        properties: for each object the numbers of its properties, from 1; see `PROPERTIES`.
        expressions: as in refshapes.json.
    """

    frames: tuple[Path, ...]
    masks: tuple[Sequence[Any], ...]
    properties: tuple[tuple[int, ...], ...]
    expressions: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class SceneBatch:
    """Some clips (or images: T = 1) with some sentences each.

    Attributes:
        frames: (V, T, 3, S, S) float32, normalised, zero where there is padding.
        labels: (V, T, S, S) uint8, 0 the ground and k object k - 1.
        properties: (V, MAX_OBJECTS + 1, 4) int64, by label; 0 for the ground.
        texts: B sentences in lower case.
        clip_of: (B,) int64.
        targets: (B, T, S, S) float32 in {0, 1}.
        members: (B, 3, MAX_OBJECTS + 1) float32 in {0, 1}, by label: what the sentence means, whatever its noun fits,
            and the object beside which it looks (often none).
        named: (B, 4) int64, the properties that a sentence names, 0 for those it does not.
        asked: (B, len(QUANTITIES)) float32, of which the sentence asks most (positive) or least.
        origins: (B,) int64, from what it counts: a number of `ORIGINS`.
        history: (V, MAX_OBJECTS + 1, len(QUANTITIES) - _HISTORY) float32, by label; NaN for what is never visible.
    """

    frames: Tensor
    labels: Tensor
    properties: Tensor
    texts: list[str]
    clip_of: Tensor
    targets: Tensor
    members: Tensor
    named: Tensor
    asked: Tensor
    origins: Tensor
    history: Tensor

    def to(self, device: torch.device | str) -> SceneBatch:
        """The same on a device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def read_records(root: Path, splits: Sequence[str]) -> list[dict[str, Any]]:
    """What refshapes.json says of the videos and images of some splits.

    Raises:
        InputError: it is missing or damaged, or holds nothing of these splits.
    """
    summary = read_json_object(root / SUMMARY)
    if not summary or "videos" not in summary:
        raise InputError(f"{root / SUMMARY} is missing or damaged: make the data set with tools/data/make_refshapes.py")
    records = [record for record in summary["videos"] if record["split"] in splits]
    if not records:
        layouts = " ".join(sorted({"mevis" if split in FRAMES["mevis"] else "coco" for split in splits}))
        tool = f"tools/data/make_refshapes.py --layouts {layouts}"
        raise InputError(f"{root} holds no split {' or '.join(splits)}: make it with {tool}")
    return records


def read_scenes(root: Path, split: str) -> list[Scene]:
    """The scenes of a split.

    Args:
        root: what tools/data/make_refshapes.py made.
        split: train (videos, of the layout mevis) or image_train (images, of the layout coco).

    Raises:
        InputError: a file is missing or no such file.
    """
    records = read_records(root, (split,))
    masks = _video_masks(root, split) if split in FRAMES["mevis"] else _image_masks(root)
    return [
        Scene(_frame_files(root, record), tuple(masks[record["name"]][: len(record["objects"])]),
              tuple(_numbers(item) for item in record["objects"]), tuple(record["expressions"]))
        for record in records
    ]  # fmt: skip


def _frame_files(root: Path, record: Mapping[str, Any]) -> tuple[Path, ...]:
    if record["split"].startswith("image_"):
        return (root / IMAGE_FOLDER / record["name"],)
    folder = root / FRAMES["mevis"][record["split"]] / record["name"]
    return tuple(folder / f"{name}.jpg" for name in record["frames"])


def _video_masks(root: Path, split: str) -> dict[str, list[Sequence[Any]]]:
    folder = root / "MeViS_release" / split
    masks = _read(folder / "mask_dict.json")
    videos = _read(folder / "meta_expressions.json")["videos"]
    return {
        name: [masks.get(str(OBJECTS_PER_VIDEO * video["vid_id"] + place), ()) for place in range(MAX_OBJECTS)]
        for name, video in videos.items()
    }


def _image_masks(root: Path) -> dict[str, list[Sequence[Any]]]:
    instances = _read(root / "coco" / "refcoco" / "instances.json")
    names = {image["id"]: image["file_name"] for image in instances["images"]}
    masks: dict[str, list[Sequence[Any]]] = {name: [(None,)] * MAX_OBJECTS for name in names.values()}
    for item in instances["annotations"]:
        masks[names[item["image_id"]]][(item["id"] - 1) % OBJECTS_PER_IMAGE] = (item["segmentation"],)
    return masks


def _read(path: Path) -> dict[str, Any]:
    """A JSON file that the generator has written."""
    if not (value := read_json_object(path)):
        raise InputError(f"{path} is missing or damaged: make the data set again with tools/data/make_refshapes.py")
    return value


def _numbers(item: Mapping[str, Any]) -> tuple[int, ...]:
    """The numbers of the properties that are given, 0 for the others."""
    return tuple(
        options.index(item[name]) + 1 if item.get(name) is not None else 0 for name, options in PROPERTIES.items()
    )


def read_scene(scene: Scene, chosen: Sequence[int], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Some frames of a scene, shrunk to fit into a square, top left.

    Returns:
        (T, 3, side, side) float32, normalised, and (T, side, side) uint8 labels.

    Raises:
        InputError: a frame cannot be read.
    """
    frames = np.zeros((len(chosen), side, side, 3), np.float32)
    labels = np.zeros((len(chosen), side, side), np.uint8)
    for place, index in enumerate(chosen):
        image = cv2.imread(str(scene.frames[index]))
        if image is None:
            raise InputError(f"{scene.frames[index]} cannot be read: make the data set again")
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        drawn = np.zeros(image.shape[:2], np.uint8)
        for number, masks in enumerate(scene.masks, 1):
            if masks[index]:
                drawn[coco_mask.decode(masks[index]).astype(bool)] = number
        height, width = (round(length * side / max(image.shape[:2])) for length in image.shape[:2])
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        frames[place, :height, :width] = (small / np.float32(255) - MEAN) / STD
        labels[place, :height, :width] = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_NEAREST)
    return frames.transpose(0, 3, 1, 2), labels


def choose_frames(count: int, wanted: int, rng: np.random.Generator) -> list[int]:
    """`wanted` frames of a video at an even distance, in order; its last one again where it is too short."""
    longest = max(1, (count - 1) // max(wanted - 1, 1))
    stride = min(int(rng.choice(STRIDES, p=STRIDE_SHARES)), longest)
    start = int(rng.integers(max(1, count - stride * (wanted - 1))))
    return [min(start + stride * place, count - 1) for place in range(wanted)]


def order_sentences(expressions: Sequence[Mapping[str, Any]], over_time: float, rng: np.random.Generator) -> list[int]:
    """A random order in which, with the probability `over_time`, those of `OVER_TIME` come before the others."""
    order = [int(number) for number in rng.permutation(len(expressions))]
    if rng.random() < over_time:
        order.sort(key=lambda number: expressions[number]["kind"] not in OVER_TIME)
    return order


def make_batch(
    scenes: Sequence[Scene], side: int, frames: int, sentences: int, rng: np.random.Generator, over_time: float = 0.0
) -> SceneBatch:
    """Read some scenes.

    Args:
        scenes: V of them.
        side: S.
        frames: T, of each scene.
        sentences: different ones for each scene, repeated where it has fewer.
        rng: what is drawn: frames and sentences.
        over_time: see `order_sentences`.
    """
    images, labels, texts, clip_of, targets, members, named = [], [], [], [], [], [], []
    asked, origins = [], []
    properties = torch.zeros(len(scenes), MAX_OBJECTS + 1, len(PROPERTIES), dtype=torch.int64)
    for place, scene in enumerate(scenes):
        image, label = read_scene(scene, choose_frames(len(scene.frames), frames, rng), side)
        images.append(torch.from_numpy(image))
        labels.append(torch.from_numpy(label))
        properties[place, 1 : len(scene.properties) + 1] = torch.tensor(scene.properties)
        order = order_sentences(scene.expressions, over_time, rng)
        for number in range(sentences):
            expression = scene.expressions[order[number % len(order)]]
            texts.append(expression["exp"].lower())
            clip_of.append(place)
            members.append(_members(expression, scene.properties))
            targets.append(members[-1][0][labels[-1].long()])
            named.append(_numbers(expression["noun"]))
            weights, origin = read_clause(expression["clause"])
            asked.append(as_row(weights))
            origins.append(ORIGINS.index(origin))
    return SceneBatch(
        torch.stack(images), torch.stack(labels), properties, texts, torch.tensor(clip_of), torch.stack(targets),
        torch.stack(members), torch.tensor(named), torch.tensor(asked), torch.tensor(origins),
        torch.stack([_history(scene) for scene in scenes]),
    )  # fmt: skip


def as_row(weights: Mapping[str, float]) -> list[float]:
    """Weights of `QUANTITIES`, of which all that are not named are zero."""
    return [weights.get(name, 0.0) for name in QUANTITIES]


def read_clause(clause: str) -> tuple[dict[str, float], str]:
    """What a clause of refshapes.json asks for: weights of `QUANTITIES`, and one of `ORIGINS`; nothing for most."""
    words = clause.split()
    names = ("x", "y")
    if len(words) > 1 and words[0] in ("starts", "ends", "is"):
        names = {"starts": ("x0", "y0"), "ends": ("x1", "y1"), "is": names}[words[0]]
        words = words[1:]
    first = words[0] if words else ""
    if first in _MOVING and len(words) > 1:
        units = [_UNIT[word] for word in words[1].split("-")]
        weights = [sum(unit[axis] for unit in units) / len(units) ** 0.5 for axis in (0, 1)]
        return {name: weight for name, weight in zip(("vx", "vy"), weights, strict=True) if weight}, "fixed"
    if first.removesuffix("most") in _UNIT:
        origin = "candidates" if first.endswith("most") else "other" if words[-1].isdigit() else "fixed"
        unit = _UNIT[first.removesuffix("most")]
        return {name: weight for name, weight in zip(names, unit, strict=True) if weight}, origin
    if first in _MOST:
        name, sign, origin = _MOST[first]
        return {name: float(sign)}, origin
    return {}, "fixed"


def _history(scene: Scene) -> Tensor:
    """(MAX_OBJECTS + 1, 6): shares of the video at which objects come and go, and their middles then; see `QUANTITIES`.

    The middles are those of boxes, in sides of the network input.
    """
    history = torch.full((MAX_OBJECTS + 1, len(QUANTITIES) - _HISTORY), torch.nan)
    for number, masks in enumerate(scene.masks, 1):
        seen = [index for index, mask in enumerate(masks) if mask]
        if not seen:
            continue
        middles = []
        for index in (seen[0], seen[-1]):
            x, y, width, height = coco_mask.toBbox(masks[index])
            side = max(masks[index]["size"])
            middles += [(x + width / 2) / side, (y + height / 2) / side]
        history[number] = torch.tensor([seen[0] / len(masks), (seen[-1] + 1) / len(masks), *middles])
    return history


def _members(expression: Mapping[str, Any], properties: Sequence[Sequence[int]]) -> Tensor:
    """(3, MAX_OBJECTS + 1), see `SceneBatch`."""
    members = torch.zeros(3, MAX_OBJECTS + 1)
    members[0, [number + 1 for number in expression["targets"]]] = 1
    wanted = _numbers(expression["noun"])
    for number, values in enumerate(properties, 1):
        members[1, number] = all(want in (0, value) for want, value in zip(wanted, values, strict=True))
    *_, last = expression["clause"].split() or [""]
    if last.isdigit():
        members[2, int(last) + 1] = 1
    return members


def batches(
    scenes: Sequence[Scene],
    side: int,
    frames: int,
    size: int,
    sentences: int,
    *,
    seed: int,
    steps: range,
    processes: Processes,
    over_time: float = 0.0,
) -> Iterator[SceneBatch]:
    """This process's batches of some steps, read ahead in a thread; step s is the same whatever came before it.

    Args:
        scenes: all of the split.
        side, frames, sentences: see `make_batch`.
        size: scenes in a batch of this process.
        seed, steps: what is drawn.
        processes: those that train together.
        over_time: see `order_sentences`.

    Raises:
        InputError: there are too few scenes, or one cannot be read.
    """
    whole = size * processes.size

    def read(step: int) -> SceneBatch:
        epoch, place = divmod(step, len(scenes) // whole)
        order = np.random.default_rng([seed, 0, epoch]).permutation(len(scenes))
        start = place * whole + processes.rank * size
        chosen = [scenes[index] for index in order[start : start + size]]
        rng = np.random.default_rng([seed, 1, step, processes.rank])
        return make_batch(chosen, side, frames, sentences, rng, over_time)

    if len(scenes) < whole:
        raise InputError(f"{len(scenes)} scenes are fewer than a step of {whole}: make more training data")
    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(read, step) for step in steps[:_AHEAD]]
        for step in steps:
            if step + _AHEAD < steps.stop:
                pending.append(pool.submit(read, step + _AHEAD))
            yield pending.pop(0).result()
