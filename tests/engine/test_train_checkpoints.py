"""Checkpoints of a training on a real disk: damaged, cut off, killed while they are written, without room."""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import re
import resource
import signal
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from engine.train import checkpoints
from engine.train.checkpoints import CheckpointStore, load_file
from engine.train.sealed import plain, read_sealed, stored_bytes, write_sealed
from engine.train.start import checkpoint_to_continue
from tests.forked import Forked
from util.errors import InputError
from util.seal import DamagedFileError, verify


def some_state(iteration: int, numbers: int = 2000) -> dict[str, Any]:
    """A state that shows by itself whether it is the one of `iteration`."""
    return {
        "model": {"cmt_adapters.0.x": torch.full((numbers,), float(iteration)), "y": torch.tensor(iteration)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"betas": (0.9, 0.999), "lr": 1e-5}]},
        "args": {"lr_drop": [60000], "resume": None, "HSA": True},
    }


def filled(folder: Path, iterations: range, keep: int = 10) -> CheckpointStore:
    """A store with a checkpoint of each iteration."""
    store = CheckpointStore(folder, keep)
    for iteration in iterations:
        store.save(some_state(iteration), epoch=iteration // 10, iteration=iteration)
    return store


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip(path: Path, offset: int, mask: int = 0x10) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


# ---- what is in them


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "new" / "run", 3)
    assert store.load_latest() is None
    path = store.save(some_state(7), epoch=2, iteration=7)
    assert path == tmp_path / "new" / "run" / "checkpoint_00000007.pth"
    stored = store.require_latest()
    assert (stored.path, stored.epoch, stored.iteration) == (path, 2, 7)
    assert stored.state["args"] == some_state(7)["args"]
    assert torch.equal(stored.state["model"]["cmt_adapters.0.x"], some_state(7)["model"]["cmt_adapters.0.x"])
    assert stored.state["optimizer"] == some_state(7)["optimizer"]
    assert zipfile.ZipFile(path).testzip() is None
    for mapped in (True, False):
        ordinary = torch.load(path, weights_only=True, mmap=mapped)
        assert ordinary["epoch"] == 2
        assert ordinary["model"]["y"] == 7


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    for value in (np.zeros(3), np.int64(1), Path("x"), argparse.Namespace(a=1), {1, 2}):
        with pytest.raises(TypeError, match=r"state\['args'\]\[0\] is a"):
            CheckpointStore(tmp_path, 1).save({"args": [value]}, epoch=0, iteration=1)
    assert names(tmp_path) == []


def test_plain_values_keep_their_meaning() -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    made = plain({"a": [np.float64(0.5), (1, True, None)], 3: Counter([2, 2]), "w": weight, "v": torch.zeros(100)[:2]})
    assert type(made["a"][0]) is float
    assert made["a"] == [0.5, (1, True, None)]
    assert made["a"][1][1] is True
    assert list(made[3].elements()) == [2, 2]
    assert not made["w"].requires_grad
    assert made["w"].data_ptr() == weight.data_ptr()
    assert made["v"].untyped_storage().nbytes() == 8


@given(st.lists(st.integers(0, 5000), max_size=8), st.integers(0, 300))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_size_is_never_underestimated(tmp_path: Path, sizes: list[int], words: int) -> None:
    content = {"t": [torch.zeros(size) for size in sizes], "s": {f"key {i}": "é" * (i % 7) for i in range(words)}}
    path = tmp_path / "c.pth"
    write_sealed(path, content, {})
    assert path.stat().st_size <= stored_bytes(content) <= path.stat().st_size + 3_000_000


def test_other_programs_checkpoints_are_read_with_their_optimizer(tmp_path: Path) -> None:
    content = {
        "model": {"x": torch.ones(2)},
        "args": argparse.Namespace(lr=1e-4),
        "optimizer": {"state": {}},
        "epoch": 3,
    }
    torch.save(content, tmp_path / "other.pth")
    stored = load_file(tmp_path / "other.pth")
    assert (stored.state["args"], stored.epoch, stored.iteration) == ({"lr": 1e-4}, 3, 0)
    ours = filled(tmp_path, range(4, 5)).require_latest()
    assert load_file(str(ours.path)).iteration == 4
    flip(ours.path, 3000)
    for path, message in ((ours.path, "is damaged"), (tmp_path / "none.pth", "no such file")):
        with pytest.raises(InputError, match=message):
            load_file(path)


