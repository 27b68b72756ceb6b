"""Files that tell whether they are whole: what `torch.save` writes, with a seal as the comment at the end of the zip.

`util.seal` reads it. To all other programs the file is an ordinary checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from models.checkpoint_formats import safe_namespace
from util.errors import one_line
from util.paths import atomic_write
from util.seal import DIGEST_BYTES, SEAL_BYTES, SEAL_FORMAT, DamagedFileError, verify
from util.torch_files import save_torch

_ZIP_END = b"PK\x05\x06"  # begins the last record of a zip, whose last two bytes are the length of the comment
_ZIP_END_BYTES = 22
_OVERHEAD_BYTES = 1 << 20  # more than a checkpoint needs beside its tensors


class _Sealer:
    """The file that `torch.save` writes to: keeps the SHA-256, and the end of the zip back until it can be sealed."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._digest = hashlib.sha256()
        self._end = b""

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        if len(view) >= _ZIP_END_BYTES:
            self._put(self._end)
            self._put(view[:-_ZIP_END_BYTES])
            self._end = bytes(view[-_ZIP_END_BYTES:])
        else:
            joined = self._end + bytes(view)
            self._put(joined[:-_ZIP_END_BYTES])
            self._end = joined[-_ZIP_END_BYTES:]
        return len(view)

    def _put(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._handle.write(data)

    def seal(self, about: Mapping[str, Any]) -> None:
        """Write the end of the zip and the seal."""
        assert self._end.startswith(_ZIP_END)
        assert self._end.endswith(b"\0\0")
        text = json.dumps({"format": SEAL_FORMAT, **about}).encode("ascii")
        assert len(text) <= SEAL_BYTES - DIGEST_BYTES
        self._put(self._end[:-2] + SEAL_BYTES.to_bytes(2, "little") + text.ljust(SEAL_BYTES - DIGEST_BYTES))
        self._handle.write(self._digest.hexdigest().encode("ascii"))


def write_sealed(path: Path, content: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write a checkpoint that is there as a whole, on the disk, or not at all.

    Args:
        path: the file; an older one is replaced.
        content: see `plain`.
        about: a few numbers and short words, to be read without the content.

    Raises:
        OSError: it cannot be written; the older file stays, and nothing else.
    """
    with atomic_write(path) as handle:
        sealer = _Sealer(handle)
        save_torch(content, sealer)
        sealer.seal(about)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def read_sealed(path: Path) -> dict[str, Any]:
    """The content of a whole file, on the CPU.

    Raises:
        DamagedFileError: the file is not as it was written.
    """
    verify(path)
    return load_content(path)


def load_content(path: Path) -> dict[str, Any]:
    """The content of a file with or without a seal, on the CPU; no code in it is run.

    Raises:
        DamagedFileError: it cannot be loaded.
    """
    try:
        with safe_namespace():
            content = torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything
        raise DamagedFileError(f"it cannot be loaded ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise DamagedFileError("it holds no checkpoint")
    return content


def plain(value: Any, name: str = "state") -> Any:
    """The same in what a checkpoint may hold, without copies: dicts, lists, tuples, numbers, strings and tensors.

    Tensors lose their graph, and those that are a small part of a storage get a storage of their own.

    Raises:
        TypeError: something else is in it; reading it back would need code that checkpoints must not run.
    """
    if isinstance(value, Tensor):
        value = value.detach()
        return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Counter):  # of a learning rate schedule
        return Counter(value)
    if isinstance(value, Mapping):
        return {plain(key, name): plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(f"{name} is a {type(value).__name__}: a checkpoint holds numbers, strings, tensors and containers")


def stored_bytes(content: Any) -> int:
    """About how many bytes the file of a plain `content` will have, a little more rather than less."""
    storages: dict[int, int] = {}

    def count(value: Any) -> int:
        if isinstance(value, Tensor):
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return 512  # its record in the zip, and its description
        if isinstance(value, Mapping):
            return sum(count(key) + count(item) for key, item in value.items())
        if isinstance(value, (list, tuple)):
            return sum(count(item) for item in value)
        return len(value.encode()) + 16 if isinstance(value, str) else 16

    described = count(content)
    return described + sum(storages.values()) + _OVERHEAD_BYTES
