"""Small media files for tests, with contents that a test can recognise after lossy coding."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
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


def times_in(path: Path) -> list[float]:
    """When the frames of a video are shown, in seconds."""
    with av.open(str(path)) as container:
        return [float(frame.pts * Fraction(frame.time_base)) for frame in container.decode(video=0)]


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Patch the track header of an MP4: a stored pixel (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4
    assert data[start] == 0, "a version 0 track header"
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data[start + 40 : start + 76] = matrix
    path.write_bytes(data)


def set_edit_list(path: Path, start_ms: int, length_ms: int) -> None:
    """Patch the edit list of an MP4 of `write_video` so that only this part of it is shown."""
    data = bytearray(path.read_bytes())
    scale = int.from_bytes(data[(clock := data.index(b"mdhd") + 16) : clock + 4], "big")
    edit = data.index(b"elst") + 12  # its length in milliseconds, and where it begins on the clock of the track
    begin = int.from_bytes(data[edit + 4 : edit + 8], "big") + start_ms * scale // 1000
    data[edit : edit + 8] = struct.pack(">Ii", length_ms, begin)
    path.write_bytes(data)


def write_heif(path: Path, *, tiled: bool) -> Path:
    """`picture(48, 32)` as phones store their photographs, but of JPEG; twice beside each other as tiles of a grid."""

    def box(kind: bytes, *parts: bytes) -> bytes:
        data = b"".join(parts)
        return struct.pack(">I4s", 8 + len(data), kind) + data

    def versioned(kind: bytes, version: int, *parts: bytes) -> bytes:
        return box(kind, bytes([version, 0, 0, 0]), *parts)

    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture(48, 32), cv2.COLOR_RGB2BGR))
    tile, grid = data.tobytes(), struct.pack(">BBBBHH", 0, 0, 0, 1, 64, 48)
    kinds = ((1, b"jpeg"), (2, b"jpeg"), (3, b"grid"))[: 3 if tiled else 1]
    items = [versioned(b"infe", 2, struct.pack(">HH4sx", number, 0, kind)) for number, kind in kinds]
    sizes = [versioned(b"ispe", 0, struct.pack(">II", *size)) for size in ((32, 48), (64, 48))]
    links = b"".join(struct.pack(">HBB", number, 1, 1 + (kind == b"grid")) for number, kind in kinds)

    def index(start: int) -> bytes:
        places = [(1, 0, start, len(tile)), (2, 0, start, len(tile)), (3, 1, 0, len(grid))]
        where = [struct.pack(">HHHHII", number, way, 0, 1, *place) for number, way, *place in places[: len(kinds)]]
        join = versioned(b"iref", 0, box(b"dimg", struct.pack(">HHHH", 3, 2, 1, 2))), box(b"idat", grid)
        return versioned(
            b"meta", 0,
            versioned(b"hdlr", 0, bytes(4), b"pict", bytes(13)),
            versioned(b"pitm", 0, struct.pack(">H", len(kinds))),
            versioned(b"iloc", 1, struct.pack(">BBH", 0x44, 0, len(kinds)), *where),
            versioned(b"iinf", 0, struct.pack(">H", len(kinds)), *items),
            box(b"iprp", box(b"ipco", *sizes), versioned(b"ipma", 0, struct.pack(">I", len(kinds)), links)),
            *(join if tiled else ()),
        )  # fmt: skip

    head = box(b"ftyp", b"mif1", bytes(4), b"mif1")
    path.write_bytes(head + index(len(head) + len(index(0)) + 8) + box(b"mdat", tile))
    return path


def without_decoder(path: Path) -> Path:
    """A video in MPEG-4 Part 2 (AVI) that says it is something that nobody knows."""
    path.write_bytes(write_video(path, codec="mpeg4").read_bytes().replace(b"FMP4", b"ZZZZ"))
    return path


def cut(path: Path, target: Path, share: float) -> Path:
    """Copy the first part of a file."""
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target
