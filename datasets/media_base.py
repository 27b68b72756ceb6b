"""What a source of frames is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from util.errors import InputError

Frame = np.ndarray  # (H, W, 3) uint8 RGB
SLOWEST, FASTEST = 0.001, 1000  # frames per second that may be asked for


@dataclass(frozen=True)
class Media:
    """Frames of an image, a video or a folder, decoded while they are iterated over; every iteration starts anew.

    Attributes:
        path: as the user gave it.
        kind: what it is.
        frame_size: (H, W) of every frame, as displayed (rotation applied).
        fps: frames per second, None for an image.
        length: the number of frames, None if it is not known beforehand. That of a video is counted in its packets;
            a few codecs hide packets without a frame among them.
        stems: names of the frames, None where they are numbered.
        frames: opens the source and yields its frames, as `__iter__` does.
    """

    path: str
    kind: Literal["image", "video", "folder"]
    frame_size: tuple[int, int]
    fps: Fraction | None
    length: int | None
    stems: Sequence[str] | None
    frames: Callable[[], Iterator[Frame]]

    def __iter__(self) -> Iterator[Frame]:
        """Yield (H, W, 3) uint8 RGB frames.

        Raises:
            InputError: a frame cannot be decoded; the message names it, and the frames before it were yielded.
        """
        return self.frames()

    def frame_name(self, index: int) -> str:
        """The name of the files made from frame `index`: in a folder the frame's own, otherwise 00000, 00001, ..."""
        return f"{index:05d}" if self.stems is None else self.stems[index]


def exact_rate(fps: float | None) -> Fraction | None:
    """Frames per second that were asked for, as a ratio of numbers that files of videos can hold.

    Raises:
        InputError: not from 0.001 to 1000.
    """
    if fps is None:
        return None
    if not SLOWEST <= fps <= FASTEST:
        raise InputError(f"fps={fps}: expected {SLOWEST} to {FASTEST} frames per second")
    return Fraction(fps).limit_denominator(1_000_000)
