"""A folder of results belongs to one process at a time."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.forked import Forked, holding
from util import locks
from util.errors import InputError
from util.locks import exclusive, exclusive_folder


def test_a_second_run_is_refused_until_the_first_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_SOON_SECONDS", 0.0)
    child = holding(tmp_path / "out")
    message = rf"another run is writing to {tmp_path / 'out'}: .*--output_dir\) \(process {child.pid} on "
    with pytest.raises(InputError, match=message), exclusive_folder(tmp_path / "out"):
        pass
    child.send(signal.SIGKILL)
    child.wait()
    assert list((tmp_path / "out").iterdir())  # what a killed run leaves does not matter
    with exclusive_folder(tmp_path / "out") as folder:
        assert folder == tmp_path / "out"
    assert not list((tmp_path / "out").iterdir())


def test_a_run_that_ends_soon_is_waited_for(tmp_path: Path) -> None:
    def work() -> None:
        with exclusive_folder(tmp_path):
            (tmp_path / "held").touch()
            while (tmp_path / "held").exists():
                time.sleep(0.01)
            time.sleep(0.3)

    child = Forked(work)
    child.wait_until((tmp_path / "held").exists)
    (tmp_path / "held").unlink()
    with exclusive_folder(tmp_path):
        assert child.wait() == 0
        (lock,) = tmp_path.iterdir()  # one of its own, not the removed one
        third = Forked(lambda: exclusive(lock, "busy", 0.0).__enter__())
        assert third.wait() == 1
    assert not list(tmp_path.iterdir())


def test_a_lock_file_that_stays(tmp_path: Path) -> None:
    for _ in range(2):
        with exclusive(tmp_path / "a" / "lock", "busy"):
            pass
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["lock"]
