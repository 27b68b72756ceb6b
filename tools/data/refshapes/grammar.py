"""Turns what is meant into English: noun phrases, inflected verbs, whole expressions."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tools.data.refshapes import vocabulary
from tools.data.refshapes.facts import Facts

_VERB = re.compile(r"\{(\w+)\}")
_IRREGULAR_THIRD = {"be": "is", "do": "does"}
_IRREGULAR_ING = {"stop": "stopping", "spin": "spinning", "hop": "hopping", "zigzag": "zigzagging", "get": "getting",
                  "begin": "beginning", "swing": "swinging"}  # fmt: skip
_NUMBERS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True)
class Noun:
    """What is said about the looks; None where nothing is said."""

    colour: str | None = None
    texture: str | None = None
    size: str | None = None
    shape: str | None = None

    @property
    def words(self) -> int:
        """How many properties are named."""
        return sum(value is not None for value in (self.colour, self.texture, self.size, self.shape))

    def fits(self, facts: Facts, index: int) -> bool | None:
        """Whether it is true of an object; None for sizes that change or lie between the words."""
        looks = facts.looks[index]
        if any(
            said is not None and said != found
            for said, found in ((self.colour, looks.colour), (self.texture, looks.texture), (self.shape, looks.shape))
        ):
            return False
        if self.size is None:
            return True
        if looks.size == "medium" or np.ptp(np.log(facts.tracks[index].radius)) > 0.05:
            return None
        return looks.size == self.size


def inflect(form: str, how: str) -> str:
    """`form` with its verbs in a form: "singular", "plural" or "ing"."""

    def change(match: re.Match[str]) -> str:
        verb = match[1]
        if how == "plural":
            return "are" if verb == "be" else verb
        if how == "ing":
            if verb in _IRREGULAR_ING:
                return _IRREGULAR_ING[verb]
            return (
                verb[:-1] if verb.endswith("e") and not verb.endswith(("ee", "oe")) and len(verb) > 2 else verb
            ) + "ing"
        if verb in _IRREGULAR_THIRD:
            return _IRREGULAR_THIRD[verb]
        return verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "o")) else "s")

    return _VERB.sub(change, form)


def _choose(rng: np.random.Generator, options: tuple[str, ...], usual: float = 0.7) -> str:
    """The first option mostly, else one of the others."""
    return options[0] if len(options) == 1 or rng.random() < usual else options[1 + rng.integers(len(options) - 1)]


def noun_phrase(noun: Noun, rng: np.random.Generator, plural: bool, one: bool) -> str:
    """ "large red disc with stripes", without an article; `one` allows the word "one" for the noun."""
    before: list[str] = []
    after = ""
    if noun.size is not None:
        before.append(_choose(rng, vocabulary.SIZES[noun.size]))
    if noun.texture is not None:
        adjectives, phrases = vocabulary.TEXTURES[noun.texture]
        if rng.random() < 0.3:
            after = " " + _choose(rng, phrases, 0.5)
        else:
            before.append(_choose(rng, adjectives))
    if noun.colour is not None:
        words = _choose(rng, vocabulary.COLOUR_WORDS[noun.colour], 0.8)
        before.insert(len(before) - (noun.texture is not None and not after and rng.random() < 0.3), words)
    if noun.shape is not None:
        head = vocabulary.SHAPES[noun.shape]
        singular, many = head[0] if len(head) == 1 or rng.random() < 0.75 else head[1]
    elif one and rng.random() < 0.5:
        singular, many = "one", "ones"
    else:
        singular, many = vocabulary.GENERIC_NOUNS[0 if rng.random() < 0.6 else rng.integers(1, 3)]
    return " ".join([*before, many if plural else singular]) + after


def expression(noun: Noun, form: str | None, rng: np.random.Generator, count: int = 1, definite: bool = False) -> str:
    """A whole expression.

    Args:
        form: of a clause; None for looks alone.
        count: number of objects meant; 1 is also used where nothing is meant.
        definite: the object is the only one of its kind, as in superlatives: no "a".
    """
    plural = count > 1
    head = noun_phrase(noun, rng, plural, one=form is not None or noun.words > 0)
    if plural:
        chance = rng.random()
        if chance < 0.55 and count in _NUMBERS:
            head = f"the {_NUMBERS[count]} {head}"
        elif chance < 0.65 and count == 2 and " ones" not in f" {head}":
            head = f"both {head}"
        elif chance < 0.8 and form is None:
            head = f"all {head}" if rng.random() < 0.5 else f"all the {head}"
        else:
            head = f"the {head}"
    else:
        head = f"the {head}" if definite else f"{_article(head, rng)}{head}"
    text = head if form is None else f"{head} {_with_clause(form, plural, rng)}"
    return _finish(text, rng)


def _with_clause(form: str, plural: bool, rng: np.random.Generator) -> str:
    number = "plural" if plural else "singular"
    if plural:
        form = form.replace("where it came", "where they came").replace("where it is", "where they are")
        form = form.replace("itself", "themselves").replace("its place", "their places").replace("its ", "their ")
    if form.startswith("+"):
        if rng.random() < 0.75:
            return form[1:]
        return f"{_relative(rng)} {'are' if plural else 'is'} {form[1:]}"
    form = form.replace("{do} not", inflect("{do} not", number))
    plain = "{be}" in form or "does not" in form or "do not" in form
    if not plain and rng.random() < 0.45:
        return inflect(form, "ing")
    return f"{_relative(rng)} {inflect(form, number)}"


def _relative(rng: np.random.Generator) -> str:
    return "that" if rng.random() < 0.8 else "which"


def _article(head: str, rng: np.random.Generator) -> str:
    chance = rng.random()
    if chance < 0.82 or head.split()[-1] == "one" or " one " in f"{head} ":
        return "the "
    if chance < 0.92:
        return "an " if head[0] in "aeiou" else "a "
    return ""


def _finish(text: str, rng: np.random.Generator) -> str:
    """Capital letters as in the benchmarks: mostly none or the first."""
    return text[0].upper() + text[1:] if rng.random() < 0.3 else text
