"""What a training step gets: clips, and batches of them that travel between processes as one block of bytes.

Axes: B clips of a batch, T frames of a clip, h and w of one clip, H and W common to a batch, S side of the network's
input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datasets.transforms import normalise


@dataclass(frozen=True, eq=False)
class TrainingClip:
    """One expression with some frames of its video.

    Attributes:
        frames: (T, 3, h, w) uint8 RGB, resized, not padded.
        masks: (T, h, w) bool, the target; visible in at least one frame before the resize.
        caption: in lower case with white space folded.
        files: the T frames on disk; one that is in the clip twice is listed twice.
        faults: why clips that were to be in this one's place could not be read; each message names its file.
    """

    frames: Tensor
    masks: Tensor
    caption: str
    files: tuple[str, ...]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """B clips with equally many frames, which may differ in size."""

    clips: tuple[TrainingClip, ...]

    @property
    def captions(self) -> tuple[str, ...]:
        """The B captions."""
        return tuple(clip.caption for clip in self.clips)

    @property
    def files(self) -> tuple[str, ...]:
        """The B * T frames on disk."""
        return tuple(file for clip in self.clips for file in clip.files)

    @property
    def faults(self) -> tuple[str, ...]:
        """The faults of all clips: one message for each clip that could not be read and was replaced."""
        return tuple(fault for clip in self.clips for fault in clip.faults)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W): the largest height and the largest width of the clips."""
        heights, widths = zip(*(clip.masks.shape[1:] for clip in self.clips), strict=True)
        return max(heights), max(widths)

    def frames(self, side: int, device: torch.device | str) -> Tensor:
        """The network input: normalised, then padded with zeros on the right and at the bottom.

        Args:
            side: S, at least H and W.
            device: where it is made; the frames travel there as bytes.

        Returns:
            (B, T, 3, S, S) float32.
        """
        length = len(self.clips[0].frames)
        padded = torch.zeros(len(self.clips), length, 3, side, side, device=device)
        for place, clip in enumerate(self.clips):
            height, width = clip.frames.shape[2:]
            padded[place, :, :, :height, :width] = normalise(clip.frames.to(device, non_blocking=True))
        return padded

    def targets(self, device: torch.device | str, size: Sequence[int]) -> Tensor:
        """The masks, padded with False on the right and at the bottom.

        Args:
            device: where they are made.
            size: H and W, at least those of `ClipBatch.size`.

        Returns:
            (B, T, H, W) bool.
        """
        length = len(self.clips[0].masks)
        padded = torch.zeros(len(self.clips), length, *size, dtype=torch.bool, device=device)
        for place, clip in enumerate(self.clips):
            height, width = clip.masks.shape[1:]
            padded[place, :, :height, :width] = clip.masks.to(device, non_blocking=True)
        return padded

    def pin_memory(self) -> ClipBatch:
        """The same batch in page-locked memory, from which copies to a GPU run beside its work."""
        make, (data, labels) = self.__reduce__()
        return make(data.pin_memory(), labels)

    def __reduce__(self) -> tuple[Callable[..., ClipBatch], tuple[Tensor, list[Any]]]:
        """For pickle: one tensor with the bytes of all pixels, so that a batch is one block of shared memory."""
        parts = []
        for clip in self.clips:
            parts += [clip.frames.permute(0, 2, 3, 1).reshape(-1), clip.masks.reshape(-1).view(torch.uint8)]
        labels = [(tuple(clip.masks.shape), clip.caption, clip.files, clip.faults) for clip in self.clips]
        return _unpacked, (torch.cat(parts), labels)


def _unpacked(data: Tensor, labels: list[Any]) -> ClipBatch:
    """The batch whose pixels are `data` (see `ClipBatch.__reduce__`), without copying them."""
    sizes = [torch.Size(shape).numel() * channels for shape, *_ in labels for channels in (3, 1)]
    parts = iter(data.split(sizes))
    clips = []
    for (length, height, width), *rest in labels:
        frames = next(parts).view(length, height, width, 3).permute(0, 3, 1, 2)
        masks = next(parts).view(torch.bool).view(length, height, width)
        clips.append(TrainingClip(frames, masks, *rest))
    return ClipBatch(tuple(clips))
