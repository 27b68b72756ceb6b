"""Masks of several objects in one image, as DAVIS wants them: object numbers with a palette.

Axes: k objects, H rows, W columns.
"""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:  # processes that draw pictures do without PyTorch
    from torch import Tensor

BACKGROUND = 0.1  # what an object's probability must exceed; below the threshold it counts as 0 in any case


def draw_labels(probabilities: Tensor, threshold: float) -> Tensor:
    """Give every pixel to the most probable object, or to none if no probability reaches the threshold.

    Args:
        probabilities: (k, H, W), k at most 255.
        threshold: below which a probability counts as 0.

    Returns:
        (H, W) uint8, 0 for the background and 1 to k for the objects; of equal ones the first counts.
    """
    best = probabilities.new_full(probabilities.shape[1:], BACKGROUND)
    labels = best.byte().zero_()
    for number, probability in enumerate(probabilities, start=1):  # on a CPU argmax takes several times as long
        better = (probability >= threshold) & (probability > best)
        best = probability.where(better, best)
        labels.masked_fill_(better, number)
    return labels


def encode_labels(labels: NDArray[np.uint8]) -> bytes:
    """Object numbers (H, W) as a palette PNG."""
    image = Image.fromarray(labels).convert("P")
    image.putpalette(davis_palette())
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


@functools.cache
def davis_palette() -> bytes:
    """256 RGB colours, as in the masks of DAVIS and PASCAL VOC.

    The bits of a number, three at a time, set the bits of red, green and blue from the highest on.
    """
    numbers = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for step in range(8):
        for channel in range(3):
            bits = (numbers >> (3 * step + channel)) & 1
            colours[:, channel] |= (bits << (7 - step)).astype(np.uint8)
    return colours.tobytes()
