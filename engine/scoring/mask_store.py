"""Predicted masks on disk: a folder of PNGs, or the zip of one."""

from __future__ import annotations

import functools
import io
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.masks import UNREADABLE_IMAGE
from datasets.video_index import MASK_SUFFIX
from util.errors import InputError
from util.paths import files_below

_MASK_MODES = ("1", "L", "P")
_FAULTS_NAMED = 3


@dataclass(frozen=True)
class MaskStore:
    """PNGs below `path` (a folder or a zip file), under `prefix` ("" or a folder name that ends in "/").

    It holds no open file, so it can be sent to another process.
    """

    path: Path
    prefix: str = ""

    def names(self) -> frozenset[str]:
        """Every PNG below the prefix, relative to it, with "/" between folders."""
        if self.path.is_dir():
            return frozenset(name for name in files_below(self.path / self.prefix) if name.endswith(MASK_SUFFIX))
        names = _open_zip(self.path).namelist()
        return frozenset(
            name.removeprefix(self.prefix)
            for name in names
            if name.startswith(self.prefix) and name.endswith(MASK_SUFFIX)
        )

    def read(self, name: str) -> NDArray[np.uint8]:
        """The values of one PNG, (H, W): palette indices or grey levels.

        Raises:
            InputError: the file is missing, cannot be decoded, or has colours instead of a palette or grey levels.
        """
        if self.path.is_dir():
            return read_mask(self.path / self.prefix / name)
        try:
            content = _open_zip(self.path).read(self.prefix + name)
        except KeyError as error:
            raise InputError(f"{self.path} holds no {self.prefix}{name}; write it and make the zip again") from error
        except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # damaged; encrypted, or oddly compressed
            raise InputError(
                f"{self.path}: {self.prefix}{name} is not readable ({error}); make the zip again"
            ) from error
        return _decode(io.BytesIO(content), f"{self.path}: {self.prefix}{name}")

    def require(self, names: Iterable[str]) -> None:
        """Check before any compute that every one of `names` is there.

        Raises:
            InputError: some are not; the message counts them and names the first.
        """
        wanted = list(names)
        there = self.names()
        missing = [name for name in wanted if name not in there]
        if missing:
            first = ", ".join(missing[:_FAULTS_NAMED]) + (", ..." if len(missing) > _FAULTS_NAMED else "")
            raise InputError(
                f"{len(missing)} of {len(wanted)} expected PNGs are missing in {self.path / self.prefix}: {first}; "
                "run the inference to its end, or give the folder that holds the videos' folders"
            )


def open_store(path: str | Path, videos: Iterable[str], prefixes: Iterable[str] = ("", "Annotations/")) -> MaskStore:
    """The store at `path`, under the first of `prefixes` that holds the folder of one of `videos`.

    Raises:
        InputError: `path` is missing or neither a folder nor a zip, or no prefix holds the folder of any of the videos.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give the folder or the zip file of the predicted PNGs")
    wanted = set(videos)
    candidates = list(prefixes)
    if path.is_dir():
        tops = {prefix: _folders(path / prefix) for prefix in candidates}
    else:
        names = _open_zip(path).namelist()
        tops = {p: {n.removeprefix(p).split("/", 1)[0] for n in names if n.startswith(p)} for p in candidates}
    for prefix in candidates:
        if wanted & tops[prefix]:
            return MaskStore(path, prefix)
    example = min(wanted, default="VIDEO")
    places = " or ".join(f"{prefix}{example}/" for prefix in candidates)
    raise InputError(f"{path} holds the folder of none of the {len(wanted)} videos to score; expected {places} in it")


def read_mask(path: Path) -> NDArray[np.uint8]:
    """The values of one PNG file, (H, W): palette indices or grey levels; errors are those of `MaskStore.read`."""
    if not path.is_file():
        raise InputError(f"{path} is missing; expected the PNG of one frame there")
    with path.open("rb") as handle:
        return _decode(handle, str(path))


def _decode(handle: IO[bytes], name: str) -> NDArray[np.uint8]:
    try:
        with Image.open(handle) as image:
            if image.mode not in _MASK_MODES:
                raise InputError(f"{name} has the mode {image.mode}; expected a palette (P) or grey (L) PNG of 8 bits")
            return np.array(image, dtype=np.uint8)
    except InputError:
        raise
    except UNREADABLE_IMAGE as error:
        raise InputError(f"{name} cannot be decoded ({error}); write it again") from error


def _folders(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if entry.is_dir()} if folder.is_dir() else set()


def _open_zip(path: Path) -> zipfile.ZipFile:
    return _open_zip_version(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _open_zip_version(path: Path, modified: int) -> zipfile.ZipFile:
    """One handle per process, zip and time of its last change (`modified`): opening reads the whole list of names."""
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{path} is not a folder and not a zip file; give the folder or the zip of the PNGs"
        ) from error
