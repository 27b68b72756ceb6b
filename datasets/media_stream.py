"""The decoded frames of a camera, a network stream or standard input, with their times, through PyAV (FFmpeg)."""

from __future__ import annotations

import errno
import math
import os
import select
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from datasets.media_base import Frame
from datasets.media_video import decoder_of, seconds_of, to_rgb, video_stream
from util.errors import InputError

_ANALYSIS = {"analyzeduration": "1000000", "fpsprobesize": "0"}  # a second of a stream shows what is in it
# Formats that carry no time stamps, so that FFmpeg makes them up.
_UNTIMED = frozenset({"mjpeg", "mpjpeg", "jpeg_pipe", "png_pipe", "h264", "hevc"})
_UNTIMED_FPS = Fraction(25)
_LARGEST_STEP, _SMALLEST_STEP = 60.0, 0.001  # seconds between frames; time stamps that say otherwise are not believed
_POLL_SECONDS = 0.1
_JPEG_END = b"\xff\xd9"
_MP4_ADVICE = "; an MP4 on standard input has to be fragmented, or have its index in front (-movflags +faststart)"


@dataclass(frozen=True)
class LiveFrame:
    """One frame of a live source.

    Attributes:
        index: its number in the source, from 0; frames that were dropped or damaged count.
        time: seconds since the first frame by the source's clock; rises from frame to frame.
        arrived: `time.monotonic()` when it had been decoded.
        pixels: (H, W, 3) uint8 RGB.
    """

    index: int
    time: float
    arrived: float
    pixels: Frame


@dataclass(frozen=True)
class Address:
    """What FFmpeg has to open.

    Attributes:
        shown: for messages, without a password.
        location: None for standard input.
        format: of FFmpeg; None to recognise it.
        options: of FFmpeg.
        patience: seconds without a frame after which the source counts as dead; None for a pipe, which may pause.
        advice: what to look at if it cannot be opened.
    """

    shown: str
    location: str | None
    format: str | None
    options: Mapping[str, str]
    patience: float | None
    advice: str


def silence(address: Address) -> InputError:
    """The error of a source that gives nothing."""
    return InputError(f"{address.shown}: no frame came for {address.patience:g} seconds; is the source still there?")


