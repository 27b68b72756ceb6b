"""How objects move: a `Motion` is what an object does, a `Path` is where it is in every frame.

Axes: T frames; points are (x, y) in pixels of the scene, y downwards, before the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_DIAGONAL = float(np.sqrt(0.5))
DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up-left": (-_DIAGONAL, -_DIAGONAL),
    "up-right": (_DIAGONAL, -_DIAGONAL),
    "down-left": (-_DIAGONAL, _DIAGONAL),
    "down-right": (_DIAGONAL, _DIAGONAL),
}
MAIN_DIRECTIONS = tuple(DIRECTIONS)[:4]
OPPOSITE = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "up-left": "down-right",
    "down-right": "up-left",
    "up-right": "down-left",
    "down-left": "up-right",
}
KINDS = (
    *("straight", "turn_back", "stop_then_go", "go_then_stop", "stop_and_go", "zigzag", "enter", "leave"),
    *("leave_return", "turn", "still", "circle", "bounce", "shuttle"),
)


@dataclass(frozen=True)
class Motion:
    """What an object does.

    Attributes:
        kind: one of `KINDS`.
        direction: the first direction it moves in; for circles `clockwise` or `anticlockwise`; else empty.
        second: the direction after a `turn`; else empty.
        turns: whole turns of spinning over the video, negative for anticlockwise.
        growth: factor of its size over the video.
        delay: share of the video after which it appears at once (0: it is there from the first frame).
        moment: share of the video at which it stops, starts, turns or has left; 0 for a drawn one.
        reach: share of the usual distance, for slow objects.
    """

    kind: str
    direction: str = ""
    second: str = ""
    turns: float = 0.0
    growth: float = 1.0
    delay: float = 0.0
    moment: float = 0.0
    reach: float = 1.0

    @property
    def label(self) -> str:
        """All of it in a word or two, for the records."""
        parts = [self.kind, self.direction, self.second]
        parts += ["spin"] * (self.turns != 0) + ["grow"] * (self.growth > 1) + ["shrink"] * (self.growth < 1)
        return " ".join(part for part in [*parts, "late" * (self.delay > 0)] if part)


@dataclass(frozen=True)
class Path:
    """Where an object is: centre (T, 2), scale (T,) of its radius, angle (T,) in radians, present (T,) bool."""

    centre: np.ndarray
    scale: np.ndarray
    angle: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class Stage:
    """Where and how long objects move: frame height and width in pixels, number of frames, pixels per unit.

    A unit is a pixel in a frame of 320x240.
    """

    height: int
    width: int
    frames: int
    unit: float


def perpendicular(direction: str, rng: np.random.Generator) -> str:
    """One of the two main directions across a main direction."""
    options = ("up", "down") if direction in ("left", "right") else ("left", "right")
    return options[rng.integers(2)]


def make_path(motion: Motion, stage: Stage, radius: float, rng: np.random.Generator) -> Path:
    """Draw a path for `motion` that stays in the frame, except for objects that enter or leave it.

    Args:
        radius: of the object at scale 1, in pixels.
    """
    count = stage.frames
    largest = radius * max(motion.growth, 1.0)
    if motion.kind in ("enter", "leave", "leave_return"):
        centre = _across_border(motion, stage, largest, rng)
    else:
        centre = _inside(_offsets(motion, stage, largest, rng), stage, largest, rng)
    share = np.linspace(0, 1, count) if count > 1 else np.zeros(1)
    angle = 2 * np.pi * motion.turns * share + (rng.uniform(-0.25, 0.25) if motion.turns == 0 else 0)
    present = np.arange(count) >= round(motion.delay * count)
    return Path(centre, motion.growth**share, angle, present)


def _room(direction: tuple[float, float], stage: Stage, radius: float) -> float:
    """How far an object can go in a direction and stay inside, in pixels."""
    sides = [side - 2 * radius - 6 for side in (stage.width, stage.height)]
    return max(min(side / abs(part) for side, part in zip(sides, direction, strict=True) if part), 20 * stage.unit)


def _progress(knots: list[tuple[float, float]], count: int) -> np.ndarray:
    """(T,) positions along a line from (time share, position) pairs."""
    times, values = zip(*knots, strict=True)
    return np.interp(np.linspace(0, 1, count), times, values)


def _offsets(motion: Motion, stage: Stage, radius: float, rng: np.random.Generator) -> np.ndarray:
    """(T, 2) positions relative to an arbitrary point."""
    count, unit = stage.frames, stage.unit
    time = np.linspace(0, 1, count)
    if motion.kind == "still":
        return np.zeros((count, 2))
    if motion.kind == "circle":
        laps = max(1.0, min(rng.uniform(1.05, 2.2), count / 11))
        sign = 1 if motion.direction == "clockwise" else -1
        angle = sign * 2 * np.pi * laps * time + rng.uniform(0, 2 * np.pi)
        return np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(24, 42) * unit
    if motion.kind == "bounce":
        hops = min(int(rng.integers(2, 5)), max(count // 5, 2))
        height = -np.abs(np.sin(np.pi * hops * time)) * rng.uniform(38, 62) * unit
        return np.stack([rng.uniform(-25, 25) * unit * time, height], 1)
    if motion.kind == "shuttle":
        swings = min(int(rng.integers(2, 4)), max(count // 7, 2))
        wave = 2 * np.abs(2 * ((swings * time / 2 + 0.25) % 1) - 1) - 1
        return np.stack([wave * rng.uniform(28, 50) * unit, np.zeros(count)], 1)
    return _directed(motion, stage, radius, rng)


def _directed(motion: Motion, stage: Stage, radius: float, rng: np.random.Generator) -> np.ndarray:
    """(T, 2) positions of the kinds that have a direction."""
    count, unit = stage.frames, stage.unit
    along = np.array(DIRECTIONS[motion.direction])
    share = rng.uniform(0.62, 0.95) * motion.reach
    distance = share * min(_room(DIRECTIONS[motion.direction], stage, radius), 200 * unit)
    half = motion.moment or rng.uniform(0.42, 0.58)
    if motion.kind == "straight":
        return _progress([(0, 0), (1, distance)], count)[:, None] * along
    if motion.kind == "turn_back":
        back = distance * rng.uniform(0.6, 1.0)
        return _progress([(0, 0), (half, distance), (1, distance - back)], count)[:, None] * along
    if motion.kind == "stop_then_go":
        return _progress([(0, 0), (half, 0), (1, distance * 0.8)], count)[:, None] * along
    if motion.kind == "go_then_stop":
        return _progress([(0, 0), (half, distance * 0.8), (1, distance * 0.8)], count)[:, None] * along
    if motion.kind == "stop_and_go":
        middle = distance * 0.5
        return _progress([(0, 0), (0.33, middle), (0.66, middle), (1, distance)], count)[:, None] * along
    if motion.kind == "turn":
        second = np.array(DIRECTIONS[motion.second])
        other = min(rng.uniform(0.5, 0.9) * _room(DIRECTIONS[motion.second], stage, radius), 150 * unit)
        first = _progress([(0, 0), (half, distance * 0.8), (1, distance * 0.8)], count)[:, None] * along
        return first + _progress([(0, 0), (half, 0), (1, other)], count)[:, None] * second
    assert motion.kind == "zigzag", motion.kind
    swings = min(int(rng.integers(2, 4)), max(count // 5, 2))
    wave = 2 * np.abs(2 * ((swings * np.linspace(0, 1, count)) % 1) - 1) - 1
    across = np.array([-along[1], along[0]]) * rng.uniform(20, 30) * unit
    return _progress([(0, 0), (1, distance)], count)[:, None] * along + wave[:, None] * across


def _inside(offsets: np.ndarray, stage: Stage, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Positions (T, 2): `offsets` at a random place where they fit, made smaller if they fit nowhere."""
    centre = offsets.copy()
    for axis, side in enumerate((stage.width, stage.height)):
        margin = min(radius * 0.95 + 3, side * 0.4)
        low, high = offsets[:, axis].min(), offsets[:, axis].max()
        shrink = min(1.0, (side - 2 * margin) / max(high - low, 1e-6))
        first, last = margin - low * shrink, side - margin - high * shrink
        centre[:, axis] = offsets[:, axis] * shrink + rng.uniform(first, max(last, first + 1e-6))
    return centre


def _across_border(motion: Motion, stage: Stage, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Positions (T, 2) of an object that comes from outside (`enter`), leaves, or leaves and comes back."""
    direction = np.array(DIRECTIONS[motion.direction])
    sides = np.array([stage.width, stage.height], float)
    axis = int(np.argmax(np.abs(direction)))
    home = rng.uniform(0.3, 0.7, 2) * sides
    home[1 - axis] = np.clip(home[1 - axis], radius + 3, max(sides[1 - axis] - radius - 3, radius + 4))
    outside = (sides[axis] - home[axis] if direction[axis] > 0 else home[axis]) + 1.25 * radius
    from_there = (home[axis] if direction[axis] > 0 else sides[axis] - home[axis]) + 1.25 * radius
    start = rng.uniform(0.2, 0.5)
    if motion.kind == "enter":
        along = _progress([(0, -from_there), (start, -from_there), (1, 0)], stage.frames)
    elif motion.kind == "leave":
        gone = motion.moment or 1 - start
        along = _progress([(0, 0), (gone, outside), (1, outside)], stage.frames)
    else:
        along = _progress([(0, 0), (0.36, outside), (0.6, outside), (1, 0)], stage.frames)
    return home + along[:, None] * direction
