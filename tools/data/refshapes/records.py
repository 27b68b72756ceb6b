"""Makes one video or image: writes its pixels into the layouts and returns what their metadata need.

Runs in worker processes; everything depends on the job alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tools.data.refshapes import vocabulary
from tools.data.refshapes.files import encode_jpeg, encode_labels, encode_rle, frame_names, write_folder
from tools.data.refshapes.sentences import Expression
from tools.data.refshapes.video import Clip, build_image, build_video

Record = dict[str, Any]
# Layout -> the folder that holds the frames of a split's videos; layouts that lack a split are left out.
FRAMES = {
    "mevis": {split: f"MeViS_release/{split}/JPEGImages" for split in ("train", "valid_u", "valid")},
    "ytvos": {split: f"ref-youtube-vos/{split}/JPEGImages" for split in ("train", "valid", "test")},
    "davis": dict.fromkeys(("train", "valid"), "ref-davis/DAVIS/JPEGImages/480p"),
}
YTVOS_LABELS = "ref-youtube-vos/{split}/Annotations"
DAVIS_LABELS = ("ref-davis/DAVIS/Annotations_unsupervised/480p", "ref-davis/DAVIS/Annotations/480p")
IMAGE_FOLDER = "coco/train2014"
MOST_DAVIS_OBJECTS = 4


@dataclass(frozen=True)
class Job:
    """One video or image to make.

    Attributes:
        out: the folder of the data set.
        layouts: some of mevis, ytvos, davis, coco.
        number: place among all images (images only): part of its file name.
        frames, size: see `build_video`.
    """

    out: Path
    layouts: tuple[str, ...]
    seed: int
    split: str
    index: int
    number: int = 0
    frames: int | None = None
    size: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The video's name, which no other seed or split has: it is also the name of its folders."""
        return f"{self.split}-{self.seed}-{self.index:05d}"


def prepare_worker() -> None:
    """One thread per process: the pool is what runs in parallel."""
    cv2.setNumThreads(1)


def make(job: Job) -> Record:
    """Make what the job asks for; the record holds plain values only."""
    return _make_image(job) if job.split.startswith("image_") else _make_video(job)


def expression_record(item: Expression) -> Record:
    """An expression as `refshapes.json` keeps it."""
    noun = {key: value for key, value in asdict(item.noun).items() if value is not None}
    record = {"exp": item.text, "kind": item.kind, "targets": list(item.targets), "noun": noun, "clause": item.clause}
    if item.distractors:
        record["distractors"] = [asdict(distractor) for distractor in item.distractors]
    return record


def _object_records(clip: Clip) -> list[Record]:
    return [
        {
            "colour": item.colour,
            "shape": item.shape,
            "texture": item.texture,
            "size": item.size,
            "motion": item.motion.label,
            "held_out": vocabulary.is_held_out(item.colour, item.shape),
            "frames_visible": np.flatnonzero((clip.labels == index + 1).any((1, 2))).tolist(),
        }
        for index, item in enumerate(clip.scene.objects)
    ]


def _make_video(job: Job) -> Record:
    clip = build_video(job.seed, job.split, job.index, job.frames, job.size)
    names = frame_names(clip.scene.frames)
    count = len(clip.scene.objects)
    described = _davis_objects(clip)
    places = [FRAMES[layout].get(job.split) for layout in job.layouts if layout in FRAMES]
    folders = [job.out / place / job.name for place in places if place is not None]
    if not described:
        folders = [folder for folder in folders if "ref-davis" not in folder.parts]
    if folders:
        jpegs = {f"{name}.jpg": encode_jpeg(frame) for name, frame in zip(names, clip.frames, strict=True)}
        write_folder(folders, jpegs)
    if "ytvos" in job.layouts and job.split in FRAMES["ytvos"]:
        _write_labels([job.out / YTVOS_LABELS.format(split=job.split) / job.name], clip.labels, count)
    if "davis" in job.layouts and job.split in FRAMES["davis"] and described:
        renamed = np.zeros(count + 1, np.uint8)
        renamed[np.array(described) + 1] = np.arange(1, len(described) + 1)
        _write_labels([job.out / place / job.name for place in DAVIS_LABELS], renamed[clip.labels], len(described))
    masks = []
    if "mevis" in job.layouts:
        masks = [[encode_rle(image == index + 1) for image in clip.labels] for index in range(count)]
    return {
        "name": job.name,
        "split": job.split,
        "story": clip.scene.story,
        "height": clip.scene.height,
        "width": clip.scene.width,
        "frames": names,
        "objects": _object_records(clip),
        "expressions": [expression_record(item) for item in clip.expressions],
        "no_target": [expression_record(item) for item in clip.no_target],
        "davis": [{"object": index, "sentences": [e.text for e in clip.davis[index]]} for index in described],
        "masks": masks,
    }


def _davis_objects(clip: Clip) -> list[int]:
    """The objects that Ref-DAVIS describes: at most a few, in their order."""
    return sorted(clip.davis)[:MOST_DAVIS_OBJECTS]


def _write_labels(folders: list[Path], labels: np.ndarray, count: int) -> None:
    names = frame_names(len(labels))
    write_folder(
        folders, {f"{name}.png": encode_labels(image, count) for name, image in zip(names, labels, strict=True)}
    )


def _make_image(job: Job) -> Record:
    clip = build_image(job.seed, job.split, job.index, job.size)
    file_name = f"COCO_train2014_{job.number:012d}.jpg"
    folder = job.out / IMAGE_FOLDER
    temporary = folder / f".{file_name}.tmp"
    temporary.write_bytes(encode_jpeg(clip.frames[0]))
    temporary.replace(folder / file_name)
    return {
        "name": file_name,
        "split": job.split,
        "height": clip.scene.height,
        "width": clip.scene.width,
        "objects": _object_records(clip),
        "masks": [encode_rle(clip.labels[0] == index + 1) for index in range(len(clip.scene.objects))],
        "expressions": [expression_record(item) for item in clip.expressions],
    }
