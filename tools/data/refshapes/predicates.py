"""Small tests of what an object does: True, False, or None where a viewer could disagree.

All take a `Track` (lengths in units, see facts.py). A sentence is used only if no test it needs answers None.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tools.data.refshapes.facts import GONE, MOVING_SPEED, SEEN, Track
from tools.data.refshapes.motion import DIRECTIONS

Answer = bool | None
Test = Callable[[Track], Answer]

_FAR, _NEAR = 32.0, 12.0  # a movement surely noticed, and one that is none
_STRAIGHT = 0.92  # net displacement / length of a straight path
_WITHIN, _BEYOND = np.cos(np.deg2rad(24)), np.cos(np.deg2rad(60))  # directions that agree, and that do not


def both(*answers: Answer) -> Answer:
    """Kleene's "and"."""
    if any(answer is False for answer in answers):
        return False
    return None if any(answer is None for answer in answers) else True


def _advance(values: np.ndarray) -> float:
    """The largest gain of a series from one of its values to a later one."""
    return float((values - np.minimum.accumulate(values)).max()) if len(values) else 0.0


def moves(name: str) -> Test:
    """It moves in a direction (straight, from beginning to end)."""
    direction = np.array(DIRECTIONS[name])

    def test(track: Track) -> Answer:
        if not len(track.path):
            return None
        net = track.path[-1] - track.path[0]
        distance = float(np.linalg.norm(net))
        cosine = float(net @ direction) / max(distance, 1e-6)
        if distance >= _FAR and cosine >= _WITHIN and distance >= _STRAIGHT * track.length:
            return True if track.longest_stop <= 0.15 else None
        if _advance(track.path @ direction) < _NEAR:
            return False
        return False if distance >= _STRAIGHT * track.length and cosine <= _BEYOND else None

    return test


def keeps_moving(name: str) -> Test:
    """It moves in a direction all the time, without a stop or a turn."""
    direction = np.array(DIRECTIONS[name])
    simple = moves(name)

    def test(track: Track) -> Answer:
        answer = simple(track)
        if answer is not None or not len(track.path):
            return answer
        along, speeds = track.steps @ direction, np.linalg.norm(track.steps, axis=1)
        aside = float((along < 0.25 * speeds).mean()) >= 0.25  # a zigzag does move on: None
        stopped = track.longest_stop >= 0.22
        returned = _advance(-(track.path @ direction)) >= 0.8 * _FAR
        return False if stopped or returned or aside else None

    return test


def stays_still(track: Track) -> Answer:
    """It stands still all the time, without spinning or changing its size."""
    if not len(track.path):
        return None
    turned = abs(float(track.angle[-1] - track.angle[0]))
    changed = abs(float(np.log(track.radius[-1] / track.radius[0])))
    if track.length < 4 and turned < 0.2 and changed < 0.05:
        return True
    return False if track.length >= 24 else None


def moves_at_all(track: Track) -> Answer:
    """It changes its place."""
    if not len(track.path):
        return None
    if track.length >= _FAR:
        return True
    return False if stays_still(track) else None


def _leg_matches(direction: np.ndarray | None, name: str | None) -> Answer:
    """Whether a leg has the direction `name`; None stands for standing still, "any" for any direction."""
    if name is None or direction is None:
        return name is None and direction is None
    if name == "any":
        return True
    cosine = float(direction @ np.array(DIRECTIONS[name]))
    return True if cosine >= _WITHIN else (False if cosine <= _BEYOND else None)


def legs_are(*names: str | None) -> Test:
    """Its path consists of these parts, in this order (None: stands still, "any": moves in some direction)."""

    def test(track: Track) -> Answer:
        legs = track.legs
        if legs is None:
            return False if None in names and len(track.path) and track.longest_stop <= 0.1 else None
        if any(leg.length < _FAR * 0.6 for leg in legs if leg.direction is not None):
            return None
        if any(leg.frames < max(2, 0.12 * len(track.steps)) for leg in legs):
            return None
        # A longer path that has these parts among its own: some would say yes.
        windows = [legs[first : first + len(names)] for first in range(len(legs) - len(names) + 1)]
        answers = [
            both(*(_leg_matches(leg.direction, name) for leg, name in zip(w, names, strict=True))) for w in windows
        ]
        if len(legs) == len(names):
            return answers[0]
        return False if all(answer is False for answer in answers) else None

    return test


def turns(low: float, high: float) -> Test:
    """It moves straight, then once turns by an angle between `low` and `high` degrees."""
    two_legs = legs_are("any", "any")

    def test(track: Track) -> Answer:
        answer = two_legs(track)
        if track.legs is None:
            return answer
        if answer is not True:  # one that moves, stops or is away, and moves elsewhere does turn in a way
            return None if sum(leg.direction is not None for leg in track.legs) > 1 else answer
        one, other = track.legs[0].direction, track.legs[1].direction
        assert one is not None
        assert other is not None
        angle = np.rad2deg(np.arccos(np.clip(one @ other, -1, 1)))
        return bool(low <= angle <= high) if abs(angle - low) > 10 and abs(angle - high) > 10 else None

    return test


def goes_on_after_stop(track: Track) -> Answer:
    """It moves, stops, and moves on in the same direction."""
    answer = legs_are("any", None, "any")(track)
    if answer is not True or track.legs is None:
        return answer
    one, other = track.legs[0].direction, track.legs[2].direction
    assert one is not None
    assert other is not None
    return bool(one @ other > _WITHIN) if abs(one @ other - 0.5) > 0.4 else None


