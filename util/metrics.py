"""Region similarity J and boundary measure F of binary masks, and their statistics over a sequence.

Axis letters: H, W rows and columns of a mask; T frames of a sequence; B 64-bit words of a packed row.

J and F are those of the DAVIS benchmark (Perazzi et al., CVPR 2016, section 4; Pont-Tuset et al., 2017). A mask is
kept as one bit per pixel, so that 64 pixels are compared, shifted and counted at a time. That is exact, and the
boundary of a mask and its surroundings are computed once however many other masks it is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from util.errors import InputError

BOUNDARY_TOLERANCE = 0.008  # of the image diagonal
RECALL_THRESHOLD = 0.5
DECAY_BINS = 4
_WORD_BITS = 64

Mask = NDArray[np.bool_]
_Words = NDArray[np.uint64]


def boundary_radius(height: int, width: int) -> int:
    """Radius in pixels of the disk within which two boundary pixels match: ceil(0.008 x image diagonal)."""
    return math.ceil(BOUNDARY_TOLERANCE * math.hypot(height, width))


def jaccard(prediction: np.ndarray, target: np.ndarray) -> float:
    """Intersection over union of two masks; 1 if both are empty.

    Args:
        prediction, target: (H, W), every value but 0 (False) is foreground.

    Raises:
        InputError: the masks differ in size.
    """
    return PackedMask(prediction).jaccard(PackedMask(target))


def boundary_f(prediction: np.ndarray, target: np.ndarray) -> float:
    """Harmonic mean of boundary precision and recall; 1 if neither mask has a boundary, 0 if one of them has none.

    Arguments and errors are those of `jaccard`.
    """
    return PackedMask(prediction).boundary_f(PackedMask(target))


def frame_scores(prediction: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """(J, F) of one frame; arguments and errors are those of `jaccard`."""
    first, second = PackedMask(prediction), PackedMask(target)
    return first.jaccard(second), first.boundary_f(second)


def video_scores(
    predictions: Sequence[np.ndarray] | np.ndarray, targets: Sequence[np.ndarray] | np.ndarray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """J (T,) and F (T,) of T frames.

    Args:
        predictions, targets: T masks each, (H, W) or one array (T, H, W).

    Raises:
        InputError: the numbers of frames or the sizes of two masks differ.
    """
    if len(predictions) != len(targets):
        raise InputError(f"expected one predicted mask per frame: {len(predictions)} masks, {len(targets)} frames")
    scores = np.array([frame_scores(*pair) for pair in zip(predictions, targets, strict=True)], dtype=np.float64)
    scores = scores.reshape(-1, 2)
    return scores[:, 0], scores[:, 1]


@dataclass(frozen=True)
class SequenceStatistics:
    """What DAVIS reports of the per-frame values of one object: mean, share above 0.5, loss from first to last bin."""

    mean: float
    recall: float
    decay: float


def sequence_statistics(values: Sequence[float] | NDArray[np.float64]) -> SequenceStatistics:
    """Mean, recall (> 0.5) and decay of per-frame values (T,), T >= 1.

    Decay is the mean of the first of four bins minus that of the last; as in the DAVIS-2017 evaluation neighbouring
    bins share the frame at their border.

    Raises:
        InputError: there are no frames.
    """
    frames = np.asarray(values, dtype=np.float64)
    if frames.size == 0:
        raise InputError("expected the values of at least one frame, found none: the sequence is too short to score")
    edges = np.round(np.linspace(1, frames.size, DECAY_BINS + 1) + 1e-10).astype(np.int64) - 1
    first, last = frames[: edges[1] + 1], frames[edges[-2] :]
    return SequenceStatistics(
        mean=float(frames.mean()),
        recall=float((frames > RECALL_THRESHOLD).mean()),
        decay=float(first.mean() - last.mean()),
    )


@dataclass(frozen=True)
class _Window:
    """A cut of an image of bits: (rows, words), its first row and first word in the image (a row may be outside)."""

    bits: _Words
    top: int
    left: int

    def common(self, other: _Window) -> int:
        """Number of pixels that are set in both windows."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = min(self.top + self.bits.shape[0], other.top + other.bits.shape[0])
        right = min(self.left + self.bits.shape[1], other.left + other.bits.shape[1])
        if top >= bottom or left >= right:
            return 0
        own, others = (
            window.bits[top - window.top : bottom - window.top, left - window.left : right - window.left]
            for window in (self, other)
        )
        return _count_bits(own & others)


@dataclass(frozen=True)
class _Boundary:
    """Boundary pixels of one mask, their number, and all pixels within the matching radius of one of them."""

    pixels: _Window
    near: _Window
    count: int


