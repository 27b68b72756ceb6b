"""Being told to stop, and noticing that the process above has died."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from tests.forked import Forked
from util.interrupts import sigterm_as_interrupt, stop_with_parent


def test_sigterm_interrupts_within_the_block_only() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_leave_signals_alone() -> None:
    handlers = []

    def work() -> None:
        with sigterm_as_interrupt():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


def test_a_process_ends_when_the_one_above_is_killed(tmp_path: Path) -> None:
    started, ended = tmp_path / "started", tmp_path / "ended"

    def below() -> None:
        stop_with_parent()
        with sigterm_as_interrupt():
            try:
                started.touch()
                time.sleep(60)
            except KeyboardInterrupt:
                ended.touch()

    def above() -> None:
        Forked(below).wait()

    process = Forked(above)
    process.wait_until(started.exists)
    process.send(signal.SIGKILL)
    process.wait()
    process.wait_until(ended.exists)
