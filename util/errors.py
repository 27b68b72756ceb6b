"""Errors that a user can mend, and the edge where scripts turn them into one line and exit status 2."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable


class InputError(ValueError):
    """Something the user gave cannot be used. The message says what was expected, what was found and what to do."""


def run_script(main: Callable[[], None]) -> None:
    """Call a script's `main`; on a user's error print one line to stderr and exit with status 2.

    `InputError` and `OSError` (missing or unwritable files, a full disk) are the user's to mend and get no traceback.
    Ctrl-C exits with 130. Every other exception is a defect and keeps its traceback.
    """
    try:
        main()
    except KeyboardInterrupt:
        logging.shutdown()
        sys.stderr.write("interrupted: what was already written is complete and stays\n")
        sys.exit(130)
    except (InputError, OSError) as error:
        logging.shutdown()
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)
