"""Faults of data on disk: each names its file and key; all are found before any compute starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets.masks import image_size
from util.errors import InputError
from util.paths import is_text

FAULTS_IN_MESSAGE = 3
DEFAULT_WORKERS = 8
MAX_LINK_FILE_BYTES = 4096


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a data set.

    Attributes:
        path: the file or folder.
        key: where in it ("videos/abc/expressions/2", a frame); empty for the file as a whole.
        problem: what was expected and what was found.
    """

    path: Path
    key: str
    problem: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (str(self.path), self.key, self.problem)))


Check = Callable[[], list[Fault]]


def raise_on_faults(faults: Sequence[Fault], what: str) -> None:
    """Raise an InputError that names the first faults of `what`, if there are any."""
    if not faults:
        return
    shown = "; ".join(str(fault) for fault in faults[:FAULTS_IN_MESSAGE])
    more = len(faults) - FAULTS_IN_MESSAGE
    rest = f"; and {more} more (tools/data/check_dataset.py lists them)" if more > 0 else ""
    raise InputError(f"{what} cannot be used: {shown}{rest}; docs/data.md tells the layout and where data come from")


def run_checks(checks: Sequence[Check], workers: int = DEFAULT_WORKERS, progress: str | None = None) -> list[Fault]:
    """Run `checks` in `workers` threads.

    Args:
        progress: the name of a progress bar (in checks per second); no bar without one.

    Returns:
        All faults, in the order of the checks.
    """
    faults: list[Fault] = []
    with ThreadPoolExecutor(workers) as pool:
        results: Iterable[list[Fault]] = pool.map(lambda check: check(), checks)
        for found in tqdm(results, total=len(checks), desc=progress, disable=progress is None):
            faults += found
    return faults


def read_json(path: Path, faults: list[Fault]) -> dict[str, Any]:
    """The JSON object in `path`; a fault and an empty object if there is none."""
    try:
        value = json.loads(path.read_bytes(), object_pairs_hook=_without_repeats)
    except FileNotFoundError:
        faults.append(Fault(path, "", "the file is missing"))
    except (OSError, ValueError, RecursionError) as error:  # unreadable; bad JSON or text encoding
        faults.append(Fault(path, "", f"not readable as JSON ({error})"))
    else:
        if isinstance(value, dict):
            return value
        faults.append(Fault(path, "", f"expected a JSON object, found a {type(value).__name__}"))
    return {}


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two values of one key the first would be lost without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"the key {repeated!r} is there twice in one object")
    return found


def get_object(container: Mapping[str, Any], key: str, path: Path, where: str, faults: list[Fault]) -> dict[str, Any]:
    """The object `container[key]`; a fault at `where`/key and an empty object if it is none."""
    value = container.get(key)
    if isinstance(value, dict):
        return value
    problem = "missing" if value is None else f"expected an object, found a {type(value).__name__}"
    faults.append(Fault(path, f"{where}/{key}".lstrip("/"), problem))
    return {}


def is_path_component(name: object) -> bool:
    """Whether `name` can be the name of one file or folder: it becomes part of paths that are read and written."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0") and is_text(name)


def sentence(entry: Mapping[str, Any], key: str, what: str) -> str:
    """The sentence `entry[key]` of a `what` (expression, image).

    Raises:
        ValueError: it is missing, blank, or no text that can be encoded as UTF-8.
    """
    text = entry.get(key)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the {what} has no {key!r} (its sentence)")
    if not is_text(text):
        raise ValueError(f"{key!r} is {text!a}, expected text; half of a surrogate pair is no character")
    return text


def follow_link_file(folder: Path) -> Path:
    """`folder`, or the folder that it names if it is a small file with a relative path in it.

    Archives and checkouts without symbolic links store such files in their place.
    """
    if not folder.is_file() or folder.stat().st_size > MAX_LINK_FILE_BYTES:
        return folder
    try:
        target = folder.parent / folder.read_text(encoding="utf-8").strip()
        return target if target.is_dir() else folder
    except (OSError, ValueError):
        return folder


def missing_folder(folder: Path) -> list[Fault]:
    """One fault if `folder` is not there, else none."""
    return [] if folder.is_dir() else [Fault(folder, "", "the folder is missing")]


def missing_files(folder: Path, names: Sequence[str], key: str, what: str) -> list[Fault]:
    """At most one fault: `folder` is missing, or lacks some of the files `names` (of the kind `what`).

    A missing parent of `folder` is reported once by those who read the metadata (`missing_folder`), not here.
    """
    if not folder.is_dir():
        return [Fault(folder, key, "the folder is missing")] if folder.parent.is_dir() else []
    present = {entry.name for entry in folder.iterdir()}
    absent = [name for name in names if name not in present]
    if not absent:
        return []
    return [Fault(folder, key, f"{len(absent)} of {len(names)} {what} are missing, the first is {absent[0]}")]


def shape(size: tuple[int, ...]) -> str:
    """(H, W) as text."""
    return f"{size[1]}x{size[0]} (width x height)"


def size_faults(paths: Iterable[Path], key: str) -> tuple[tuple[int, int] | None, list[Fault]]:
    """Read image headers.

    Returns:
        (H, W) of the first readable image (None if there is none), and a fault for every image that is not readable
        or has another size.
    """
    first: tuple[int, int] | None = None
    faults: list[Fault] = []
    for path in paths:
        try:
            size = image_size(path)
        except ValueError as error:
            faults.append(Fault(path, key, str(error)))
            continue
        first = first or size
        if size != first:
            faults.append(Fault(path, key, f"the frame is {shape(size)}, the video's first {shape(first)}"))
    return first, faults
