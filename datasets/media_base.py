"""What a source of frames is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any, Literal

import numpy as np

from configs.schema import FRAME_RATES
from util.errors import InputError

Frame = np.ndarray  # (H, W, 3) uint8 RGB


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
        times: when the frames are shown, in seconds from the first one; empty where all are 1 / fps apart.
        steady: whether they are about 1 / fps apart, so that a video made of them needs no other times.
    """

    path: str
    kind: Literal["image", "video", "folder"]
    frame_size: tuple[int, int]
    fps: Fraction | None
    length: int | None
    stems: Sequence[str] | None
    frames: Callable[[], Iterator[Frame]]
    times: Sequence[float] = ()
    steady: bool = True

    def __iter__(self) -> Iterator[Frame]:
        """Yield (H, W, 3) uint8 RGB frames.

        Raises:
            InputError: a frame cannot be decoded; the message names it, and the frames before it were yielded.
        """
        return self.frames()

    def frame_name(self, index: int) -> str:
        """The name of the files made from frame `index`: in a folder the frame's own, otherwise 00000, 00001, ..."""
        return f"{index:05d}" if self.stems is None else self.stems[index]

    def time_of(self, index: int) -> float:
        """When frame `index` is shown, in seconds from the first one."""
        if index < len(self.times):
            return self.times[index]
        return 0.0 if self.fps is None else float(index / self.fps)


def exact_rate(fps: float | None) -> Fraction | None:
    """Frames per second that were asked for, as a ratio of numbers that files of videos can hold.

    Raises:
        InputError: no number, or outside of `FRAME_RATES`.
    """
    if fps is None:
        return None
    lowest, highest = FRAME_RATES
    if isinstance(fps, bool) or not isinstance(fps, Real) or not lowest <= fps <= highest:
        raise InputError(f"fps={fps!r}: expected {lowest} to {highest} frames per second")
    return Fraction(float(fps)).limit_denominator(1_000_000)


def size_of_frame(frame: Any) -> tuple[int, int]:
    """(H, W) of a frame.

    Raises:
        InputError: it is no uint8 array (H, W, 3), or empty.
    """
    fits = isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8
    if fits and not frame.size:
        raise InputError(f"the frame is empty: {frame.shape[1]}x{frame.shape[0]}")
    if not fits:
        found = f"{frame.dtype} of shape {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise InputError(f"expected frames as uint8 arrays (height, width, 3), found {found}")
    return frame.shape[0], frame.shape[1]
