"""Small media files for tests, with contents that a test can recognise after lossy coding."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RED, GREEN, BLUE, GREY = (220, 30, 30), (30, 200, 30), (30, 30, 220), (128, 128, 128)


def picture(height: int, width: int, number: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: quadrants red, green / blue, and a grey one whose brightness is 8 * number, number below 32."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: height // 2, : width // 2] = RED
    frame[: height // 2, width // 2 :] = GREEN
    frame[height // 2 :, : width // 2] = BLUE
    frame[height // 2 :, width // 2 :] = 8 * (number % 32)
    return frame


def quadrants(frame: np.ndarray) -> list[str]:
    """Names of the colours of the upper left, upper right, lower left and lower right quadrant."""
    height, width = frame.shape[:2]
    found = []
    for y in (height // 4, height - 1 - height // 4):
        for x in (width // 4, width - 1 - width // 4):
            r, g, b = (int(value) for value in frame[y, x])
            spread = max(r, g, b) - min(r, g, b)
            found.append("grey" if spread < 60 else ("red", "green", "blue")[int(np.argmax((r, g, b)))])
    return found


def number_of(frame: np.ndarray) -> int:
    """The `number` that `picture` was called with."""
    height, width = frame.shape[:2]
    return round(float(frame[height - 1 - height // 4, width - 1 - width // 4].mean()) / 8)


def write_video(
    path: Path,
    frames: int = 8,
    size: tuple[int, int] = (48, 64),
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: Fraction = Fraction(10),
    times_ms: list[int] | None = None,
    audio: bool = False,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """A video of `picture(..., number)` for number = 0, 1, ...; `times_ms` gives it a variable frame rate."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        video: Any = container.add_stream(codec, rate=rate, options=options or {})
        video.width, video.height, video.pix_fmt = size[1], size[0], pix_fmt
        video.bit_rate = 4_000_000
        if times_ms is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        sound: Any = container.add_stream("aac", rate=44100) if audio else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(*size, number), format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[number], Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 44100
            container.mux(sound.encode(silence))
            container.mux(sound.encode())
    return path


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Patch the track header of an MP4: a stored pixel (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4
    assert data[start] == 0, "a version 0 track header"
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data[start + 40 : start + 76] = matrix
    path.write_bytes(data)


def cut(path: Path, target: Path, share: float) -> Path:
    """Copy the first part of a file."""
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target
