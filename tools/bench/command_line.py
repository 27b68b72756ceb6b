"""What the command lines of the benchmarks share: all that can be refused is refused before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from util.errors import InputError
from util.paths import writable_folder


def join_value(argv: Sequence[str], flag: str) -> list[str]:
    """`FLAG VALUE` as `FLAG=VALUE`: otherwise argparse takes a value such as "--compile" for another flag."""
    words, joined = iter(argv), list[str]()
    for word in words:
        value = next(words, None) if word == flag else None
        joined.append(word if value is None else f"{word}={value}")
    return joined


def check_outputs(paths: Mapping[str, Path | None]) -> None:
    """Try whether files can be written, before anything takes long; makes their folders.

    Args:
        paths: flag to file; None where the flag is not given.

    Raises:
        InputError: a folder is where the file should go, or its folder cannot be written to.
    """
    for flag, path in paths.items():
        if path is None:
            continue
        if path.is_dir():
            raise InputError(f"{flag} {path}: expected a file, found a folder; give a file")
        try:
            writable_folder(path.parent)
        except InputError as error:
            reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error
            raise InputError(
                f"{flag} {path}: the folder cannot be written to ({reason}); give a file in another one"
            ) from error
