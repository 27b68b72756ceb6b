"""Uploads that nobody sends by mistake, and some that people do send by mistake."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.media_files import cut, write_video


def huge_png(path: Path, width: int = 20_000, height: int = 20_000) -> Path:
    """A well-formed PNG of a single colour, tiny on disk: one row of zeros, compressed as often as it takes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + width // 8)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def two_hour_header(path: Path) -> Path:
    """A Matroska file of eight frames whose header says that it lasts two hours."""
    data = bytearray(write_video(path).read_bytes())
    place = data.index(b"\x44\x89\x88") + 3  # Duration, a float of 8 bytes, in milliseconds
    data[place : place + 8] = struct.pack(">d", 7_200_000.0)
    path.write_bytes(data)
    return path


def _text(path: Path) -> Path:
    path.write_text("This is not a video.\n" * 50)
    return path


def _empty(path: Path) -> Path:
    path.touch()
    return path


def _playlist(path: Path) -> Path:
    own = write_video(path.with_name("private.mp4"))
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{own.as_uri()}\n#EXT-X-ENDLIST\n")
    return path


def _concatenation(path: Path) -> Path:
    write_video(path.with_name("private.mp4"))
    path.write_text("ffconcat version 1.0\nfile private.mp4\n")
    return path


def postscript(path: Path) -> Path:
    """A picture in PostScript, a language of programs."""
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    return path


# name of the upload: how it is made, and a word that the message must have
HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "text.mp4": (_text, "no image or video"),
    "truncated.mp4": (lambda path: cut(write_video(path.with_name("whole.mp4"), 30), path, 0.6), "cut off"),
    "two_hours.mkv": (two_hour_header, "lasts 2 h"),
    "slow.mp4": (lambda path: write_video(path, 2, times_ms=[0, 7_200_000]), "lasts 2 h"),
    "huge.png": (huge_png, "pixels"),
    "large.png": (lambda path: huge_png(path, 5000, 5000), "5000 x 5000"),
    "nothing.mp4": (_empty, "empty"),
    "long.mp4": (lambda path: write_video(path, 21), "21 frames"),
    "list.m3u8": (_playlist, "no image or video"),
    "list.mp4": (_concatenation, "no image or video"),
    "picture.png": (postscript, "no image or video"),
}
