"""HTML in which plain text cannot become markup: what is not `Markup` is escaped where it is put in."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

# Control characters, and halves of surrogate pairs, which UTF-8 cannot hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_VOID = ("meta", "img", "input")


class Markup(str):
    """Text that is HTML (or SVG) already."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """Any text as HTML; unprintable characters become the replacement character. `Markup` stays as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(_UNPRINTABLE.sub("\ufffd", text)))


def join(parts: Iterable[str]) -> Markup:
    """All parts, one after the other."""
    return Markup("".join(map(escape, parts)))


def element(name: str, /, *content: str, **attributes: str | float | bool | None) -> Markup:
    """An element.

    Args:
        name: of the element.
        content: its children; plain text is escaped.
        attributes: "_" in a name stands for "-", and one at the end is dropped (`class_`). True is an attribute
            without a value; None and False leave it out; numbers keep at most two decimals.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        parts.append(label if value is True else f'{label}="{escape(_text(value))}"')
    opening = f"<{' '.join(parts)}>"
    if name in _VOID:
        assert not content, name
        return Markup(opening)
    return Markup(f"{opening}{join(content)}</{name}>")


def _text(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)
