"""What one run leaves on disk: every frame as it is shown, and how probable the object is at each of its pixels.

Probabilities are kept as the number of hundredths that they exceed, so that a threshold of 0.01, 0.02, ... 0.99 can be
chosen afterwards and gives exactly the masks of `FrameResult.masks`.

Axes: E sentences, H rows and W columns of a source frame, h and w of the frame as it is shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from engine.infer import FrameResult
from util.drawing import draw_overlay, palette
from util.errors import InputError

LEVELS = 99
SHOWN_SIDE = 960  # longest side of a frame in the page, in pixels
_JPEG_QUALITY = 88


def threshold_level(threshold: float) -> int:
    """The hundredth, 1 to 99, that a threshold between 0 and 1 stands for."""
    return min(max(round(threshold * (LEVELS + 1)), 1), LEVELS)


def levels_of(probabilities: torch.Tensor) -> torch.Tensor:
    """How many of 0.01, 0.02, ... 0.99 each probability exceeds.

    Args:
        probabilities: float32, any shape.

    Returns:
        uint8, the same shape, 0 to 99.
    """
    steps = LEVELS + 1
    levels = (probabilities * steps).ceil_().sub_(1).clamp_(0, LEVELS)
    levels += probabilities > (levels + 1) / steps  # the product was rounded
    levels -= (probabilities <= levels / steps).float()
    return levels.clamp_(min=0).to(torch.uint8)


def probability_levels(result: FrameResult) -> Iterator[np.ndarray]:
    """Yield, for every sentence, (H, W) uint8: `levels_of` its probabilities in the source frame."""
    for index in range(len(result.logits)):
        alone = dataclasses.replace(result, logits=result.logits[index : index + 1])
        yield levels_of(alone.probabilities()[0]).cpu().numpy()


class RunStore:
    """The frames of a run that are done, in one file. One thread appends while others read.

    Args:
        path: of the file; it is deleted by `close`.
        frame_size: (H, W) of the source.
        sentences: E sentences.
        most_bytes: how large the file may become.

    Attributes:
        scores: for every frame, E object-score logits.
    """

    def __init__(self, path: Path, frame_size: tuple[int, int], sentences: Sequence[str], most_bytes: int) -> None:
        self.path = path
        self.frame_size = frame_size
        self.sentences = tuple(sentences)
        self.scores: list[list[float]] = []
        self._most_bytes = most_bytes
        self._file = path.open("w+b", buffering=0)  # what is counted has been written
        self._lock = threading.Lock()
        self._ends: list[list[int]] = []  # for every frame, where its picture and its E arrays end

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, frame: np.ndarray, result: FrameResult) -> None:
        """Keep the next frame.

        Args:
            frame: (H, W, 3) uint8 RGB.
            result: of this frame, for all sentences.

        Raises:
            InputError: the file has become too large.
            OSError: it cannot be written; the frame does not count, and the earlier ones stay.
        """
        parts = [encode_jpeg(shrink(frame, shown_size(self.frame_size)))]
        parts += [zlib.compress(levels.tobytes(), 1) for levels in probability_levels(result)]
        end = self._ends[-1][-1] if self._ends else 0
        if end + sum(map(len, parts)) > self._most_bytes:
            raise InputError(
                f"The results have become too large after {len(self)} frames. Take a shorter or smaller video, or "
                "fewer sentences."
            )
        ends = [end + sum(map(len, parts[: number + 1])) for number in range(len(parts))]
        with self._opened():
            self._file.seek(end)
            rest = memoryview(b"".join(parts))
            while rest:
                rest = rest[self._file.write(rest) :]
            self.scores.append(result.object_scores.tolist())
            self._ends.append(ends)

    def masks(self, index: int, threshold: float) -> Iterator[np.ndarray]:
        """Yield the masks of a frame, (H, W) bool, one per sentence, as `FrameResult.masks` gives them."""
        level = threshold_level(threshold)
        for number in range(len(self.sentences)):
            yield self._levels(index, number) >= level

    def overlay(self, index: int, threshold: float) -> np.ndarray:
        """(h, w, 3) uint8 RGB: a frame as it is shown, with its masks in colour and a legend."""
        picture = cv2.imdecode(np.frombuffer(self._part(index, 0), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        height, width = shown_size(self.frame_size)
        masks = (mask.astype(np.uint8) for mask in self.masks(index, threshold))
        small = [cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool) for mask in masks]
        return draw_overlay(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), small, palette(len(small)), self.sentences)

    def close(self) -> None:
        """Delete the file. What is asked for afterwards raises InputError."""
        with self._lock, contextlib.suppress(OSError):  # a full disk must not keep the file
            self._file.close()
        self.path.unlink(missing_ok=True)

    def _levels(self, index: int, number: int) -> np.ndarray:
        return np.frombuffer(zlib.decompress(self._part(index, 1 + number)), np.uint8).reshape(self.frame_size)

    def _part(self, index: int, part: int) -> bytes:
        ends = self._ends[index]
        start = ends[part - 1] if part else (self._ends[index - 1][-1] if index else 0)
        with self._opened():
            self._file.seek(start)
            return self._file.read(ends[part] - start)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        with self._lock:
            if self._file.closed:
                raise InputError("These results were given up. Segment the video again.")
            yield


def shown_size(frame_size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) at which frames of (H, W) are shown: at most `SHOWN_SIDE` long."""
    scale = min(1.0, SHOWN_SIDE / max(frame_size))
    return max(1, round(frame_size[0] * scale)), max(1, round(frame_size[1] * scale))


def shrink(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame (H, W, 3) at a smaller size (h, w), or itself where it has this size already."""
    if frame.shape[:2] == size:
        return frame
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)


def encode_jpeg(frame: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB as a JPEG."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
    assert done
    return data.tobytes()
