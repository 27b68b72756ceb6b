"""Being told to stop: SIGTERM (a scheduler, `kill`) ends a program as Ctrl-C does, with everything tidied up.

What has to finish a step first (a training), or whose threads must go on to tidy up (a live stream), rather wants to
know that it shall stop: `StopRequest`. KeyboardInterrupt can come between any two instructions, also of the locks and
queues of the standard library, which then stay locked for ever, and in callbacks of C libraries, which swallow it.
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

    A second SIGINT does not wait, see `kill_after`. Processes that are forked within the block are not told: SIGTERM
    ends them as ever, and the other two they ignore, so that a Ctrl-C in a terminal leaves the loaders of data alive
    for the step that is to be finished. Outside of the main thread the block does nothing.

    Args:
        kill_after: None: a second SIGINT raises KeyboardInterrupt. Otherwise it ends the process as if nobody handled
            it, whatever the process is doing, if it comes at least that many seconds after the first one; what comes
            sooner is the same request once more (`timeout -s INT`, or a shell and what it runs both pass it on).

    Attributes:
        requested: the name of the first signal, None before.
    """

    def __init__(self, kill_after: float | None = None) -> None:
        self.requested: str | None = None
        self._kill_after = kill_after
        self._earlier: dict[signal.Signals, Any] = {}
        self._interrupted: float | None = None
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
                _end_by(number)
            return
        again = self._is_second_interrupt(number)
        if again and self._kill_after is not None:
            _end_by(number)
        self.requested = self.requested or signal.Signals(number).name
        if again or self._at_once:
            raise KeyboardInterrupt

    def _is_second_interrupt(self, number: int) -> bool:
        if number != signal.SIGINT:
            return False
        now = time.monotonic()
        if self._interrupted is None:
            self._interrupted = now
            return False
        return now - self._interrupted >= (self._kill_after or 0)

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


def _end_by(number: int) -> None:
    """End this process by a signal at once, as if there was no handler."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


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