# ---- which are kept


def test_only_the_last_are_kept_and_the_best_is(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path, 2).locked() as store:
        scores = {3: 40.0, 4: 55.5, 5: 55.5, 6: float("nan"), 7: 12.0}
        for iteration in range(3, 8):
            store.save(some_state(iteration), epoch=1, iteration=iteration)
            is_best = store.note_score(
                scores[iteration], epoch=1, iteration=iteration, complete=lambda at=iteration: some_state(at)
            )
            assert is_best == (iteration in (3, 4))
        store.save_last(some_state(7), epoch=1, iteration=7)
    expected = ["best.json", "best.pth", "checkpoint_00000006.pth", "checkpoint_00000007.pth", "last.pth"]
    assert names(tmp_path) == [*expected, "training.lock"]
    assert json.loads((tmp_path / "best.json").read_text()) == {"epoch": 1, "iteration": 4, "score": 55.5}
    assert read_sealed(tmp_path / "best.pth")["iteration"] == 4

    (tmp_path / "best.json").unlink()  # as if killed before it was written
    again = CheckpointStore(tmp_path, 2)
    assert not again.note_score(55.0, epoch=2, iteration=9, complete=lambda: pytest.fail("not needed"))
    assert json.loads((tmp_path / "best.json").read_text())["score"] == 55.5
    assert again.note_score(56.0, epoch=2, iteration=9, complete=lambda: some_state(9))
    assert CheckpointStore(tmp_path, 2).best() == checkpoints.Best(56.0, 2, 9)


def test_a_damaged_best_counts_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    CheckpointStore(tmp_path, 1).note_score(90.0, epoch=0, iteration=1, complete=lambda: some_state(1))
    flip(tmp_path / "best.pth", 2000)
    store = CheckpointStore(tmp_path, 1)
    assert store.note_score(50.0, epoch=0, iteration=2, complete=lambda: some_state(2))
    assert "best.pth is damaged (some of its bytes have changed" in caplog.text
    assert verify(tmp_path / "best.pth")["score"] == 50.0


def test_a_training_does_not_begin_among_later_checkpoints(tmp_path: Path) -> None:
    store = filled(tmp_path, range(1, 4))
    store.begin(3)
    for iteration in (0, 2):
        with pytest.raises(InputError, match="holds checkpoints up to iteration 3 of an earlier training"):
            store.begin(iteration)
    store.note_score(1.0, epoch=0, iteration=3, complete=lambda: some_state(3))
    for path in tmp_path.glob("checkpoint_*"):
        path.unlink()
    with pytest.raises(InputError, match=r"holds best\.pth of an earlier training"):
        store.begin(0)


def test_nothing_to_go_on_with_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--resume auto: no checkpoint in .*missing"):
        CheckpointStore(tmp_path / "missing", 3).require_latest()
    with pytest.raises(InputError, match="at least 1, found 0"):
        CheckpointStore(tmp_path, 0)


# ---- damage


DAMAGES: dict[str, Callable[[Path], object]] = {
    "it is empty": lambda path: path.write_bytes(b""),
    "its end is missing or changed": lambda path: path.write_bytes(b"<html>no zip</html>"),
    r"its end is missing or changed \(\d+ bytes are there": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "some of its bytes have changed": lambda path: flip(path, 1000),
    "it cannot be read": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda state: state.pop("sequence"), "lacks 'sequence'"),
        (lambda state: state["args"].pop("untrained"), "lacks --untrained"),
        (lambda state: state["position"].update(stage=1), "has an unknown position 'stage'"),
    ],
)
def test_a_checkpoint_of_another_revision_is_said_to_be_one(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], found: str
) -> None:
    flags = {"output_dir": tmp_path, "name_exp": "run", "keep_checkpoints": 1, "resume": "auto"}
    origin = {"resume": None, "sam2_weights": None, "roberta": None, "untrained": False}
    state = some_state(1) | {"args": origin, "position": {"epoch": 0, "iteration": 1}}
    state |= {"lr_scheduler": {}, "sequence": {}, "clips": 1, "random": []}
    store = CheckpointStore(tmp_path / "run" / "checkpoints", 1)
    store.save(state, epoch=0, iteration=1)
    continued = checkpoint_to_continue(flags)
    assert continued is not None
    assert continued.iteration == 1
    change(state)
    store.save(state, epoch=0, iteration=2)
    with pytest.raises(
        InputError, match=rf"checkpoint_00000002\.pth {found}: another revision of this program wrote it"
    ):
        checkpoint_to_continue(flags)


