"""One process at a time: a lock that ends with the process that holds it, however it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from util.errors import InputError
from util.paths import writable_folder

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing keeps a second process out
    fcntl = None  # type: ignore[assignment]

PATIENCE_SECONDS = 20.0  # what a killed program's end may take to be seen on another computer
_SOON_SECONDS = 2.0  # what the end of a run that was stopped takes
_POLL_SECONDS = 0.2


@contextlib.contextmanager
def exclusive_folder(path: str | Path) -> Iterator[Path]:
    """Make a folder of results, see `writable_folder`, and keep other processes out of it for the time of the block.

    Raises:
        InputError: it cannot be written to, or another process is doing so.
    """
    folder = writable_folder(path)
    refusal = f"another run is writing to {folder}: wait for it, or choose another folder (--output_dir)"
    with exclusive(folder / ".samwise.lock", refusal, _SOON_SECONDS, stays=False):
        yield folder


@contextlib.contextmanager
def exclusive(path: Path, refusal: str, patience: float = PATIENCE_SECONDS, *, stays: bool = True) -> Iterator[None]:
    """Hold the lock of the file `path` for the time of the block; child processes do not inherit it.

    Args:
        path: the lock file; it is created with its folders and names the process that holds it.
        refusal: begins the message of the error; the process that holds the lock is added to it.
        patience: seconds to wait for another process to give the lock up.
        stays: whether the file stays; otherwise it is removed at the end of the block.

    Raises:
        InputError: another process has it and keeps it.
    """
    if fcntl is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    while True:
        with path.open("a+") as handle:
            if not _lock(handle):
                if time.monotonic() > deadline:
                    handle.seek(0)
                    raise InputError(f"{refusal} ({handle.read(200).strip() or 'unknown process'})")
            elif stays or _is_at(path, handle):  # whoever had the lock may have removed the file since
                handle.truncate(0)
                handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                handle.flush()
                try:
                    yield
                finally:
                    if not stays:
                        path.unlink(missing_ok=True)
                return
        time.sleep(_POLL_SECONDS)


def _lock(handle: IO[str]) -> bool:
    """Take the lock of an open file; False if another process has it."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # which of the two depends on the system
        return False
    except OSError:  # a file system without locks
        pass
    return True


def _is_at(path: Path, handle: IO[str]) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    return False
