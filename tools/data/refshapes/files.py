"""Writes single files and folders of the layouts: frames, label images, run lengths.

A folder of a video appears under its name only when it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from util.drawing import palette

JPEG_QUALITY = 90


def frame_names(count: int) -> list[str]:
    """00000, 00001, ..."""
    return [f"{index:05d}" for index in range(count)]


def encode_jpeg(frame: np.ndarray) -> bytes:
    """A frame (H, W, 3) uint8 RGB as JPEG."""
    done, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return data.tobytes()


def encode_labels(labels: np.ndarray, count: int) -> bytes:
    """Object numbers (H, W) uint8 from 0 to `count` as a palette PNG."""
    image = Image.fromarray(labels).convert("L")
    image.putpalette([0, 0, 0, *(value for colour in palette(count) for value in colour)])
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def write_folder(folders: Sequence[Path], files: dict[str, bytes]) -> None:
    """Write `files` (name -> content) into the first folder; the others get hard links to them (or copies).

    What was there before under the names of the folders is replaced.
    """
    source: Path | None = None
    for folder in folders:
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, content in files.items():
            _place(temporary / name, content, source and source / name)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
        source = source or folder


def _place(path: Path, content: bytes, source: Path | None) -> None:
    if source is not None:
        try:
            os.link(source, path)
        except OSError:  # a file system without hard links
            pass
        else:
            return
    path.write_bytes(content)


def encode_rle(mask: np.ndarray) -> dict[str, Any] | None:
    """A mask (H, W) bool as COCO run lengths for JSON; None if it is empty."""
    if not mask.any():
        return None
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode()}
