"""Scenes: who is in a video, how the objects look and move, and what the camera and the light do.

Axes: N objects from back to front, T frames, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tools.data.refshapes import vocabulary
from tools.data.refshapes.motion import Motion, Path, Stage, make_path
from tools.data.refshapes.stories import Role, cast_image, cast_video

# (H, W) and how often it is drawn.
SIZES: tuple[tuple[tuple[int, int], float], ...] = (
    ((240, 320), 0.6),
    ((180, 320), 0.15),
    ((320, 240), 0.13),
    ((240, 240), 0.12),
)
SHORT_VIDEOS = (8, 9, 17)
_PLACES_TRIED = 24


@dataclass(frozen=True)
class SceneObject:
    """One object: its looks, what it does, and where it is. `radius` is in pixels of the frame at scale 1."""

    colour: str
    shape: str
    texture: str
    size: str
    radius: float
    tilt: float
    motion: Motion
    path: Path


@dataclass(frozen=True)
class Camera:
    """Picture = zoom * (scene - middle) + middle + shift, per frame; and what happens to the light.

    Attributes:
        shift: (T, 2) pixels.
        zoom: (T,) factors.
        gain: (T, 3) factors of red, green, blue.
        blur: (T,) standard deviations in pixels.
    """

    shift: np.ndarray
    zoom: np.ndarray
    gain: np.ndarray
    blur: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Everything that is needed to draw a video."""

    height: int
    width: int
    frames: int
    unit: float
    story: str
    objects: tuple[SceneObject, ...]
    camera: Camera
    ground_seed: int

    @property
    def middle(self) -> np.ndarray:
        """(2,) the point that zooming leaves in place."""
        return np.array([(self.width - 1) / 2, (self.height - 1) / 2])

    def on_screen(self, centre: np.ndarray) -> np.ndarray:
        """Points (T, 2) of the scene as points of the picture."""
        return (centre - self.middle) * self.camera.zoom[:, None] + self.middle + self.camera.shift


def draw_scene(rng: np.random.Generator, frames: int | None, size: tuple[int, int] | None, held_out: bool) -> Scene:
    """Draw the scene of one video, or with `frames` 1 of one image.

    Args:
        frames: number of frames; drawn if None.
        size: (H, W); drawn if None.
        held_out: whether the scene is for evaluation: then its targets have combinations that training never has.
    """
    shares = np.array([share for _, share in SIZES])
    height, width = size or SIZES[rng.choice(len(SIZES), p=shares / shares.sum())][0]
    if frames is None:
        frames = int(rng.choice(SHORT_VIDEOS) if rng.random() < 0.12 else rng.integers(16, 41))
    unit = float(np.sqrt(height * width / (240 * 320)))
    stage = Stage(height, width, frames, unit)
    story, roles = cast_image(rng, held_out) if frames == 1 else cast_video(rng, held_out)
    objects: list[SceneObject] = []
    for role in roles:
        objects.append(_place(role, stage, objects, rng))
    order = np.argsort([role.depth for role in roles], kind="stable")
    camera = _draw_camera(stage, rng)
    ordered = tuple(objects[index] for index in order)
    return Scene(height, width, frames, unit, story, ordered, camera, int(rng.integers(2**31)))


def _place(role: Role, stage: Stage, others: list[SceneObject], rng: np.random.Generator) -> SceneObject:
    """Give an object a path that overlaps the others' as little as some tries allow, or passes behind one."""
    low, high = vocabulary.RADII[role.size]
    radius = rng.uniform(low, high) * stage.unit
    if role.motion.growth != 1:
        radius *= 0.72 if role.motion.growth > 1 else 1.1
    item = SceneObject(role.colour, role.shape, role.texture, role.size, radius, rng.uniform(-0.8, 0.8), role.motion,
                       make_path(role.motion, stage, radius, rng))  # fmt: skip
    best, lowest = item, np.inf
    for _ in range(_PLACES_TRIED):
        path = make_path(role.motion, stage, radius, rng)
        if role.behind is not None:
            path = _through(path, others[role.behind].path, stage, radius)
        cost = sum(_overlap(path, radius, other) for place, other in enumerate(others) if place != role.behind)
        if cost < lowest:
            best, lowest = replace(item, path=path), cost
        if cost == 0:
            break
    return best


def _through(path: Path, occluder: Path, stage: Stage, radius: float) -> Path:
    """`path` moved across its direction so that it leads through the middle of `occluder`."""
    middle = stage.frames // 2
    offset = occluder.centre[middle] - path.centre[middle]
    moving = int(np.argmax(np.ptp(path.centre, axis=0)))
    offset[moving] = 0
    centre = path.centre + offset
    return replace(path, centre=np.clip(centre, radius * 0.5, np.array([stage.width, stage.height]) - radius * 0.5))


def _overlap(path: Path, radius: float, other: SceneObject) -> float:
    """Mean share by which two objects, taken as discs, are in each other's way."""
    distance = np.linalg.norm(path.centre - other.path.centre, axis=1)
    reach = 0.95 * (radius * path.scale + other.radius * other.path.scale)
    both = path.present & other.path.present
    return float((np.clip(reach - distance, 0, None) / reach * both).mean())


def _draw_camera(stage: Stage, rng: np.random.Generator) -> Camera:
    """Shake, slow movement, slow zoom, light and blur; each in a part of the videos."""
    count, unit = stage.frames, stage.unit
    time = np.linspace(0, 1, count)
    shift = np.zeros((count, 2))
    if rng.random() < 0.35:
        shift += rng.normal(0, rng.uniform(0.5, 1.4) * unit, (count, 2))
    if rng.random() < 0.35:
        shift += (time - 0.5)[:, None] * rng.uniform(-1, 1, 2) * 12 * unit
    zoom = np.ones(count)
    if rng.random() < 0.3:
        change = rng.uniform(0.04, 0.1)
        zoom = 1 + change * (time if rng.random() < 0.5 else 1 - time)
    gain = np.full((count, 3), rng.uniform(0.85, 1.08)) * (1 + rng.normal(0, 0.02, 3))
    if rng.random() < 0.4:
        wave = np.sin(2 * np.pi * (rng.uniform(0.3, 1.5) * time + rng.random()))
        gain = gain * (1 + rng.uniform(0.05, 0.16) * wave[:, None])
    blur = np.zeros(count)
    if rng.random() < 0.35:
        wave = np.sin(2 * np.pi * (rng.uniform(0.3, 1.0) * time + rng.random()))
        blur = np.clip(rng.uniform(0.5, 1.3) * wave, 0, None)
    return Camera(shift, zoom, gain, blur)
