"""Submissions: masks of a whole split as PNGs, checked file by file and packed into a zip that is always the same.

A mask is an 8-bit greyscale PNG (mode L) of 0 and 255 at the size of its frame, VIDEO/EXPRESSION/FRAME.png.
"""

from __future__ import annotations

import io
import itertools
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.masks import UNREADABLE_IMAGE, image_size
from datasets.video_index import MASK_SUFFIX, VideoDataset
from util.errors import InputError
from util.paths import atomic_write, files_below

# Where a benchmark's server expects VIDEO/EXPRESSION/FRAME.png inside the zip.
ZIP_PREFIXES = {"mevis": "", "ytvos": "Annotations/"}

FAULTS_SHOWN = 10
DEFAULT_WORKERS = 8
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
ZIP_SYSTEM_UNIX = 3
ZIP_FILE_MODE = 0o100644  # a regular file, rw-r--r--
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_HEADER = struct.Struct(">I4sIIBB")  # of chunk IHDR: its length and name, width, height, bits, colour type

Sizes = Mapping[str, tuple[int, int]]
Read = Callable[[str], bytes]


def expected_files(dataset: VideoDataset) -> dict[str, tuple[int, int]]:
    """Every mask that a submission consists of: "VIDEO/EXPRESSION/FRAME.png" -> (H, W) of its frame.

    Raises:
        InputError: a frame of the data set is not readable.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for video in dataset.videos:
        for index, frame in enumerate(video.frames):
            try:
                size = image_size(video.frame_path(index))
            except ValueError as error:
                raise InputError(f"{video.frame_path(index)}: {error}; the size of its mask is unknown") from None
            for expression in video.expressions:
                sizes[f"{video.name}/{expression.id}/{frame}{MASK_SUFFIX}"] = size
    return sizes


def mask_fault(data: bytes, size: tuple[int, int]) -> str | None:
    """What is wrong with the bytes of one PNG that should be a mask of `size` (H, W); None if nothing is."""
    if len(data) < len(PNG_SIGNATURE) + PNG_HEADER.size or not data.startswith(PNG_SIGNATURE):
        return "is not a PNG file"
    _, _, width, height, bits, colour = PNG_HEADER.unpack_from(data, len(PNG_SIGNATURE))
    if (bits, colour) != (8, 0):
        return f"has {bits} bits and PNG colour type {colour}, expected 8-bit greyscale (8 and 0; mode L)"
    if (height, width) != size:
        return f"is {width}x{height}, its frame {size[1]}x{size[0]}"
    try:
        with Image.open(io.BytesIO(data)) as image:
            mask = np.asarray(image)
    except UNREADABLE_IMAGE as error:
        return f"does not decode ({error})"
    if (mask + np.uint8(1) > 1).any():  # 0 and 255 become 1 and 0
        values = np.unique(mask)
        return f"holds values other than 0 and 255: {values[(values > 0) & (values < 255)][0]}"
    return None


def folder_faults(folder: str | Path, sizes: Sizes, workers: int = DEFAULT_WORKERS) -> list[str]:
    """What is wrong with the masks in `folder`, one line per file; files that are missing or too many come first.

    Args:
        folder: holds VIDEO/EXPRESSION/FRAME.png.
        sizes: of `expected_files`.
        workers: threads that read and decode.

    Raises:
        InputError: `folder` is missing.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: the folder of masks is missing")
    return _faults(list(files_below(root)), sizes, lambda name: (root / name).read_bytes(), workers)


def zip_faults(path: str | Path, sizes: Sizes, prefix: str, workers: int = DEFAULT_WORKERS) -> list[str]:
    """What is wrong with the masks in a zip, as `folder_faults`; `prefix` as in ZIP_PREFIXES.

    Raises:
        InputError: `path` is missing or no zip file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = [info.filename for info in archive.infolist() if not info.is_dir()]
            prefixed = {prefix + name: size for name, size in sizes.items()}
            return _faults(found, prefixed, archive.read, workers)
    except FileNotFoundError:
        raise InputError(f"{path}: the zip file is missing") from None
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is not a readable zip file ({error})") from None


def raise_on_faults(faults: Sequence[str], source: str | Path) -> None:
    """Raise an InputError that names the first ten faults of `source`, if there are any."""
    if faults:
        shown = "; ".join(faults[:FAULTS_SHOWN])
        raise InputError(f"{source} is no complete submission, {len(faults)} faults, the first: {shown}")


def write_zip(folder: str | Path, zip_path: str | Path, names: Iterable[str], prefix: str) -> None:
    """Pack the files `names` of `folder` under `prefix`; equal files give an equal zip, byte for byte.

    Sorted, without compression (PNGs are compressed), with a fixed date and fixed permissions. Atomic.
    """
    ordered = sorted(names)
    with atomic_write(zip_path, "wb") as handle, zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
        for name in tqdm(ordered, desc="zip", unit="file"):
            info = zipfile.ZipInfo(prefix + name, ZIP_DATE)
            info.create_system = ZIP_SYSTEM_UNIX
            info.external_attr = ZIP_FILE_MODE << 16
            archive.writestr(info, (Path(folder) / name).read_bytes())


def make_submission(folder: str | Path, zip_path: str | Path, dataset: VideoDataset) -> None:
    """Check the masks in `folder` and pack them into `zip_path` as the benchmark's server expects them.

    Raises:
        InputError: there is a fault (the first ten are named; no zip is written), or the benchmark takes no zip.
    """
    prefix = zip_prefix(dataset.name)
    sizes = expected_files(dataset)
    raise_on_faults(folder_faults(folder, sizes), folder)
    write_zip(folder, zip_path, sizes, prefix)


def zip_prefix(name: str) -> str:
    """Where the masks lie in the zip of the benchmark `name` (as in `--dataset_file`).

    Raises:
        InputError: the benchmark has no submissions.
    """
    if name not in ZIP_PREFIXES:
        raise InputError(f"{name} has no submission server; zips are for {' and '.join(ZIP_PREFIXES)}")
    return ZIP_PREFIXES[name]


def _faults(found: Sequence[str], sizes: Sizes, read: Read, workers: int) -> list[str]:
    """One line per missing, unexpected, doubled or wrong file, in this order; one in all if all lie elsewhere."""
    present = set(found)
    first = min(sizes, default="")
    elsewhere = [name for name in found if f"/{name}".endswith(f"/{first}") or f"/{first}".endswith(f"/{name}")]
    if elsewhere and not present & sizes.keys():
        return [f"all masks lie in another folder than expected: {elsewhere[0]} instead of {first}"]
    faults = [f"{name} is missing" for name in sorted(sizes.keys() - present)]
    faults += [f"{name} is not expected" for name in sorted(present - sizes.keys())]
    faults += [f"{name} is there {count} times" for name, count in Counter(found).items() if count > 1]
    names = sorted(present & sizes.keys())
    groups = [list(group) for _, group in itertools.groupby(names, key=lambda name: name.rpartition("/")[0])]

    def check(group: Sequence[str]) -> list[str]:
        return [f"{name} {fault}" for name in group if (fault := _read_fault(read, name, sizes[name]))]

    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(names), desc="check", unit="file") as bar:
        for group, wrong in zip(groups, pool.map(check, groups), strict=True):
            faults += wrong
            bar.update(len(group))
    return faults


def _read_fault(read: Read, name: str, size: tuple[int, int]) -> str | None:
    try:
        data = read(name)
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        return f"is not readable ({error})"  # the last: an encrypted file or an unknown compression
    return mask_fault(data, size)
