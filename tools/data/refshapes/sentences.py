"""Finds expressions that are true of their targets and of no other object, and chooses some of different kinds.

Axes: N objects, K nouns, C clauses. Answers are numbers: 0 False, 1 undecided, 2 True; "and" is the minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from tools.data.refshapes import vocabulary
from tools.data.refshapes.clauses import (
    Clause,
    Superlative,
    motion_clauses,
    place_clauses,
    relation_clauses,
    superlatives,
)
from tools.data.refshapes.facts import SEEN, Facts
from tools.data.refshapes.grammar import Noun, expression
from tools.data.refshapes.predicates import Answer

KINDS = ("appearance", "motion", "relation", "order", "several", "none", "late_distractor")
NO, UNDECIDED, YES = 0, 1, 2
PREFIXES = (0.34, 0.5, 0.66)  # parts of the video after which a distractor may still fit
_LEADING = ("moves ", "stays_still")  # what twins both do before one of them does something else


@dataclass(frozen=True)
class Distractor:
    """An object that fits an expression, or cannot be told from its target, up to about frame `until`."""

    object: int
    until: int


@dataclass(frozen=True)
class Expression:
    """One sentence.

    Attributes:
        text: the sentence.
        kind: one of `KINDS`.
        targets: numbers of the objects meant, from 0; empty for kind none.
        noun: what it says about looks.
        clause: the name of what it says beyond that; empty for looks alone.
        distractors: objects that only prove wrong late.
    """

    text: str
    kind: str
    targets: tuple[int, ...]
    noun: Noun
    clause: str
    distractors: tuple[Distractor, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """What could be said; `form` becomes text when it is chosen. `pool` are the objects that the noun fits."""

    kind: str
    targets: tuple[int, ...]
    noun: Noun
    clause: Clause | Superlative | None
    pool: tuple[int, ...]
    distractors: tuple[Distractor, ...] = ()


def number(answer: Answer) -> int:
    """An answer as a number."""
    return UNDECIDED if answer is None else (YES if answer else NO)


def nouns_of(facts: Facts) -> list[Noun]:
    """All noun phrases that fit some object of the scene."""
    found: dict[Noun, None] = {Noun(): None}
    for looks in facts.looks:
        sizes = (None,) if looks.size == "medium" else (None, looks.size)
        for values in product((None, looks.colour), (None, looks.texture), sizes, (None, looks.shape)):
            found.setdefault(Noun(*values))
    return list(found)


def noun_table(nouns: Sequence[Noun], facts: Facts) -> np.ndarray:
    """(K, N) answers."""
    count = len(facts.looks)
    return np.array([[number(noun.fits(facts, index)) for index in range(count)] for noun in nouns])


def clause_table(clauses: Sequence[Clause], facts: Facts) -> np.ndarray:
    """(C, N) answers."""
    count = len(facts.looks)
    return np.array([[number(clause.decide(facts, index)) for index in range(count)] for clause in clauses])


class Finder:
    """All candidates of one scene.

    Args:
        facts: the finished scene.
        image: leave out everything that needs more than one frame.
        allowed: noun phrases that may be used (training does not name held-out combinations).
    """

    def __init__(self, facts: Facts, image: bool, allowed: Callable[[Noun], bool]) -> None:
        self.facts = facts
        self.nouns = [noun for noun in nouns_of(facts) if allowed(noun)]
        self.noun_answers = noun_table(self.nouns, facts)
        self.clauses = place_clauses(image) if image else [*motion_clauses(), *place_clauses(image)]
        self.clauses += self._relations(image)
        self.answers = clause_table(self.clauses, facts)
        self.motions = [place for place, clause in enumerate(self.clauses) if clause.kind == "motion"]
        self.superlatives = superlatives(image)
        self._prefix_tables = {} if image else self._prefixes()

    def _relations(self, image: bool) -> list[Clause]:
        """Relations to every object that has a short name of its own."""
        clauses: list[Clause] = []
        for index in range(len(self.facts.looks)):
            names = [
                noun
                for noun, row in zip(self.nouns, self.noun_answers, strict=True)
                if 0 < noun.words <= 2 and noun.shape is not None and row[index] == YES and row.sum() == YES
            ]
            if names:
                noun = min(names, key=lambda noun: noun.words)
                words = [noun.size, noun.texture, noun.colour, vocabulary.SHAPES[noun.shape or "disc"][0][0]]
                name = "the " + " ".join(word for word in words if word)
                clauses += relation_clauses(index, name, image)
        return clauses

    def _prefixes(self) -> dict[int, np.ndarray]:
        """Frames of the prefix -> (number of motions, N) answers."""
        motions = [self.clauses[place] for place in self.motions]
        ends = sorted({max(4, round(share * self.facts.frames)) for share in PREFIXES})
        return {end: clause_table(motions, self.facts.window(0, end)) for end in ends}

    def candidates(self) -> Iterator[Candidate]:
        """Everything that is true of some objects, and surely not of the others."""
        for noun, row in zip(self.nouns, self.noun_answers, strict=True):
            pool = tuple(np.flatnonzero(row != NO).tolist())
            if noun.words and (row != UNDECIDED).all():
                kind = "appearance" if len(pool) == 1 else "several"
                if len(pool) < len(row):
                    yield Candidate(kind, pool, noun, None, pool)
            yield from self._with_clauses(noun, row, pool)
            yield from self._with_superlatives(noun, row, pool)

    def _with_clauses(self, noun: Noun, row: np.ndarray, pool: tuple[int, ...]) -> Iterator[Candidate]:
        together = np.minimum(self.answers, row)
        for place in np.flatnonzero((together != UNDECIDED).all(axis=1)):
            clause = self.clauses[place]
            targets = tuple(np.flatnonzero(together[place] == YES).tolist())
            if not targets:
                if noun.words and (row == YES).any():
                    yield Candidate("none", (), noun, clause, pool)
            elif len(targets) < len(pool):
                late = self._late(int(place), targets, row)
                kind = "several" if len(targets) > 1 else "late_distractor" if late else clause.kind
                yield Candidate(kind, targets, noun, clause, pool, late)

    def _with_superlatives(self, noun: Noun, row: np.ndarray, pool: tuple[int, ...]) -> Iterator[Candidate]:
        if len(pool) < 2 or (row == UNDECIDED).any():
            return
        for clause in self.superlatives:
            answers = clause.decide_all(self.facts, list(pool))
            if None not in answers:
                yield Candidate(clause.kind, (pool[answers.index(True)],), noun, clause, pool)

    def _late(self, place: int, targets: tuple[int, ...], row: np.ndarray) -> tuple[Distractor, ...]:
        """The objects that fit the noun and, in a first part of the video, the clause (or as little as the target).

        Either the target and the distractor both fit the clause in that part, or neither does and both are seen doing
        the same.
        """
        if place not in self.motions or not self._prefix_tables:
            return ()
        motion = self.motions.index(place)
        leading = [k for k, m in enumerate(self.motions) if self.clauses[m].name.startswith(_LEADING)]
        found = []
        for other in np.flatnonzero((row == YES) & (self.answers[place] == NO)):
            until = 0
            for end, table in self._prefix_tables.items():
                fits = table[motion, other] == YES and all(table[motion, target] == YES for target in targets)
                same = table[motion, other] != YES and any(
                    table[k, other] == YES and all(table[k, target] == YES for target in targets) for k in leading
                )
                same = same and all(table[motion, target] != YES for target in targets)
                if fits or same:
                    until = end
            if until:
                found.append(Distractor(int(other), until))
        return tuple(found)

    def visible_enough(self, targets: Sequence[int]) -> bool:
        """Whether every target is seen for a good part of the video."""
        shares = [(self.facts.tracks[target].visible >= SEEN).mean() for target in targets]
        return all(share >= 0.3 for share in shares)


def choose(
    finder: Finder,
    candidates: Sequence[Candidate],
    kind: str,
    rng: np.random.Generator,
    weights: np.ndarray,
    avoid: set[tuple[tuple[int, ...], str]],
) -> Candidate | None:
    """One candidate of a kind; pairs of targets and clause in `avoid` were said before.

    Args:
        weights: (N,) how much a target is wanted.
    """
    groups: dict[tuple[tuple[int, ...], str], list[Candidate]] = {}
    for candidate in candidates:
        key = (candidate.targets, candidate.clause.name if candidate.clause else "")
        if candidate.kind == kind and key not in avoid and finder.visible_enough(candidate.targets):
            groups.setdefault(key, []).append(candidate)
    if kind == "several":
        groups = {key: group for key, group in groups.items() if len(key[0]) <= 4}
    if not groups:
        return None
    keys = list(groups)
    used = [targets for targets, _ in avoid]
    wanted = np.array([(weights[list(t)].mean() if t else 1.0) / (1 + used.count(t)) for t, _ in keys])
    families = [(targets, _family(name)) for targets, name in keys]
    for place, family in enumerate(families):  # all targets and families alike, however many clauses there are
        wanted[place] /= families.count(family) * sum(targets == family[0] for targets, _ in set(families))
    group = groups[keys[rng.choice(len(keys), p=wanted / wanted.sum())]]
    # Few words are usual; a noun that alone nearly tells the target is no better than a bare one.
    lengths = np.array([0.6 if c.noun.words == 0 else 1 / c.noun.words for c in group])
    lengths *= [1.8 if c.noun.shape else 1.0 for c in group]
    return group[rng.choice(len(group), p=lengths / lengths.sum())]


def _family(clause: str) -> str:
    """What clauses have in common: "starts left" and "starts right" are one family, as are all relations."""
    if " of " in clause or "above" in clause or "below" in clause:
        return "beside"
    return clause.split()[0] if clause else ""


def say(candidate: Candidate, rng: np.random.Generator) -> Expression:
    """Put a candidate into words."""
    form = None
    if candidate.clause is not None:
        form = candidate.clause.forms[rng.integers(len(candidate.clause.forms))]
    definite = isinstance(candidate.clause, Superlative)
    text = expression(candidate.noun, form, rng, max(len(candidate.targets), 1), definite)
    name = candidate.clause.name if candidate.clause else ""
    return Expression(text, candidate.kind, candidate.targets, candidate.noun, name, candidate.distractors)


def absent_noun(finder: Finder, rng: np.random.Generator, allowed: Callable[[Noun], bool]) -> Expression | None:
    """Looks that are put together from those of several objects and fit none."""
    looks = finder.facts.looks
    for _ in range(20):
        one, other, third = (looks[place] for place in rng.integers(len(looks), size=3))
        noun = Noun(one.colour, third.texture if rng.random() < 0.25 else None, None, other.shape)
        if allowed(noun) and all(noun.fits(finder.facts, index) is False for index in range(len(looks))):
            return Expression(expression(noun, None, rng), "none", (), noun, "")
    return None
