"""Frames that a program has already, as `Media`: arrays, Pillow's images, or the paths of image files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.media_base import Frame, Media, size_of_frame
from datasets.media_image import read_image, rgb_of, upright_size
from util.errors import InputError

FRAMES_FPS = Fraction(10)

Picture = Frame | Image.Image | str | Path


def open_frames(frames: Frame | Image.Image | Iterable[Picture], fps: Fraction | None) -> Media:
    """Frames as `Media`; what can be read only once says so the second time.

    Args:
        frames: a single frame, several as an array (T, H, W, 3), a sequence, or any iterator. An array is (H, W, 3)
            uint8 RGB; a file is decoded when its turn comes.
        fps: frames per second that they stand for, by default `FRAMES_FPS`.

    Raises:
        InputError: no frames, frames of another kind or of several sizes; of an iterator only the first is looked at.
    """
    rate = fps or FRAMES_FPS
    if isinstance(frames, Image.Image) or (isinstance(frames, np.ndarray) and frames.ndim != 4):
        frame = _frame_of(frames)
        return Media("array", "image", size_of_frame(frame), None, 1, None, lambda: iter((frame,)))
    if isinstance(frames, (np.ndarray, Sequence)):
        sequence = frames
        return Media(
            "array", "video", _common_size(sequence), rate, len(sequence), None, lambda: map(_frame_of, sequence)
        )
    if not isinstance(frames, Iterable):
        raise InputError(f"expected a path, a URL or frames of a video, found {frames!r}")
    # An iterator may use its buffer again, and frames are taken ahead of the network.
    taken = (frame.copy() if isinstance(frame, np.ndarray) else _frame_of(frame) for frame in frames)
    first = next(taken, None)
    if first is None:
        raise InputError("expected at least one frame, found none")
    return Media("iterator", "video", size_of_frame(first), rate, None, None, once(itertools.chain((first,), taken)))


def once(frames: Iterator[Frame]) -> Callable[[], Iterator[Frame]]:
    """For `Media`: gives the iterator the first time; InputError from then on."""
    waiting = [frames]

    def take() -> Iterator[Frame]:
        if not waiting:
            raise InputError(
                "these frames could be read only once: take them in the first iteration, or ask for the masks"
            )
        return waiting.pop()

    return take


def _frame_of(picture: Any) -> Any:
    """A file or an image as an array; anything else as it is."""
    if isinstance(picture, (str, Path)):
        return read_image(Path(picture))
    return rgb_of(picture) if isinstance(picture, Image.Image) else picture


def _common_size(frames: np.ndarray | Sequence[Picture]) -> tuple[int, int]:
    """(H, W) of all frames."""
    if not len(frames):
        raise InputError("expected at least one frame, found none")
    size = _size_of(frames[0])
    for index, frame in enumerate(frames if isinstance(frames, (list, tuple)) else ()):  # others may decode
        if (other := _size_of(frame)) != size:
            raise InputError(
                f"frame {index} is {other[1]}x{other[0]}, the first one {size[1]}x{size[0]}: segment them apart"
            )
    return size


def _size_of(picture: Any) -> tuple[int, int]:
    return upright_size(Path(picture)) if isinstance(picture, (str, Path)) else size_of_frame(_frame_of(picture))
