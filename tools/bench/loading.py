"""How fast training clips come: decoded, augmented and batched by `datasets.training`, as in a training."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from datasets.training import BatchSampler, ClipBatch, ClipLoader, ClipSet, make_loader, open_training_set
from util.paths import atomic_write_json

from .end_to_end import SENTENCES, write_jpegs

SIZE = (720, 1280)  # height and width of the frames
VIDEOS = 2
EXPRESSIONS = 16 * SENTENCES  # of each video: an epoch is longer than a round


def write_videos(folder: Path) -> None:
    """A MeViS training split: a few videos of coloured noise, as sharp as photographs, each with a disc to find."""
    rows, columns = (places / SIZE[0] for places in np.mgrid[: SIZE[0], : SIZE[1]])
    videos, masks = {}, {}
    for number in range(VIDEOS):
        name = f"video{number}"
        frames = write_jpegs(folder / "train" / "JPEGImages" / name, SIZE)
        discs = [(rows - 0.5) ** 2 + (columns - 0.4 - 0.05 * t) ** 2 < 0.2**2 for t in range(len(frames))]
        encoded = [coco_mask.encode(np.asfortranarray(disc, dtype=np.uint8)) for disc in discs]
        masks[str(number)] = [{**rle, "counts": rle["counts"].decode("ascii")} for rle in encoded]
        entries = {str(key): {"exp": exp, "obj_id": [0], "anno_id": [number]} for key, exp in enumerate(EXPRESSIONS)}
        videos[name] = {"expressions": entries, "vid_id": number, "frames": [path.stem for path in frames]}
    atomic_write_json(folder / "train" / "meta_expressions.json", {"videos": videos})
    atomic_write_json(folder / "train" / "mask_dict.json", masks)


def open_clips(folder: Path, frames: int, side: int) -> ClipSet:
    """The training set of `write_videos`, with augmentation."""
    others: dict[str, Any] = dict.fromkeys(("ytvos_path", "davis_path", "coco_path"), folder)
    return open_training_set("mevis", **others, mevis_path=folder, num_frames=frames, side=side, augment=True, seed=0)


def seconds_per_clip(clips: ClipSet, batch: int, workers: int, steps: int, repeats: int) -> list[float]:
    """Median seconds between two clips in each of some rounds of `steps` batches, where nobody else has to wait.

    Args:
        clips: to draw from.
        batch: clips of a step.
        workers: loading processes, 0 for none.
        steps: batches of a round.
        repeats: rounds; one before them warms up.
    """
    sampler = BatchSampler(len(clips), batch, seed=0)
    found = []
    with closing(make_loader(clips, sampler, workers)) as loader:
        batches = _endless(loader, sampler)
        for repeat in range(repeats + 1):
            started = time.perf_counter()
            for _ in tqdm(itertools.islice(batches, steps), f"{workers} workers", steps, unit="batch", leave=False):
                pass
            if repeat:
                found.append((time.perf_counter() - started) / (steps * batch))
        batches.close()
    return found


def _endless(loader: ClipLoader, sampler: BatchSampler) -> Generator[ClipBatch]:
    """The batches of one epoch after the other."""
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from loader


def print_loading(found: Mapping[int, Sequence[float]]) -> None:
    """A table."""
    print("workers  clips per second  ms per clip (spread)")
    for workers, seconds in found.items():
        median = statistics.median(seconds)
        spread = f"{1e3 * min(seconds):.0f} to {1e3 * max(seconds):.0f}"
        print(f"{workers:7}  {1 / median:16.1f}  {1e3 * median:.0f} ({spread})")