class PackedMask:
    """A binary mask of one bit per pixel, ready to be compared with others of its size.

    Args:
        mask: (H, W), every value but 0 (False) is foreground.

    Raises:
        InputError: `mask` has no pixels or is not of two dimensions.
    """

    def __init__(self, mask: np.ndarray) -> None:
        if mask.ndim != 2 or mask.size == 0:
            raise InputError(f"expected a mask of two dimensions (rows, columns), found the shape {mask.shape}")
        foreground = mask if mask.dtype == np.bool_ else mask != 0
        self.height, self.width = mask.shape
        self._radius = boundary_radius(self.height, self.width)
        self._margin = -(-self._radius // _WORD_BITS)
        self._bits = _pack_rows(foreground, self._margin)

    @cached_property
    def area(self) -> int:
        """Number of foreground pixels."""
        return _count_bits(self._bits)

    def jaccard(self, other: PackedMask) -> float:
        """Intersection over union; 1 if both masks are empty. Raises InputError for another size."""
        self._check_size(other)
        union = self.area + other.area
        if union == 0:
            return 1.0
        intersection = _count_bits(self._bits & other._bits)
        return intersection / (union - intersection)

    def boundary_f(self, other: PackedMask) -> float:
        """Boundary F-measure, the same in both directions. Raises InputError for another size."""
        self._check_size(other)
        own, others = self._boundary, other._boundary
        if own.count == 0 or others.count == 0:
            return float(own.count == others.count)
        precision = own.pixels.common(others.near) / own.count
        recall = others.pixels.common(own.near) / others.count
        if precision + recall == 0:
            return 0.0
        return 2 * precision * recall / (precision + recall)

    def _check_size(self, other: PackedMask) -> None:
        if (self.height, self.width) != (other.height, other.width):
            sizes = " and ".join(f"{mask.width}x{mask.height}" for mask in (self, other))
            raise InputError(f"expected two masks of equal size, found {sizes} (width x height)")

    @cached_property
    def _boundary(self) -> _Boundary:
        x, y, filled_bytes, filled_rows = cv2.boundingRect(self._bits.view(np.uint8))
        if filled_rows == 0:
            nothing = _Window(bits=self._bits[:0], top=0, left=0)
            return _Boundary(pixels=nothing, near=nothing, count=0)
        # boundary pixels are at most one row above and one column before the mask's own
        top, bottom = max(y - 1, 0), y + filled_rows
        left = max((8 * x - 1) // _WORD_BITS, self._margin) - self._margin
        right = (8 * (x + filled_bytes) - 1) // _WORD_BITS + 1 + self._margin
        bits = self._bits[top : bottom + 1, left:right].copy()
        border = self.width + (self._margin - left) * _WORD_BITS
        boundary = _boundary_bits(bits, border, rows=bottom - top)
        boundary &= _pack_rows(np.ones((1, self.width), dtype=np.bool_), self._margin)[:, left:right]
        return _Boundary(
            pixels=_Window(boundary, top, left),
            near=_Window(_dilate(boundary, self._radius), top - self._radius, left),
            count=_count_bits(boundary),
        )


def _pack_rows(mask: Mask, margin: int) -> _Words:
    """(H, W) bool -> (H, B) words: `margin` empty words, the row with column i as bit i, and `margin` or more again."""
    height, width = mask.shape
    words = -(-width // _WORD_BITS) + 2 * margin
    packed = np.zeros((height, words), dtype="<u8")
    row_bytes = np.packbits(mask, axis=1, bitorder="little")
    first = margin * _WORD_BITS // 8
    packed.view(np.uint8)[:, first : first + row_bytes.shape[1]] = row_bytes
    return packed


def _count_bits(words: _Words) -> int:
    """Number of set bits of an array of words."""
    if words.size == 0:
        return 0
    return int(cv2.norm(np.ascontiguousarray(words).view(np.uint8), cv2.NORM_HAMMING))


def _boundary_bits(bits: _Words, border: int, rows: int) -> _Words:
    """(rows or rows + 1, B) bits of a mask -> (rows, B) pixels unlike their right, lower or lower-right neighbour.

    A neighbour outside the image is not compared: the last column of the image is repeated beyond the border, in bit
    `border` (in `bits`, which it changes), and its last row too if `bits` holds no row below; there they differ from
    nothing new. The bits outside the image mean nothing in the result. Every row begins and ends with an empty word.
    """
    word, bit = divmod(border, _WORD_BITS)
    last_word, last_bit = divmod(border - 1, _WORD_BITS)
    if word < bits.shape[1]:  # else the mask ends before the last column
        bits[:, word] |= ((bits[:, last_word] >> np.uint64(last_bit)) & np.uint64(1)) << np.uint64(bit)
    if len(bits) == rows:
        bits = np.concatenate([bits, bits[-1:]])
    right = bits >> np.uint64(1)
    right.reshape(-1)[:-1] |= bits.reshape(-1)[1:] << np.uint64(_WORD_BITS - 1)
    own, below = bits[:rows], bits[1:]
    different = own ^ right[:rows]
    different |= own ^ below
    different |= own ^ right[1:]
    return different


def _dilate(bits: _Words, radius: int) -> _Words:
    """(rows, B) -> (rows + 2 radius, B) bits within `radius` of a set bit (Euclidean distance); row 0 is row -radius.

    A disk is a stack of horizontal runs: the run of half width floor(sqrt(radius^2 - dy^2)) at dy rows above and below.
    From the tips inwards the runs grow, each from the one before. Every row begins and ends with `radius` or more empty
    bits, so that nothing gets from one row into another.
    """
    near = np.zeros((len(bits) + 2 * radius, bits.shape[1]), dtype=bits.dtype)
    run, half_width = bits.copy(), 0
    for offset in range(radius, -1, -1):
        wanted = math.isqrt(radius * radius - offset * offset)
        while half_width < wanted:
            step = min(wanted - half_width, 2 * half_width + 1)  # a longer step would leave holes
            _widen(run, step)
            half_width += step
        for top in {radius - offset, radius + offset}:
            rows = near[top : top + len(bits)]
            np.bitwise_or(rows, run, out=rows)
    return near


def _widen(words: _Words, steps: int) -> None:
    """Set also the bits `steps` columns (1 to 63) left and right of every set bit; all rows are one string of bits."""
    line = words.reshape(-1)
    inward, carried = np.uint64(steps), np.uint64(_WORD_BITS - steps)
    right, left = line << inward, line >> inward
    right[1:] |= line[:-1] >> carried
    left[:-1] |= line[1:] << carried
    line |= right
    line |= left
