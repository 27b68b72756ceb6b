"""Escaping and bins of reports, over many inputs."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.report.markup import element
from engine.report.plots import AREA_EDGES, LENGTH_EDGES, Point, bins_of
from tests.html_tree import parse


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_any_text_comes_back_from_the_parser(text: str) -> None:
    shown = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", text)
    node = parse(element("p", text, title=text).encode("utf-8").decode()).one("p")
    assert (node.text, node.attributes) == (shown, {"title": shown})


@given(st.lists(st.tuples(st.integers(1, 400), st.floats(0, 1), st.floats(0, 1)), max_size=30))
def test_every_point_is_in_one_bin(values: list[tuple[int, float, float]]) -> None:
    for edges, column in ((LENGTH_EDGES, 0), (AREA_EDGES, 1)):
        points = [Point(value[column], value[2], "") for value in values]
        bins = bins_of(points, edges)
        assert sorted(p.x for own in bins for p in own.points) == sorted(p.x for p in points)
        assert not bins or (bins[0].points and bins[-1].points)
        for own in bins:
            assert all(own.low <= point.x < own.high for point in own.points)
            expected = np.mean([point.y for point in own.points]) if own.points else None
            assert own.mean == (expected if expected is None else pytest.approx(expected))
