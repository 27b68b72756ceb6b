"""What is wrong, or odd, with the data somebody wants to import: named by the rows of the table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHOWN = 10


@dataclass(frozen=True, order=True)
class Note:
    """A fault or a warning.

    Attributes:
        rows: the rows of the table it is about, numbered as `tables.Row.number`; empty: the table as a whole.
        text: what was expected, what was found, what to do.
    """

    rows: tuple[int, ...]
    text: str

    def __str__(self) -> str:
        if not self.rows:
            return self.text
        named = ", ".join(map(str, self.rows[:3])) + (", ..." if len(self.rows) > 3 else "")
        return f"row{'s' if len(self.rows) > 1 else ''} {named}: {self.text}"


def shown(notes: Sequence[Note], complete: str) -> list[str]:
    """The first notes as lines, and how many more there are; `complete` says where all of them are."""
    lines = [str(note) for note in notes[:SHOWN]]
    if len(notes) > SHOWN:
        lines.append(f"and {len(notes) - SHOWN} more ({complete} keeps all {len(notes)})")
    return lines


def in_order(notes: Iterable[Note]) -> list[Note]:
    """Notes sorted by row, each once."""
    return sorted(set(notes))
