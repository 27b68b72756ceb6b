"""The tests of motion behind RefShapes' sentences, on tracks that are made by hand or drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.data.refshapes import predicates as p
from tools.data.refshapes.facts import Track
from tools.data.refshapes.grammar import inflect
from tools.data.refshapes.motion import DIRECTIONS, MAIN_DIRECTIONS, OPPOSITE, Motion, Stage, make_path

directions = st.sampled_from(MAIN_DIRECTIONS)


def track_of(centre: np.ndarray, visible: np.ndarray | None = None, angle: np.ndarray | None = None) -> Track:
    count = len(centre)
    visible = np.ones(count) if visible is None else visible
    return Track(centre, visible, visible, np.full(count, 20.0), np.zeros(count) if angle is None else angle)


def drawn(motion: Motion, frames: int, seed: int) -> Track:
    stage = Stage(240, 320, frames, 1.0)
    path = make_path(motion, stage, 16.0, np.random.default_rng(seed))
    inside = (path.centre > -14).all(1) & (path.centre[:, 0] < 334) & (path.centre[:, 1] < 254)
    visible = (path.present & inside).astype(float)
    return Track(path.centre, visible, visible, 16.0 * path.scale, path.angle)


@given(directions, st.integers(8, 40), st.integers(0, 10**6))
@settings(max_examples=15)
def test_straight(direction: str, frames: int, seed: int) -> None:
    track = drawn(Motion("straight", direction), frames, seed)
    for name in MAIN_DIRECTIONS:
        assert p.moves(name)(track) is (name == direction)
        assert p.keeps_moving(name)(track) is (name == direction)
    assert p.stays_still(track) is False
    assert p.moves_at_all(track) is True
    assert p.turns(150, 360)(track) is False
    assert p.circles(None)(track) is False
    assert p.bounces(track) is False
    assert p.legs_are(None, direction)(track) is False


@given(directions, st.integers(12, 40), st.integers(0, 10**6))
@settings(max_examples=15)
def test_stop_then_go_and_its_reverse(direction: str, frames: int, seed: int) -> None:
    waiting = drawn(Motion("stop_then_go", direction), frames, seed)
    assert p.legs_are(None, direction)(waiting) is True
    assert p.legs_are(None, OPPOSITE[direction])(waiting) is False
    assert p.keeps_moving(direction)(waiting) is False
    assert p.legs_are("any", None)(waiting) is False
    assert p.stays_still(waiting) is False
    stopping = drawn(Motion("go_then_stop", direction), frames, seed)
    assert p.legs_are(direction, None)(stopping) is True
    assert p.legs_are(None, direction)(stopping) is False
    assert p.keeps_moving(direction)(stopping) is False


@given(directions, st.integers(12, 40), st.integers(0, 10**6))
@settings(max_examples=15)
def test_turning(direction: str, frames: int, seed: int) -> None:
    back = drawn(Motion("turn_back", direction), frames, seed)
    assert p.turns(150, 360)(back) is True
    assert p.turns(60, 120)(back) is False
    assert p.keeps_moving(direction)(back) is False
    side = next(name for name in MAIN_DIRECTIONS if name not in (direction, OPPOSITE[direction]))
    aside = drawn(Motion("turn", direction, side), frames, seed)
    assert p.legs_are(direction, side)(aside) is True
    assert p.legs_are(direction, OPPOSITE[side])(aside) is False
    assert p.turns(150, 360)(aside) is False


@given(st.sampled_from(["clockwise", "anticlockwise"]), st.integers(12, 40), st.integers(0, 10**6))
@settings(max_examples=12)
def test_circles(sense: str, frames: int, seed: int) -> None:
    track = drawn(Motion("circle", sense), frames, seed)
    assert p.circles(None)(track) is True
    assert p.circles(sense == "clockwise")(track) is True
    assert p.circles(sense != "clockwise")(track) is False
    assert p.bounces(track) is False
    assert p.zigzags(track) is False


@given(st.integers(12, 40), st.integers(0, 10**6))
@settings(max_examples=12)
def test_swings_are_no_circles_and_do_not_pass_for_each_other(frames: int, seed: int) -> None:
    bounce, shuttle = (drawn(Motion(kind), frames, seed) for kind in ("bounce", "shuttle"))
    zigzag = drawn(Motion("zigzag", "right"), frames, seed)
    assert p.zigzags(bounce) is not True
    assert p.bounces(zigzag) is not True
    assert p.goes_back_and_forth(bounce) is not True
    assert p.bounces(shuttle) is not True
    for track in (bounce, shuttle, zigzag):
        assert p.circles(None)(track) is not True
        assert p.stays_still(track) is False


@given(st.integers(9, 40), st.integers(0, 10**6))
@settings(max_examples=12)
def test_coming_and_going(frames: int, seed: int) -> None:
    still = drawn(Motion("still"), frames, seed)
    assert p.stays_still(still) is True
    assert p.stays_in_picture(still) is True
    assert p.appears_later(still) is False
    assert p.leaves_for_good(still) is False
    late = drawn(Motion("still", delay=0.4), frames, seed)
    assert p.appears_later(late) is True
    leaving = drawn(Motion("leave", "left"), frames, seed)
    assert p.leaves_for_good(leaving) is not False
    assert p.stays_in_picture(leaving) is False
    returning = drawn(Motion("leave_return", "up"), frames, seed)
    assert p.leaves_for_good(returning) is None  # it does leave; some would say yes
    assert p.leaves_and_returns(returning) is True


@given(st.lists(st.tuples(st.floats(-300, 300), st.floats(-300, 300)), min_size=4, max_size=12))
@settings(max_examples=60)
def test_any_track_gets_answers_that_do_not_contradict_each_other(points: list[tuple[float, float]]) -> None:
    track = track_of(np.array(points))
    for name in DIRECTIONS:
        answers = [p.moves(name)(track), p.keeps_moving(name)(track)]
        assert answers[0] is not True or answers[1] is True
        if name in MAIN_DIRECTIONS:
            assert not (answers[0] is True and p.moves(OPPOSITE[name])(track) is not False)
    assert not (p.stays_still(track) and p.moves_at_all(track))
    assert not (p.circles(True)(track) and p.circles(False)(track))


def test_an_answer_near_the_margin_is_none() -> None:
    slanted = track_of(np.linspace((0, 0), (100, 60), 12))  # 31 degrees
    assert p.moves("right")(slanted) is None
    assert p.moves("left")(slanted) is False
    short = track_of(np.linspace((0, 0), (20, 0), 12))
    assert p.moves("right")(short) is None
    assert p.moves("right")(track_of(np.linspace((0, 0), (100, 0), 12))) is True


def test_what_is_hidden_is_not_followed() -> None:
    hidden = np.ones(12)
    hidden[1:9] = 0
    track = track_of(np.linspace((0, 0), (100, 0), 12), hidden)
    assert p.moves("right")(track) is None
    assert p.stays_still(track) is None


def test_hiding_and_spinning() -> None:
    count = 20
    centre = np.linspace((0, 0), (100, 0), count)
    visible = np.ones(count)
    visible[8:12] = 0
    behind = Track(centre, visible, np.ones(count), np.full(count, 20.0), np.zeros(count))
    assert p.gets_hidden(behind) is True
    assert p.gets_hidden(track_of(centre)) is False
    spinning = track_of(np.zeros((count, 2)), angle=np.linspace(0, 7, count))
    assert p.spins(True)(spinning) is True
    assert p.spins(False)(spinning) is False
    assert p.stays_still(spinning) is None
    assert p.spins(None)(behind) is False


@pytest.mark.parametrize(
    ("form", "third", "plural", "ing"),
    [
        ("{move} left", "moves left", "move left", "moving left"),
        ("{stop} and {go} on", "stops and goes on", "stop and go on", "stopping and going on"),
        ("{be} the last", "is the last", "are the last", "being the last"),
        ("{zigzag}", "zigzags", "zigzag", "zigzagging"),
        ("{circle} around", "circles around", "circle around", "circling around"),
        ("{pass} by", "passes by", "pass by", "passing by"),
        ("{stay} still", "stays still", "stay still", "staying still"),
    ],
)
def test_verbs(form: str, third: str, plural: str, ing: str) -> None:
    assert [inflect(form, how) for how in ("singular", "plural", "ing")] == [third, plural, ing]
