"""Masks of a video in any of the forms that an import takes. Axes: T masks, H rows, W columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.masks import UNREADABLE_IMAGE, decode_rle, image_size, rle_runs
from datasets.media import open_media
from datasets.validation import shape
from tools.data.importing.plan import MaskSource
from util.errors import InputError
from util.naming import natural_key

WHITE = 128  # of 255: from here on a pixel of a mask video (or JPEG) belongs to the object; coding blurs it


@dataclass(frozen=True)
class Masks:
    """T masks, decoded while they are iterated over.

    Attributes:
        count: T.
        size: (H, W); None: no mask says (all are null).
        read: yields each as (H, W) bool, or None for null; raises InputError if one does not decode.
        warning: what is odd about them, or "".
    """

    count: int
    size: tuple[int, int] | None
    read: Callable[[], Iterator[NDArray[np.bool_] | None]]
    warning: str = ""


def open_masks(source: MaskSource) -> Masks:
    """Open masks and check what can be checked without decoding them.

    Raises:
        InputError: they cannot be used; the message begins with `source.shown`.
    """
    if source.path is None:
        return _from_rles(source.rles, source.shown)
    if source.path.is_dir():
        return _from_pngs(_pngs(source), source)
    if source.path.suffix.lower() == ".json":
        return _from_rles(_read_rles(source.path, source.shown), source.shown)
    if source.path.suffix.lower() == ".png":
        return _from_pngs([source.path], source)
    if source.object is not None:
        raise InputError(f"{source.shown}: 'object' is a number in mask PNGs, but this is another file")
    media = open_media(str(source.path))
    count = media.length if media.length is not None else sum(1 for _ in media)
    return Masks(count, media.frame_size, lambda: (frame.max(axis=2) >= WHITE for frame in media))


def _read_rles(path: Path, shown: str) -> list[Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown}: not readable as JSON ({error})") from None
    if not isinstance(value, list):
        raise InputError(f"{shown}: expected a list with a COCO RLE or null per frame, found a {type(value).__name__}")
    return value


def _from_rles(rles: Sequence[Any], shown: str) -> Masks:
    sizes: dict[tuple[int, int], int] = {}
    for index, rle in enumerate(rles):
        try:
            if rle is not None:
                sizes.setdefault(rle_runs(rle)[1], index)
        except ValueError as error:
            raise InputError(f"{shown}: mask {index}: {error}") from None
    return Masks(len(rles), _one_size(sizes, shown), lambda: (None if r is None else decode_rle(r) for r in rles))


def _pngs(source: MaskSource) -> list[Path]:
    assert source.path is not None
    files = [file for file in source.path.iterdir() if file.suffix.lower() == ".png" and not file.name.startswith(".")]
    if not files:
        raise InputError(f"{source.shown}: expected a folder of PNGs, one per frame, found none")
    return sorted(files, key=lambda file: natural_key(file.name))


def _from_pngs(files: Sequence[Path], source: MaskSource) -> Masks:
    sizes: dict[tuple[int, int], int] = {}
    for index, file in enumerate(files):
        try:
            sizes.setdefault(image_size(file), index)
        except ValueError as error:
            raise InputError(f"{_shown(file, source)}: {error}") from None

    def read() -> Iterator[NDArray[np.bool_]]:
        for file in files:
            yield _read_png(file, source)

    return Masks(len(files), _one_size(sizes, source.shown), read, _several_objects(files[0], source))


def _one_size(sizes: dict[tuple[int, int], int], shown: str) -> tuple[int, int] | None:
    """The size of all masks, from size -> the first mask that has it."""
    if len(sizes) > 1:
        found = ", ".join(f"mask {index} is {shape(size)}" for size, index in list(sizes.items())[:2])
        raise InputError(f"{shown}: the masks of a video have one size, but {found}")
    return next(iter(sizes), None)


def _shown(file: Path, source: MaskSource) -> str:
    return source.shown if file == source.path else f"{source.shown}/{file.name}"


def _read_png(file: Path, source: MaskSource) -> NDArray[np.bool_]:
    """(H, W) bool: the pixels of the object, or all that are neither 0 (black) nor transparent."""
    values, mode = _decode(file, source)
    if mode == "RGBA":
        if source.object is not None:
            raise InputError(f"{_shown(file, source)}: a coloured mask has no object numbers, expected palette or grey")
        return np.asarray(values[..., :3].any(axis=2) & (values[..., 3] > 0))
    return np.asarray(values > 0 if source.object is None else values == source.object)


def _decode(file: Path, source: MaskSource) -> tuple[NDArray[Any], str]:
    """The pixels (H, W) of a palette or grey PNG, or (H, W, 4) of another; and the mode: P, L, RGBA, ..."""
    try:
        with Image.open(file) as image:
            numbers = image.mode in ("1", "P", "L") or image.mode.startswith("I")
            mode = image.mode if numbers else "RGBA"
            return np.asarray(image if numbers else image.convert("RGBA")), mode
    except UNREADABLE_IMAGE as error:
        raise InputError(f"{_shown(file, source)}: the mask does not decode ({error})") from None


def _several_objects(file: Path, source: MaskSource) -> str:
    """A warning if a palette PNG shows several objects and no one was chosen."""
    values, mode = _decode(file, source)
    found = np.unique(values[values > 0]).tolist() if mode == "P" and source.object is None else []
    if len(found) < 2:
        return ""
    return f"{source.shown}: {file.name} has objects {', '.join(map(str, found[:5]))}, all are taken; 'object' chooses"
