"""The page: one HTML file without links to anything outside, for light and dark, wide and narrow screens."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from engine.published_figures import PUBLISHED
from engine.report.cases import Case, CaseFrame, CaseGroup, Picture
from engine.report.facts import facts_section
from engine.report.markup import Markup, element, join
from engine.report.plots import AREA_EDGES, LENGTH_EDGES, Point, score_plot
from engine.report.rows import Report, Row, ScoreTable

_HERE = Path(__file__).parent
_NAMES = {"mevis": "MeViS", "ytvos": "Ref-YouTube-VOS", "davis": "Ref-DAVIS17"}


def render(report: Report, groups: Sequence[CaseGroup]) -> str:
    """The page as text.

    Args:
        report: of a run.
        groups: its cases, drawn.
    """
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    title = f"{report.name}: {_benchmark(report)}"
    sections = {"Scores": _scores(report)}
    if report.scores is not None:
        sections["By length and size"] = _plots(report.rows)
    sections |= {group.title: _group(group) for group in groups}
    sections |= {"All sentences": _sentences(report, groups), "How it was made": facts_section(report.records)}
    anchors = {name: f"part-{number}" for number, name in enumerate(sections, start=1)}
    links = (element("a", name, href=f"#{anchor}") for name, anchor in anchors.items())
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(style)),
    )
    header = element("header", element("h1", report.name), _summary(report), element("nav", *links))
    parts = [element("section", element("h2", name), content, id=anchors[name]) for name, content in sections.items()]
    body = element("body", header, element("main", *parts), element("script", Markup(script)))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _policy(style: str, script: str) -> str:
    """Nothing may be fetched, and no script may run but the page's own."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    own_style, own_script = (f"'sha256-{value}'" for value in hashes)
    return f"default-src 'none'; img-src data:; style-src {own_style}; script-src {own_script}; base-uri 'none'"


def _benchmark(report: Report) -> str:
    name, split = report.benchmark.split(maxsplit=1)
    return f"{_NAMES[name]} {split}"


def _summary(report: Report) -> Markup:
    videos = {row.video.name: row.video for row in report.rows}
    counts = (len(videos), len(report.rows), sum(len(video.frames) for video in videos.values()))
    facts = " · ".join(map(_counted, counts, ("video", "sentence", "frame")))
    return element("p", f"{_benchmark(report)} · {facts}", class_="quiet")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _scores(report: Report) -> Markup:
    table = report.scores
    name, split = report.benchmark.split(maxsplit=1)
    if table is None:
        figure = PUBLISHED.get((name, split))
        published = f" Published: {figure.percent:.1f} {figure.measures[0]}, {figure.note}." if figure else ""
        text = f"There are no scores: the ground truth of this split is not here.{published}"
        return element("p", text, class_="notice")
    measure, column = table.headline
    own = table.cells[measure][table.columns.index(column)]
    tiles = [_tile(_percent(own), f"{measure}, {column}", "own")]
    if measure in table.published:
        tiles.append(_tile(f"{table.published[measure]:.1f}", "published", ""))
    note = "; ".join(("in percent", *table.notes))
    return join([element("div", *tiles, class_="tiles"), _score_table(table), element("p", note, class_="quiet")])


def _tile(value: str, label: str, class_: str) -> Markup:
    parts = element("span", value, class_="figure"), element("span", label, class_="quiet")
    return element("div", *parts, class_=f"tile {class_}".strip())


def _score_table(table: ScoreTable) -> Markup:
    columns = [*table.columns, *(["published"] if table.published else [])]
    head = element("tr", element("th", "measure", scope="col"), *(element("th", name, scope="col") for name in columns))
    rows = []
    for measure, values in table.cells.items():
        cells = [_percent(value) for value in values]
        if table.published:
            cells.append(f"{table.published[measure]:.1f}" if measure in table.published else "")
        rows.append(element("tr", element("th", measure, scope="row"), *(element("td", cell) for cell in cells)))
    content = element("table", element("thead", head), element("tbody", *rows), class_="numbers", id="scores")
    return element("div", content, class_="wide")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _plots(rows: Iterable[Row]) -> Markup:
    scored = [(row, row.score) for row in rows if row.score is not None]
    targets = [(row, score) for row, score in scored if score.has_target]
    lengths = [Point(len(row.video.frames), score.j_and_f, _label(row)) for row, score in scored]
    areas = [Point(score.target_area, score.j_and_f, _label(row)) for row, score in targets]
    parts = [
        score_plot("J&F by video length", "frames of the video", lengths, LENGTH_EDGES, lambda x: f"{x:.0f}"),
        score_plot("J&F by target size", "mean share of the frame", areas, AREA_EDGES, lambda x: f"{100 * x:g}%"),
    ]
    figures = element("div", *parts, class_="plots")
    others = [score.j_and_f for _, score in scored if not score.has_target]
    if not others:
        return figures
    mean = _percent(sum(others) / len(others))
    text = f"Sentences without a target, which are not in the plot by size: {len(others)}, mean J&F {mean}."
    return join([figures, element("p", text, class_="quiet")])


