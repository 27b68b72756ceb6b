"""log.jsonl, the bar and TensorBoard of a training, over kills and resumptions."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.train.log import IterationRecord, TrainingLog, drop_after
from util.errors import InputError


def record(iteration: int, **changes: Any) -> IterationRecord:
    losses = {"mask": 0.5, "dice": 1.0, "memory": 0.25, "total": 1.75 / iteration}
    values = {
        "epoch": (iteration - 1) // 4,
        "iteration": iteration,
        "losses": losses,
        "learning_rate": 1e-5,
        "gradient_norm": 0.3,
        "data_seconds": 0.1,
        "compute_seconds": 0.3,
        "clips_per_second": 10.0,
        "memory_bytes": 2_000_000_000,
    }
    return IterationRecord(**{**values, **changes})


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def test_one_line_per_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingLog(tmp_path / "run", total=4, start=0, name="mevis", enabled=True) as log:
        log.note("started")
        log.iteration(record(1))
        assert lines(tmp_path / "run")[1]["iteration"] == 1  # at once, not at the end
        log.iteration(record(2, gradient_norm=float("inf")))
        log.evaluation(0, 2, {"J&F": 0.5, "J": 0.4})
    started, first, second, evaluation = lines(tmp_path / "run")
    assert started["note"] == "started"
    assert started["iteration"] == 0
    assert IterationRecord(**first) == record(1)
    assert second["gradient_norm"] is None
    assert evaluation == {"evaluation": {"J&F": 0.5, "J": 0.4}, "epoch": 0, "iteration": 2}
    bar = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    for part in ("mevis:  50%", "2/4", "loss=1.31", "lr=1e-05", "data=25%"):  # the loss: mean of 1.75 and 0.875
        assert part in bar


def test_a_resumed_run_has_every_iteration_once(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, total=8, start=0, name="a") as log:
        for iteration in range(1, 6):
            log.iteration(record(iteration))
            if iteration == 4:
                log.evaluation(0, 4, {"J&F": 0.9})
        log.note("stopped by SIGTERM")
    with (tmp_path / "log.jsonl").open("a") as handle:
        handle.write('{"epoch": 1, "iteration": 6, "loss')  # killed while it wrote
    with TrainingLog(tmp_path, total=8, start=3, name="a") as log:
        for iteration in range(4, 9):
            log.iteration(record(iteration, learning_rate=1e-6))
    found = lines(tmp_path)
    assert [line["iteration"] for line in found if "losses" in line] == list(range(1, 9))
    assert [line["learning_rate"] for line in found if "losses" in line] == [1e-5] * 3 + [1e-6] * 5
    assert not [line for line in found if "evaluation" in line]
    assert [line["note"] for line in found if "note" in line] == ["stopped by SIGTERM"]
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", "tensorboard"}


def test_tensorboard_has_every_iteration_once(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, total=4, start=0, name="a") as log:
        for iteration in (1, 2, 3):
            log.iteration(record(iteration))
    with TrainingLog(tmp_path, total=4, start=1, name="a") as log:
        log.iteration(record(2, learning_rate=1e-6))
        log.evaluation(0, 2, {"J&F": 0.5})
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    rates = board.Scalars("optimizer/learning_rate")
    assert [event.step for event in rates] == [1, 2]
    assert [event.value for event in rates] == pytest.approx([1e-5, 1e-6])
    assert [(event.step, event.value) for event in board.Scalars("score/J&F")] == [(2, 0.5)]
    assert set(board.Tags()["scalars"]) == {
        *(f"loss/{name}" for name in ("mask", "dice", "memory", "total")),
        *("optimizer/learning_rate", "optimizer/gradient_norm", "score/J&F", "memory_GB"),
        *("time/data_seconds", "time/compute_seconds", "time/clips_per_second"),
    }


def test_other_processes_than_the_first_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingLog(tmp_path / "run", total=2, start=0, name="a", enabled=False) as log:
        log.iteration(record(1))
        log.evaluation(0, 1, {"J&F": 0.5})
        log.note("stopped")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err == ""


@given(st.data())
def test_a_log_cut_anywhere_keeps_its_whole_lines(data: st.DataObject) -> None:
    """Cut off at any byte: whole lines up to `start` survive as they were, and nothing else does."""
    whole = [json.dumps({"iteration": i, "text": "ü\u2028"}, ensure_ascii=False).encode() + b"\n" for i in range(1, 6)]
    content = b"".join(whole)[: data.draw(st.integers(0, sum(map(len, whole))))]
    start = data.draw(st.integers(0, 6))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        path.write_bytes(content)
        drop_after(path, start)
        assert path.read_bytes() == b"".join(whole[: min(content.count(b"\n"), start)])


def test_a_damaged_line_is_named_and_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"iteration": 1}\n\0\0\n[2]\n{"no": 1}\n{"iteration": 2}\n')
    drop_after(path, 9)
    assert path.read_bytes() == b'{"iteration": 1}\n{"iteration": 2}\n'
    assert [f"line {number} is damaged" in message for number, message in zip((2, 3, 4), caplog.messages, strict=True)]


def test_a_log_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(InputError, match=r"log\.jsonl cannot be read .*--name_exp"):
        TrainingLog(tmp_path, total=2, start=0, name="a")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        TrainingLog(tmp_path / "file" / "run", total=2, start=0, name="a")


def test_a_full_disk_is_an_error_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    """The system refuses to let the file grow beyond a size in the middle of a line."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = TrainingLog(tmp_path, total=4, start=0, name="a")
    log.iteration(record(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "log.jsonl").stat().st_size + 100, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            log.iteration(record(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with contextlib.suppress(OSError):  # the thread that writes for TensorBoard may have met the limit, too
        log.close()
    assert not (tmp_path / "log.jsonl").read_bytes().endswith(b"\n")
    with TrainingLog(tmp_path, total=4, start=1, name="a") as log:
        log.iteration(record(2))
    assert [line["iteration"] for line in lines(tmp_path)] == [1, 2]


def test_importing_it_does_not_import_tensorboard() -> None:
    code = "import sys, engine.train.log; assert not [m for m in sys.modules if m.startswith('tensorboard')]"
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
