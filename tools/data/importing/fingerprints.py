"""What files contain, as hashes that are computed again only when a file's size or time changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from util.paths import atomic_write, sha256_of


class Fingerprints:
    """Hashes of files and folders, kept in a JSON file: path -> [size, time of the last change in ns, SHA-256].

    Args:
        store: the file; one that is missing or damaged counts as empty.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known = _read(store)
        self._used: dict[str, list[Any]] = {}

    def read(self, paths: Iterable[Path], workers: int) -> None:
        """Hash what is new, in `workers` threads, and keep it.

        Args:
            paths: files, and folders, whose files (not those in subfolders) are taken.
        """
        files = list(dict.fromkeys(file for path in paths for file in _files(path)))
        with ThreadPoolExecutor(workers) as pool:
            entries = list(
                tqdm(pool.map(self._entry, files), total=len(files), desc="read", unit="file", disable=not files)
            )
        self._used.update(zip(map(_name, files), entries, strict=True))
        with atomic_write(self._store, "w") as handle:
            handle.write(json.dumps(self._used))

    def of(self, path: Path) -> str:
        """The hash of a file or folder that was read."""
        if not path.is_dir():
            return self._used[_name(path)][2]
        parts = [[file.name, self._used[_name(file)][2]] for file in _files(path)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _entry(self, file: Path) -> list[Any]:
        stat = file.stat()
        known = self._known.get(_name(file))
        if known is not None and known[:2] == [stat.st_size, stat.st_mtime_ns]:
            return known
        return [stat.st_size, stat.st_mtime_ns, sha256_of(file)]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))


def _name(file: Path) -> str:
    return str(file.resolve())


def _read(store: Path) -> dict[str, list[Any]]:
    try:
        value = json.loads(store.read_bytes())
    except (OSError, ValueError):
        return {}
    usable = isinstance(value, dict) and all(isinstance(entry, list) and len(entry) == 3 for entry in value.values())
    return value if usable else {}