def circles(clockwise: bool | None) -> Test:
    """It moves round in circles, at least one (clockwise as seen in the picture; None: in either sense)."""

    def test(track: Track) -> Answer:
        if not len(track.path):
            return None
        if track.legs is not None and len(track.legs) <= 3:
            return False
        around = track.path - track.path.mean(0)
        shoelace = around[:, 0] * np.roll(around[:, 1], -1) - around[:, 1] * np.roll(around[:, 0], -1)
        area = float(shoelace.sum() / 2 / max(np.prod(track.extent), 1e-6))  # positive: clockwise, y is down
        angles = np.unwrap(np.arctan2(around[:, 1], around[:, 0]))
        lap = abs(float(angles[-1] - angles[0])) >= np.deg2rad(330) and track.extent.min() >= 24
        if lap and abs(area) >= 0.6:
            return clockwise is None or (area > 0) == clockwise
        return False if abs(area) <= 0.12 or track.extent.min() < 6 else None

    return test


def _swings(axis: int, swing: float, across: float, least: int) -> Test:
    """It turns round at least `least` times along one axis, and is at most `across` units wide along the other."""

    def test(track: Track) -> Answer:
        if not len(track.path):
            return None
        if circles(None)(track):
            return False
        count, other = track.reversals(axis, swing), track.reversals(1 - axis, swing)
        if count >= least and other == 0 and track.extent[1 - axis] <= across:
            return True
        return False if count == 0 else None

    return test


bounces = _swings(axis=1, swing=14.0, across=40.0, least=3)
goes_back_and_forth = _swings(axis=0, swing=14.0, across=10.0, least=2)


def zigzags(track: Track) -> Answer:
    """It swings from side to side on its way."""
    if not len(track.path):
        return None
    if circles(None)(track):
        return False
    counts = [track.reversals(axis, 12.0) for axis in (0, 1)]
    for axis in (0, 1):
        if counts[axis] >= 3 and counts[1 - axis] == 0 and track.extent[1 - axis] >= 55:
            return True
    return False if max(counts) <= 1 else None


def spins(clockwise: bool | None) -> Test:
    """It rotates about itself (clockwise as seen in the picture; None: in either sense)."""

    def test(track: Track) -> Answer:
        if track.span is None:
            return None
        angle = track.angle[track.span]
        turned = float(angle[-1] - angle[0])
        if abs(turned) < 0.2:
            return False
        if abs(turned) < 3.5:
            return None
        return clockwise is None or (turned > 0) == clockwise

    return test


def changes_size(growing: bool) -> Test:
    """It becomes clearly larger, or smaller."""

    def test(track: Track) -> Answer:
        if track.span is None:
            return None
        radius = track.radius[track.span]
        ratio = float(radius[-1] / radius[0])
        ratio = ratio if growing else 1 / ratio
        return True if ratio >= 1.4 else (False if ratio <= 1.05 else None)

    return test


def appears_later(track: Track) -> Answer:
    """It is not there at first, then appears."""
    if not len(track.seen):
        return False if (track.in_frame <= GONE).all() else None
    first = int(track.seen[0])
    late = first >= max(2, 0.15 * len(track.visible))
    if late and (track.in_frame[: first - 1] <= 0.1).all() and (track.visible[: max(first - 2, 1)] <= GONE).all():
        return True
    return False if track.visible[0] >= 2 * SEEN else None


def _away(track: Track) -> list[tuple[int, int]]:
    """Ranges of frames (first, end) in which it is outside of the frame (not merely hidden)."""
    outside = np.concatenate(([False], track.in_frame <= GONE, [False]))
    edges = np.flatnonzero(outside[1:] != outside[:-1])
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def leaves_for_good(track: Track) -> Answer:
    """It is there first, then leaves the picture and does not come back."""
    gaps = [gap for gap in _away(track) if gap[0] > 0]
    if not gaps:
        return False if (track.in_frame >= 0.5)[-1] else None
    first, end = gaps[-1]
    if end < len(track.visible):
        return None  # it left, but came back
    return True if len(gaps) == 1 and track.visible[0] >= 2 * SEEN and end - first >= 2 else None


def leaves_and_returns(track: Track) -> Answer:
    """It leaves the picture and comes back."""
    inner = [(first, end) for first, end in _away(track) if first > 0 and end < len(track.visible)]
    if len(inner) == 1 and inner[0][1] - inner[0][0] >= 2:
        ends = track.visible[0] >= 2 * SEEN and track.visible[-1] >= 2 * SEEN
        return True if ends else None
    return False if not inner else None


def stays_in_picture(track: Track) -> Answer:
    """It is in the picture from the first frame to the last."""
    if track.in_frame.min() >= 0.6 and track.visible.min() >= SEEN:
        return True
    return False if (track.in_frame <= GONE).sum() >= 2 else None


def gets_hidden(track: Track) -> Answer:
    """It disappears behind another object and comes out again."""
    open_share = track.visible / np.maximum(track.in_frame, 1e-6)
    there = track.in_frame >= 0.5
    hidden = np.flatnonzero(there & (open_share <= GONE))
    if len(hidden) >= 2 and track.visible[: hidden[0]].max(initial=0) >= 0.6:
        return True if track.visible[hidden[-1] :].max(initial=0) >= 0.6 else None
    return False if (open_share[track.in_frame > GONE] >= 0.85).all() else None


def speed(track: Track) -> float | None:
    """Mean speed while it is seen, in units per frame; None if it cannot be followed or hardly moves."""
    if not len(track.steps):
        return None
    value = track.length / len(track.steps)
    return value if value >= MOVING_SPEED else None
