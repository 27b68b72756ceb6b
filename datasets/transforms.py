"""How a frame becomes network input. Axes: T frames, H rows, W columns of a frame, S side of the network input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from datasets.media_base import size_of_frame

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
NETWORK_SIDE = 1024
SHORT_SIDE = 1020  # of 1024: the published evaluation asks for this short side, and at most 1024 for the long one


def evaluation_size(height: int, width: int, side: int = NETWORK_SIDE) -> tuple[int, int]:
    """Size of a frame after the evaluation resize.

    The short side becomes 1020 (of 1024), unless the long side would pass 1024; then the long side is 1024 and short =
    int(1024 * 1020 / int(1020 * long / short)).

    Args:
        height, width: of the frame in pixels, at least 1.
        side: S; both limits scale with it.

    Returns:
        (height, width), each at least 1 and at most S.
    """
    short, long = min(height, width), max(height, width)
    new_short = max(side * SHORT_SIDE // NETWORK_SIDE, 1)
    new_long = int(new_short * long / short)
    if new_long > side:
        new_short, new_long = max(int(side * new_short / new_long), 1), side
    return (new_short, new_long) if height <= width else (new_long, new_short)


def training_size(height: int, width: int, side: int = NETWORK_SIDE, short: int | None = None) -> tuple[int, int]:
    """Size of a frame after the resize in training (model.md, section 1).

    The short side becomes round(S * short / long) and the long one int(new short * long / short), which is S or just
    below; frames of more than twice their height, where this can pass S by a pixel, are kept at S.

    Args:
        height, width: of the frame in pixels, at least 1.
        side: S.
        short: another length of the short side, used where the long side then is at most S.

    Returns:
        (height, width), each at least 1 and at most S.
    """
    old_short, old_long = min(height, width), max(height, width)
    if short is None or short * old_long > side * old_short:
        short = max(round(side * old_short / old_long), 1)
    long = min(short * old_long // old_short, side)
    return (short, long) if height <= width else (long, short)


def resize_frame(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resize with antialiasing, as PIL does it.

    Args:
        frame: (H, W, 3) uint8.
        size: (height, width).

    Returns:
        (height, width, 3) uint8.
    """
    if frame.shape[:2] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class ResizedFrame:
    """A frame as large as it goes into the network, see `prepare_frame`.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        size: (H, W) of the source frame.
    """

    pixels: np.ndarray
    size: tuple[int, int]


def prepare_frame(frame: np.ndarray, side: int) -> ResizedFrame:
    """The evaluation resize, which any thread can do ahead of the network; the pixels are a copy.

    Args:
        frame: (H, W, 3) uint8 RGB.
        side: S.

    Raises:
        InputError: the frame is anything else, or empty.
    """
    size = size_of_frame(frame)
    return ResizedFrame(np.array(resize_frame(frame, evaluation_size(*size, side))), size)


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize by nearest neighbour, as PyTorch's mode "nearest" chooses it: row i of h is row floor(i * H / h) of H.

    Args:
        masks: (T, H, W) bool.
        size: (height, width).

    Returns:
        (T, height, width) bool.
    """
    if tuple(masks.shape[1:]) == size:
        return masks
    return F.interpolate(masks[None].byte(), size=size, mode="nearest")[0].bool()


def normalise(frames: Tensor) -> Tensor:
    """Colours as the network reads them: divided by 255, minus the mean, divided by the standard deviation.

    Args:
        frames: (..., 3, h, w) uint8 RGB.

    Returns:
        (..., 3, h, w) float32 on the same device, a new tensor.
    """
    ones = torch.ones(1, 1, 1, device=frames.device)  # copying values to a GPU would wait for it
    mean, std = (torch.cat([ones * value for value in values]) for values in (MEAN, STD))
    return frames.float().div_(255).sub_(mean).div_(std)


def to_network_input(frames: Sequence[np.ndarray], side: int, device: torch.device | str = "cpu") -> Tensor:
    """Normalise frames of one size and pad them with zeros on the right and at the bottom.

    Args:
        frames: T frames (h, w, 3) uint8 RGB, h and w at most S.
        side: S.
        device: where the result is made; the frames travel there as bytes, to a GPU from page-locked memory.

    Returns:
        (T, 3, S, S) float32.
    """
    pixels = torch.from_numpy(np.stack(frames))
    locked = torch.device(device).type == "cuda"  # any other device reads memory that may be gone by then
    if locked:
        pixels = pixels.pin_memory()
    normal = normalise(pixels.to(device, non_blocking=locked).permute(0, 3, 1, 2))
    return F.pad(normal, (0, side - normal.shape[3], 0, side - normal.shape[2]))
