"""Masks as the benchmarks store them: COCO run lengths, COCO polygons, PNGs of object numbers; frames to match.

Axes: H rows, W columns. A mask that does not decode raises `ValueError` with the reason; callers add file and key.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from util.errors import InputError

# What Pillow raises for files that are not images, or broken ones.
UNREADABLE_IMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)

BITS_PER_CHARACTER = 5
MAX_CHARACTERS_PER_RUN = 7  # 35 bits: more than any run of an image needs
MAX_RUN = 1 << (BITS_PER_CHARACTER * MAX_CHARACTERS_PER_RUN)  # sums of such runs fit into 64 bits
MAX_COORDINATE = 1e5


def rle_runs(rle: Any) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """The run lengths of a COCO RLE `{"size": [H, W], "counts": str | bytes | list}`, checked but not expanded.

    Returns:
        (N,) lengths of runs of 0, 1, 0, ... down the columns, and (H, W). The lengths add up to H * W.

    Raises:
        ValueError: this is no RLE, or its runs do not fill its size.
    """
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        raise ValueError("no run-length mask (an object with 'size' and 'counts')")
    size, counts = rle["size"], rle["counts"]
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise ValueError(f"'size' is {size!r}, expected [height, width]")
    if isinstance(counts, list):
        if not all(type(run) is int for run in counts):
            raise ValueError("'counts' holds something other than whole numbers")
        try:
            runs = np.array(counts, dtype=np.int64)
        except OverflowError:
            raise ValueError("'counts' holds a run that is longer than any image") from None
    elif isinstance(counts, str | bytes):
        runs = _runs_from_text(counts.encode() if isinstance(counts, str) else counts)
    else:
        raise ValueError("'counts' is neither text nor a list")
    height, width = size
    if ((runs < 0) | (runs >= MAX_RUN)).any() or runs.sum() != height * width:
        raise ValueError(f"the runs do not fill {height}x{width} pixels")
    return runs, (height, width)


def _runs_from_text(text: bytes) -> NDArray[np.int64]:
    """Run lengths (N,) from COCO's text form: 5 bits per character, least significant first, bit 5 means "goes on".

    From the fourth number on, each is the difference to the run two places before.
    """
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - ord("0")
    if codes.size == 0 or ((codes < 0) | (codes > 63)).any() or codes[-1] & 32:
        raise ValueError("'counts' is not COCO's text form of run lengths, or it is cut off")
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > MAX_CHARACTERS_PER_RUN:
        raise ValueError("'counts' holds a run that is longer than any image")
    place = np.arange(codes.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (BITS_PER_CHARACTER * place), starts)
    runs -= ((codes[ends] >> 4) & 1) << (BITS_PER_CHARACTER * lengths)  # the sign bit of the last character
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def decode_rle(rle: Any) -> NDArray[np.bool_]:
    """The mask (H, W) of a COCO RLE; raises ValueError as `rle_runs` does."""
    runs, (height, width) = rle_runs(rle)
    columns = np.repeat(np.arange(runs.size) % 2 == 1, runs)
    return np.ascontiguousarray(columns.reshape(width, height).T)


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of a COCO `segmentation`: polygons `[[x, y, x, y, ...], ...]` in pixels, or an RLE.

    Raises:
        ValueError: it is neither, a polygon has fewer than three points or absurd ones, or an RLE has another size.
    """
    if isinstance(segmentation, Mapping):
        mask = decode_rle(segmentation)
        if mask.shape != size:
            raise ValueError(f"the mask is {mask.shape[0]}x{mask.shape[1]}, its image {size[0]}x{size[1]}")
        return mask
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("'segmentation' is neither a list of polygons nor a run-length mask")
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon is not a list of at least three x, y pairs")
        if not all(type(value) in (int, float) and abs(value) < MAX_COORDINATE for value in polygon):
            raise ValueError(f"a polygon holds something other than numbers below {MAX_COORDINATE:.0f}")
    merged = coco_mask.merge(coco_mask.frPyObjects([[float(v) for v in p] for p in segmentation], *size))
    return decode_rle({"size": size, "counts": merged["counts"]})


def read_labels(path: Path) -> NDArray[np.uint8]:
    """The object numbers (H, W) of an annotation PNG (palette or greyscale).

    Raises:
        ValueError: the file does not decode, or has another colour mode.
    """
    try:
        with Image.open(path) as image:
            mode, labels = image.mode, np.array(image)
    except FileNotFoundError:
        raise ValueError("the file is missing") from None
    except UNREADABLE_IMAGE as error:
        raise ValueError(f"the mask does not decode ({error})") from None
    if mode not in ("P", "L"):
        raise ValueError(f"the mask has colour mode {mode}, expected object numbers (P or L)")
    return labels


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image file, from its header alone.

    Raises:
        ValueError: the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
    except FileNotFoundError:
        raise ValueError("the file is missing") from None
    except UNREADABLE_IMAGE:
        raise ValueError("the file is no readable image") from None
    return height, width


def read_frame(path: Path) -> NDArray[np.uint8]:
    """A file's pixels (H, W, 3) RGB in the order in which they are stored, as masks have them: EXIF turns nothing.

    Raises:
        InputError: the file is missing or does not decode; it is named.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except UNREADABLE_IMAGE as error:
        raise InputError(
            f"{path}: the image does not decode ({error}); copy or download it again (tools/data/check_dataset.py "
            "reads headers only, and does not find files that are cut off later)"
        ) from error
