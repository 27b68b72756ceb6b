"""Draws scenes: first every object's cover, from which the exact masks come, then the colours.

Axes: N objects from back to front, T frames, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tools.data.refshapes.scene import Scene, SceneObject
from tools.data.refshapes.shapes import SPRITE, SPRITE_RADIUS, outline, picture
from tools.data.refshapes.vocabulary import COLOURS, second_colour

_MARGIN = 40  # pixels of ground around the frame, for the camera
_HALF = 128  # of 255: what an object covers at least half is its own


@dataclass(frozen=True)
class Patch:
    """The cover of one object in one frame: `cover` (h, w) uint8 at rows `top`.., columns `left`.. of the frame."""

    top: int
    left: int
    cover: np.ndarray
    matrix: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """Where the patch lies in the frame."""
        return slice(self.top, self.top + self.cover.shape[0]), slice(self.left, self.left + self.cover.shape[1])


@dataclass(frozen=True)
class Masks:
    """Who owns which pixel.

    Attributes:
        labels: (T, H, W) uint8: 0 the ground, k the object k - 1; a pixel belongs to the front-most object that
            covers at least half of it.
        visible: (N, T) pixels that objects own.
        in_frame: (N, T) pixels that they would own alone.
        nominal: (N, T) pixels that they would own in a frame without end.
        share: (N,) area of the objects' shapes relative to the square of their radius.
        patches: per object and frame its cover, None where it is not in the frame.
    """

    labels: np.ndarray
    visible: np.ndarray
    in_frame: np.ndarray
    nominal: np.ndarray
    share: np.ndarray
    patches: list[list[Patch | None]]


def draw_masks(scene: Scene) -> Masks:
    """The masks of all frames."""
    count = len(scene.objects)
    labels = np.zeros((scene.frames, scene.height, scene.width), np.uint8)
    in_frame, nominal = np.zeros((count, scene.frames)), np.zeros((count, scene.frames))
    share = np.zeros(count)
    patches: list[list[Patch | None]] = []
    for index, item in enumerate(scene.objects):
        sprite = outline(item.shape)
        share[index] = np.count_nonzero(sprite >= _HALF) / SPRITE_RADIUS**2
        nominal[index] = share[index] * (item.radius * item.path.scale * scene.camera.zoom) ** 2 * item.path.present
        centre = scene.on_screen(item.path.centre)
        row = [_patch(scene, item, sprite, centre[frame], frame) for frame in range(scene.frames)]
        for frame, patch in enumerate(row):
            if patch is not None:
                owned = patch.cover >= _HALF
                labels[frame][patch.window][owned] = index + 1
                in_frame[index, frame] = np.count_nonzero(owned)
        patches.append(row)
    counts = [np.bincount(image.ravel(), minlength=count + 1)[1:] for image in labels]
    return Masks(labels, np.array(counts).T.astype(float), in_frame, nominal, share, patches)


def _patch(scene: Scene, item: SceneObject, sprite: np.ndarray, centre: np.ndarray, frame: int) -> Patch | None:
    """The cover of an object, cut to the frame; None if nothing of it is there."""
    if not item.path.present[frame]:
        return None
    radius = item.radius * item.path.scale[frame] * scene.camera.zoom[frame]
    reach = 1.05 * radius * SPRITE / (2 * SPRITE_RADIUS) + 1.5
    left, top = np.maximum(np.floor(centre - reach), 0).astype(int)
    right, bottom = np.minimum(np.ceil(centre + reach) + 1, [scene.width, scene.height]).astype(int)
    if left >= right or top >= bottom:
        return None
    scale, angle = radius / SPRITE_RADIUS, item.path.angle[frame]
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    middle = (SPRITE - 1) / 2
    matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0]])
    matrix[:, 2] = centre - (left, top) - matrix[:, :2] @ (middle, middle)
    # Objects are drawn at twice the size and reduced: soft edges that do not depend on the sprite's size.
    doubled = 2 * matrix
    doubled[:, 2] += 0.5
    size = (int(2 * (right - left)), int(2 * (bottom - top)))
    cover = cv2.resize(cv2.warpAffine(sprite, doubled, size), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return Patch(int(top), int(left), cover, matrix) if cover.any() else None


def draw_frames(scene: Scene, masks: Masks) -> np.ndarray:
    """The video, (T, H, W, 3) uint8 RGB."""
    rng = np.random.default_rng(scene.ground_seed)
    ground = _ground(scene, rng)
    noise = rng.normal(0, rng.uniform(0.5, 2.5), (scene.height + 64, scene.width + 64, 1)).astype(np.float32)
    pictures = [
        picture(item.texture, COLOURS[item.colour], second_colour(item.colour), item.radius, item.tilt)
        for item in scene.objects
    ]
    frames = np.empty((scene.frames, scene.height, scene.width, 3), np.uint8)
    for frame in range(scene.frames):
        image = _camera_view(ground, scene, frame)
        for row, colours in zip(masks.patches, pictures, strict=True):
            if (patch := row[frame]) is not None:
                size = (patch.cover.shape[1], patch.cover.shape[0])
                body = cv2.warpAffine(colours, patch.matrix, size, borderMode=cv2.BORDER_REPLICATE)
                share = patch.cover.astype(np.float32)[..., None] / 255
                region = image[patch.window]
                region += (body - region) * share
        if scene.camera.blur[frame] > 0.2:
            image = cv2.GaussianBlur(image, (0, 0), float(scene.camera.blur[frame]))
        image *= scene.camera.gain[frame].astype(np.float32)
        down, right = rng.integers(0, 64, 2)
        image += noise[down : down + scene.height, right : right + scene.width]
        frames[frame] = np.clip(image, 0, 255)
    return frames


def _camera_view(ground: np.ndarray, scene: Scene, frame: int) -> np.ndarray:
    """The part of the ground that the camera sees, (H, W, 3) float32."""
    zoom = scene.camera.zoom[frame]
    matrix = np.zeros((2, 3))
    matrix[:, :2] = np.eye(2) * zoom
    matrix[:, 2] = scene.middle - zoom * (scene.middle + _MARGIN) + scene.camera.shift[frame]
    size = (scene.width, scene.height)
    return cv2.warpAffine(ground, matrix, size, borderMode=cv2.BORDER_REFLECT).astype(np.float32)


def _ground(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A texture of muted colours, larger than the frame: (H + 2 margin, W + 2 margin, 3) uint8."""
    height, width = scene.height + 2 * _MARGIN, scene.width + 2 * _MARGIN
    light = np.zeros((height, width), np.float32)
    strength = rng.uniform(0.4, 1.3)
    for cell, weight in ((90, 16.0), (34, 10.0), (11, 7.0), (4, 5.0)):
        grid = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
        light += strength * weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    pattern, period = rng.integers(4), rng.uniform(24, 70)
    turn = rng.uniform(0, np.pi)
    across, along = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    if pattern == 1:  # boards
        light += 7 * np.sin(2 * np.pi * across / period).astype(np.float32)
    elif pattern == 2:  # tiles
        edge = np.minimum(np.abs(across % period - period / 2), np.abs(along % period - period / 2))
        light -= 14 * (edge < 1.5)
    elif pattern == 3:  # a slope of light
        light += 20 * (across / max(height, width) - 0.5)
    base = rng.uniform(95, 165) + rng.normal(0, 7, 3)
    tint = 1 + rng.normal(0, 0.04, 3)
    image = base.astype(np.float32) + light[..., None] * tint.astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)
