"""What can be measured in a finished scene: where every object is, and how much of it is seen, in every frame.

Axes: N objects, T frames. Lengths are in units (pixels of a frame of 320x240); positions are taken against the ground.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tools.data.refshapes.rendering import Masks
from tools.data.refshapes.scene import Scene

SEEN = 0.25  # an object is seen where at least this share of it is
GONE = 0.03  # it is not seen where less than this share is
STILL_SPEED, MOVING_SPEED = 0.4, 1.0  # units per frame
_TURN_DEGREES = 22.0  # steps that differ less belong to the same leg


@dataclass(frozen=True)
class Leg:
    """A part of a track without a turn: `direction` (2,) of length 1, or None for standing still."""

    direction: np.ndarray | None
    length: float
    frames: int


@dataclass(frozen=True)
class Track:
    """One object over a range of frames.

    Attributes:
        centre: (T, 2) positions in units.
        visible: (T,) share of the object that is seen.
        in_frame: (T,) share of it that would be seen if nothing were in front of it.
        radius: (T,) of a disc of the same area, in units.
        angle: (T,) in radians; zeros for shapes whose rotation is not seen.
    """

    centre: np.ndarray
    visible: np.ndarray
    in_frame: np.ndarray
    radius: np.ndarray
    angle: np.ndarray

    def window(self, first: int, end: int) -> Track:
        """The frames from `first` to before `end`."""
        part = slice(first, end)
        return Track(self.centre[part], self.visible[part], self.in_frame[part], self.radius[part], self.angle[part])

    @cached_property
    def seen(self) -> np.ndarray:
        """Numbers of the frames in which it is seen."""
        return np.flatnonzero(self.visible >= SEEN)

    @cached_property
    def span(self) -> slice | None:
        """From the first to the last frame in which it is seen; None if it is seen too little to follow it."""
        if len(self.seen) < 4 or len(self.seen) < 0.6 * (self.seen[-1] - self.seen[0] + 1):
            return None
        return slice(int(self.seen[0]), int(self.seen[-1]) + 1)

    @cached_property
    def path(self) -> np.ndarray:
        """(S, 2) positions while it is seen; (0, 2) if it cannot be followed."""
        return self.centre[self.span] if self.span else self.centre[:0]

    @cached_property
    def steps(self) -> np.ndarray:
        """(S - 1, 2) units per frame."""
        return np.diff(self.path, axis=0)

    @cached_property
    def length(self) -> float:
        """Of the path, in units."""
        return float(np.linalg.norm(self.steps, axis=1).sum())

    @cached_property
    def legs(self) -> list[Leg] | None:
        """The path as straight parts and stops; None if it is curved or has more than four of them."""
        legs: list[Leg] = []
        for step in self.steps:
            speed = float(np.linalg.norm(step))
            direction = None if speed < STILL_SPEED else step / speed
            last = legs[-1] if legs else None
            if last is not None and _same(last.direction, direction):
                legs[-1] = Leg(last.direction, last.length + speed, last.frames + 1)
            else:
                legs.append(Leg(direction, speed, 1))
            if len(legs) > 8:
                return None
        legs = _without_joints(legs)
        return legs if 0 < len(legs) <= 4 else None

    @cached_property
    def longest_stop(self) -> float:
        """The longest stretch without movement, as a share of the frames in which it is seen."""
        best = run = 0
        for step in self.steps:
            run = run + 1 if np.linalg.norm(step) < STILL_SPEED else 0
            best = max(best, run)
        return best / max(len(self.steps), 1)

    def reversals(self, axis: int, swing: float) -> int:
        """How often the coordinate `axis` turns round, counting swings of at least `swing` units."""
        count, sign, extreme = 0, 0, None
        for value in self.path[:, axis]:
            extreme = value if extreme is None else extreme
            if sign == 0 and abs(value - extreme) >= swing:
                sign, extreme = (1 if value > extreme else -1), value
            elif sign * (value - extreme) > 0:
                extreme = value
            elif sign and sign * (extreme - value) >= swing:
                count, sign, extreme = count + 1, -sign, value
        return count

    @cached_property
    def extent(self) -> np.ndarray:
        """(2,) width and height of the path in units."""
        return np.ptp(self.path, axis=0) if len(self.path) else np.zeros(2)


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(one @ other > np.cos(np.deg2rad(_TURN_DEGREES)))


def _without_joints(legs: list[Leg]) -> list[Leg]:
    """Leave out single steps between two legs: a frame in which a turn happens has a direction of its own."""
    kept = [
        leg for place, leg in enumerate(legs) if leg.frames > 1 or len(legs) == 1 or not (0 < place < len(legs) - 1)
    ]
    merged: list[Leg] = []
    for leg in kept:
        last = merged[-1] if merged else None
        if last is not None and _same(last.direction, leg.direction):
            merged[-1] = Leg(last.direction, last.length + leg.length, last.frames + leg.frames)
        else:
            merged.append(leg)
    return merged


@dataclass(frozen=True)
class Looks:
    """What an object looks like, in the words of the vocabulary."""

    colour: str
    shape: str
    texture: str
    size: str


@dataclass(frozen=True)
class Facts:
    """A scene as its sentences see it.

    Attributes:
        looks: N objects.
        tracks: N objects.
        width, height: of the frame, in units.
        screen: (N, T, 2) centres in the picture, in units.
        first_box: (N, 4) left, top, right, bottom of what is seen of an object in the first frame of the video, in
            units; zeros if nothing is.
    """

    looks: tuple[Looks, ...]
    tracks: tuple[Track, ...]
    width: float
    height: float
    screen: np.ndarray
    first_box: np.ndarray

    @property
    def frames(self) -> int:
        """Number of frames."""
        return int(self.screen.shape[1])

    def window(self, first: int, end: int) -> Facts:
        """The frames from `first` to before `end` alone."""
        tracks = tuple(track.window(first, end) for track in self.tracks)
        return Facts(self.looks, tracks, self.width, self.height, self.screen[:, first:end], self.first_box)


def measure(scene: Scene, masks: Masks) -> Facts:
    """The facts of a scene whose masks are drawn."""
    unit = scene.unit
    visible = masks.visible / np.maximum(masks.nominal, 1)
    in_frame = masks.in_frame / np.maximum(masks.nominal, 1)
    tracks, looks = [], []
    for index, item in enumerate(scene.objects):
        angle = item.path.angle if item.shape not in ("disc", "ring") else np.zeros(scene.frames)
        radius = np.sqrt(masks.share[index] / np.pi) * item.radius * item.path.scale / unit
        tracks.append(Track(item.path.centre / unit, visible[index], in_frame[index], radius, angle))
        looks.append(Looks(item.colour, item.shape, item.texture, item.size))
    screen = np.stack([scene.on_screen(item.path.centre) for item in scene.objects]) / unit
    boxes = np.array([_box(masks.labels[0] == index + 1) for index in range(len(looks))]) / unit
    return Facts(tuple(looks), tuple(tracks), scene.width / unit, scene.height / unit, screen, boxes)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a mask (H, W) in pixels; zeros if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])) if len(rows) else (0, 0, 0, 0)
