"""Large annotations as one block of bytes, which forked data loading processes share.

Python's own objects would be copied into every process as they are used, because their reference counts change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PackedValues:
    """A sequence of JSON values; each is made anew when it is asked for.

    Attributes:
        data: the values as JSON text, one after the other.
        ends: (N,) int64, where in `data` each of them ends.
    """

    data: bytes
    ends: NDArray[np.int64]

    @classmethod
    def pack(cls, values: Iterable[Any]) -> PackedValues:
        """Pack values that came from a JSON file."""
        texts = [json.dumps(value, separators=(",", ":")).encode() for value in values]
        return cls(b"".join(texts), np.cumsum([len(text) for text in texts], dtype=np.int64))

    def __getitem__(self, index: int) -> Any:
        """Value `index`, from 0 on."""
        start = int(self.ends[index - 1]) if index else 0
        return json.loads(self.data[start : int(self.ends[index])])


@dataclass(frozen=True)
class PackedRow(Sequence[Any]):
    """One list of `PackedLists`: the values at the places `span`."""

    values: PackedValues
    span: range

    def __len__(self) -> int:
        """Number of values."""
        return len(self.span)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> PackedRow: ...

    def __getitem__(self, index: int | slice) -> Any:
        """A value, or a row of some of them."""
        if isinstance(index, slice):
            return PackedRow(self.values, self.span[index])
        return self.values[self.span[index]]


@dataclass(frozen=True)
class PackedLists(Mapping[str, Sequence[Any]]):
    """A mapping to lists of JSON values, such as MeViS's mask dictionary.

    Attributes:
        packed: the values of all lists.
        spans: key -> places of its list in `packed`.
    """

    packed: PackedValues
    spans: Mapping[str, range]

    @classmethod
    def pack(cls, lists: Mapping[str, Sequence[Any]]) -> PackedLists:
        """Pack lists that came from a JSON file."""
        ends = np.cumsum([len(values) for values in lists.values()], dtype=np.int64).tolist()
        spans = {key: range(end - len(lists[key]), end) for key, end in zip(lists, ends, strict=True)}
        return cls(PackedValues.pack(value for values in lists.values() for value in values), spans)

    def __getitem__(self, key: str) -> PackedRow:
        """The list of `key`."""
        return PackedRow(self.packed, self.spans[key])

    def __iter__(self) -> Iterator[str]:
        """The keys."""
        return iter(self.spans)

    def __len__(self) -> int:
        """Number of lists."""
        return len(self.spans)
