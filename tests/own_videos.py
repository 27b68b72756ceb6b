"""Videos with masks as somebody may have them: files, folders and run lengths, made from RefShapes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from tools.data.refshapes.files import encode_labels, encode_rle
from tools.data.refshapes.video import Clip, build_video

SIZE = (96, 128)  # H, W
COUNT = 8  # frames


@cache
def shapes(index: int = 0) -> Clip:
    """A small video of RefShapes; its object 1 is visible somewhere."""
    clip = build_video(0, "train", index, COUNT, SIZE)
    assert (clip.labels == 1).any()
    return clip


def write_video(path: Path, frames: np.ndarray, rate: int = 8) -> Path:
    """(T, H, W, 3) uint8 RGB, or masks (T, H, W) bool in black and white, as an almost lossless video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.repeat(frames[..., None], 3, axis=3).astype(np.uint8) * 255 if frames.ndim == 3 else frames
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(rate), options={"qp": "1", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_images(folder: Path, frames: np.ndarray, first: int = 0, suffix: str = ".png") -> Path:
    """(T, H, W, 3) uint8 RGB, or masks (T, H, W) bool in black and white, as images `frame_0.png`, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        pixels = frame.astype(np.uint8) * 255 if frame.ndim == 2 else frame
        Image.fromarray(pixels).save(folder / f"frame_{first + index}{suffix}")
    return folder


def write_palette(folder: Path, clip: Clip) -> Path:
    """The object numbers of a clip as palette PNGs."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, labels in enumerate(clip.labels):
        (folder / f"{index:05d}.png").write_bytes(encode_labels(labels, len(clip.scene.objects)))
    return folder


def run_lengths(masks: np.ndarray) -> list[Any]:
    """Masks (T, H, W) bool as COCO RLEs, null where they are empty."""
    return [encode_rle(mask) for mask in masks]


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")
    return path


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Rows as JSON, or as CSV with the columns of all rows."""
    if path.suffix == ".json":
        return write_json(path, list(rows))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *[[str(row.get(name, "")) for name in columns] for row in rows]]
    path.write_text("".join(",".join(f'"{cell}"' for cell in line) + "\n" for line in lines), "utf-8")
    return path
