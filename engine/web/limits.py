"""What the page accepts: uploads are judged by their headers before anything is decoded, sentences as typed."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
from av.error import FFmpegError
from PIL import Image, UnidentifiedImageError

from datasets.media import Frame, Media, open_media
from datasets.media_video import open_video, video_stream
from util.errors import InputError

# Others are left out because they run programs (EPS) or name further files (playlists), or nobody uploads them.
_IMAGES = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
_VIDEOS = "mov,mp4,matroska,webm,avi,gif,mpeg,mpegts,mpegvideo,ogg,flv,asf,ivf,h264,hevc,m4v,mjpeg,apng"
_SHOWN_NAME = 60  # letters of a file's name in messages


@dataclass(frozen=True)
class Limits:
    """The largest of everything that one visitor may ask for.

    Attributes:
        file_bytes: of an upload.
        frames: of a video.
        seconds: that a video may say it lasts.
        pixels: of a frame.
        sentences: at a time.
        letters: of a sentence.
        visits: people with a video at the same time.
        idle_seconds: after which a visit without any action ends.
        result_bytes: of one run on disk.
    """

    file_bytes: int = 200 << 20
    frames: int = 1000
    seconds: float = 600.0
    pixels: int = 1 << 24
    sentences: int = 8
    letters: int = 300
    visits: int = 32
    idle_seconds: float = 3600.0
    result_bytes: int = 4 << 30

    def summary(self) -> str:
        """The limits that somebody who uploads a video should know, in one sentence."""
        return (
            f"Up to {_megabytes(self.file_bytes)}, {self.frames:,} frames, {_duration(self.seconds)}, "
            f"{_millions(self.pixels)} per frame, {self.sentences} sentences."
        )


def parse_sentences(text: str, limits: Limits) -> list[str]:
    """The sentences of a text, one per line, white space folded; empty lines and repetitions are left out.

    Raises:
        InputError: none, too many, one that is too long, or no valid Unicode.
    """
    folded = (" ".join(line.split()) for line in text.splitlines())
    sentences = list(dict.fromkeys(sentence for sentence in folded if sentence))
    if not sentences:
        raise InputError("Type at least one sentence, one per line: for example, the dog that jumps.")
    if len(sentences) > limits.sentences:
        raise InputError(
            f"There are {len(sentences)} sentences; this page takes up to {limits.sentences} at a time. "
            f"Delete {len(sentences) - limits.sentences} of them."
        )
    for number, sentence in enumerate(sentences, 1):
        if len(sentence) > limits.letters:
            raise InputError(
                f"Sentence {number} has {len(sentence)} letters; this page takes up to {limits.letters}. Shorten it."
            )
        if any("\ud800" <= letter <= "\udfff" for letter in sentence):
            raise InputError(f"Sentence {number} is no valid Unicode text. Type it again.")
    return sentences


def check_upload(path: Path, name: str, limits: Limits) -> Media:
    """Open an uploaded image or video whose headers keep the limits.

    Args:
        path: the file.
        name: what its owner calls it, shown in messages and in `Media.path` instead of the path.
        limits: of the page.

    Raises:
        InputError: nothing that can be used, or more than the page takes; the message is one for its owner.
    """
    shown = shown_name(name)
    try:
        size = path.stat().st_size
    except OSError:
        raise InputError(f"{shown} has not arrived. Upload it again.") from None
    if size == 0:
        raise InputError(f"{shown} is an empty file. Choose an image or a video.")
    if size > limits.file_bytes:
        raise InputError(
            f"{shown} has {_megabytes(size)}; this page takes up to {_megabytes(limits.file_bytes)}. Cut it shorter."
        )
    image = _check_image(path, shown, limits)
    if not image:
        _check_video(path, shown, limits)
    with _named(path, shown):  # what is no image here may be one in a format that Pillow is not to open
        media = open_media(str(path)) if image else open_video(path, str(path), None)
    _check_pixels(media.frame_size[1], media.frame_size[0], shown, limits)
    if media.length is not None:
        _check_frames(media.length, shown, limits)

    def frames() -> Iterator[Frame]:
        with _named(path, shown):
            yield from media

    return dataclasses.replace(media, path=shown, frames=frames)


@contextlib.contextmanager
def _named(path: Path, shown: str) -> Iterator[None]:
    """Let errors name the file as its owner does."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(path), shown)) from error


def shown_name(name: str) -> str:
    """The last part of a file's name as it can be shown: printable, without folders, and not too long."""
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(letter for letter in last if letter.isprintable() and not "\ud800" <= letter <= "\udfff").strip()
    if len(kept) > _SHOWN_NAME:
        kept = f"{kept[: _SHOWN_NAME - 13]}…{kept[-12:]}"
    return kept or "the file"


def _check_image(path: Path, shown: str, limits: Limits) -> bool:
    """Whether it is an image, one that is not too large."""
    Image.init()  # or it knows a few formats only
    try:
        with Image.open(path, formats=[name for name in _IMAGES if name in Image.OPEN]) as image:
            _check_pixels(*image.size, shown, limits)
        return True
    except UnidentifiedImageError:
        return False
    except Image.DecompressionBombError:
        raise InputError(
            f"{shown} has far more pixels than the {_millions(limits.pixels)} that this page takes. Scale it down."
        ) from None
    except InputError:
        raise
    except Exception as error:  # Pillow raises exceptions of many classes on damaged files
        raise InputError(f"{shown} is a damaged image. Choose another file.") from error


def _check_video(path: Path, shown: str, limits: Limits) -> None:
    """Refuse what is no video of a known kind, and one whose header promises more than the limits."""
    options = {"protocol_whitelist": "file", "format_whitelist": _VIDEOS}
    try:
        with av.open(f"file:{path.resolve()}", options=options) as container:
            if not container.streams.video:
                raise InputError(f"{shown} has no picture. Choose an image or a video.")
            stream = video_stream(container, shown)
            _check_pixels(stream.width, stream.height, shown, limits)
            _check_frames(stream.frames, shown, limits)
            times = [(container.duration or 0) / av.time_base, float((stream.duration or 0) * (stream.time_base or 0))]
    except (FFmpegError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{shown} is no image or video that can be read: it is damaged, cut off, or something else. "
            "Choose another file."
        ) from error
    if max(times) > limits.seconds:
        raise InputError(
            f"{shown} says that it lasts {_duration(max(times))}; this page takes up to "
            f"{_duration(limits.seconds)}. Cut it shorter."
        )


def _check_pixels(width: int, height: int, shown: str, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise InputError(
            f"{shown} is {width} x {height} pixels large; this page takes up to {_millions(limits.pixels)}. "
            "Scale it down."
        )


def _check_frames(frames: int, shown: str, limits: Limits) -> None:
    if frames > limits.frames:
        raise InputError(f"{shown} has {frames:,} frames; this page takes up to {limits.frames:,}. Cut it shorter.")


def _megabytes(count: int) -> str:
    return f"{count / (1 << 20):,.0f} MB" if count >= 10 << 20 else f"{count / (1 << 20):.1f} MB"


def _millions(pixels: int) -> str:
    return f"{pixels / 1e6:.1f} million pixels"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} seconds"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if rest else f"{minutes} minutes"
