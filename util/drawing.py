"""Masks drawn over a frame, with a legend that names them.

Letters in shapes: E masks (one per prompt), (H, W) the size of the frame.
"""

from __future__ import annotations

import colorsys
import contextlib
import functools
import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

# Easy to tell apart from each other and from most scenes, also for most people who see fewer colours.
_FIRST_COLOURS: tuple[Colour, ...] = (
    (255, 64, 64),
    (48, 144, 255),
    (255, 208, 32),
    (64, 208, 96),
    (232, 96, 240),
    (255, 136, 32),
    (64, 224, 224),
    (160, 120, 255),
)
_FILL = 0.45  # opacity of a mask
_SEAM = (16, 16, 16)
_SHADE = 0.6  # opacity of the legend's ground
_SMALLEST_FONT, _LARGEST_FONT = 9, 64
_MAX_LINES = 3  # of the caption of a single mask
_LEGEND_SHARE = 0.4  # of the frame's height that a legend may take
_FALLBACK_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")


def palette(count: int) -> list[Colour]:
    """`count` different RGB colours."""
    # Steps of the golden ratio around the colour circle never come back to a hue.
    hues = ((0.11 + 0.618033988749895 * index) % 1.0 for index in range(len(_FIRST_COLOURS), count))
    more = [colorsys.hsv_to_rgb(hue, 0.75 - 0.3 * (index % 2), 1.0) for index, hue in enumerate(hues)]
    return [*_FIRST_COLOURS[:count], *((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in more)]


def draw_overlay(
    frame: np.ndarray, masks: Sequence[np.ndarray], colours: Sequence[Colour], labels: Sequence[str]
) -> np.ndarray:
    """A copy of the frame with E translucent, outlined masks and a legend in its upper left corner.

    Args:
        frame: (H, W, 3) uint8 RGB.
        masks: E arrays (H, W), bool; later ones are drawn over earlier ones.
        colours: E RGB colours.
        labels: E texts. A single one is wrapped to a few lines; of several, each has one line. What is too long
            ends in an ellipsis, and a frame that has no room for a few letters has no legend.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    assert len(masks) == len(colours) == len(labels)
    height, width = frame.shape[:2]
    thickness = max(1, round(min(height, width) / 270))
    picture = frame.copy()
    for mask, colour in zip(masks, colours, strict=True):
        _draw_mask(picture, mask, colour, thickness)
    legend = _legend(tuple(labels), tuple(colours), height, width)
    if legend is not None:
        _blend(picture, legend)
    return picture


def _draw_mask(picture: np.ndarray, mask: np.ndarray, colour: Colour, thickness: int) -> None:
    """Fill and outline one mask, in place; only the surroundings of its bounding box are touched.

    The outline is the mask's own rim; a dark seam outside of it keeps it visible on a ground of its colour. Both come
    from morphology, whose time does not depend on how ragged the mask is.
    """
    pixels = mask.astype(np.uint8)
    left, top, width, height = cv2.boundingRect(pixels)
    if width == 0:
        return
    rim, seam = thickness + 1, thickness // 2
    margin = seam + 1  # without a pixel of ground beside it, the rim would count as inside
    rows = slice(max(top - margin, 0), top + height + margin)
    columns = slice(max(left - margin, 0), left + width + margin)
    region, inside = picture[rows, columns], pixels[rows, columns]
    tint = np.empty_like(region)
    tint[:] = colour
    cv2.copyTo(cv2.addWeighted(region, 1 - _FILL, tint, _FILL, 0), inside, region)
    cv2.copyTo(tint, inside - cv2.erode(inside, np.ones((2 * rim + 1, 2 * rim + 1), np.uint8)), region)
    if seam:
        outside = cv2.dilate(inside, np.ones((2 * seam + 1, 2 * seam + 1), np.uint8)) - inside
        tint[:] = _SEAM
        cv2.copyTo(tint, outside, region)


def _blend(picture: np.ndarray, legend: np.ndarray) -> None:
    """Lay the (h, w, 4) RGBA legend over the upper left corner of the picture, in place."""
    region = picture[: legend.shape[0], : legend.shape[1]]
    opacity = legend[..., 3:].astype(np.float32) / 255
    region[:] = np.rint(region * (1 - opacity) + legend[..., :3] * opacity).astype(np.uint8)


@functools.lru_cache(maxsize=64)
def _legend(labels: tuple[str, ...], colours: tuple[Colour, ...], height: int, width: int) -> np.ndarray | None:
    """The legend for a frame of this size: (h, w, 4) uint8 RGBA with h <= height and w <= width, or None."""
    size = int(min(max(min(height, width) / 25, _SMALLEST_FONT), _LARGEST_FONT))
    rows = max(1, int(_LEGEND_SHARE * height / (1.35 * size)))
    if len(labels) > rows:
        size = max(_SMALLEST_FONT, int(size * rows / len(labels)))
        rows = max(1, int(_LEGEND_SHARE * height / (1.35 * size)))
    margin, step = max(2, size // 3), round(1.35 * size)
    room = width - 3 * margin - size
    if room < 2 * size or height < step + 2 * margin:
        return None
    lines: list[tuple[Colour | None, str]]
    if len(labels) == 1:
        wrapped = _wrap(labels[0], size, room, min(rows, _MAX_LINES))
        lines = [(colours[0] if number == 0 else None, text) for number, text in enumerate(wrapped)]
    else:
        shown = len(labels) if len(labels) <= rows else rows - 1
        lines = [(colours[i], _wrap(labels[i], size, room, 1)[0]) for i in range(shown)]
        if shown < len(labels):
            lines.append((None, _wrap(f"and {len(labels) - shown} more", size, room, 1)[0]))
    text_width = max(_font(text, size).getlength(text) for _, text in lines)
    tile = Image.new("RGBA", (int(text_width) + size + 3 * margin, step * len(lines) + margin), (0, 0, 0, 0))
    draw = ImageDraw.Draw(tile)
    draw.rectangle((0, 0, *tile.size), fill=(0, 0, 0, round(255 * _SHADE)))
    for number, (colour, text) in enumerate(lines):
        top = margin // 2 + number * step
        if colour is not None:
            side, middle = size * 3 // 4, top + step // 2
            draw.rectangle((margin, middle - side // 2, margin + side, middle - side // 2 + side), colour)
        draw.text((2 * margin + size, top + step // 2), text, (255, 255, 255), _font(text, size), anchor="lm")
    return np.asarray(tile)[:height, :width]


def _wrap(label: str, size: int, room: int, max_lines: int) -> list[str]:
    """Break a text into at most `max_lines` lines of `room` pixels; an ellipsis stands for what does not fit."""
    text = _drawable(" ".join(label.split()), size)
    font = _font(text, size)
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= room or not lines[-1]:
            lines[-1] = longer
        elif len(lines) > max_lines:
            break
        else:
            lines.append(word)
    kept = lines[:max_lines]
    if len(lines) > max_lines:
        kept[-1] += " …"
    return [_shorten(line, font, room) for line in kept]


def _shorten(line: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    if font.getlength(line) <= room:
        return line
    while line and font.getlength(line + "…") > room:
        line = line[:-1]
    return line.rstrip(" …") + "…"


def _drawable(text: str, size: int) -> str:
    """The text without accents where no font at hand can draw it; letters unknown even then show as boxes."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return min(text, plain, key=lambda spelling: _missing_letters(_font(spelling, size), spelling))


@functools.lru_cache(maxsize=256)
def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Of Pillow's own font and some usual ones of the computer, the first that lacks the fewest letters of the text."""
    own = ImageFont.load_default(size)
    assert isinstance(own, ImageFont.FreeTypeFont)
    fonts = [own]
    if _missing_letters(own, text):
        for name in _FALLBACK_FONTS:
            with contextlib.suppress(OSError):  # not on this computer
                fonts.append(ImageFont.truetype(name, size))
    return min(fonts, key=lambda font: _missing_letters(font, text))


def _missing_letters(font: ImageFont.FreeTypeFont, text: str) -> int:
    box = bytes(font.getmask("\U0010ffff"))
    return sum(not c.isspace() and bytes(font.getmask(c)) == box for c in set(text))
