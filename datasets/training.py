"""The training sets: from a name and a folder to clips, each a function of seed, epoch and index alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.augmentation import ClipTransform
from datasets.clip_sampling import global_frames, local_frames
from datasets.masks import read_frame
from datasets.mevis import open_mevis
from datasets.ref_davis import open_ref_davis
from datasets.ref_ytvos import open_ref_ytvos
from datasets.refcoco import SPLITS, open_refcoco
from datasets.training_clips import ClipBatch, TrainingClip
from datasets.training_loader import BatchSampler, ClipLoader, make_loader
from datasets.training_sources import ClipSource, DrawnClip, ImageClips, JoinedClips, VideoClips
from datasets.validation import shape
from util.errors import InputError

__all__ = ["BatchSampler", "ClipBatch", "ClipLoader", "ClipSet", "TrainingClip", "make_loader", "open_training_set"]

logger = logging.getLogger(__name__)

SPLIT = "train"
REPLACEMENTS = 1000  # clips that are tried in place of one without a visible target before giving up


class ClipSet(Dataset[TrainingClip]):
    """Training clips. Every clip depends on (seed, epoch, index) and the files, on nothing else.

    Args:
        name: for messages.
        source: chooses frames and decodes masks.
        transform: resizes and augments.
        seed: of everything random, at least 0.
    """

    def __init__(self, name: str, source: ClipSource, transform: ClipTransform, seed: int) -> None:
        self.name = name
        self.seed = seed
        self._source = source
        self._transform = transform

    def __len__(self) -> int:
        """Number of clip starts."""
        return len(self._source)

    def sentences(self) -> Iterator[tuple[str, str]]:
        """Every caption, after the place where it stands."""
        return self._source.sentences()

    def __getitem__(self, key: tuple[int, int]) -> TrainingClip:
        """Clip `index` in `epoch`, or another one drawn in its place if its target is not visible or a file is bad.

        Args:
            key: (epoch, index), both at least 0 and index below the length.

        Raises:
            InputError: no clip with a visible target was found.
        """
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        faults: list[str] = []
        for _ in range(REPLACEMENTS):
            try:
                drawn = self._source.draw(index, rng)
                if drawn.masks.any():
                    return replace(self._decoded(drawn, rng), faults=tuple(faults))
            except (InputError, OSError) as error:
                faults.append(" ".join(str(error).split()))
            index = int(rng.integers(len(self)))
        found = f"{len(faults)} could not be read, the first because of {faults[0]}" if faults else "all were readable"
        raise InputError(
            f"{self.name}: none of {REPLACEMENTS} clips shows its target ({found}); "
            "tools/data/check_dataset.py checks all files"
        )

    def _decoded(self, drawn: DrawnClip, rng: np.random.Generator) -> TrainingClip:
        """The clip with its pixels; a frame that it has twice is decoded once. Raises InputError naming a file."""
        places: dict[Path, int] = {}
        for place, path in enumerate(drawn.paths):
            places.setdefault(path, place)
        frames, size = [], drawn.masks.shape[1:]
        for path in places:
            frame = read_frame(path)
            if frame.shape[:2] != size:
                raise InputError(f"{path}: the frame is {shape(frame.shape[:2])}, its mask {shape(size)}")
            frames.append(frame)
        pixels, masks = self._transform(frames, drawn.masks[list(places.values())], rng)
        if len(places) < len(drawn.paths):
            order = torch.tensor([list(places).index(path) for path in drawn.paths])
            pixels, masks = pixels[order], masks[order]
        return TrainingClip(pixels, masks, drawn.caption, tuple(map(str, drawn.paths)))


def open_training_set(
    name: str,
    *,
    ytvos_path: str | Path,
    mevis_path: str | Path,
    davis_path: str | Path,
    coco_path: str | Path,
    num_frames: int,
    side: int,
    augment: bool,
    seed: int,
    mevis_version: int | None = None,
) -> ClipSet:
    """Open and check a training split.

    Args:
        name: ytvos, mevis, davis, refcoco, refcoco+, refcocog, or all (the last three together).
        ytvos_path, mevis_path, davis_path, coco_path: folders of the data sets; only those of `name` are opened.
        num_frames: T; has to be 1 for images.
        side: of the network input in pixels.
        augment: see `ClipTransform`.
        seed: of everything random, at least 0.
        mevis_version: see `open_mevis`.

    Raises:
        InputError: there is no such set, files are missing or malformed (file and key are named), or `num_frames` does
            not fit.
    """
    names = tuple(SPLITS) if name == "all" else (name,)
    source: ClipSource
    if set(names) <= set(SPLITS):
        if num_frames != 1:
            raise InputError(f"--num_frames {num_frames}: {name} consists of images; give --num_frames 1")
        require_folder(coco_path, "--coco_path", "tools/data/convert_refexp_to_coco.py fills it")
        source = JoinedClips([ImageClips(open_refcoco(coco_path, each, SPLIT)) for each in names])
    elif name == "mevis":
        require_folder(mevis_path, "--mevis_path", "the data set comes in this layout and needs no converter")
        source = VideoClips(open_mevis(mevis_path, SPLIT, mevis_version), num_frames, global_frames)
    elif name == "ytvos":
        require_folder(ytvos_path, "--ytvos_path", "the data set comes in this layout and needs no converter")
        source = VideoClips(open_ref_ytvos(ytvos_path, SPLIT), num_frames, local_frames)
    elif name == "davis":
        converter = "tools/data/convert_davis_to_ytvos.py makes it"
        require_folder(Path(davis_path) / SPLIT, "--davis_path", converter)
        source = VideoClips(open_ref_davis(davis_path, SPLIT), num_frames, local_frames)
    else:
        known = ", ".join(("ytvos", "mevis", "davis", *SPLITS, "all"))
        raise InputError(f"--dataset_file {name}: no such training set, expected one of {known}")
    logger.info("%s (%s): %d clips of %d frames", name, SPLIT, len(source), num_frames)
    return ClipSet(name, source, ClipTransform(side, augment), seed)


def require_folder(folder: str | Path, flag: str, origin: str) -> None:
    """Raise an InputError that names the `flag` which leads to `folder`, and its `origin`, if it is not there."""
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: the folder is missing ({flag}); {origin}; docs/data.md tells the layout")
