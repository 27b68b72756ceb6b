"""One way to open whatever a user points at: an image, a video, a folder of frames, or the URL of a file."""

from __future__ import annotations

import logging
from fractions import Fraction

from datasets.media_base import Frame, Media
from datasets.media_image import is_image, open_folder, open_image
from datasets.media_video import open_video
from util.errors import InputError
from util.paths import local_path

__all__ = ["Frame", "Media", "open_media"]

logger = logging.getLogger(__name__)


def open_media(path_or_url: str, fps: float | None = None) -> Media:
    """Recognise a source of frames by its content and check what can be checked without decoding all of it.

    Args:
        path_or_url: a file, a folder, or an http(s) URL (downloaded once into the cache).
        fps: for a video, how many frames per second to use of it, chosen by their time stamps; for a folder, the frame
            rate that it stands for. None keeps a video's own frames.

    Raises:
        InputError: nothing there, or nothing that can be read; the message says what was found.
    """
    rate = None if fps is None else Fraction(fps).limit_denominator(1_000_000)
    path = local_path(path_or_url)
    if not path.exists():
        raise InputError(f"{path_or_url} does not exist: expected an image, a video or a folder of images")
    if path.is_dir():
        return open_folder(path, path_or_url, rate)
    if not path.is_file() or path.stat().st_size == 0:
        found = "an empty file" if path.is_file() else "neither a file nor a folder"
        raise InputError(f"{path_or_url}: expected an image, a video or a folder of images, found {found}")
    media = open_image(path, path_or_url) if is_image(path) else open_video(path, path_or_url, rate)
    if media.kind == "image" and fps is not None:
        logger.warning("--fps is not used: %s is an image", path_or_url)
    return media
