"""How the scripts speak: notices on standard output, so that standard error carries only progress bars and errors."""

from __future__ import annotations

import logging

from tqdm import tqdm


class _NoticeHandler(logging.Handler):
    """Writes to the standard output of the moment, above a progress bar that is being drawn instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        tqdm.write(text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}")


def setup_logging(level: int = logging.INFO) -> None:
    """Send the records of all loggers from `level` on to standard output; warnings start with "warning:".

    A second call changes the level only, so that a script can run more than once in one process.
    """
    root = logging.getLogger()
    root.setLevel(level)
    if not any(isinstance(handler, _NoticeHandler) for handler in root.handlers):
        root.addHandler(_NoticeHandler())
