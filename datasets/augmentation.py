"""From decoded frames and masks to the pixels of a training clip, with one random choice for the whole clip.

Axes: T frames, H rows and W columns as decoded, h and w after the resize.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datasets.transforms import NETWORK_SIDE, resize_frame, resize_masks, training_size

SHORT_SIDES = (320, 392, 448, 480, 512, 640, 720)  # of 1024: what `--augm_resize` draws from
CHANGE_PROBABILITY = 0.5
BRIGHTNESS = 32.0  # grey values out of 255, added or taken away
CONTRAST = SATURATION = (0.5, 1.5)  # factors
HUE = 18.0  # degrees out of 360, in both directions


@dataclass(frozen=True)
class PhotometricDistortion:
    """A change of colours, as usual in the training of detectors since SSD (Liu et al., 2016, section 2.2).

    Attributes:
        brightness: added to the grey values (0 to 255).
        contrast: factor of the grey values.
        saturation: factor of the saturation.
        hue: degrees, added to the hue.
        contrast_last: whether contrast comes after saturation and hue.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    contrast_last: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator) -> PhotometricDistortion:
        """A random one: each of the four changes happens with probability one half."""
        happens = rng.random(4) < CHANGE_PROBABILITY
        return cls(
            brightness=rng.uniform(-BRIGHTNESS, BRIGHTNESS) * happens[0],
            contrast=rng.uniform(*CONTRAST) if happens[1] else 1.0,
            saturation=rng.uniform(*SATURATION) if happens[2] else 1.0,
            hue=rng.uniform(-HUE, HUE) * happens[3],
            contrast_last=bool(rng.random() < 0.5),
        )

    def __call__(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, changed.

        All in Pillow: OpenCV hangs in a process that was forked from one in which it had threads.
        """
        image = Image.fromarray(frame)
        first = 1.0 if self.contrast_last else self.contrast
        image = image.point(_table(3, lambda grey: (grey + self.brightness) * first))
        if (self.saturation, self.hue) != (1.0, 0.0):
            hue, saturation, value = image.convert("HSV").split()
            hue = hue.point(_table(1, lambda angle: (np.rint(angle + self.hue / 360 * 256)) % 256))
            saturation = saturation.point(_table(1, lambda amount: amount * self.saturation))
            image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
        if self.contrast_last:
            image = image.point(_table(3, lambda grey: grey * self.contrast))
        return np.asarray(image)


def _table(bands: int, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> list[int]:
    """What becomes of the values 0 to 255 of each band, for Pillow's `Image.point`."""
    return np.rint(np.clip(change(np.arange(256.0)), 0, 255)).astype(int).tolist() * bands


@dataclass(frozen=True)
class ClipTransform:
    """Resizes a clip so that it fits the network, and augments it if asked to.

    Attributes:
        side: of the network input in pixels.
        augment: photometric distortion and a random short side (`--augm_resize`).
    """

    side: int
    augment: bool = False

    def __call__(
        self, frames: Sequence[NDArray[np.uint8]], masks: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Transform the frames and masks of one clip alike.

        Args:
            frames: T frames (H, W, 3) uint8 RGB.
            masks: (T, H, W).
            rng: not used without `augment`.

        Returns:
            Frames (T, 3, h, w) uint8 (in memory the colours of a pixel are neighbours) and masks (T, h, w) bool; h and
            w are at most `side`.
        """
        height, width = masks.shape[1:]
        if self.augment:
            distort = PhotometricDistortion.draw(rng)
            short = max(round(int(rng.choice(SHORT_SIDES)) * self.side / NETWORK_SIDE), 1)
            size = training_size(height, width, self.side, short)
            if size[0] < height:  # colours are changed where there are fewer pixels
                frames = [distort(resize_frame(frame, size)) for frame in frames]
            else:
                frames = [resize_frame(distort(frame), size) for frame in frames]
        else:
            size = training_size(height, width, self.side)
            frames = [resize_frame(frame, size) for frame in frames]
        resized = np.stack(frames)
        return torch.from_numpy(resized).permute(0, 3, 1, 2), resize_masks(torch.from_numpy(masks), size)