@pytest.mark.parametrize("message", DAMAGES)
def test_the_one_before_a_damaged_one_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture, message: str) -> None:
    store = filled(tmp_path, range(1, 5))
    for number in (3, 4):
        DAMAGES[message](tmp_path / f"checkpoint_0000000{number}.pth")
    assert store.require_latest().iteration == 2
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 2
    assert all(re.search(f"is damaged: {message}.*; going on from checkpoint_00000002.pth", line) for line in lines)


def test_damaged_checkpoints_make_room_for_new_ones(tmp_path: Path) -> None:
    filled(tmp_path, range(1, 5))
    flip(tmp_path / "checkpoint_00000004.pth", 500)
    begun_at = CheckpointStore(tmp_path, 2).require_latest().iteration
    store = CheckpointStore(tmp_path, 2)
    store.begin(begun_at)
    store.save(some_state(30), epoch=0, iteration=30)
    assert names(tmp_path) == ["checkpoint_00000003.pth", "checkpoint_00000030.pth"]
    flip(tmp_path / "checkpoint_00000030.pth", 500)
    assert store.require_latest().iteration == 3
    store.save(some_state(30), epoch=0, iteration=30)  # the same again, in its place
    assert store.require_latest().iteration == 30


def test_all_damaged_is_an_error_that_names_them_and_the_best(tmp_path: Path) -> None:
    store = filled(tmp_path, range(1, 6))
    for path in tmp_path.glob("checkpoint_*"):
        path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match=r"every checkpoint .*00000005\.pth: its end .*; and 2 more\): move them"):
        store.load_latest()
    store.note_score(3.0, epoch=0, iteration=2, complete=lambda: some_state(2))
    with pytest.raises(InputError, match=r"go on from the weights of best\.pth \(iteration 2\)"):
        store.load_latest()


def test_every_truncation_and_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = CheckpointStore(tmp_path, 1).save({"model": {"x": torch.arange(5.0)}}, epoch=0, iteration=1)
    data = path.read_bytes()
    draw = random.Random(0)
    ends = {0, 1, 21, 22, 511, 512, 513, len(data) - 1, *(draw.randrange(len(data)) for _ in range(100))}
    copies = [data[:end] for end in ends] + [data + b" ", data[:-512], data[1:]]
    for offset in [*range(len(data) - 600, len(data)), *(draw.randrange(len(data)) for _ in range(200))]:
        copies.append(data[:offset] + bytes([data[offset] ^ 1 << draw.randrange(8)]) + data[offset + 1 :])
    copy = tmp_path / "copy.pth"
    for content in copies:
        copy.write_bytes(content)
        with pytest.raises(DamagedFileError):
            verify(copy)
    copy.write_bytes(data)
    verify(copy)


# ---- killed, and without room


