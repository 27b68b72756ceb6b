"""Where clips come from: which ones a data set has, their frames on disk and their masks.

Axes: N clips of a source, T frames of a clip, H rows and W columns of a frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from datasets.clip_sampling import FrameSampler, clip_starts
from datasets.packed import PackedLists, PackedValues
from datasets.refcoco import RefCocoDataset
from datasets.validation import shape
from datasets.video_index import MaskDictionary, VideoDataset, fold
from util.errors import InputError


@dataclass(frozen=True)
class DrawnClip:
    """A clip whose frames are not decoded yet.

    Attributes:
        caption: in lower case with white space folded.
        paths: the T frames.
        masks: (T, H, W) bool, the target in each of them.
    """

    caption: str
    paths: tuple[Path, ...]
    masks: NDArray[np.bool_]


class ClipSource(Protocol):
    """The clips of one training split."""

    def __len__(self) -> int:
        """N."""

    def sentences(self) -> Iterator[tuple[str, str]]:
        """Every caption, after the place where it stands."""

    def draw(self, index: int, rng: np.random.Generator) -> DrawnClip:
        """Choose the frames of clip `index` and decode their masks.

        Raises:
            InputError: a mask cannot be decoded; its file is named.
        """


class VideoClips:
    """A clip for every `num_frames`-th frame of every expression of every video.

    Args:
        dataset: a split with ground truth.
        num_frames: T.
        sampler: chooses the other frames of a clip.

    Raises:
        InputError: the split has no expression, or no ground truth.
    """

    def __init__(self, dataset: VideoDataset, num_frames: int, sampler: FrameSampler) -> None:
        if dataset.ground_truth is None:
            raise InputError(f"{dataset.name} ({dataset.split}) has no masks: a split with published ones is needed")
        starts = [
            (place, number, start)
            for place, video in enumerate(dataset.videos)
            for number in range(len(video.expressions))
            for start in clip_starts(len(video.frames), num_frames)
        ]
        if not starts:
            raise InputError(f"{dataset.meta_path}: no expression to train with, expected at least one")
        self._starts = np.array(starts, dtype=np.int32)  # (N, 3): video, expression, frame
        self._dataset = replace(dataset, ground_truth=None)
        self._ground_truth = dataset.ground_truth
        if isinstance(self._ground_truth, MaskDictionary):
            self._ground_truth = replace(self._ground_truth, masks=PackedLists.pack(self._ground_truth.masks))
        self._num_frames = num_frames
        self._sampler = sampler

    def __len__(self) -> int:
        """See `ClipSource`."""
        return len(self._starts)

    def sentences(self) -> Iterator[tuple[str, str]]:
        """See `ClipSource`."""
        return ((place, fold(text)) for place, text in self._dataset.sentences())

    def draw(self, index: int, rng: np.random.Generator) -> DrawnClip:
        """See `ClipSource`; a frame that the clip has twice is decoded once."""
        place, number, start = self._starts[index].tolist()
        video = self._dataset.videos[place]
        expression = video.expressions[number]
        frames = self._sampler(rng, len(video.frames), start, self._num_frames)
        masks = {frame: self._ground_truth.mask(video, expression, frame) for frame in sorted(set(frames))}
        if len({mask.shape for mask in masks.values()}) > 1:
            sizes = ", ".join(f"{video.frames[frame]} {shape(mask.shape)}" for frame, mask in masks.items())
            raise InputError(f"{video.frame_path(frames[0])}: the masks of its video differ in size: {sizes}")
        paths = tuple(video.frame_path(frame) for frame in frames)
        return DrawnClip(expression.caption, paths, np.stack([masks[frame] for frame in frames]))


class ImageClips:
    """A clip of one frame for every sentence of RefCOCO, RefCOCO+ or RefCOCOg.

    Raises:
        InputError: the split has no sentence.
    """

    def __init__(self, dataset: RefCocoDataset) -> None:
        if not dataset.objects:
            raise InputError(f"{dataset.path}: no sentence to train with, expected at least one")
        self._segmentations = PackedValues.pack(item.segmentation for item in dataset.objects)
        self._dataset = replace(dataset, objects=tuple(replace(item, segmentation=None) for item in dataset.objects))

    def __len__(self) -> int:
        """See `ClipSource`."""
        return len(self._dataset.objects)

    def sentences(self) -> Iterator[tuple[str, str]]:
        """See `ClipSource`."""
        return self._dataset.sentences()

    def draw(self, index: int, rng: np.random.Generator) -> DrawnClip:
        """See `ClipSource`; nothing is random here."""
        item = self._dataset.objects[index]
        mask = self._dataset.mask(replace(item, segmentation=self._segmentations[index]))
        return DrawnClip(item.caption, (self._dataset.image_path(item),), mask[None])


class JoinedClips:
    """The clips of several sources, one source after the other."""

    def __init__(self, sources: Sequence[ClipSource]) -> None:
        self._sources = tuple(sources)
        self._ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        """See `ClipSource`."""
        return int(self._ends[-1])

    def sentences(self) -> Iterator[tuple[str, str]]:
        """See `ClipSource`."""
        return itertools.chain.from_iterable(source.sentences() for source in self._sources)

    def draw(self, index: int, rng: np.random.Generator) -> DrawnClip:
        """See `ClipSource`."""
        place = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[place - 1]) if place else 0
        return self._sources[place].draw(index - start, rng)
