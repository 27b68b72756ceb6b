"""The seal at the end of a file that a training wrote: what the file is, and whether it is whole.

It is `SEAL_BYTES` of ASCII: a JSON object padded with spaces, and the SHA-256 of every byte before.
`engine.train.sealed` writes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from util.paths import CHUNK_BYTES

SEAL_BYTES = 512
DIGEST_BYTES = 64
SEAL_FORMAT = "samwise-training"


class DamagedFileError(Exception):
    """A file is not what was written; the message says what is wrong with it."""


def read_seal(path: Path) -> dict[str, Any] | None:
    """What the seal says (`about`), without a look at the rest of the file; None if there is no seal."""
    with path.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(size - SEAL_BYTES, 0))
        try:
            about = json.loads(handle.read(SEAL_BYTES)[:-DIGEST_BYTES])
        except ValueError:
            return None
    return about if isinstance(about, dict) and about.get("format") == SEAL_FORMAT else None


def verify(path: Path) -> dict[str, Any]:
    """What the seal of a whole file says.

    Raises:
        DamagedFileError: the file is not as it was written.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            raise DamagedFileError("it is empty")
        about = read_seal(path)
        if about is None:
            raise DamagedFileError(f"its end is missing or changed ({size} bytes are there)")
        with path.open("rb") as handle:
            digest = hashlib.sha256()
            for chunk in _chunks(handle, size - DIGEST_BYTES):
                digest.update(chunk)
            if handle.read() != digest.hexdigest().encode("ascii"):
                raise DamagedFileError("some of its bytes have changed (the SHA-256 differs)")
    except OSError as error:
        raise DamagedFileError(f"it cannot be read ({error.strerror or error})") from error
    return about


def _chunks(handle: IO[bytes], count: int) -> Iterator[bytes]:
    while count > 0 and (chunk := handle.read(min(CHUNK_BYTES, count))):
        count -= len(chunk)
        yield chunk