def lines_of(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def test_kill_at_any_moment_leaves_a_whole_newest_checkpoint(tmp_path: Path) -> None:
    draw = random.Random(1)
    last = 0
    for attempt in range(40):
        store = CheckpointStore(tmp_path / "run", 2)
        acknowledged = tmp_path / f"acknowledged{attempt}"

        def write(begin: int = last, acknowledged: Path = acknowledged, store: CheckpointStore = store) -> None:
            with store.locked(), acknowledged.open("w") as handle:
                for iteration in range(begin + 1, begin + 100000):
                    store.save(some_state(iteration, 30000), epoch=0, iteration=iteration)
                    store.note_score(iteration, epoch=0, iteration=iteration, complete=lambda: {"x": torch.ones(9)})
                    handle.write(f"{iteration}\n")
                    handle.flush()

        process = Forked(write)
        saves = attempt % 3
        process.wait_until(lambda path=acknowledged, count=saves: count == 0 or lines_of(path) >= count)
        time.sleep(draw.uniform(0, 0.03))
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        written = lines_of(acknowledged)
        done = last + written
        assert written >= saves
        stored = store.load_latest()
        if stored is None:
            assert done == 0
            continue
        assert stored.iteration >= done >= last
        assert stored.state["model"]["cmt_adapters.0.x"].eq(stored.iteration).all()
        best = CheckpointStore(tmp_path / "run", 2).best()
        assert not written or (best is not None and best.score >= done)
        last = stored.iteration
    with CheckpointStore(tmp_path / "run", 2).locked():
        assert not [name for name in names(tmp_path / "run") if name.endswith(".tmp.pth")]
        assert len(list((tmp_path / "run").glob("checkpoint_*"))) <= 3


@pytest.mark.parametrize("limit", [10_000, 100_000, 398_000, 400_500])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, limit: int) -> None:
    store = filled(tmp_path, range(1, 3))
    best = {"epoch": 0, "iteration": 2, "complete": lambda: some_state(3, 100_000)}

    def write() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        message = (
            r"checkpoint_00000003\.pth cannot be written: it needs \d+ bytes, and \d+ are free \(.*00000002\.pth is"
        )
        with pytest.raises(InputError, match=message):
            store.save(some_state(3, 100_000), epoch=0, iteration=3)
        with pytest.raises(InputError, match=r"best\.pth cannot be written"):
            store.note_score(1.0, **best)

    before = names(tmp_path)
    assert Forked(write).wait() == 0
    assert names(tmp_path) == before
    assert store.require_latest().iteration == 2
    assert store.note_score(1.0, **best)


def test_too_little_room_is_known_before(tmp_path: Path) -> None:
    store = filled(tmp_path, range(1, 2))
    huge = torch.empty(1 << 50, dtype=torch.uint8, device="meta")
    with pytest.raises(InputError, match=r"it needs 1125\d{12} bytes, and \d+ are free; checkpoint_00000001.pth is"):
        store.save({"model": {"x": huge}}, epoch=0, iteration=2)
    assert names(tmp_path) == ["checkpoint_00000001.pth"]


@pytest.mark.parametrize("milliseconds", [1, 4, 9, 15, 23])
def test_ctrl_c_while_writing_leaves_what_was_there(tmp_path: Path, milliseconds: int) -> None:
    store = filled(tmp_path, range(1, 2))

    def write() -> None:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 (which step it hits is the point)
            # Again after a second: Python ignores an exception in a finalizer.
            signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000, 1)
            while True:
                store.save(some_state(2, 1_000_000), epoch=0, iteration=2)
        signal.setitimer(signal.ITIMER_REAL, 0)

    assert Forked(write).wait() == 0
    assert set(names(tmp_path)) <= {"checkpoint_00000001.pth", "checkpoint_00000002.pth"}
    assert store.require_latest().iteration in (1, 2)


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    inside, leave = tmp_path / "inside", tmp_path / "leave"
    folder = tmp_path / "run"

    def first() -> None:
        with CheckpointStore(folder, 1).locked():
            inside.touch()
            child = Forked(lambda: time.sleep(100))  # a loader of data, say: it does not hold the lock
            leave.write_text(str(child.pid))
            child.wait()

    process = Forked(first)
    process.wait_until(lambda: leave.exists() and leave.read_text() != "")
    refusal = rf"another training writes to .*run: .*\(process {process.pid} on "
    with pytest.raises(InputError, match=refusal), CheckpointStore(folder, 1).locked(patience=0.1):
        pass
    process.send(signal.SIGKILL)
    process.wait()
    (folder / f".{'0' * 32}.tmp.pth").write_bytes(b"half")
    with CheckpointStore(folder, 1).locked(patience=5.0):
        assert names(folder) == ["training.lock"]
    os.kill(int(leave.read_text()), signal.SIGKILL)
