"""Cameras, network streams and standard input: frames that come when they come, read in a thread of their own.

Nothing is known beforehand but the size of the frames, and no frame can be read twice.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from fractions import Fraction

from datasets.media_stream import Address, LiveFrame, Stream, silence
from util.errors import InputError

STANDARD_INPUT = "-"
PATIENCE_SECONDS = 10.0  # that a camera or a network stream may be silent

_CAMERA = re.compile(r"camera:(.+)", re.IGNORECASE)
_RTSP = re.compile(r"rtsps?://", re.IGNORECASE)
_HTTP = re.compile(r"https?://", re.IGNORECASE)
_PASSWORD = re.compile(r"(?<=://)[^/@]*@")
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
# What a stream may make FFmpeg open besides itself: never a local file.
_RTSP_OPTIONS = {"rtsp_flags": "prefer_tcp", "protocol_whitelist": "rtsp,rtp,srtp,rtcp,udp,tcp,tls,crypto"}
_HTTP_OPTIONS = {"protocol_whitelist": "http,https,tcp,tls,crypto"}
_PIPE_OPTIONS = {"protocol_whitelist": "pipe"}
_CAMERA_ADVICE = "is the camera connected, with that number, and free?"
_NETWORK_ADVICE = "is the address right, and is it sending?"
_PIPE_ADVICE = "expected MJPEG, Matroska, MPEG-TS, Y4M or another format that describes itself"
_JOIN_SECONDS = 1.0
_WAKE_SECONDS = 0.5  # a signal that another thread got is only seen when the main thread wakes up


def is_live(path: str) -> bool:
    """Whether a path means a camera, a stream or standard input by its form alone (an http URL may mean a file)."""
    return path == STANDARD_INPUT or bool(_CAMERA.fullmatch(path) or _RTSP.match(path))


def open_live(path: str, fps: float | None = None, *, patience: float = PATIENCE_SECONDS) -> LiveSource:
    """Open a live source and wait for its first frame.

    A camera or network stream is then closed until it is read, so that no old frames pile up in it.

    Args:
        path: `camera:N` (or `camera:NAME`), an rtsp or http(s) address, or `-` for a stream on standard input whose
            format FFmpeg recognises (MJPEG, Matroska, MPEG-TS, Y4M, ...).
        fps: use only that many frames per second; for a pipe without time stamps (MJPEG), the rate that it stands for.
        patience: seconds that a camera or a network stream may be silent.

    Raises:
        InputError: it cannot be opened, gives no frame in time, or is no video.
    """
    address = _address(path, patience)
    if address.location is None and (sys.stdin is None or sys.stdin.isatty()):
        raise InputError("standard input: expected a stream from a pipe or a file, found a terminal or nothing")
    stream = Stream(address, None if fps is None else Fraction(fps).limit_denominator(1_000_000), None)
    frames = stream.frames()
    first = next(frames, None)
    if first is None:
        raise InputError(f"{address.shown}: the stream ended before its first frame")
    if address.location is not None:
        frames.close()
        return LiveSource(address, stream.fps, first.pixels.shape[:2], None)
    return LiveSource(address, stream.fps, first.pixels.shape[:2], (stream, itertools.chain((first,), frames)))


class LiveSource:
    """A camera, a stream or standard input that was found to give frames. Made by `open_live`.

    Attributes:
        path: as the user gave it, without a password.
        frame_size: (H, W) of every frame.
        fps: the wanted frame rate, None for all frames.
    """

    def __init__(
        self,
        address: Address,
        fps: Fraction | None,
        frame_size: tuple[int, int],
        started: tuple[Stream, Iterator[LiveFrame]] | None,
    ) -> None:
        self.path = address.shown
        self.frame_size = frame_size
        self.fps = fps
        self._address = address
        self._started = started

    def without_password(self, text: str) -> str:
        """The text with the address as `path` has it."""
        return text.replace(self._address.location or self.path, self.path)

    def read(self, depth: int, drop: bool) -> LiveReader:
        """Start to read, in a thread that the returned iterator's `close` ends.

        Args:
            depth: how many frames may wait for the consumer, at least 1.
            drop: what happens to a further frame: the oldest that waits is thrown away (True), or the source has to
                wait (False).

        Raises:
            InputError: standard input is read for a second time.
        """
        if self._address.location is not None:
            stream = Stream(self._address, self.fps, self.frame_size)
            return LiveReader(stream, stream.frames(), depth, drop)
        if self._started is None:
            raise InputError("standard input can be read only once")
        stream, frames = self._started
        self._started = None
        return LiveReader(stream, frames, depth, drop)


class LiveReader:
    """Iterates over the frames of a live source while a thread reads it; also a context manager.

    Iteration raises `InputError` after the last good frame of a stream that broke off or fell silent.

    Attributes:
        dropped: frames thrown away so far because the consumer was slow.
    """

    def __init__(self, stream: Stream, frames: Iterator[LiveFrame], depth: int, drop: bool) -> None:
        self.dropped = 0
        self._stream = stream
        self._frames = frames
        self._depth = depth
        self._drop = drop
        self._waiting: deque[LiveFrame] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="live-reader", daemon=True)
        self._thread.start()

    @property
    def damaged(self) -> int:
        """Frames that could not be decoded so far."""
        return self._stream.damaged

    def __iter__(self) -> LiveReader:
        return self

    def __next__(self) -> LiveFrame:
        patience = self._stream.address.patience
        deadline = math.inf if patience is None else time.monotonic() + patience
        with self._changed:
            while not (self._waiting or self._ended):
                if (left := deadline - time.monotonic()) <= 0:
                    raise silence(self._stream.address)
                self._changed.wait(min(left, _WAKE_SECONDS))
            if self._waiting:
                self._changed.notify_all()
                return self._waiting.popleft()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def __enter__(self) -> LiveReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Read no further. A thread that hangs in a silent network is left to its own time limit."""
        self._stream.stopped.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(_JOIN_SECONDS)

    def _work(self) -> None:
        try:
            for frame in self._frames:
                if not self._put(frame):
                    break
        except BaseException as error:
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _put(self, frame: LiveFrame) -> bool:
        """Hand a frame over; False if nobody wants it."""
        with self._changed:
            while len(self._waiting) >= self._depth and not self._stream.stopped.is_set():
                if self._drop:
                    self._waiting.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait()
            self._waiting.append(frame)
            self._changed.notify_all()
        return not self._stream.stopped.is_set()


def _address(path: str, patience: float) -> Address:
    shown = _PASSWORD.sub("***@", path)
    if path == STANDARD_INPUT:
        return Address("standard input", None, None, _PIPE_OPTIONS, None, _PIPE_ADVICE)
    if camera := _CAMERA.fullmatch(path):
        if sys.platform not in _CAMERAS:
            raise InputError(f"{path}: cameras cannot be read on {sys.platform}; pipe a stream in, with -")
        form, pattern = _CAMERAS[sys.platform]
        name = camera[1]
        device = pattern.format(name) if name.isdecimal() else name
        return Address(shown, device, form, {}, patience, _CAMERA_ADVICE)
    if _RTSP.match(path):
        return Address(shown, path, "rtsp", _RTSP_OPTIONS, patience, _NETWORK_ADVICE)
    if _HTTP.match(path):
        return Address(shown, path, None, _HTTP_OPTIONS, patience, _NETWORK_ADVICE)
    raise InputError(f"{path}: expected camera:N, an rtsp or http address of a stream, or - for standard input")
