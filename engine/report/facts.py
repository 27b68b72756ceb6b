"""How a run was made, from its run.json, whatever that holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.report.markup import Markup, element, join

_TITLES = {
    "flags": "Configuration",
    "weights": "Weights",
    "environment": "Versions and hardware",
    "identity": "What decides the masks",
    "timing": "Time in seconds",
    "attempts": "Time in seconds, per attempt",
}
_LONG = 14  # from so many entries on a table is folded
_DEEPEST = 3  # levels of tables in tables; what is deeper is shown as JSON


def facts_section(records: Mapping[str, Mapping[str, Any]]) -> Markup:
    """All records, each under the name of its file.

    Args:
        records: file name -> content; there may be none.
    """
    if not records:
        return element("p", "There is no run.json: the masks were not made by this project's inference.")
    return join(_record(name, record) for name, record in records.items())


def _record(name: str, record: Mapping[str, Any]) -> Markup:
    tables = {key: value for key, value in record.items() if isinstance(value, dict) or _is_table(value)}
    plain = {key: value for key, value in record.items() if key not in tables and key != "command"}
    parts = [element("h3", name)]
    if "command" in record:
        parts.append(element("pre", element("code", str(record["command"])), tabindex="0", aria_label="command"))
    if plain:
        parts.append(_mapping(plain, 0))
    for key, value in tables.items():
        content = _value(value, 0)
        summary = element("summary", _TITLES.get(key, key.replace("_", " ")))
        parts.append(element("details", summary, _scrolled(content), open=len(value) < _LONG))
    return element("section", *parts)


def _scrolled(content: Markup) -> Markup:
    return element("div", content, class_="wide")


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _value(value: Any, depth: int) -> Markup:
    if isinstance(value, dict | list) and depth > _DEEPEST:
        return element("code", json.dumps(value))
    if isinstance(value, dict):
        return _mapping(value, depth)
    if _is_table(value):
        return _list(value, depth)
    if isinstance(value, list):
        return element("span", " ".join(_plain(item) for item in value) or "none")
    return element("span", _plain(value))


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def _mapping(values: Mapping[str, Any], depth: int) -> Markup:
    rows = [
        element("tr", element("th", str(key), scope="row"), element("td", _value(value, depth + 1)))
        for key, value in values.items()
    ]
    return element("table", element("tbody", *rows), class_="facts") if rows else element("span", "none")


def _list(items: Sequence[Mapping[str, Any]], depth: int) -> Markup:
    """One row per item; what is a table itself goes below the row's own table."""
    columns = list(dict.fromkeys(key for item in items for key in item))
    simple = [
        key for key in columns if not any(isinstance(item.get(key), dict) or _is_table(item.get(key)) for item in items)
    ]
    head = element("thead", element("tr", *(element("th", key.replace("_", " "), scope="col") for key in simple)))
    rows = [
        element("tr", *(element("td", _value(item[key], depth + 1) if key in item else "") for key in simple))
        for item in items
    ]
    parts = [element("table", head, element("tbody", *rows), class_="facts")] if simple else []
    for number, item in enumerate(items, start=1):
        for key in columns:
            if key not in simple and item.get(key):
                parts += [element("p", f"{key.replace('_', ' ')} ({number})"), _value(item[key], depth + 1)]
    return join(parts)
