"""Sprites: the outline of a shape and the picture on it, drawn large once per object.

Axes: S side of the square sprite in pixels; the shape's circle of radius 1 fills its middle (see `SPRITE_RADIUS`).
"""

from __future__ import annotations

import cv2
import numpy as np

from tools.data.refshapes.vocabulary import Colour

SPRITE = 208
SPRITE_RADIUS = 100  # of the circle around the shape, in sprite pixels
_SHIFT = 4  # binary digits after the point of drawn coordinates


def _regular(corners: int, radius: float = 1.0, inner: float | None = None) -> np.ndarray:
    """(corners, 2) points on a circle from the top on; with `inner`, points between them on a smaller circle."""
    count = corners if inner is None else 2 * corners
    angles = 2 * np.pi * np.arange(count) / count - np.pi / 2
    radii = np.full(count, radius)
    if inner is not None:
        radii[1::2] = inner
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2], 1) / 16.5


def _polygon(shape: str) -> np.ndarray:
    """(N, 2) corners of a shape in units of its radius, y downwards."""
    if shape == "square":
        return np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])
    if shape == "triangle":
        return np.array([(0, -0.95), (0.95, 0.75), (-0.95, 0.75)])
    if shape == "star":
        return _regular(5, 1.0, 0.42)
    if shape == "hexagon":
        return _regular(6, 0.95)
    if shape == "cross":
        a, b = 0.95, 0.34
        return np.array([(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b), (b, a), (-b, a), (-b, b), (-a, b),
                         (-a, -b), (-b, -b)])  # fmt: skip
    if shape == "bar":
        return np.array([(-1, -0.3), (1, -0.3), (1, 0.3), (-1, 0.3)])
    if shape == "diamond":
        return np.array([(0, -1), (0.6, 0), (0, 1), (-0.6, 0)])
    assert shape == "heart", shape
    return _heart()


def outline(shape: str) -> np.ndarray:
    """(S, S) uint8: 255 inside the shape, antialiased."""
    cover = np.zeros((SPRITE, SPRITE), np.uint8)

    def disc(x: float, y: float, radius: float, value: int) -> None:
        scale = SPRITE_RADIUS * (1 << _SHIFT)
        middle = (SPRITE - 1) / 2 * (1 << _SHIFT)
        centre = (round(middle + x * scale), round(middle + y * scale))
        cv2.circle(cover, centre, round(radius * scale), value, cv2.FILLED, cv2.LINE_AA, _SHIFT)

    if shape == "disc":
        disc(0, 0, 0.92, 255)
    elif shape == "ring":
        disc(0, 0, 0.95, 255)
        disc(0, 0, 0.5, 0)
    elif shape == "crescent":
        disc(0, 0, 0.98, 255)
        disc(0.5, -0.18, 0.72, 0)
    else:
        points = (_polygon(shape) * SPRITE_RADIUS + (SPRITE - 1) / 2) * (1 << _SHIFT)
        cv2.fillPoly(cover, [np.rint(points).astype(np.int32)], 255, cv2.LINE_AA, _SHIFT)
    return cover


def picture(texture: str, colour: Colour, second: Colour, radius: float, tilt: float) -> np.ndarray:
    """(S, S, 3) uint8 RGB: the pattern on an object of `radius` frame pixels.

    The pattern's period does not shrink below what a frame of half the size still shows.

    Args:
        tilt: angle of stripes and checks against the shape, in radians.
    """
    period = SPRITE_RADIUS * max(0.62, 11.5 / radius)
    middle = (SPRITE - 1) / 2
    y, x = np.mgrid[0:SPRITE, 0:SPRITE].astype(np.float32) - middle
    across, along = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
    if texture == "striped":
        other = np.floor(2 * across / period + 0.5) % 2 == 1
    elif texture == "checked":
        other = (np.floor(2 * across / period + 0.25) + np.floor(2 * along / period + 0.25)) % 2 == 1
    elif texture == "dotted":
        spacing = period * 0.9
        row = np.round(along / spacing)
        dx = across / spacing - 0.5 * (row % 2)
        other = (dx - np.round(dx)) ** 2 + (along / spacing - row) ** 2 < 0.29**2
    else:
        other = np.zeros((SPRITE, SPRITE), bool)
    image = np.where(other[..., None], np.array(second, np.float32), np.array(colour, np.float32))
    shading = 1.06 - 0.12 * np.linspace(0, 1, SPRITE, dtype=np.float32)[:, None, None]
    return cv2.GaussianBlur(np.clip(image * shading, 0, 255), (0, 0), 1.2).astype(np.uint8)
