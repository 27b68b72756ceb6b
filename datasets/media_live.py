"""Cameras, network streams and standard input: frames that come when they come, read in a thread of their own.

Nothing is known beforehand but the size of the frames, and no frame can be read twice.

A signal can come at any moment, and Python sees it in the main thread only, whichever thread it was sent to. So that it
is seen soon and does no harm, the main thread calls neither FFmpeg, which swallows KeyboardInterrupt in what reads for
it, nor anything that waits without a limit, and threads talk through `SimpleQueue`: what it does is done whole, while
KeyboardInterrupt in the middle of a `Condition` or `Queue` leaves it locked.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from fractions import Fraction
from queue import Empty, SimpleQueue

from datasets.media_base import exact_rate
from datasets.media_stream import Address, LiveFrame, Stream, silence
from util.background import places_for, take
from util.errors import InputError
from util.paths import hide_secrets

STANDARD_INPUT = "-"
PATIENCE_SECONDS = 10.0  # that a camera or a network stream may be silent

_CAMERA = re.compile(r"camera:(.+)", re.IGNORECASE)
_RTSP = re.compile(r"rtsps?://", re.IGNORECASE)
_HTTP = re.compile(r"https?://", re.IGNORECASE)
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
# What a stream may make FFmpeg open besides itself: never a local file.
_RTSP_OPTIONS = {"rtsp_flags": "prefer_tcp", "protocol_whitelist": "rtsp,rtp,srtp,rtcp,udp,tcp,tls,crypto"}
_HTTP_OPTIONS = {"protocol_whitelist": "http,https,tcp,tls,crypto"}
_PIPE_OPTIONS = {"protocol_whitelist": "pipe"}
_CAMERA_ADVICE = "is the camera connected, with that number, and free?"
_NETWORK_ADVICE = "is the address right, and is it sending?"
_PIPE_ADVICE = "expected MJPEG, Matroska, MPEG-TS, Y4M or another format that describes itself"
_JOIN_SECONDS = 1.0
_WAKE_SECONDS = 0.1


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
    stream = Stream(address, exact_rate(fps), None)
    frames = stream.frames()
    first = _first_of(frames, stream)
    if first is None:
        raise InputError(f"{address.shown}: the stream ended before its first frame")
    if address.location is not None:
        frames.close()
        return LiveSource(address, stream.fps, first.pixels.shape[:2], None)
    return LiveSource(address, stream.fps, first.pixels.shape[:2], _Opened(stream, frames, first))


@dataclass(frozen=True)
class _Opened:
    """A stream, the frames that are still to come, and the one that was taken already, if any."""

    stream: Stream
    frames: Generator[LiveFrame]
    first: LiveFrame | None = None


def _first_of(frames: Generator[LiveFrame], stream: Stream) -> LiveFrame | None:
    """The first frame, None if there is none; Ctrl-C ends the wait. Raises what opening the stream raised."""
    answer: SimpleQueue[tuple[LiveFrame | None, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            answer.put((next(frames, None), None))
        except BaseException as error:
            answer.put((None, error))

    threading.Thread(target=work, name="live-opener", daemon=True).start()
    try:
        first, error = take(answer)
    except BaseException:
        stream.stopped.set()
        raise
    if error is not None:
        raise error
    return first


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
        started: _Opened | None,
    ) -> None:
        self.path = address.shown
        self.frame_size = frame_size
        self.fps = fps
        self._address = address
        self._started = started

    def without_password(self, text: str) -> str:
        """The text, which is not escaped in any way, with the address as `path` has it."""
        return text.replace(self._address.location or self.path, self.path)

    def read(self, depth: int, drop: bool, until: Callable[[], bool] | None = None) -> LiveReader:
        """Start to read, in a thread that the returned iterator's `close` ends.

        Args:
            depth: how many frames may wait for the consumer, at least 1.
            drop: what happens to a further frame: the oldest that waits is thrown away (True), or the source has to
                wait (False).
            until: asked before every frame, and several times a second while none comes; iteration ends as soon as it
                is true, whatever still waits.

        Raises:
            InputError: standard input is read for a second time.
        """
        if self._address.location is not None:
            stream = Stream(self._address, self.fps, self.frame_size)
            return LiveReader(_Opened(stream, stream.frames()), depth, drop, until)
        if self._started is None:
            raise InputError("standard input can be read only once")
        started, self._started = self._started, None
        return LiveReader(started, depth, drop, until)


class LiveReader:
    """Iterates over the frames of a live source while a thread reads it; also a context manager.

    Iteration raises `InputError` after the last good frame of a stream that broke off or fell silent.

    Attributes:
        dropped: frames thrown away so far because the consumer was slow.
    """

    def __init__(self, opened: _Opened, depth: int, drop: bool, until: Callable[[], bool] | None = None) -> None:
        self.dropped = 0
        self._stream = opened.stream
        self._frames = opened.frames
        self._first = () if opened.first is None else (opened.first,)
        self._drop = drop
        self._until = until or (lambda: False)
        self._waiting: SimpleQueue[LiveFrame | None] = SimpleQueue()  # None: that was the last one
        self._places = places_for(depth)
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
        while not self._until():
            left = deadline - time.monotonic()
            try:
                frame = self._waiting.get(timeout=min(max(left, 0), _WAKE_SECONDS))
            except Empty:
                if left <= 0:
                    raise silence(self._stream.address) from None
                continue
            if frame is not None:
                self._places.put(None)
                return frame
            self._waiting.put(None)  # for whoever asks again
            if self._error is not None:
                raise self._error
            break
        raise StopIteration

    def __enter__(self) -> LiveReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Read no further. A thread that hangs in a silent network is left to its own time limit."""
        self._stream.stopped.set()
        self._thread.join(_JOIN_SECONDS)

    def _work(self) -> None:
        try:
            with contextlib.closing(self._frames):
                for frame in itertools.chain(self._first, self._frames):
                    if not self._find_place():
                        break
                    self._waiting.put(frame)
        except BaseException as error:
            self._error = error
        self._ended = True
        self._waiting.put(None)

    def _find_place(self) -> bool:
        """Wait for a place, or make one; False if nobody wants a further frame."""
        while not self._stream.stopped.is_set():
            with contextlib.suppress(Empty):
                self._places.get(timeout=0 if self._drop else _WAKE_SECONDS)
                return True
            if self._drop:
                with contextlib.suppress(Empty):
                    self._waiting.get_nowait()
                    self.dropped += 1
                    return True
        return False


def _address(path: str, patience: float) -> Address:
    shown = hide_secrets(path)
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
    raise InputError(f"{shown}: expected camera:N, an rtsp or http address of a stream, or - for standard input")
