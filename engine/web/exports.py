"""What a visitor takes home from a run, at the threshold of the moment: an MP4, mask PNGs in a zip, and JSON.

Every function yields the share that is done, from 0 to 1, and at last the path of the file.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.media import Frame
from engine.demo import describe_input
from engine.results import VideoFile, save_jpeg
from engine.web.jobs import Job
from engine.web.store import LEVELS, threshold_level
from util.drawing import draw_overlay, palette
from util.masks import mask_area
from util.naming import safe_name, safe_names
from util.paths import atomic_path, atomic_write_json

Steps = Iterator[float | Path]


def export_overlays(job: Job, threshold: float, folder: Path) -> Steps:
    """The frames at full size with their masks in colour, as an MP4; for an image a JPEG."""
    count, fps = len(job.store), job.media.fps
    path = folder / f"{_stem(job)}-overlay.{'jpg' if fps is None else 'mp4'}"
    video = None if fps is None else VideoFile(path, fps, timed=not job.media.steady)
    for index, frame in _frames(job, count):
        picture = _draw(job, frame, index, threshold)
        if video is None:
            save_jpeg(path, picture)
        else:
            video.add(picture, job.media.time_of(index))
        yield (index + 1) / count
    if video is not None:
        video.finish()
    yield path


def export_masks(job: Job, threshold: float, folder: Path) -> Steps:
    """A zip with a folder per sentence, and in it a PNG per frame: 255 where the object is, 0 elsewhere."""
    count = len(job.store)
    folders = safe_names(job.store.sentences)
    path = folder / f"{_stem(job)}-masks.zip"
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for index in range(count):
            for name, mask in zip(folders, job.store.masks(index, threshold), strict=True):
                done, data = cv2.imencode(".png", mask.astype(np.uint8) * 255)
                assert done
                archive.writestr(f"{name}/{job.media.frame_name(index)}.png", data.tobytes())
            yield (index + 1) / count
    yield path


def export_record(job: Job, threshold: float, folder: Path) -> Steps:
    """JSON with the names that result.json of `inference_demo.py` has: sentences, colours, areas, object scores."""
    store = job.store
    count = len(store)
    areas: list[list[int]] = []
    for index in range(count):
        areas.append([mask_area(mask) for mask in store.masks(index, threshold)])
        yield (index + 1) / count
    names = safe_names(store.sentences)
    prompts = [
        {
            "text": text,
            "folder": names[number],
            "colour": list(colour),
            "areas": [frame[number] for frame in areas],
            "object_scores": [_finite(frame[number]) for frame in store.scores[:count]],
        }
        for number, (text, colour) in enumerate(zip(store.sentences, palette(len(names)), strict=True))
    ]
    record: dict[str, Any] = {
        "input": describe_input(job.media),
        "complete": job.state == "done",
        "threshold": threshold_level(threshold) / (LEVELS + 1),
        "frames": [job.media.frame_name(index) for index in range(count)],
        "frame_times": [round(job.media.time_of(index), 6) for index in range(count)],
        "prompts": prompts,
    }
    path = folder / f"{_stem(job)}.json"
    atomic_write_json(path, record)
    yield path


EXPORTS: dict[str, Callable[[Job, float, Path], Steps]] = {
    "overlays": export_overlays,
    "masks": export_masks,
    "record": export_record,
}


def _frames(job: Job, count: int) -> Iterator[tuple[int, Frame]]:
    """The first frames of the source once more."""
    yield from zip(range(count), job.media, strict=False)


def _draw(job: Job, frame: Frame, index: int, threshold: float) -> np.ndarray:
    masks = list(job.store.masks(index, threshold))
    return draw_overlay(frame, masks, palette(len(masks)), job.store.sentences)


def _stem(job: Job) -> str:
    return safe_name(Path(job.media.path).stem)


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None
