"""Stories: which objects a video needs so that sentences about it are worth reading.

A story gives some objects the same looks and different motions ("twins"): only the motion then tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tools.data.refshapes import vocabulary
from tools.data.refshapes.motion import DIRECTIONS, MAIN_DIRECTIONS, OPPOSITE, Motion, perpendicular

MAX_OBJECTS = 7
# story -> how often it is drawn. The distractors of "late" fit a sentence until they do something else.
STORIES = {"late": 0.3, "twins": 0.18, "order": 0.15, "several": 0.15, "hidden": 0.1, "free": 0.12}
_HELD_OUT_SHARE = 0.9  # of evaluation scenes whose main objects have a held-out combination
_HELD_OUT_OTHERS = 0.45  # of the other objects of evaluation scenes


@dataclass(frozen=True)
class Role:
    """What an object is to look like and do.

    Attributes:
        depth: objects with larger numbers are in front.
        behind: place of the role behind which this one passes, or None.
    """

    colour: str
    shape: str
    texture: str
    size: str
    motion: Motion
    depth: float
    behind: int | None = None


def _pick(rng: np.random.Generator, options: tuple[str, ...] | list[str]) -> str:
    return options[rng.integers(len(options))]


def _direction(rng: np.random.Generator) -> str:
    return _pick(rng, MAIN_DIRECTIONS) if rng.random() < 0.8 else _pick(rng, list(DIRECTIONS))


def _pair(rng: np.random.Generator, held_out: bool) -> tuple[str, str]:
    options = vocabulary.pairs(held_out)
    return options[rng.integers(len(options))]


def any_motion(rng: np.random.Generator, shape: str) -> Motion:
    """A motion for an object that no story needs."""
    kind = str(rng.choice(
        ["straight", "still", "circle", "bounce", "zigzag", "shuttle", "stop_then_go", "go_then_stop", "stop_and_go",
         "turn_back", "turn", "enter", "leave", "leave_return"],
        p=[0.18, 0.2, 0.1, 0.07, 0.06, 0.05, 0.06, 0.05, 0.03, 0.06, 0.05, 0.03, 0.03, 0.03],
    ))  # fmt: skip
    direction = _pick(rng, MAIN_DIRECTIONS) if kind in ("turn", "zigzag", "leave_return") else _direction(rng)
    if kind in ("enter", "leave"):
        direction = _pick(rng, MAIN_DIRECTIONS)
    if kind in ("bounce", "shuttle", "still"):
        direction = ""
    if kind == "circle":
        direction = _pick(rng, ("clockwise", "anticlockwise"))
    motion = Motion(kind, direction, perpendicular(direction, rng) if kind == "turn" else "")
    chance = rng.random()
    if kind == "still" and chance < 0.55:
        if chance < 0.2 and shape not in vocabulary.ROUND:
            return replace(motion, turns=float(rng.uniform(0.8, 2.2) * rng.choice([-1, 1])))
        return replace(motion, growth=rng.uniform(1.7, 2.1) if chance < 0.37 else rng.uniform(0.45, 0.58))
    if kind == "straight" and chance < 0.15 and shape not in vocabulary.ROUND:
        return replace(motion, turns=float(rng.uniform(0.8, 2.0) * rng.choice([-1, 1])))
    if kind in ("still", "straight", "circle", "bounce") and chance > 0.84:
        return replace(motion, delay=rng.uniform(0.22, 0.55))
    return motion


def late_motions(rng: np.random.Generator) -> tuple[Motion, ...]:
    """Motions of twins that look alike in the first part of the video."""
    direction = _direction(rng)
    main = _pick(rng, MAIN_DIRECTIONS)
    side = perpendicular(main, rng)
    choices = (
        (Motion("straight", direction), Motion("turn_back", direction)),
        (Motion("straight", direction), Motion("go_then_stop", direction)),
        (Motion("straight", main), Motion("turn", main, side)),
        (Motion("still"), Motion("stop_then_go", direction)),
        (Motion("stop_then_go", direction), Motion("stop_then_go", OPPOSITE[direction])),
        (Motion("stop_then_go", main), Motion("stop_then_go", side)),
        (Motion("turn", main, side), Motion("turn", main, OPPOSITE[side])),
        (Motion("turn_back", direction), Motion("go_then_stop", direction)),
        (Motion("turn_back", main), Motion("turn", main, side)),
        (Motion("still"), Motion("leave", main), Motion("still", delay=0.4)),
        (Motion("straight", direction), Motion("turn_back", direction), Motion("go_then_stop", direction)),
        (Motion("still"), Motion("stop_then_go", main), Motion("stop_then_go", side)),
    )
    motions = list(choices[rng.integers(len(choices))])
    order = rng.permutation(len(motions))
    return tuple(motions[place] for place in order)


def order_motions(rng: np.random.Generator) -> list[Motion]:
    """Motions of twins that do the same one after the other, or at different speeds."""
    directions = [_direction(rng) for _ in range(3)]
    moments = rng.permutation([0.22, 0.42, 0.62])
    what = rng.integers(5)
    if what == 0:
        motions = [Motion("still", delay=float(moment)) for moment in moments]
        motions[rng.integers(3)] = Motion("still")
    elif what == 1:
        motions = [Motion("leave", _pick(rng, MAIN_DIRECTIONS), moment=float(0.2 + moment)) for moment in moments]
    elif what == 2:
        paces = zip(directions, rng.permutation([1.0, 0.5, 0.5]), strict=True)
        motions = [Motion("straight", direction, reach=float(pace)) for direction, pace in paces]
    else:
        kind = "stop_then_go" if what == 3 else "go_then_stop"
        motions = [Motion(kind, name, moment=float(moment)) for name, moment in zip(directions, moments, strict=True)]
    return motions[: 2 + rng.integers(2)]


def cast_video(rng: np.random.Generator, held_out: bool) -> tuple[str, list[Role]]:
    """The name of the story and its 2 to 7 roles."""
    story = str(rng.choice(list(STORIES), p=list(STORIES.values())))
    main = _look(rng, held_out and rng.random() < _HELD_OUT_SHARE)
    if story == "late":
        roles = _alike(rng, main, list(late_motions(rng)))
    elif story == "twins":
        motions = [any_motion(rng, main.shape) for _ in range(rng.integers(2, 4))]
        if rng.random() < 0.4:
            motions[0] = Motion("still", delay=rng.uniform(0.3, 0.6))
        roles = _alike(rng, main, motions)
    elif story == "order":
        roles = _alike(rng, main, order_motions(rng))
    elif story == "several":
        together = Motion("still") if rng.random() < 0.2 else Motion("straight", _direction(rng))
        roles = _alike(rng, main, [together] * int(rng.integers(2, 4)))
        roles += _alike(rng, main, [any_motion(rng, main.shape)])
    elif story == "hidden":
        roles = _hidden(rng, main)
    else:
        roles = [replace(main, motion=any_motion(rng, main.shape), depth=rng.random())]
    count = int(np.clip(rng.integers(2, 8), max(2, len(roles) + (rng.random() < 0.8)), MAX_OBJECTS))
    return story, _with_others(rng, roles, count, held_out, still=False)


def cast_image(rng: np.random.Generator, held_out: bool) -> tuple[str, list[Role]]:
    """As `cast_video`, for a single image with 3 to 7 objects."""
    main = _look(rng, held_out and rng.random() < _HELD_OUT_SHARE)
    roles = _alike(rng, main, [Motion("still")] * int(rng.integers(1, 4)))
    return "image", _with_others(rng, roles, int(rng.integers(max(3, len(roles)), 8)), held_out, still=True)


def _look(rng: np.random.Generator, held_out: bool) -> Role:
    """A role with looks, and nothing to do."""
    colour, shape = _pair(rng, held_out)
    texture = "plain" if rng.random() < 0.4 else _pick(rng, list(vocabulary.TEXTURES))
    size = str(rng.choice(["small", "medium", "large"], p=[0.35, 0.4, 0.25]))
    if texture != "plain" and size == "small" and shape not in vocabulary.SOLID:
        size = "medium"
    return Role(colour, shape, texture, size, Motion("still"), 0.0)


def _alike(rng: np.random.Generator, main: Role, motions: list[Motion]) -> list[Role]:
    """Objects of the same colour and shape; texture and size are now and then different."""
    same = rng.random() < 0.6
    size = "medium" if main.size == "large" and rng.random() < 0.7 else main.size  # paths need room
    roles = []
    for motion in motions:
        other = _look(rng, held_out=False)
        texture = main.texture if same or rng.random() < 0.5 else other.texture
        own = size if same or rng.random() < 0.5 or other.size == "large" else other.size
        roles.append(replace(main, texture=texture, size=own, motion=motion, depth=rng.random()))
    return roles


def _hidden(rng: np.random.Generator, main: Role) -> list[Role]:
    """A large object in front, and one or two behind of which one passes behind it."""
    solid = [pair for pair in vocabulary.pairs(held_out=False) if pair[1] in ("disc", "square", "hexagon")]
    colour, shape = solid[rng.integers(len(solid))]
    front = Role(colour, shape, _pick(rng, list(vocabulary.TEXTURES)), "large", Motion("still"), 2.0)
    direction = _pick(rng, MAIN_DIRECTIONS[:2])
    passing = replace(main, size="small", motion=Motion("straight", direction), depth=0.0, behind=0)
    other = Motion("straight", direction) if rng.random() < 0.6 else any_motion(rng, main.shape)
    return [front, passing, replace(main, size="small", motion=other, depth=rng.random())]


def _with_others(rng: np.random.Generator, roles: list[Role], count: int, held_out: bool, still: bool) -> list[Role]:
    """`roles`, filled up to `count` with objects that share a colour or shape with some, or nothing."""
    roles = list(roles)
    while len(roles) < count:
        look = _look(rng, held_out and rng.random() < _HELD_OUT_OTHERS)
        if rng.random() < 0.5:
            look = _sharing(rng, look, roles[rng.integers(len(roles))])
        if look.size == "large" and sum(role.size == "large" for role in roles) >= 2:
            look = replace(look, size="medium")
        motion = Motion("still") if still else any_motion(rng, look.shape)
        if look.size == "large" and motion.growth > 1:
            look = replace(look, size="medium")
        roles.append(replace(look, motion=motion, depth=rng.random()))
    return roles


def _sharing(rng: np.random.Generator, look: Role, other: Role) -> Role:
    """`look` with the colour or the shape of `other`, if that does not make a held-out pair of one that is not."""
    changed = replace(look, colour=other.colour) if rng.random() < 0.5 else replace(look, shape=other.shape)
    was, now = (vocabulary.is_held_out(role.colour, role.shape) for role in (look, changed))
    return look if now and not was else changed
