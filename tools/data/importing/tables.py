"""The table of an import: CSV or JSON to rows, with every fault that can be seen in a row alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.validation import is_path_component
from tools.data.importing.problems import Note
from util.errors import InputError
from util.paths import is_text

SPLITS = ("train", "valid_u", "valid")
HIDDEN_SPLIT = "valid"  # has no masks: for inference only
REQUIRED = ("video", "sentence")
COLUMNS = (*REQUIRED, "masks", "object", "id", "split", "start", "end")
NO_TARGET = "none"  # as `masks`: the sentence means nothing in the video
MAX_ID_BYTES = 80
_DELIMITERS = ",;\t"
_UNSAFE = frozenset('<>:"|?*')  # besides / and \: what some file systems refuse


@dataclass(frozen=True)
class Row:
    """One sentence about one video.

    Attributes:
        number: in a CSV file as a spreadsheet shows it (the header is row 1), in a JSON file counted from 1.
        video: relative to the folder of the videos.
        sentence: with white space folded.
        masks: a path (relative to the folder of the table), `NO_TARGET`, or a list of RLEs and None; None: not given.
        objects: numbers in the mask PNGs; empty: every pixel that is not background.
        id: of the expression; empty: to be numbered.
        split: one of `SPLITS`; empty: not said.
        start, end: first and last frame, counted from 0; None: those of the video.
    """

    number: int
    video: str
    sentence: str
    masks: str | list[Any] | None
    objects: tuple[int, ...]
    id: str
    split: str
    start: int | None
    end: int | None


def read_table(path: Path) -> tuple[list[Row], list[Note], list[Note]]:
    """Rows without a fault, faults of the others, and warnings.

    Raises:
        InputError: the file is missing, is no CSV or JSON, lacks a column, or has no row.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing: expected a table (.csv or .json), see docs/custom-data.md")
    if path.suffix.lower() not in (".csv", ".json"):
        raise InputError(f"{path}: expected a table that is called .csv or .json, see docs/custom-data.md")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}): save it as CSV UTF-8") from None
    faults: list[Note] = []
    read = _csv_entries if path.suffix.lower() == ".csv" else _json_entries
    entries = list(read(path, text, faults))
    if not entries and not faults:
        raise InputError(f"{path} has no row: expected one per sentence, see docs/custom-data.md")
    unknown = {name: None for _, entry in entries for name in entry if name not in COLUMNS}
    warnings = [Note((), f"column {name!r} is not known and left alone ({', '.join(COLUMNS)})") for name in unknown]
    rows = []
    for number, entry in entries:
        problems: list[str] = []
        row = _row(number, entry, problems)
        faults += [Note((number,), problem) for problem in problems]
        if not problems:
            rows.append(row)
    return rows, faults, warnings


def _csv_entries(path: Path, text: str, faults: list[Note]) -> Iterator[tuple[int, dict[str, Any]]]:
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(_DELIMITERS, key=first.count), strict=True)
    try:
        lines = list(reader)
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: not readable as CSV ({error})") from None
    header = [name.strip().lower() for name in lines[0]] if lines else []
    missing = [name for name in REQUIRED if name not in header]
    if missing or len(set(header)) < len(header):
        problem = f"lacks {', '.join(missing)}" if missing else "names a column twice"
        raise InputError(f"{path}: the header ({', '.join(header)}) {problem}; its columns are {', '.join(COLUMNS)}")
    for number, cells in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(header):
            problem = f"{len(cells)} cells under {len(header)} columns: a sentence with a comma belongs in quotes"
            faults.append(Note((number,), problem))
            continue
        yield number, {name: cell.strip() for name, cell in zip(header, cells, strict=False)}


def _json_entries(path: Path, text: str, faults: list[Note]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable as JSON ({error})") from None
    if not isinstance(entries, list):
        raise InputError(f"{path}: expected a list of rows, found a {type(entries).__name__}")
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, dict):
            yield number, entry
        else:
            faults.append(Note((number,), f"expected an object with {', '.join(REQUIRED)}, found {entry!r:.60}"))


def _row(number: int, entry: Mapping[str, Any], problems: list[str]) -> Row:
    """The row, of no use if something was added to `problems`."""
    sentence = " ".join(_text(entry, "sentence", problems).split())
    if not sentence and not problems:
        problems.append("the sentence is empty")
    video = _video(entry, problems)
    masks: Any = entry.get("masks")
    if not isinstance(masks, list):
        masks = _text(entry, "masks", problems) or None
        masks = NO_TARGET if masks is not None and masks.lower() == NO_TARGET else masks
    objects = _objects(entry.get("object"), problems)
    if objects and (not isinstance(masks, str) or masks == NO_TARGET):
        problems.append("'object' is a number in mask PNGs, but 'masks' names none")
    split = _text(entry, "split", problems)
    if split and split not in SPLITS:
        problems.append(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    start, end = (_frame(entry, name, problems) for name in ("start", "end"))
    if start is not None and end is not None and end < start:
        problems.append(f"the last frame (end: {end}) comes before the first (start: {start})")
    return Row(number, video, sentence, masks, objects, _id(entry, problems), split, start, end)


def _text(entry: Mapping[str, Any], name: str, problems: list[str]) -> str:
    value = entry.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not is_text(value) or "\0" in value:
        problems.append(f"{name} is {value!a:.60}, expected text")
        return ""
    return value.strip()


def _video(entry: Mapping[str, Any], problems: list[str]) -> str:
    text = _text(entry, "video", problems)
    path = PurePosixPath(text)
    if not path.parts:
        problems.append("no video is named")
    elif path.is_absolute() or ".." in path.parts or not all(map(is_path_component, path.parts)):
        problems.append(f"video is {text!r}, expected a path inside of the folder of the videos (--videos)")
    return str(path)


def _id(entry: Mapping[str, Any], problems: list[str]) -> str:
    value = entry.get("id")
    text = str(value) if type(value) is int else _text(entry, "id", problems)
    if not text:
        return ""
    usable = is_path_component(text) and text.isprintable() and not _UNSAFE & set(text) and text.strip(". ") == text
    if not usable or len(text.encode()) > MAX_ID_BYTES:
        problems.append(f"id is {text!r:.100}: it becomes the name of a folder; use letters, digits, - and _")
    return text


def _frame(entry: Mapping[str, Any], name: str, problems: list[str]) -> int | None:
    value = entry.get(name)
    if value is None or value == "":
        return None
    text = str(value).strip()
    if not _is_number(text):
        problems.append(f"{name} is {value!r:.60}, expected the number of a frame (0 is the first)")
        return None
    return int(text)


def _objects(value: Any, problems: list[str]) -> tuple[int, ...]:
    """One number, or several: a list, or separated by blanks."""
    values = value if isinstance(value, list) else str("" if value is None else value).split()
    texts = [str(item) for item in values]
    if not all(_is_number(text) and 0 < int(text) < 65536 for text in texts):
        problems.append(f"object is {value!r:.60}, expected the number of an object in the masks, 1 or higher")
        return ()
    return tuple(dict.fromkeys(map(int, texts)))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
