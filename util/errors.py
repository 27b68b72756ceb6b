"""Errors that a user can mend, and the edge where scripts turn them into one line and exit status 2."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable
from io import TextIOWrapper

_ADVICE = {
    errno.ENOSPC: "the disk is full: make room and run again",
    errno.EDQUOT: "the disk quota is used up: make room and run again",
    errno.EFBIG: "larger than a file may be here: raise the limit (ulimit -f) or give a path on another disk",
    errno.EACCES: "permission denied: change the permissions or give another path",
    errno.EROFS: "the file system is read-only: give another path",
    errno.EISDIR: "expected a file, found a folder: give a file",
    errno.EEXIST: "expected a folder or nothing, found a file: move the file or give another path",
    errno.ENOTDIR: "expected a folder, found a file on the way to it: move the file or give another path",
    errno.ENOENT: "no such file or folder: check the path",
}


class InputError(ValueError):
    """Something the user gave cannot be used. The message says what was expected, what was found and what to do."""


def one_line(error: BaseException) -> str:
    """What an error of a library says, in a line of at most 160 characters; its kind where it says nothing."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def describe(error: InputError | OSError) -> str:
    """The message of an error; what the operating system reports with its file, and with what can be done."""
    advice = _ADVICE.get(error.errno or 0) if isinstance(error, OSError) else None
    if not isinstance(error, OSError) or advice is None:
        return str(error)
    file = error.filename if isinstance(error.filename, str) else None
    return advice if file is None else f"{file}: {advice}"


def run_script(main: Callable[[], None]) -> None:
    """Call a script's `main`; on a user's error print one line to stderr and exit with status 2.

    `InputError` and `OSError` (missing or unwritable files, a full disk) are the user's to mend and get no traceback.
    Ctrl-C exits with 130. Every other exception is a defect and keeps its traceback. Letters of sentences and of files'
    names that standard output cannot show are escaped.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except KeyboardInterrupt:
        logging.shutdown()
        sys.stderr.write("interrupted: what was already written is complete and stays\n")
        sys.exit(130)
    except (InputError, OSError) as error:
        logging.shutdown()
        sys.stderr.write(f"error: {' '.join(describe(error).split())}\n")
        sys.exit(2)
