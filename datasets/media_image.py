"""Still images and folders of them, through Pillow."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from datasets.media_base import Frame, Media
from util.errors import InputError, one_line
from util.naming import natural_key

logger = logging.getLogger(__name__)

FOLDER_FPS = Fraction(10)
# What counts as a frame in a folder; a single file is recognised by its content instead.
_SUFFIX = re.compile(r"\.(jpe?g|jpe|jfif|jp2|a?png|webp|avif|bmp|dib|gif|tiff?|p[bgnp]m|tga)", re.IGNORECASE)
_SEVERAL = ("WEBP", "PNG", "AVIF", "TIFF")  # formats of animations and stacks that are read as one image
_BARE_MJPEG = (".mjpg", ".mjpeg")  # Pillow sees the first frame only
_EXIF_ORIENTATION = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257


def is_image(path: Path) -> bool:
    """Whether Pillow recognises the file as an image; False for an animated GIF or bare MJPEG: those are videos."""
    try:
        with Image.open(path) as image:
            if image.format == "JPEG":
                return path.suffix.lower() not in _BARE_MJPEG
            return image.format != "MPEG" and not (image.format == "GIF" and getattr(image, "is_animated", False))
    except UnidentifiedImageError:
        return False
    except Exception:  # damaged or too large in a way that its decoder will name
        return True


def read_image(path: Path) -> Frame:
    """Decode an image to (H, W, 3) uint8 RGB, upright (EXIF).

    Transparent parts are laid over white; 16-bit and floating-point grey is scaled to 8 bits; of several pages or
    frames the first is taken.

    Raises:
        InputError: damaged, truncated, over Pillow's limit of about 179 million pixels, or not an image.
    """
    try:
        with Image.open(path) as image:
            return rgb_of(image)
    except UnidentifiedImageError:
        raise InputError(f"{path}: expected an image, found another or a damaged file") from None
    except FileNotFoundError:
        raise InputError(f"{path}: expected an image, found no file") from None
    except Exception as error:  # Pillow's decoders raise exceptions of many classes on damaged files
        raise InputError(f"{path}: the image cannot be decoded ({one_line(error)}); is the file complete?") from error


def rgb_of(image: Image.Image) -> Frame:
    """An image of Pillow as `read_image` gives it."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image).astype(np.float32))
        peak = 65535.0
        if image.mode == "F":
            peak = next((limit for limit in (1.0, 255.0, 65535.0) if values.max() <= limit), float(values.max()))
        grey = np.rint(np.clip(values / peak, 0, 1) * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = over_white(image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def over_white(image: Image.Image) -> Image.Image:
    """An image of mode RGBA as it looks on white."""
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)


def open_image(path: Path, shown: str) -> Media:
    """An image as `Media` of one frame, already decoded. Of several it is the first, and a warning says so.

    Args:
        path: the file.
        shown: what to call it in `Media.path`.

    Raises:
        InputError: see `read_image`.
    """
    frame = read_image(path)
    with Image.open(path) as image:
        if image.format in _SEVERAL and getattr(image, "is_animated", False):
            count = getattr(image, "n_frames", 1)
            logger.warning("%s holds %d images: the first is used; as a GIF or a video all are", shown, count)
    return Media(shown, "image", frame.shape[:2], None, 1, None, lambda: iter((frame,)))


def open_folder(folder: Path, shown: str, fps: Fraction | None) -> Media:
    """The images of a folder, in the natural order of their names, as the frames of one video.

    Other files are left alone. Of all images but the first only the headers are read here.

    Args:
        folder: where to look, not in its subfolders.
        shown: what to call it in `Media.path`.
        fps: frames per second, by default `FOLDER_FPS`.

    Raises:
        InputError: no image in it, a damaged one, several sizes, or two names that differ only in their suffix.
    """
    # A link that leads nowhere is a frame that is missing.
    files = [entry for entry in folder.iterdir() if not entry.is_dir() and not entry.name.startswith(".")]
    images = sorted((f for f in files if _SUFFIX.fullmatch(f.suffix)), key=lambda file: natural_key(file.name))
    if not images:
        raise InputError(f"{shown}: expected a folder of images (.jpg, .png, ...), found none among {len(files)} files")
    if len(images) < len(files):
        logger.info("%s: %d files that are no images are left alone", shown, len(files) - len(images))
    size = read_image(images[0]).shape[:2]
    stems: dict[str, Path] = {}
    for file in images:
        if (other := upright_size(file)) != size:
            raise InputError(
                f"{shown}: the frames of a video have one size, but {images[0].name} is {size[1]}x{size[0]} and "
                f"{file.name} is {other[1]}x{other[0]}; give one folder per size"
            )
        if file.stem in stems:
            raise InputError(f"{shown}: {stems[file.stem].name} and {file.name} would make files of one name")
        stems[file.stem] = file

    def frames() -> Iterator[Frame]:
        return (read_image(file) for file in images)

    return Media(shown, "folder", size, fps or FOLDER_FPS, len(images), list(stems), frames)


def upright_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header, as `read_image` will decode it. Raises InputError: no image, or a damaged header."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # the size is upright already, or not, as Pillow's version has it
                width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except UnidentifiedImageError:
        raise InputError(f"{path}: expected an image, found another or a damaged file") from None
    except FileNotFoundError:
        raise InputError(f"{path}: expected an image, found no file") from None
    except Exception as error:  # as in read_image
        raise InputError(f"{path}: the image cannot be read ({one_line(error)})") from error
    return (width, height) if turned else (height, width)