def _label(row: Row) -> str:
    return f"{row.video.name}/{row.key}"


def _group(group: CaseGroup) -> Markup:
    text = "Predictions are red."
    if any(frame.target is not None for case in group.cases for frame in case.frames):
        text = "Every frame is there twice: the prediction in red, then the ground truth in yellow. J is that frame's."
    return join([element("p", text, class_="quiet"), *(_case(case) for case in group.cases)])


def _case(case: Case) -> Markup:
    row, score = case.row, case.row.score
    parts = [element("p", row.expression.text, class_="sentence", dir="auto")]
    facts = [f"{row.video.name}, sentence {row.key}", _counted(len(row.video.frames), "frame")]
    if score is not None:
        facts.append(f"J {_percent(score.j)}, F {_percent(score.f)}, J&F {_percent(score.j_and_f)}")
        facts.append(f"target {100 * score.target_area:.2g}% of the frame" if score.has_target else "no target")
    parts.append(element("p", " · ".join(facts), class_="quiet"))
    if row.note:
        parts.append(element("p", row.note, class_="quiet", dir="auto"))
    frames = (_frame(frame, row.expression.text) for frame in case.frames)
    return element("article", *parts, element("div", *frames, class_="strip"), id=_anchor(case), class_="case")


def _anchor(case: Case) -> str:
    return f"case-{case.number}"


def _frame(frame: CaseFrame, sentence: str) -> Markup:
    pictures = [_picture(frame.predicted, f"Prediction in frame {frame.name}: {sentence}")]
    caption = f"frame {frame.name}"
    if frame.target is not None and frame.j is not None:
        pictures.append(_picture(frame.target, f"Ground truth in frame {frame.name}: {sentence}"))
        caption += f" · J {100 * frame.j:.0f}"
    return element("figure", element("div", *pictures, class_="pair"), element("figcaption", caption, class_="quiet"))


def _picture(picture: Picture, alt: str) -> Markup:
    data = base64.b64encode(picture.jpeg).decode()
    size = {"width": picture.width, "height": picture.height}
    return element("img", src=f"data:image/jpeg;base64,{data}", alt=alt, loading="lazy", decoding="async", **size)


def _sentences(report: Report, groups: Sequence[CaseGroup]) -> Markup:
    """The table of all sentences; a script makes it sortable and its filter visible."""
    shown = {case.number: _anchor(case) for group in groups for case in group.cases}
    columns = [("sentence", "")]
    if report.scores is not None:
        columns += [(name, "number") for name in ("J&F", "J", "F", "target %")]
    columns += [("frames", "number"), ("video", ""), ("id", "")]
    head = [
        element("th", element("button", name, type="button"), scope="col", aria_sort="none", class_=class_ or None)
        for name, class_ in columns
    ]
    body = [_sentence_row(row, shown.get(number)) for number, row in enumerate(report.rows)]
    table = element("table", element("thead", element("tr", *head)), element("tbody", *body), id="sentences")
    field = element("input", type="search", id="filter", autocomplete="off", spellcheck="false")
    label = element("label", "Show rows with ", field, for_="filter")
    count = element("output", f"{len(body)} of {len(body)}", for_="filter", id="count")
    controls = element("p", label, " ", count, id="controls", hidden=True)
    region = element("div", table, class_="tall", role="region", tabindex="0", aria_label="Table of all sentences")
    return join([controls, region])


def _sentence_row(row: Row, anchor: str | None) -> Markup:
    text = row.expression.text
    content = text if anchor is None else element("a", text, href=f"#{anchor}")
    cells = [element("td", content, dir="auto")]
    if row.score is not None:
        score = row.score
        values = (score.j_and_f, score.j, score.f, score.target_area)
        cells += [element("td", _percent(value), class_="number") for value in values]
    cells.append(element("td", str(len(row.video.frames)), class_="number"))
    return element("tr", *cells, element("td", row.video.name), element("td", row.key))
