"""`torch.save` with the errors of the file that it writes to."""

from __future__ import annotations

from typing import IO, Any, Protocol, cast

import torch


class Writable(Protocol):
    """What bytes can be written to."""

    def write(self, data: bytes, /) -> int:
        """Take all of the bytes."""
        ...


class _Held:
    """A file whose first exception waits for `save_torch`; what comes after it is not written."""

    def __init__(self, handle: Writable) -> None:
        self._handle = handle
        self.failure: BaseException | None = None

    def write(self, data: bytes) -> int:
        if self.failure is None:
            try:
                self._handle.write(data)
            except BaseException as error:  # KeyboardInterrupt included
                self.failure = error
        return len(memoryview(data).cast("B"))

    def flush(self) -> None:
        """Nothing: the caller's file is the caller's to flush."""


def save_torch(content: Any, handle: Writable) -> None:
    """Write what `torch.load` reads.

    PyTorch's zip writer hides what goes wrong in writing (a full disk, Ctrl-C) behind a RuntimeError of its own, and
    where it is given a path it may end the process; here the error itself is raised.

    Args:
        content: tensors, numbers, strings and containers of them.
        handle: a file that is open for writing bytes.

    Raises:
        OSError: the file cannot be written.
    """
    held = _Held(handle)
    try:
        torch.save(content, cast(IO[bytes], held))
    except RuntimeError as error:
        if held.failure is None:
            if isinstance(error.__context__, KeyboardInterrupt):  # it came before the first line of `write`
                raise error.__context__ from None
            raise
    if held.failure is not None:
        raise held.failure
