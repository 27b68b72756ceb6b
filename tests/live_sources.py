"""Live sources on this computer: MJPEG over HTTP, H.264 over RTSP, and pipes."""

from __future__ import annotations

import contextlib
import http.server
import io
import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import pytest

from tests.forked import PATIENCE
from tests.media_files import picture

SIZE = (48, 64)


def jpeg(number: int, size: tuple[int, int] = SIZE) -> bytes:
    """`picture` as a JPEG."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture(*size, number), cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def part(image: bytes) -> bytes:
    """A JPEG as a part of a multipart stream."""
    return b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(image), image)


@contextlib.contextmanager
def mjpeg_server(
    frames: int, pause: float = 0.0, *, cut: int = 0, stall: float = 0.0, sent: list[int] | None = None
) -> Iterator[str]:
    """The address of a camera that sends `frames` JPEGs to everyone who asks.

    Args:
        frames: how many.
        pause: seconds between two of them.
        cut: bytes that the last one lacks.
        stall: seconds of silence before the connection is closed.
        sent: grows by the number of every frame sent.
    """
    images = [jpeg(number) for number in range(32)]
    over = threading.Event()

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
            self.send_header("Connection", "close")
            self.end_headers()
            with contextlib.suppress(OSError):  # the reader has gone
                for number in range(frames):
                    data = part(images[number % 32])
                    self.wfile.write(data[: len(data) - (cut if number == frames - 1 else 0)])
                    if sent is not None:
                        sent.append(number)
                    if pause:
                        over.wait(pause)
                over.wait(stall)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/stream.mjpg"
        over.set()
        server.shutdown()


@contextlib.contextmanager
def mute_server() -> Iterator[str]:
    """host:port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def rtsp_server(frames: int, fps: int, path: Path) -> Iterator[str]:
    """The address of an RTSP camera (RFC 2326, interleaved TCP) that sends `picture`s as H.264 (RFC 6184)."""
    units = _nal_units(frames, fps, path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"rtsp://127.0.0.1:{server.getsockname()[1]}/camera"
        running = True

        def serve() -> None:
            while running:
                with contextlib.suppress(OSError):
                    connection, _ = server.accept()
                    threading.Thread(target=_serve_rtsp, args=(connection, address, units, fps), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield address
        running = False


def _nal_units(frames: int, fps: int, path: Path) -> list[list[bytes]]:
    """The NAL units of every frame."""
    with av.open(str(path), "w", format="h264") as container:
        stream: Any = container.add_stream(
            "libx264", rate=Fraction(fps), options={"tune": "zerolatency", "x264-params": "sliced-threads=0"}
        )
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        stream.gop_size = 5
        packets = []
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(*SIZE, number), format="rgb24")
            packets += [bytes(packet) for packet in stream.encode(frame)]
        packets += [bytes(packet) for packet in stream.encode()]
    assert len(packets) == frames
    return [[unit for unit in re.split(rb"\x00\x00\x00?\x01", packet) if unit] for packet in packets]


def _serve_rtsp(connection: socket.socket, address: str, units: list[list[bytes]], fps: int) -> None:
    sdp = (
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
        "a=rtpmap:96 H264/90000\r\na=control:track1\r\n"
    )
    replies = {
        "OPTIONS": ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""),
        "DESCRIBE": (f"Content-Base: {address}/\r\nContent-Type: application/sdp\r\n", sdp),
        "SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n", ""),
        "PLAY": ("Session: 1\r\n", ""),
        "TEARDOWN": ("Session: 1\r\n", ""),
    }
    with contextlib.suppress(OSError), connection, connection.makefile("rb") as requests:
        while line := requests.readline().decode():
            method = line.split()[0]
            headers = iter(lambda: requests.readline().decode().strip(), "")
            number = next(header.split(":")[1].strip() for header in list(headers) if header.lower().startswith("cseq"))
            fields, body = replies[method]
            length = f"Content-Length: {len(body)}\r\n" if body else ""
            connection.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{fields}{length}\r\n{body}".encode())
            if method == "PLAY":
                _send_rtp(connection, units, fps)
                return


def _send_rtp(connection: socket.socket, units: list[list[bytes]], fps: int) -> None:
    sequence = 0
    for number, frame in enumerate(units):
        for unit in frame:
            last = 0x80 if unit is frame[-1] else 0
            header = struct.pack(">BBHII", 0x80, last | 96, sequence & 0xFFFF, number * 90000 // fps, 1)
            connection.sendall(b"$\x00" + struct.pack(">H", len(header) + len(unit)) + header + unit)
            sequence += 1
        time.sleep(1 / fps)


@contextlib.contextmanager
def piped(monkeypatch: pytest.MonkeyPatch, write: Callable[[io.FileIO], None]) -> Iterator[None]:
    """Standard input is a pipe that a thread writes to and then closes."""
    reading, writing = os.pipe()

    def work() -> None:
        with contextlib.suppress(BrokenPipeError), open(writing, "wb", buffering=0) as target:  # noqa: PTH123
            write(target)

    with open(reading, "rb", buffering=0) as source:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", source)
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield
    thread.join(PATIENCE)
    assert not thread.is_alive()
