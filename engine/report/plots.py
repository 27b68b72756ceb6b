"""Scores over a property of the sentences, as an SVG picture of the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.report.markup import Markup, element, join

# From these numbers of frames on a new bar begins; half octaves, in whole clips of 8 frames up to 32.
LENGTH_EDGES = (1, 9, 17, 25, 33, 49, 65, 97, 129, 193, 257, math.inf)
AREA_EDGES = (0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, math.inf)

_WIDTH, _HEIGHT = 460, 262  # units of the picture
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 18, 10, 200  # of the axes
_TICKS, _MEANS, _COUNTS = 215, 236, 254  # base lines of the rows of text
_AXIS = 4
_DOT = 2.2


@dataclass(frozen=True)
class Point:
    """A sentence: its property `x`, its score `y` from 0 to 1, and its name."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Bin:
    """The points with low <= x < high."""

    low: float
    high: float
    points: tuple[Point, ...]

    @property
    def mean(self) -> float | None:
        """Of y; None without points."""
        return math.fsum(point.y for point in self.points) / len(self.points) if self.points else None


def bins_of(points: Sequence[Point], edges: Sequence[float]) -> list[Bin]:
    """One bin between each two neighbours of `edges`, but for empty ones before the first and after the last point."""
    bins = [
        Bin(low, high, tuple(point for point in points if low <= point.x < high))
        for low, high in zip(edges, edges[1:], strict=False)
    ]
    filled = [number for number, own in enumerate(bins) if own.points]
    return bins[filled[0] : filled[-1] + 1] if filled else []


def score_plot(
    title: str, axis: str, points: Sequence[Point], edges: Sequence[float], tick: Callable[[float], str]
) -> Markup:
    """A figure: a bar per bin for the mean score, a dot per sentence, counts; and the same numbers as a table.

    Args:
        title: above it.
        axis: what x is.
        points: all sentences; with none the figure says so.
        edges: of the bins.
        tick: writes a value of x.
    """
    bins = bins_of(points, edges)
    caption = element("figcaption", element("h3", title), element("p", axis, class_="quiet"))
    if not bins:
        return element("figure", caption, element("p", "No sentences."), class_="plot")
    step = (_WIDTH - _LEFT - _RIGHT) / len(bins)
    parts = [_grid()]
    for number, own in enumerate(bins):
        left = _LEFT + number * step
        parts.append(_text(left, _TICKS, tick(own.low)))
        parts.append(_bar(own, left, step))
        parts += [_dot(point, own, left, step) for point in own.points]
    if math.isfinite(bins[-1].high):
        parts.append(_text(_WIDTH - _RIGHT, _TICKS, tick(bins[-1].high)))
    for base, name in ((_MEANS, "mean"), (_COUNTS, "count")):
        parts.append(_text(_LEFT - 8, base, name, "row"))
    label = f"{title}: mean J&F in percent and number of sentences per bar; the table below has the same numbers"
    picture = element("svg", join(parts), viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label)
    return element("figure", caption, picture, _numbers(bins, tick), class_="plot")


def _y(score: float) -> float:
    return _BOTTOM - score * (_BOTTOM - _TOP)


def _text(x: float, y: float, text: str, class_: str = "tick") -> Markup:
    return element("text", text, x=x, y=y, class_=class_)


def _grid() -> Markup:
    parts = []
    for step in range(_AXIS + 1):
        y = _y(step / _AXIS)
        parts.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(_text(_LEFT - 8, y + 4, str(100 * step // _AXIS), "row"))
    return join(parts)


def _bar(own: Bin, left: float, step: float) -> Markup:
    middle = left + step / 2
    count = _text(middle, _COUNTS, str(len(own.points)), "value")
    if own.mean is None:
        return count
    top = _y(own.mean)
    bar = element("rect", x=left + 1.5, y=top, width=step - 3, height=_BOTTOM - top, class_="bar")
    return join([bar, _text(middle, _MEANS, f"{100 * own.mean:.1f}", "value"), count])


def _dot(point: Point, own: Bin, left: float, step: float) -> Markup:
    """Where x lies in its bin, but clear of the borders; a bin without an upper border ends with its last point."""
    high = own.high if math.isfinite(own.high) else max(other.x for other in own.points)
    share = (point.x - own.low) / (high - own.low) if high > own.low else 0.5
    title = element("title", f"{point.label}: {100 * point.y:.1f}")
    return element("circle", title, cx=left + (0.08 + 0.84 * share) * step, cy=_y(point.y), r=_DOT, class_="dot")


def _numbers(bins: Sequence[Bin], tick: Callable[[float], str]) -> Markup:
    head = [element("th", name, scope="col") for name in ("from", "to below", "sentences", "J&F")]
    rows = []
    for own in bins:
        mean = "" if own.mean is None else f"{100 * own.mean:.2f}"
        high = tick(own.high) if math.isfinite(own.high) else ""
        cells = (tick(own.low), high, str(len(own.points)), mean)
        rows.append(element("tr", *(element("td", cell) for cell in cells)))
    table = element("table", element("thead", element("tr", *head)), element("tbody", *rows), class_="numbers")
    return element("details", element("summary", "Numbers"), table)
