"""What can be said about objects beyond their looks: a text with several forms, and the test that decides it.

A form holds verbs in braces, which grammar.py inflects ("{move} to the left" -> "that moves to the left", "moving to
the left"); a form that starts with "+" has no verb ("+on the left").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tools.data.refshapes import predicates
from tools.data.refshapes.facts import SEEN, Facts, Track
from tools.data.refshapes.motion import DIRECTIONS, MAIN_DIRECTIONS
from tools.data.refshapes.predicates import Answer

Decide = Callable[[Facts, int], Answer]
ALWAYS, FIRST, LAST = slice(None), slice(0, 1), slice(-1, None)  # frames that a statement about places is about
Key = Callable[[Facts, int], "float | None"]

_TOWARDS: dict[str, tuple[str, ...]] = {
    "left": ("to the left", "left", "leftwards"),
    "right": ("to the right", "right", "rightwards"),
    "up": ("up", "upwards", "to the top"),
    "down": ("down", "downwards", "to the bottom"),
    "up-left": ("diagonally up to the left", "towards the upper left"),
    "up-right": ("diagonally up to the right", "towards the upper right"),
    "down-left": ("diagonally down to the left", "towards the lower left"),
    "down-right": ("diagonally down to the right", "towards the lower right"),
}


@dataclass(frozen=True)
class Clause:
    """A statement about one object.

    Attributes:
        name: identifies it in the records, "keeps_moving left".
        kind: motion, relation or order.
        forms: its texts.
        decide: whether it is true of an object of a video.
    """

    name: str
    kind: str
    forms: tuple[str, ...]
    decide: Decide


@dataclass(frozen=True)
class Superlative:
    """A statement about the one object, among those that the noun fits, whose `key` is lowest.

    `margin` is by how much all others have to be higher; a `key` of None leaves the comparison undecided. If there is
    another key (with its margin), both have to agree.
    """

    name: str
    kind: str
    forms: tuple[str, ...]
    key: Key
    margin: float
    other: tuple[Key, float] | None = None

    def decide_all(self, facts: Facts, pool: list[int]) -> list[Answer]:
        """For every object of the `pool` whether it is the one."""
        lowest = _lowest(facts, pool, self.key, self.margin)
        if lowest is None or (self.other is not None and _lowest(facts, pool, *self.other) != lowest):
            return [None] * len(pool)
        return [index == lowest for index in pool]


def _lowest(facts: Facts, pool: list[int], key: Key, margin: float) -> int | None:
    """The object with the lowest key, if all have one and the others are higher by the margin."""
    keys = [(value, index) for index in pool if (value := key(facts, index)) is not None]
    if len(pool) < 2 or len(keys) < len(pool):
        return None
    first, second = sorted(keys)[:2]
    return first[1] if second[0] - first[0] >= margin else None


def _of_track(name: str, forms: tuple[str, ...], test: predicates.Test) -> Clause:
    return Clause(name, "motion", forms, lambda facts, index: test(facts.tracks[index]))


def _forms(patterns: tuple[str, ...], direction: str) -> tuple[str, ...]:
    return tuple(pattern.replace("%", words) for pattern in patterns for words in _TOWARDS[direction])


def directed_clauses() -> list[Clause]:
    """The motions that have a direction."""
    clauses = []
    for name in DIRECTIONS:
        simple = ("{move} %", "{go} %", "{head} %", "{travel} %")
        clauses.append(_of_track(f"moves {name}", _forms(simple, name), predicates.moves(name)))
        keeping = ("{keep} moving %", "{move} % all the time", "{keep} going %", "{go} % without stopping or turning",
                   "{move} % from beginning to end")  # fmt: skip
        clauses.append(_of_track(f"keeps_moving {name}", _forms(keeping, name), predicates.keeps_moving(name)))
        waiting = ("first {stop} and then {go} %", "first {stand} still and then {move} %", "{wait} before going %",
                   "{stay} in place at first, then {move} %", "{start} moving % after a while")  # fmt: skip
        clauses.append(_of_track(f"stops_then_goes {name}", _forms(waiting, name), predicates.legs_are(None, name)))
        stopping = ("{move} % and then {stop}", "{go} % and {come} to a halt", "{stop} after moving %")
        clauses.append(_of_track(f"goes_then_stops {name}", _forms(stopping, name), predicates.legs_are(name, None)))
    for name in MAIN_DIRECTIONS:
        sides = ("up", "down") if name in ("left", "right") else ("left", "right")
        for side in sides:
            forms = _forms((f"first {{move}} {name} and then {{turn}} %", f"{{go}} {name}, then %"), side)
            clauses.append(_of_track(f"turns {name} {side}", forms, predicates.legs_are(name, side)))
    return clauses


def motion_clauses() -> list[Clause]:
    """Everything about motion that needs no other object."""
    return [
        *directed_clauses(),
        _of_track("turns_back", ("{turn} back", "{turn} round and {come} back", "{go} back where it came from",
                                 "{reverse} its direction", "{move} away and then {return}"),
                  predicates.turns(150, 360)),
        _of_track("turns_aside", ("{turn} to the side", "{turn} a corner", "{make} a turn to the side"),
                  predicates.turns(60, 120)),
        _of_track("stops", ("{come} to a stop", "{stop} moving", "{move} first and then {stand} still",
                            "{stop} halfway"), predicates.legs_are("any", None)),
        _of_track("starts", ("{start} to move later", "{stand} still at first and then {move} off",
                             "{begin} to move only after a while"), predicates.legs_are(None, "any")),
        _of_track("goes_on", ("{stop} in between and then {go} on", "{pause} and {move} on"),
                  predicates.goes_on_after_stop),
        _of_track("stays_still", ("{stay} still", "{stand} still", "{remain} in its place all the time", "{be} at rest",
                                  "{do} not move at all", "{stay} where it is"), predicates.stays_still),
        _of_track("moves", ("{move}", "{move} around", "{be} in motion"), predicates.moves_at_all),
        _of_track("circles", ("{move} in circles", "{go} round in a circle", "{circle} around"),
                  predicates.circles(None)),
        _of_track("circles clockwise", ("{move} in circles clockwise", "{circle} clockwise"), predicates.circles(True)),
        _of_track("circles anticlockwise", ("{move} in circles anticlockwise", "{circle} anticlockwise",
                                            "{circle} counterclockwise"), predicates.circles(False)),
        _of_track("bounces", ("{bounce} up and down", "{bounce}", "{hop}", "{jump} up and down"), predicates.bounces),
        _of_track("back_and_forth", ("{move} back and forth", "{swing} from side to side",
                                     "{go} left and right again and again"), predicates.goes_back_and_forth),
        _of_track("zigzags", ("{zigzag}", "{move} in a zigzag", "{follow} a zigzag path"), predicates.zigzags),
        _of_track("spins", ("{spin}", "{rotate}", "{turn} about itself", "{spin} around"), predicates.spins(None)),
        _of_track("spins clockwise", ("{rotate} clockwise", "{spin} clockwise"), predicates.spins(True)),
        _of_track("spins anticlockwise", ("{rotate} anticlockwise", "{spin} counterclockwise"),
                  predicates.spins(False)),
        _of_track("grows", ("{grow}", "{get} larger", "{become} bigger"), predicates.changes_size(True)),
        _of_track("shrinks", ("{shrink}", "{get} smaller", "{become} smaller"), predicates.changes_size(False)),
        _of_track("appears_later", ("{appear} later", "{show} up after a while", "{be} not there at first",
                                    "{come} into view later"), predicates.appears_later),
        _of_track("leaves", ("{leave} the picture", "{move} out of the picture and {do} not come back",
                             "{disappear} over the edge of the picture"), predicates.leaves_for_good),
        _of_track("leaves_and_returns", ("{leave} the picture and {come} back", "{go} out of view and then {return}"),
                  predicates.leaves_and_returns),
        _of_track("stays_in_picture", ("{stay} in the picture all the time", "{be} visible the whole time",
                                       "{remain} in view from beginning to end"), predicates.stays_in_picture),
        _of_track("gets_hidden", ("{disappear} behind another object and {come} out again",
                                  "{be} hidden behind something for a while", "{pass} behind another object"),
                  predicates.gets_hidden),
    ]  # fmt: skip


def _place(axis: int, low: bool, when: slice) -> Decide:
    """Whether an object is in the first (`low`) or last part of the frame along an axis, `when` it matters."""

    def decide(facts: Facts, index: int) -> Answer:
        seen = facts.tracks[index].visible >= SEEN
        share = facts.screen[index, :, axis] / (facts.width if axis == 0 else facts.height)
        share = (share if low else 1 - share)[seen][when]
        if not len(share):
            return None
        if share.max() < 0.42:  # None for one that comes later or leaves earlier: its own first or last place fits
            return True if when == ALWAYS or seen[when].all() else None
        return False if share.min() > 0.57 else None

    return decide


def place_clauses(image: bool) -> list[Clause]:
    """Where in the frame an object is: all the time, at first and in the end (in an image there is only one time)."""
    sides = {"left": (0, True), "right": (0, False), "top": (1, True), "bottom": (1, False)}
    clauses = []
    for side, (axis, low) in sides.items():
        on, at = ("on the", side) if axis == 0 else ("at the", side)
        text = f"{on} {at}"
        always = (f"+{text}", f"+{text} side" if axis == 0 else f"+in the {'upper' if low else 'lower'} part",
                  f"+{text} of the picture")  # fmt: skip
        clauses.append(Clause(f"is {side}", "relation", always, _place(axis, low, ALWAYS)))
        if not image:
            first = (f"{{start}} {text}", f"{{be}} {text} at the beginning", f"{{be}} {text} at first")
            last = (f"{{end}} up {text}", f"{{be}} {text} at the end", f"{{finish}} {text}")
            clauses.append(Clause(f"starts {side}", "relation", first, _place(axis, low, FIRST)))
            clauses.append(Clause(f"ends {side}", "relation", last, _place(axis, low, LAST)))
    return clauses


def relation_clauses(other: int, name: str, image: bool) -> list[Clause]:
    """Where objects are relative to the object `other`, which `name` ("the green star") identifies."""
    texts = {
        "left of": (0, -1, ("+left of", "+to the left of", "+on the left of")),
        "right of": (0, 1, ("+right of", "+to the right of", "+on the right of")),
        "above": (1, -1, ("+above", "+over")),
        "below": (1, 1, ("+below", "+under", "+beneath")),
    }
    clauses = []
    for relation, (axis, sign, words) in texts.items():
        forms = tuple(f"{text} {name}" for text in words)
        if image:
            clauses.append(Clause(f"{relation} {other}", "relation", forms, _beside(other, axis, sign, ALWAYS)))
            continue
        forms += (f"{{stay}} {words[0][1:]} {name}",)
        first = (f"{{start}} {words[0][1:]} {name}", f"{{be}} {words[0][1:]} {name} at the beginning")
        last = (f"{{end}} up {words[0][1:]} {name}", f"{{be}} {words[0][1:]} {name} at the end")
        for when, what, own in ((ALWAYS, "", forms), (FIRST, "starts ", first), (LAST, "ends ", last)):
            clauses.append(Clause(f"{what}{relation} {other}", "relation", own, _beside(other, axis, sign, when)))
    return clauses


def _beside(other: int, axis: int, sign: int, when: slice) -> Decide:
    def decide(facts: Facts, index: int) -> Answer:
        if index == other:
            return False
        together = (facts.tracks[index].visible[when] >= SEEN) & (facts.tracks[other].visible[when] >= SEEN)
        if together.mean() < 0.5:
            return None
        gap = (facts.screen[index, when] - facts.screen[other, when])[together]
        along, across = sign * gap[:, axis], np.abs(gap[:, 1 - axis])
        if ((along >= 16) & (along >= 0.7 * across)).mean() >= 0.95:
            return True
        return False if (along < 4).mean() >= 0.95 else None

    return decide


def _first_seen(facts: Facts, index: int) -> float | None:
    later = predicates.appears_later(facts.tracks[index])
    if later is None:
        return None
    return float(facts.tracks[index].seen[0]) if later else 0.0


def _lasts_until(facts: Facts, index: int) -> float | None:
    leaves = predicates.leaves_for_good(facts.tracks[index])
    if leaves is None:
        return None
    return float(facts.tracks[index].seen[-1]) if leaves else float(facts.frames + 10)


def _moves_off(facts: Facts, index: int) -> float | None:
    """The frame in which an object that stands still at first begins to move."""
    track = facts.tracks[index]
    legs = track.legs
    if legs and legs[0].direction is None and len(legs) == 2 and predicates.legs_are(None, "any")(track):
        return float(legs[0].frames)
    if predicates.stays_still(track):
        return float(facts.frames + 10)
    return 0.0 if legs and legs[0].direction is not None and track.seen[0] == 0 else None


def _stops_at(facts: Facts, index: int) -> float | None:
    """The frame in which an object that moves at first comes to its last stop."""
    track = facts.tracks[index]
    if track.legs and len(track.seen) == facts.frames and predicates.legs_are("any", None)(track):
        return float(track.legs[0].frames)
    return None


def _log_pace(facts: Facts, index: int) -> float | None:
    value = predicates.speed(facts.tracks[index])
    return None if value is None else float(np.log(value))


def _negative(key: Key) -> Key:
    def negated(facts: Facts, index: int) -> float | None:
        value = key(facts, index)
        return None if value is None else -value

    return negated


def _log_speed(facts: Facts, index: int) -> float | None:
    """As `_log_pace`, with a number below all others for what stands still."""
    return -3.0 if predicates.stays_still(facts.tracks[index]) else _log_pace(facts, index)


def _log_size(facts: Facts, index: int) -> float | None:
    track: Track = facts.tracks[index]
    steady = np.ptp(np.log(track.radius)) < 0.05
    return float(np.log(track.radius.mean())) if steady else None


def _at_first(axis: int, low: bool, edge: bool) -> Key:
    """How far the middle (or the `edge`) of what is seen of an object in the first frame is from a side."""

    def key(facts: Facts, index: int) -> float | None:
        if facts.tracks[index].visible[0] < SEEN:
            return None
        first, last = (float(value) for value in facts.first_box[index, [axis, axis + 2]])
        place = (first + last) / 2 if not edge else first if low else last
        return place if low else -place

    return key


def superlatives(image: bool) -> list[Superlative]:
    """Statements that compare the objects that the noun fits."""
    places = []
    for name, axis, low, side in (("leftmost", 0, True, "the left"), ("rightmost", 0, False, "the right"),
                                  ("topmost", 1, True, "the top"), ("bottommost", 1, False, "the bottom")):  # fmt: skip
        forms = (f"{{start}} farthest to {side}", f"{{be}} closest to {side} edge at the beginning")
        if image:
            forms = (f"+farthest to {side}", f"+closest to {side} edge")
        keys = (_at_first(axis, low, edge=False), 20.0, (_at_first(axis, low, edge=True), 8.0))
        places.append(Superlative(name if image else f"starts {name}", "relation", forms, *keys))
    sizes = [Superlative("largest", "relation", ("{be} the largest", "{be} larger than the others"),
                         _negative(_log_size), 0.28),
             Superlative("smallest", "relation", ("{be} the smallest", "{be} smaller than the others"),
                         _log_size, 0.28)]  # fmt: skip
    if image:
        return [*places, *sizes]
    return [
        *places,
        *sizes,
        Superlative("appears_last", "order", ("{appear} last", "{show} up last", "{be} the last to appear",
                                              "{come} into view after all others"), _negative(_first_seen), 3.0),
        Superlative("leaves_first", "order", ("{leave} the picture first", "{be} the first to leave the picture"),
                    _lasts_until, 3.0),
        Superlative("moves_first", "order", ("{start} to move first", "{move} off before the others"), _moves_off, 3.0),
        Superlative("moves_last", "order", ("{start} to move last",), _starts_last, 3.0),
        Superlative("stops_first", "order", ("{stop} first", "{be} the first to stop", "{stop} before the others"),
                    _stops_at, 3.0),
        Superlative("stops_last", "order", ("{stop} last", "{be} the last to stop"), _negative(_stops_at), 3.0),
        Superlative("slowest", "order", ("{move} slowest", "{be} the slowest", "{move} more slowly than the others"),
                    _log_pace, 0.4),
        Superlative("fastest", "order", ("{move} fastest", "{be} the fastest", "{move} faster than the others"),
                    _negative(_log_speed), 0.4),
    ]  # fmt: skip


def _starts_last(facts: Facts, index: int) -> float | None:
    value = _moves_off(facts, index)
    return None if value is None or value > facts.frames else -value
