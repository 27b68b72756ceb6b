"""One way to open whatever a user points at: an image, a video, a folder of frames, the URL of a file, or a stream."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

from datasets.media_base import Frame, Media, exact_rate
from datasets.media_image import is_image, open_folder, open_image
from datasets.media_live import LiveSource, is_live, open_live
from datasets.media_video import open_video
from util.errors import InputError
from util.paths import EndlessError, hide_secrets, kept_if_usable, local_path

__all__ = ["Frame", "LiveSource", "Media", "open_media", "open_source"]

logger = logging.getLogger(__name__)


def open_source(path_or_url: str, fps: float | None = None, *, live: bool = False) -> Media | LiveSource:
    """Open a source of frames of any kind: what `open_media` and what `open_live` knows.

    An http address is a stream if `live` is set or its server says that it sends MJPEG without end, else a file; a
    file is asked for only once.

    Args:
        path_or_url: see `open_media` and `open_live`.
        fps: as for these.
        live: whether only a live source will do.

    Raises:
        InputError: nothing there, nothing that can be read, or a file where a live source is wanted.
    """
    http = path_or_url.lower().startswith(("http://", "https://"))
    if is_live(path_or_url) or (http and live):
        return open_live(path_or_url, fps)
    if live:
        raise InputError(
            f"{hide_secrets(path_or_url)}: --live, --drop and --save_masks are for cameras (camera:0), streams (rtsp, "
            "http) and standard input (-): leave them out for a file"
        )
    try:
        return open_media(path_or_url, fps)
    except EndlessError:
        return open_live(path_or_url, fps)


def open_media(path_or_url: str, fps: float | None = None) -> Media:
    """Recognise a source of frames by its content and check what can be checked without decoding all of it.

    Args:
        path_or_url: a file, a folder, or an http(s) URL (downloaded once into the cache).
        fps: for a video, how many frames per second to use of it, chosen by their time stamps; for a folder, the frame
            rate that it stands for. None keeps a video's own frames.

    Raises:
        InputError: nothing there, or nothing that can be read; the message says what was found.
    """
    rate = exact_rate(fps)
    if not path_or_url:
        raise InputError("expected the path or URL of an image, a video or a folder of images, found an empty text")
    path = local_path(path_or_url)
    with kept_if_usable(path_or_url, path):
        return _open(path, hide_secrets(path_or_url), rate)


def _open(path: Path, shown: str, rate: Fraction | None) -> Media:
    if not path.exists():
        raise InputError(f"{shown} does not exist: expected an image, a video or a folder of images")
    if path.is_dir():
        return open_folder(path, shown, rate)
    if not path.is_file() or path.stat().st_size == 0:
        found = "an empty file" if path.is_file() else "neither a file nor a folder"
        raise InputError(f"{shown}: expected an image, a video or a folder of images, found {found}")
    media = open_image(path, shown) if is_image(path) else open_video(path, shown, rate)
    if media.kind == "image" and rate is not None:
        logger.warning("--fps is not used: %s is an image", shown)
    return media
