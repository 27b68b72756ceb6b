"""The sentences of RefShapes, judged a second time: from words, labels and centres of masks alone."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest

from tools.data.refshapes.motion import DIRECTIONS
from tools.data.refshapes.sentences import KINDS, Expression
from tools.data.refshapes.video import Clip, build_image, build_video

SEEDS = (0, 21, 22)
COLOURS = ("red", "orange", "yellow", "green", "blue", "pink", "white", "black")
SYNONYMS = {"turquoise": "turquoise|cyan", "purple": "purple|violet"}
NOUNS = {
    "disc": "discs?|circles?",
    "square": "squares?|box|boxes",
    "triangle": "triangles?",
    "star": "stars?",
    "hexagon": "hexagons?",
    "cross": "cross|crosses|plus signs?",
    "ring": "rings?",
    "crescent": "crescents?|moons?",
    "heart": "hearts?",
    "bar": "bars?|sticks?",
    "diamond": "diamonds?|rhombus|rhombuses",
}
TEXTURES = {
    "plain": "plain|without a pattern",
    "striped": "striped|stripes",
    "dotted": "dotted|spotted|dots|spots",
    "checked": "checked|chequered|checks",
}
SIZES = {"small": "small|little", "large": "large|big"}
# Where the words about the object end and those about its motion or place begin.
END = re.compile(
    r"\b(that|which|left of|right of|on the|at the|in the|to the|above|over|below|under|beneath|farthest|closest|"
    r"(?!thing\b|ring\b)\w+ing|first \w+ing)\b"
)


@functools.cache
def clips() -> list[Clip]:
    return [build_video(seed, split, 0, frames=16, size=(180, 240)) for seed in SEEDS for split in ("train", "valid_u")]


def said(text: str, table: dict[str, str]) -> str | None:
    found = [name for name, words in table.items() if re.search(rf"\b({words})\b", text)]
    assert len(found) <= 1, text
    return found[0] if found else None


def fitting(clip: Clip, text: str) -> set[int]:
    """The objects that the words about looks fit."""
    head = text.lower()
    match = END.search(head, 4)
    head = head[: match.start()] if match else head
    colour = said(head, {name: name for name in COLOURS} | SYNONYMS)
    shape, texture, size = said(head, NOUNS), said(head, TEXTURES), said(head, SIZES)
    return {
        index
        for index, item in enumerate(clip.scene.objects)
        if colour in (None, item.colour)
        and shape in (None, item.shape)
        and texture in (None, item.texture)
        and (size is None or item.size == size)
    }


def centres(clip: Clip, index: int) -> np.ndarray:
    """(frames in which it is seen, 3): frame, x, y of the middle of its visible pixels, in units."""
    rows = []
    for frame, labels in enumerate(clip.labels):
        y, x = np.nonzero(labels == index + 1)
        if len(x):
            rows.append((frame, x.mean() / clip.scene.unit, y.mean() / clip.scene.unit))
    return np.array(rows)


def looks_like(clip: Clip, clause: str, index: int) -> bool | None:
    """A coarse judgement with room for camera movement and partly hidden objects; None: no opinion."""
    name, _, rest = clause.partition(" ")
    track = centres(clip, index)
    if len(track) < 6:
        return None
    path = track[:, 1:]
    net = path[-1] - path[0]
    if name in ("moves", "keeps_moving") and rest:
        knots = path[np.linspace(0, len(path) - 1, 5).round().astype(int)] @ DIRECTIONS[rest]
        progress = np.diff(knots) / max(float(np.linalg.norm(net)), 1)
        slow = np.diff(path @ DIRECTIONS[rest]) < 0.35 * np.linalg.norm(net) / (len(path) - 1)
        if (
            progress.min() > 0.12
            and slow.mean() < 0.15
            and np.linalg.norm(net) > 40
            and net @ DIRECTIONS[rest] > 0.95 * np.linalg.norm(net)
        ):
            return True
        return False if progress.max() < 0.05 or progress.min() < -0.1 else None
    if name == "stops_then_goes":
        along = float(net @ DIRECTIONS[rest])
        early = float(np.linalg.norm(path[len(path) // 5] - path[0])) / max(float(np.linalg.norm(net)), 1)
        return False if early > 0.15 or along < 5 else (True if along > 15 and early < 0.08 else None)
    if name == "goes_then_stops":
        along = float(net @ DIRECTIONS[rest])
        late = float(np.linalg.norm(path[-1] - path[-1 - len(path) // 5])) / max(float(np.linalg.norm(net)), 1)
        return False if late > 0.15 or along < 5 else (True if along > 15 and late < 0.08 else None)
    if name == "turns_back":
        far = float(np.linalg.norm(path - path[0], axis=1).max()) - float(np.linalg.norm(net))
        return True if far > 25 else (False if far < 8 else None)
    if name == "stays_still":
        far = float(np.linalg.norm(path - path[0], axis=1).max())
        return True if far < 22 else (False if far > 40 else None)
    if name in ("starts", "ends") and rest in ("left", "right", "top", "bottom"):
        place = path[0 if name == "starts" else -1] * clip.scene.unit / (clip.scene.width, clip.scene.height)
        share = place[0] if rest in ("left", "right") else place[1]
        share = share if rest in ("left", "top") else 1 - share
        return True if share < 0.5 else (False if share > 0.6 else None)
    if name in ("appears_later", "appears_last"):
        return bool(track[0, 0] >= 2)
    return None


def judged(clip: Clip, expression: Expression) -> int:
    """Check one expression; returns how many objects the second judge had an opinion about."""
    opinions = 0
    fits = fitting(clip, expression.text)
    assert set(expression.targets) <= fits, expression
    if not expression.clause:
        assert fits == set(expression.targets), expression
        return len(clip.scene.objects)
    for index in fits:
        answer = looks_like(clip, expression.clause, index)
        if answer is not None and not (expression.clause == "appears_last" and answer):
            assert answer == (index in expression.targets), (expression, index)
            opinions += 1
    return opinions


def test_sentences_are_true_of_their_targets_alone() -> None:
    opinions = 0
    for clip in clips():
        assert len(clip.expressions) >= 4
        for expression in (*clip.expressions, *clip.no_target, *(e for own in clip.davis.values() for e in own)):
            assert expression.kind in KINDS
            assert (expression.kind == "none") == (not expression.targets)
            opinions += judged(clip, expression)
    assert opinions > 150


def test_no_other_object_of_the_noun_appears_last() -> None:
    found = 0
    for index in (3, 4, 11):
        clip = build_video(3, "train", index, frames=12, size=(120, 160))
        for expression in clip.expressions:
            if expression.clause == "appears_last":
                first = {k: centres(clip, k)[0, 0] for k in fitting(clip, expression.text) if len(centres(clip, k))}
                target = expression.targets[0]
                assert all(first[target] > value + 1 for k, value in first.items() if k != target), expression
                found += 1
    assert found


def test_late_distractors_share_the_noun_and_are_no_targets() -> None:
    found = 0
    for clip in clips():
        for expression in clip.expressions:
            assert (expression.kind != "late_distractor") or expression.distractors
            for distractor in expression.distractors:
                assert distractor.object in fitting(clip, expression.text) - set(expression.targets)
                assert 0.3 * len(clip.frames) <= distractor.until < len(clip.frames)
                found += 1
    assert found


@pytest.mark.parametrize("split", ["image_train", "image_val"])
def test_images(split: str) -> None:
    sides = {"is left": (0, 1), "is right": (0, -1), "is top": (1, 1), "is bottom": (1, -1)}
    extremes = {"leftmost": (0, 1), "rightmost": (0, -1), "topmost": (1, 1), "bottommost": (1, -1)}
    for index in range(6):
        clip = build_image(0, split, index, size=(180, 240))
        assert clip.frames.shape == (1, 180, 240, 3)
        middles = {k: centres(clip, k)[0, 1:] * clip.scene.unit / (240, 180) for k in range(len(clip.scene.objects))
                   if len(centres(clip, k))}  # fmt: skip
        for expression in clip.expressions:
            assert len(expression.targets) == 1
            target, fits = expression.targets[0], fitting(clip, expression.text)
            assert target in fits
            if expression.clause in sides:
                axis, sign = sides[expression.clause]
                assert all((sign * (middles[k][axis] - 0.5) < 0.03) == (k == target) for k in fits), expression
            if expression.clause in extremes:
                axis, sign = extremes[expression.clause]
                places = {k: sign * middles[k][axis] for k in fits}
                assert places[target] <= min(places.values()) + 0.05, expression


def test_masks_are_the_pixels_of_the_objects() -> None:
    """Pixels well inside a mask have the object's colour; objects in front own what they cover."""
    clip = build_image(1, "image_val", 0)
    masks = clip.object_masks()
    assert masks.sum(0).max() == 1
    for item, mask in zip(clip.scene.objects, masks[:, 0], strict=True):
        if item.texture == "plain" and mask.sum() > 200:
            inside = np.median(clip.frames[0][mask], axis=0)
            outside = np.median(clip.frames[0][~masks.any((0, 1))], axis=0)
            assert np.abs(inside - outside).max() > 40
