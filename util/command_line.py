"""The parser of every command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from util.errors import InputError


class Parser(argparse.ArgumentParser):
    """Every mistake is one line that names the flag and what was expected; flags are not abbreviated.

    `--help` keeps the lines of the description, so it may show examples. An argument of type `Path` is a
    `filled_text`: an empty one would be the current folder. Sub-commands get such a parser, too.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **{"allow_abbrev": False, **options})
        self.register("type", Path, _filled_path)

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        raise InputError(f"{message}; see {self.prog} --help")


def filled_text(text: str) -> str:
    """Any text but an empty one, which a variable of the shell that is not set leaves."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected some text, found nothing")
    return text


def _filled_path(text: str) -> Path:
    return Path(filled_text(text))
