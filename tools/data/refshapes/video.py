"""One video or image of RefShapes, from (seed, split, index) alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tools.data.refshapes import vocabulary
from tools.data.refshapes.facts import SEEN, Facts, measure
from tools.data.refshapes.grammar import Noun
from tools.data.refshapes.rendering import Masks, draw_frames, draw_masks
from tools.data.refshapes.scene import Scene, draw_scene
from tools.data.refshapes.sentences import Candidate, Expression, Finder, absent_noun, choose, say

VERSION = 2  # part of every random number: raise it when something below changes what a seed gives
# split -> its number in the random numbers; images have splits of their own.
SPLITS = {"train": 0, "valid_u": 1, "valid": 2, "test": 3, "image_train": 4, "image_val": 5, "image_testA": 6,
          "image_testB": 7, "image_test": 8}  # fmt: skip
TRAINING = ("train", "image_train")
_ATTEMPTS = 12
_LATE_ELSEWHERE = 0.3  # of the videos of other stories that may have late distractors, too
_GOOD = 4  # the score of a video that is good enough


@dataclass(frozen=True)
class Clip:
    """A finished video; T frames, H rows, W columns, N objects from back to front.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        labels: (T, H, W) uint8: 0 the ground, k the object k - 1.
        expressions: without those of kind none.
        no_target: expressions that mean nothing in the video.
        davis: object -> its sentences in the order of Ref-DAVIS: two about the first frame, two about the video,
            each as (first annotator's first frame, full video, second annotator's first frame, full video).
    """

    scene: Scene
    frames: np.ndarray
    labels: np.ndarray
    expressions: tuple[Expression, ...]
    no_target: tuple[Expression, ...]
    davis: dict[int, tuple[Expression, ...]]

    def object_masks(self) -> np.ndarray:
        """(N, T, H, W) bool."""
        numbers = np.arange(1, len(self.scene.objects) + 1, dtype=np.uint8)
        return self.labels[None] == numbers[:, None, None, None]


def build_video(
    seed: int, split: str, index: int, frames: int | None = None, size: tuple[int, int] | None = None
) -> Clip:
    """Video number `index` of a split: the same for the same arguments (and versions of numpy and OpenCV).

    Args:
        seed: of the whole data set.
        split: train, valid_u, valid or test.
        index: from 0.
        frames: number of frames; by default drawn (16 to 40, some of 8, 9 and 17).
        size: (H, W); by default drawn.
    """
    return _build(seed, split, index, frames, size)


def build_image(seed: int, split: str, index: int, size: tuple[int, int] | None = None) -> Clip:
    """Image number `index` of a split (image_train, image_val, ...): a clip of one frame; see `build_video`."""
    return _build(seed, split, index, 1, size)


def _build(seed: int, split: str, index: int, frames: int | None, size: tuple[int, int] | None) -> Clip:
    training = split in TRAINING
    best: tuple[int, Scene, Masks, _Sentences] | None = None
    rng = np.random.default_rng([VERSION, seed, SPLITS[split], index])
    for _ in range(_ATTEMPTS):
        scene = draw_scene(rng, frames, size, held_out=not training)
        masks = draw_masks(scene)
        sentences = _write(scene, measure(scene, masks), training, rng)
        score = sentences.score(scene.story)
        if best is None or score > best[0]:
            best = (score, scene, masks, sentences)
        if score >= _GOOD:
            break
    assert best is not None
    _, scene, masks, sentences = best
    pictures = draw_frames(scene, masks)
    return Clip(scene, pictures, masks.labels, sentences.expressions, sentences.no_target, sentences.davis)


@dataclass(frozen=True)
class _Sentences:
    expressions: tuple[Expression, ...]
    no_target: tuple[Expression, ...]
    davis: dict[int, tuple[Expression, ...]]

    def score(self, story: str) -> int:
        """How good a video they make: how many there are, less if the story is not told."""
        kinds = {item.kind for item in self.expressions}
        single = sum(len(item.targets) == 1 for item in self.expressions)
        missing = (story == "late" and "late_distractor" not in kinds) or (story == "order" and "order" not in kinds)
        return min(len(self.expressions), single + 1) - 3 * missing


def _write(scene: Scene, facts: Facts, training: bool, rng: np.random.Generator) -> _Sentences:
    def allowed(noun: Noun) -> bool:
        named = noun.colour is not None and noun.shape is not None
        return not (training and named and vocabulary.is_held_out(noun.colour or "", noun.shape or ""))

    image = scene.frames == 1
    finder = Finder(facts, image, allowed)
    candidates = list(finder.candidates())
    held_out = [vocabulary.is_held_out(looks.colour, looks.shape) for looks in facts.looks]
    weights = np.where(held_out, 6.0, 1.0)
    wanted = int(rng.integers(6, 11)) if image else int(rng.integers(5, 9))
    kinds = _kinds(scene.story, wanted, rng)
    expressions: list[Expression] = []
    said: set[tuple[tuple[int, ...], str]] = set()
    for kind in kinds:
        if len(expressions) == wanted:
            break
        candidate = choose(finder, candidates, kind, rng, weights, said)
        if candidate is not None:
            written = say(candidate, rng)
            said.add((written.targets, written.clause))
            if all(written.text.lower() != other.text.lower() for other in expressions):
                expressions.append(written)
    if image:
        return _Sentences(tuple(expressions), (), {})
    no_target = _no_target(finder, candidates, allowed, rng)
    return _Sentences(tuple(expressions), no_target, _davis(finder, candidates, rng))


def _kinds(story: str, wanted: int, rng: np.random.Generator) -> list[str]:
    """The order in which kinds are tried: every kind once, then more of those that need watching."""
    if story == "image":
        return ["appearance", "relation"] * wanted
    kinds = ["motion", "appearance", "relation", "order", "several"]
    more = ["motion", "relation", "motion", "appearance", "order", "several"]
    if story == "late" or rng.random() < _LATE_ELSEWHERE:
        kinds, more = ["late_distractor", *kinds], ["late_distractor", *more, "late_distractor"]
    return [*kinds, *(more[place] for place in rng.permutation(len(more))), "motion", "relation", "appearance"]


def _no_target(
    finder: Finder, candidates: Sequence[Candidate], allowed: Callable[[Noun], bool], rng: np.random.Generator
) -> tuple[Expression, ...]:
    """One or two expressions that mean nothing here: looks that no object has, or a motion that none of them does."""
    found = []
    if rng.random() < 0.6 and (absent := absent_noun(finder, rng, allowed)):
        found.append(absent)
    weights = np.ones(len(finder.facts.looks))
    options = [c for c in candidates if c.kind == "none" and c.clause is not None and c.clause.kind == "motion"]
    if (rng.random() < 0.7 or not found) and (candidate := choose(finder, options, "none", rng, weights, set())):
        found.append(say(candidate, rng))
    return tuple(found)


def _davis(
    finder: Finder, candidates: Sequence[Candidate], rng: np.random.Generator
) -> dict[int, tuple[Expression, ...]]:
    """Four sentences for every object that is there in the first frame and has looks or a place of its own then."""
    facts = finder.facts
    sentences = {}
    for index, track in enumerate(facts.tracks):
        if track.visible[0] < 2 * SEEN or not finder.visible_enough([index]):
            continue
        own = [c for c in candidates if c.targets == (index,) and c.kind != "none"]
        first = [c for c in own if c.clause is None or c.clause.name.startswith("starts ")]
        if first:
            picked = [options[rng.integers(len(options))] for options in (first, own, first, own)]
            sentences[index] = tuple(say(candidate, rng) for candidate in picked)
    return sentences
