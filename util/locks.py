"""One process at a time: a lock that ends with the process that holds it, however it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from util.errors import InputError

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing keeps a second process out
    fcntl = None  # type: ignore[assignment]

PATIENCE_SECONDS = 20.0  # what a killed program's end may take to be seen on another computer
_POLL_SECONDS = 0.2


@contextlib.contextmanager
def exclusive(path: Path, refusal: str, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold the lock of the file `path` for the time of the block; child processes do not inherit it.

    Args:
        path: the lock file; it is created with its folders, names the process that holds it, and stays.
        refusal: begins the message of the error; the process that holds the lock is added to it.
        patience: seconds to wait for another process to give the lock up.

    Raises:
        InputError: another process has it and keeps it.
    """
    if fcntl is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):  # which of the two depends on the system
                if time.monotonic() > deadline:
                    handle.seek(0)
                    raise InputError(f"{refusal} ({handle.read(200).strip() or 'unknown process'})") from None
                time.sleep(_POLL_SECONDS)
            except OSError:  # a file system without locks
                break
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        yield
