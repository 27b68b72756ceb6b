"""Being told to stop, and noticing that the process above has died."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.forked import Forked, partners
from util.distributed import Processes, joined_processes
from util.errors import InputError
from util.interrupts import StopRequest, sigterm_as_interrupt, stop_with_parent


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


# ---- asking a loop to stop


STOPPING = ("SIGTERM", "SIGUSR1", "SIGINT")


@pytest.mark.parametrize("name", STOPPING)
def test_a_signal_is_noted_within_the_block_only(name: str) -> None:
    before = [signal.getsignal(getattr(signal, other)) for other in STOPPING]
    with StopRequest() as stop:
        assert stop.requested is None
        signal.raise_signal(getattr(signal, name))
        assert stop.requested == name
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested == name  # the first one
        assert stop.agreed(Processes()) == name
    assert [signal.getsignal(getattr(signal, other)) for other in STOPPING] == before


def test_the_second_ctrl_c_does_not_wait() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.requested == "SIGTERM"


@pytest.mark.parametrize("kill_after", [0.0, 600.0])
def test_a_later_ctrl_c_kills_and_one_at_once_is_the_same(kill_after: float) -> None:
    def work() -> None:
        with StopRequest(kill_after) as stop:
            signal.raise_signal(signal.SIGTERM)
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
            sys.exit(7 if stop.requested == "SIGTERM" else 8)

    assert Forked(work).wait() == (-signal.SIGINT if kill_after == 0 else 7)


@pytest.mark.parametrize("name", STOPPING)
def test_work_that_can_be_cut_off_is(name: str) -> None:
    with StopRequest() as stop:
        with stop.interrupting():
            pass
        with pytest.raises(KeyboardInterrupt), stop.interrupting(), sigterm_as_interrupt():
            signal.raise_signal(getattr(signal, name))
        assert stop.requested == name
        with pytest.raises(KeyboardInterrupt), stop.interrupting():
            pytest.fail("a stop was requested before")
        signal.raise_signal(signal.SIGUSR1)  # noted, as before


def test_handlers_come_back_after_an_exception() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(ZeroDivisionError), StopRequest():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGUSR1) == before


def test_other_threads_are_not_told() -> None:
    handlers = []

    def work() -> None:
        with StopRequest() as stop:
            handlers.append((signal.getsignal(signal.SIGTERM), stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [(signal.getsignal(signal.SIGTERM), None)]


def test_a_fork_survives_ctrl_c_and_ends_at_sigterm(tmp_path: Path) -> None:
    def loader() -> None:
        (tmp_path / "started").touch()
        while True:
            time.sleep(0.01)
            if (tmp_path / "more").exists():
                (tmp_path / "alive").touch()

    with StopRequest() as stop:
        process = Forked(loader)
        process.wait_until((tmp_path / "started").exists)
        process.send(signal.SIGINT)
        process.send(signal.SIGUSR1)
        process.send(signal.SIGINT)
        (tmp_path / "more").touch()
        process.wait_until((tmp_path / "alive").exists)
        process.send(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
        assert stop.requested is None


def test_all_processes_stop_at_the_same_step(tmp_path: Path) -> None:
    def work() -> None:
        with joined_processes() as processes, StopRequest() as stop:
            steps = 0
            while True:
                if processes.rank == 1 and steps == 5:
                    signal.raise_signal(signal.SIGUSR1)
                name = stop.agreed(processes)
                if name:
                    break
                steps += 1
            (tmp_path / str(processes.rank)).write_text(f"{name} {steps}")
            assert processes.largest([processes.rank, -processes.rank]) == [1, 0]

    assert [process.wait() for process in partners(work, 2)] == [0, 0]
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["SIGUSR1 5", "SIGUSR1 5"]


def test_a_lost_process_ends_the_agreement() -> None:
    def work() -> None:
        with joined_processes() as processes:
            if processes.rank == 1:
                signal.raise_signal(signal.SIGKILL)
            with pytest.raises(InputError, match="another process of this run failed"):
                processes.largest([1])

    assert [process.wait() for process in partners(work, 2)] == [0, -signal.SIGKILL]
