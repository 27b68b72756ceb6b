"""Being told to stop: SIGTERM (a scheduler, `kill`) ends a program as Ctrl-C does, with everything tidied up.

A training rather wants to know that it shall stop, and finish its step first: `StopRequest`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # that module imports this one
    from util.distributed import Processes

_POLL_SECONDS = 1.0
_GRACE_SECONDS = 30.0


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Within the block SIGTERM raises KeyboardInterrupt; does nothing outside of the main thread.

    A `StopRequest` around it is told as well.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: Any) -> NoReturn:
        outer = getattr(earlier, "__self__", None)
        if isinstance(outer, StopRequest):
            outer.requested = outer.requested or signal.Signals(number).name
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


class StopRequest:
    """Within the block SIGTERM, SIGUSR1 and the first SIGINT (Ctrl-C) only set `requested`.

    A second SIGINT raises KeyboardInterrupt at once. Processes that are forked within the block are not told: SIGTERM
    ends them as ever, and the other two they ignore, so that a Ctrl-C in a terminal leaves the loaders of data alive
    for the step that is to be finished. Outside of the main thread the block does nothing.

    Attributes:
        requested: the name of the first signal, None before.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._earlier: dict[signal.Signals, Any] = {}
        self._interrupted = False
        self._at_once = False
        self._process = 0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            names = ("SIGTERM", "SIGUSR1", "SIGINT")
            numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
            self._earlier = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._earlier = {}

    def _note(self, number: int, _: Any) -> None:
        if os.getpid() != self._process:
            if number == signal.SIGTERM:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGTERM)
            return
        again = number == signal.SIGINT and self._interrupted
        self._interrupted = self._interrupted or number == signal.SIGINT
        self.requested = self.requested or signal.Signals(number).name
        if again or self._at_once:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within this block, for work that can be cut off anywhere, the first signal too raises KeyboardInterrupt.

        So does the block's beginning if there was a signal before.
        """
        self._at_once = True
        try:
            if self.requested is not None:
                raise KeyboardInterrupt
            yield
        finally:
            self._at_once = False

    def agreed(self, processes: Processes) -> str | None:
        """The name of a signal that any of the processes has got, the same for all; each calls this in every step.

        Raises:
            InputError: another process failed.
        """
        own = signal.Signals[self.requested].value if self.requested else 0
        number = processes.largest([own])[0]
        return signal.Signals(number).name if number else None


def stop_with_parent() -> None:
    """End this process soon after the process that started it has died without a word (kill -9).

    It gets SIGTERM first and is ended for good after half a minute.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="stop-with-parent", daemon=True).start()
