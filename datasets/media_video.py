"""Videos, through PyAV (FFmpeg). A video is surveyed packet by packet before its first frame is used."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from numbers import Rational
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import CodecContext
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from configs.schema import FRAME_RATES
from datasets.media_base import Frame, Media
from datasets.media_image import over_white
from util.errors import InputError

_FALLBACK_FPS = Fraction(25)  # of streams that carry neither time stamps nor a rate
_TIME_SLACK = Fraction(1, 1000)  # containers round time stamps to as much as a millisecond
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # decoders of transparency, which FFmpeg's own leave out
_VARIABLE = Fraction(1, 100)  # a nominal rate further than this from the measured one is not believed


@dataclass(frozen=True)
class _Survey:
    """What the packets of a video say.

    Attributes:
        times: presentation times in seconds, ascending; None where a packet has none.
        fps: average frames per second.
        shown: seconds from the first frame to each; 1 / fps apart where `times` cannot be believed.
        steady: whether all of these are about 1 / fps apart.
        believed: whether `shown` is what `times` say.
    """

    times: Sequence[Fraction | None]
    fps: Fraction
    shown: Sequence[float]
    steady: bool
    believed: bool

    def begun_at(self, first: Fraction | None) -> _Survey:
        """Without the packets before the first frame: a recording may begin with some that need earlier ones."""
        if not self.believed or first is None:
            return self
        lost = sum(time is not None and time < first - _TIME_SLACK for time in self.times)
        shown = [time - self.shown[lost] for time in self.shown[lost:]]
        return replace(self, times=self.times[lost:], shown=shown) if lost else self


class _Sampler:
    """Chooses by time stamps which frames of a video are used: the first one of every 1 / fps seconds.

    Args:
        survey: of the video.
        fps: the wanted rate; None, or a rate that the video does not reach, keeps every frame.
    """

    def __init__(self, survey: _Survey, fps: Fraction | None) -> None:
        self.fps = survey.fps if fps is None or fps >= survey.fps else fps
        self._source_fps = survey.fps
        self._keeps_all = self.fps == survey.fps
        self._start: Fraction | None = None
        self._next = 0

    def keeps(self, index: int, time: Fraction | None) -> bool:
        """Whether frame `index`, shown at `time` seconds, is used; to be asked once per frame, in order."""
        if self._keeps_all:
            return True
        now = index / self._source_fps if time is None else time
        if self._start is None:
            self._start = now
        slot = math.floor((now - self._start + _TIME_SLACK) * self.fps)
        if slot < self._next:
            return False
        self._next = slot + 1
        return True


def open_video(path: Path, shown: str, fps: Fraction | None) -> Media:
    """A video file as `Media`; also still images that only FFmpeg knows.

    Rotation and mirroring of the display matrix are applied; transparent parts are laid over white; sound is dropped; a
    stream that changes its size is scaled to the size of its first frame. The file is read through once (without
    decoding), which finds the number of frames and files that were cut off.

    Args:
        path: the file.
        shown: what to call it in messages and in `Media.path`.
        fps: use only that many frames per second; None for all of them.

    Raises:
        InputError: not a video, without a picture, cut off, or its first frame cannot be decoded.
    """
    survey, still = _survey(path, shown)
    begun = next(_decode(path, shown, survey, None, None), None)
    if begun is None:
        raise InputError(f"{shown}: the video holds no frame that can be decoded; is the file complete?")
    first, size, survey = begun[0], begun[0].shape[:2], survey.begun_at(begun[1])
    if still:
        return Media(shown, "image", size, None, 1, None, lambda: iter((first,)))
    sampler = _Sampler(survey, fps)
    times = [survey.shown[index] for index, time in enumerate(survey.times) if sampler.keeps(index, time)]

    def frames() -> Iterator[Frame]:
        return (frame for frame, _ in _decode(path, shown, survey, fps, size))

    return Media(shown, "video", size, sampler.fps, len(times), None, frames, times, survey.steady)


def _open(path: Path, shown: str) -> InputContainer:
    try:
        # With the "file:" prefix no colon in a name is taken for a protocol; the white list keeps playlists local.
        return av.open(f"file:{path.resolve()}", options={"protocol_whitelist": "file"})
    except FFmpegError as error:
        raise _unreadable(shown, error) from error


def _unreadable(shown: str, error: FFmpegError) -> InputError:
    return InputError(
        f"{shown}: expected an image, a video or a folder of images, but the file cannot be read as any of them "
        f"({error.strerror}); it is damaged, cut off, or something else"
    )


def video_stream(container: InputContainer, shown: str) -> VideoStream:
    """The first video stream that is neither the cover picture of a sound file nor a part of a picture.

    Raises:
        InputError: there is none, or FFmpeg has no decoder for it, as for SVG.
    """
    parts = [stream for stream in container.streams.video if stream.disposition & Disposition.dependent]
    for stream in container.streams.video:
        if stream in parts or stream.disposition & Disposition.attached_pic:
            continue
        if stream.codec_context is None:
            raise InputError(
                f"{shown}: there is no decoder for its pictures here: save it as an H.264 video, a JPEG or a PNG"
            )
        return stream
    if parts:
        raise InputError(
            f"{shown}: the picture is stored in {len(parts)} tiles, as phones do in HEIC files, which cannot be put "
            "together here: save it as JPEG or PNG"
        )
    kinds = " and ".join(
        sorted({"a cover picture" if s.type == "video" else s.type for s in container.streams}, reverse=True)
    )
    found = f"a file that holds only {kinds}" if kinds else "one without a single stream; it is damaged or cut off"
    raise InputError(f"{shown}: expected a video, found {found}")


def decoder_of(stream: VideoStream) -> VideoCodecContext:
    """What decodes the packets of a stream, with its transparency if it has any."""
    name = _WITH_ALPHA.get(stream.codec_context.name, "")
    if stream.metadata.get("alpha_mode") != "1" or name not in av.codecs_available:
        return stream.codec_context
    decoder = CodecContext.create(name, "r")
    assert isinstance(decoder, VideoCodecContext)
    return decoder


def _survey(path: Path, shown: str) -> tuple[_Survey, bool]:
    """Read through the packets; also says whether the file is a still image."""
    with _open(path, shown) as container:
        stream = video_stream(container, shown)
        whole, cut, end, reached = 0, False, Fraction(0), 0
        clock, rising = -math.inf, True
        times: list[Fraction | None] = []
        try:
            for packet in container.demux():
                end = max(end, _end_of(packet))
                reached = max(reached, (packet.pos or 0) + packet.size)
                if packet.stream.index != stream.index or not packet.size:
                    continue
                cut = cut or packet.is_corrupt
                whole += not packet.is_corrupt
                if not packet.is_discard:
                    times.append(seconds_of(packet))
                if packet.dts is not None:
                    clock, rising = packet.dts, rising and packet.dts >= clock
        except FFmpegError as error:
            raise InputError(f"{shown}: the file breaks off after {whole} frames ({error.strerror})") from error
        # An edit list can leave out frames of an MP4; what was cut off was read to the end of the file.
        promised = stream.frames if reached >= path.stat().st_size else 0
        _refuse_cut_off(container, max(promised, whole + cut), whole, end, shown)
        pictures = container.format.name.endswith("_pipe") or container.format.name == "image2"
        still = pictures or (stream.frames == 1 and stream.duration is None)  # an item of a HEIC file
        nominal = exact(stream.average_rate) or exact(stream.guessed_rate)
    return _timing(times, nominal, rising), still


def _timing(times: Sequence[Fraction | None], nominal: Fraction | None, rising: bool) -> _Survey:
    """What presentation times in seconds say, in any order, None where a packet has none.

    Args:
        times: of the packets.
        nominal: frames per second according to the container, if it knows.
        rising: False where the clock went back, as between recordings that were strung together.
    """
    known = sorted(time for time in times if time is not None)
    complete = len(known) == len(times)
    span = known[-1] - known[0] if complete and len(known) > 1 else Fraction(0)
    fps = Fraction(len(known) - 1) / span if span else nominal or _FALLBACK_FPS
    if nominal and abs(fps - nominal) <= _VARIABLE * nominal:
        fps = nominal
    longest = max((later - time for time, later in pairwise(known)), default=Fraction(0))
    believed = complete and rising and longest * Fraction(FRAME_RATES[0]) <= 1
    if fps < FRAME_RATES[0]:  # the clock was set meanwhile: no video can be written at such a rate
        fps = nominal if nominal and nominal >= FRAME_RATES[0] else _FALLBACK_FPS
    fps = fps.limit_denominator(90000)
    even = array("d", (index / float(fps) for index in range(len(times))))
    shown = array("d", (float(time - known[0]) for time in known)) if believed else even
    steady = all(abs(time - other) <= 2 * _TIME_SLACK for time, other in zip(shown, even, strict=True))
    return _Survey(known if complete else [None] * len(times), fps, shown, steady, believed)


def seconds_of(timed: Packet | VideoFrame) -> Fraction | None:
    """The presentation time, None where there is none."""
    unit = exact(timed.time_base)
    return None if timed.pts is None or unit is None else timed.pts * unit


def exact(value: Rational | None) -> Fraction | None:
    """A rate or a unit of time, None where it is unset: in PyAV 19 it is of a class of its own, and unset if false."""
    return Fraction(value) if value else None


def _end_of(packet: Packet) -> Fraction:
    """Until when it is shown or heard, in seconds, as far as that is known."""
    start = seconds_of(packet)
    return Fraction(0) if start is None else start + (packet.duration or 0) * (exact(packet.time_base) or 0)


def _refuse_cut_off(container: InputContainer, frames: int, whole: int, end: Fraction, shown: str) -> None:
    """Compare with what was read what the file promises: its number of frames in MP4, its duration in Matroska."""
    name = container.format.name
    if "mp4" in name and whole < frames:
        raise InputError(f"{shown}: the video is cut off: {whole} of at least {frames} frames are in the file")
    if "matroska" in name and container.duration:
        duration = Fraction(container.duration, av.time_base)
        if end < duration * Fraction(9, 10) - 1:
            raise InputError(
                f"{shown}: the video is cut off: {float(end):.1f} of {float(duration):.1f} s are in the file"
            )


def _decode(
    path: Path, shown: str, survey: _Survey, fps: Fraction | None, size: tuple[int, int] | None
) -> Iterator[tuple[Frame, Fraction | None]]:
    """Yield the chosen frames, upright, (H, W, 3) uint8 RGB, scaled to `size` if they have another, and their times."""
    sampler = _Sampler(survey, fps)
    converter = VideoReformatter()  # a frame's own one would start threads for every frame
    index = -1
    with _open(path, shown) as container:
        stream = video_stream(container, shown)
        decoder = decoder_of(stream)
        decoder.thread_type = "AUTO"
        try:
            frames = (frame for packet in container.demux(stream) for frame in decoder.decode(packet))
            for index, frame in enumerate(frames):
                time = seconds_of(frame)
                if sampler.keeps(index, time):
                    yield to_rgb(frame, size, converter), time
        except FFmpegError as error:
            if index < 0:
                raise _unreadable(shown, error) from error
            raise InputError(
                f"{shown}: decoding broke off at frame {index + 1} ({error.strerror}); is the file damaged?"
            ) from error


def to_rgb(frame: VideoFrame, size: tuple[int, int] | None, converter: VideoReformatter) -> Frame:
    """(H, W, 3) uint8 RGB, upright, transparent parts over white, scaled to `size` (H, W) if that is given.

    One converter serves a whole video.
    """
    turn = _display_matrix(frame)
    height, width = frame.height, frame.width
    if size is not None:
        height, width = size[::-1] if abs(turn[0]) < abs(turn[1]) else size
    transparent = any(component.is_alpha for component in frame.format.components)
    pixels = converter.reformat(frame, width, height, "rgba" if transparent else "rgb24").to_ndarray()
    if transparent and pixels[..., 3].min() < 255:
        pixels = np.asarray(over_white(Image.fromarray(pixels)))
    return _upright(pixels[..., :3], turn)


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the display matrix: a stored pixel (x, y) is shown at (a x + c y, b x + d y)."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    matrix = np.frombuffer(bytes(data), np.int32)
    return int(matrix[0]), int(matrix[1]), int(matrix[3]), int(matrix[4])


def _upright(pixels: Frame, turn: tuple[int, int, int, int]) -> Frame:
    """Turn and mirror as the display matrix says, in steps of a quarter turn."""
    a, b, c, d = turn
    if abs(a) < abs(b):
        pixels = pixels.transpose(1, 0, 2)
        a, d = c, b
    pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(pixels)
