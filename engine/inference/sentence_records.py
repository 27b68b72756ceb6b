"""Finished sentences of image data sets: run lengths in files that only grow, so that a run can stop at any moment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from datasets.masks import rle_runs
from datasets.refcoco import RefCocoDataset, ReferredObject

Rle = dict[str, Any]


class SentenceRecords:
    """The masks of one data set's sentences in FOLDER/RANK.jsonl; a context manager, open for adding inside.

    A line holds the sentences that were segmented together. Every line begins with a line break, so that a line that a
    killed process left torn is closed by the next; what cannot be read is passed over.

    Args:
        folder: of all processes' files of this data set.
        dataset: what the sentences belong to.
        rank: number of this process, which has a file of its own.
    """

    def __init__(self, folder: Path, dataset: RefCocoDataset, rank: int) -> None:
        self._folder = folder
        self._path = folder / f"{rank}.jsonl"
        self._items = {item.id: item for item in dataset.objects}

    def __enter__(self) -> SentenceRecords:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab", buffering=0)  # unbuffered: nothing waits in a process that may be killed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self) -> dict[int, Rle]:
        """The masks that all processes' files hold, by the sentence's id; only of sentences that are as they were."""
        found: dict[int, Rle] = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                for entry in _entries(line):
                    rle = self._checked(entry)
                    if rle is not None:
                        found[entry["image_id"]] = rle
        return found

    def add(self, items: Sequence[ReferredObject], masks: Sequence[NDArray[np.bool_]]) -> dict[int, Rle]:
        """Write the masks (H, W) of sentences that are finished together; returns their run lengths by id.

        Raises:
            OSError: the file cannot be written.
        """
        rles = {item.id: encode_rle(mask) for item, mask in zip(items, masks, strict=True)}
        entries = [
            {"image_id": item.id, "file_name": item.file_name, "caption": item.caption, "segmentation": rles[item.id]}
            for item in items
        ]
        data = memoryview(b"\n" + json.dumps(entries).encode())
        while data:  # a nearly full disk may take a part
            data = data[self._file.write(data) :]
        return rles

    def _checked(self, entry: Any) -> Rle | None:
        """The mask of an entry; None if it does not belong to a sentence of the data set."""
        image_id = entry.get("image_id") if isinstance(entry, Mapping) else None
        item = self._items.get(image_id) if type(image_id) is int else None
        if item is None or (entry.get("file_name"), entry.get("caption")) != (item.file_name, item.caption):
            return None
        try:
            size = rle_runs(entry.get("segmentation"))[1]
        except ValueError:
            return None
        return entry["segmentation"] if size == item.size else None


def encode_rle(mask: NDArray[np.bool_]) -> Rle:
    """A mask (H, W) as COCO run lengths, as JSON holds them."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def _entries(line: bytes) -> list[Any]:
    """The sentences of one line; none if it is torn."""
    try:
        entries = json.loads(line)
    except ValueError:
        return []
    return entries if isinstance(entries, list) else []