class Stream:
    """The decoded frames of a source that is opened when they are asked for.

    Args:
        address: what to open.
        fps: as for `open_live`.
        size: (H, W) that frames are scaled to; None for the size of the first one.

    Attributes:
        damaged: frames that could not be decoded so far; they are passed over.
        stopped: to be set when no further frame is wanted.
    """

    def __init__(self, address: Address, fps: Fraction | None, size: tuple[int, int] | None) -> None:
        self.address = address
        self.fps = fps
        self.damaged = 0
        self.stopped = threading.Event()
        self._size = size
        self._jpegs_end = False

    def frames(self) -> Generator[LiveFrame]:
        """Open the source and yield its frames until it ends, or until `stopped` is set."""
        shown = self.address.shown
        with self._open() as container:
            stream = video_stream(container, shown)
            decoder = decoder_of(stream)
            decoder.thread_type = "SLICE"  # threads per frame would hold frames back
            timeline, converter = self._timeline(container), VideoReformatter()
            index, cut = -1, False
            piped_mp4 = self.address.location is None and "mp4" in container.format.name.split(",")
            for packet in self._packets(container.demux(stream), _MP4_ADVICE if piped_mp4 else ""):
                pictures, damaged = self._decode(packet, decoder)
                cut = damaged if packet.size else cut
                self.damaged += damaged
                index += damaged
                for picture in pictures:
                    index += 1
                    arrived = time.monotonic()
                    seconds = timeline.place(index, seconds_of(picture), arrived)
                    if seconds is None:
                        continue
                    pixels = to_rgb(picture, self._size, converter)
                    self._size = pixels.shape[:2]
                    yield LiveFrame(index, seconds, arrived, pixels)
            if cut and not self.stopped.is_set():
                raise InputError(f"{shown}: the stream broke off in the middle of frame {index}")

    def _open(self) -> InputContainer:
        address = self.address
        patience = address.patience
        source: Any = _StandardInput(self.stopped) if address.location is None else address.location
        limits = None if patience is None else (patience, patience)
        started = time.monotonic()
        try:
            return av.open(source, format=address.format, options={**_ANALYSIS, **address.options}, timeout=limits)
        except FFmpegError as error:
            if patience is not None and time.monotonic() - started >= patience:  # some protocols give it another name
                raise silence(address) from None
            raise InputError(
                f"{address.shown}: no video stream can be opened ({error.strerror}); {address.advice}"
            ) from error

    def _packets(self, packets: Iterator[Packet], advice: str) -> Iterator[Packet]:
        """The packets, until `stopped` is set, with errors as a user understands them; `advice` if there is none."""
        while not self.stopped.is_set():
            try:
                packet = next(packets, None)
            except ExitError:
                raise silence(self.address) from None
            except FFmpegError as error:
                if error.errno == errno.EIO and self.address.format is None:
                    return  # how FFmpeg calls the end of an HTTP answer of unknown length
                raise InputError(f"{self.address.shown}: the stream broke off ({error.strerror}){advice}") from error
            if packet is None:
                return
            yield packet
            advice = ""

    def _decode(self, packet: Packet, decoder: VideoCodecContext) -> tuple[list[VideoFrame], bool]:
        """The pictures of a packet, and whether the packet is damaged or cut off."""
        if packet.size and packet.stream.codec_context.name == "mjpeg":
            ends = _JPEG_END in bytes(memoryview(packet)[-64:])
            if self._jpegs_end and not ends:
                return [], True
            self._jpegs_end = ends  # there are cameras that leave the end out of every frame
        try:
            return [] if packet.is_corrupt else list(decoder.decode(packet)), packet.is_corrupt
        except FFmpegError:
            return [], True

    def _timeline(self, container: InputContainer) -> _Timeline:
        untimed = container.format.name in _UNTIMED
        if untimed and self.address.location is None:
            return _Timeline(self.fps or _UNTIMED_FPS, None, stamped=False)
        return _Timeline(None, self.fps, stamped=not untimed)


class _Timeline:
    """Gives frames their times, and says which ones are used.

    Args:
        rate: of a source whose frames are evenly spaced, whatever their time stamps and arrivals say; or None.
        wanted: frames per second to use, the first of every 1 / wanted seconds; None for all.
        stamped: whether time stamps mean something; otherwise arrivals count.
    """

    def __init__(self, rate: Fraction | None, wanted: Fraction | None, *, stamped: bool) -> None:
        self._rate = rate
        self._wanted = wanted
        self._stamped = stamped
        self._last: tuple[Fraction | None, float, float] | None = None
        self._slot = 0

    def place(self, index: int, stamp: Fraction | None, arrived: float) -> float | None:
        """Seconds since the first frame; None if the frame is not used. To be called once per frame, in order."""
        if self._rate is not None:
            return float(index / self._rate)
        stamp = stamp if self._stamped else None
        now = 0.0
        if self._last is not None:
            last_stamp, last_arrived, last = self._last
            step = arrived - last_arrived
            if stamp is not None and last_stamp is not None and 0 < stamp - last_stamp <= _LARGEST_STEP:
                step = float(stamp - last_stamp)
            now = last + max(step, _SMALLEST_STEP)
        self._last = (stamp, arrived, now)
        if self._wanted is None:
            return now
        slot = math.floor((now + _SMALLEST_STEP) * self._wanted)
        if slot < self._slot:
            return None
        self._slot = slot + 1
        return now


class _StandardInput:
    """What FFmpeg reads standard input through: takes what is there, and ends when it is told to stop.

    Not for the main thread: PyAV swallows a KeyboardInterrupt in here, and FFmpeg reads on.
    """

    def __init__(self, stopped: threading.Event) -> None:
        self._descriptor = sys.stdin.fileno()
        self._stopped = stopped

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, as soon as there are some; none at the end."""
        while not self._stopped.is_set():
            if select.select([self._descriptor], [], [], _POLL_SECONDS)[0]:
                return os.read(self._descriptor, size)
        return b""
