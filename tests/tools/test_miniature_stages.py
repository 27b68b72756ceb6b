"""Stages of the study when killed, its plan, and the comparison of frozen weights."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import build_micro
from tools import miniature
from tools.study import frozen, runner
from tools.study.places import Places
from tools.study.plan import GROUPS, plan, select
from tools.study.runner import ROOT, Stage, execute, read_marker, run_stages
from tools.study.settings import QUICK, Settings
from util.errors import InputError

# ---- stages ----

WORK = """
import sys, pathlib
out, needed = map(pathlib.Path, sys.argv[1:3])
with open(str(out) + ".calls", "a") as calls:
    print(*sys.argv[3:], file=calls)
if not needed.exists():
    sys.exit(3)
out.write_text("made")
"""


def work(folder: Path, name: str, needed: Path, *more: str, **values: Any) -> Stage:
    """A stage that makes a file if another one is there, and notes each call of it."""
    script = folder / "work.py"
    script.write_text(WORK)
    command = (str(script), str(folder / name), str(needed), *more)
    return Stage(name, "work", command, (folder / name,), results=lambda: {"name": name}, **values)


def calls(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}.calls").read_text().splitlines()


def test_processes_share_trainings_and_inferences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "part.py"
    script.write_text("import os, pathlib, sys; pathlib.Path(sys.argv[1], os.environ.get('RANK', 'alone')).touch()\n")
    assert execute([str(script), str(tmp_path)], processes=2) == 0
    assert (tmp_path / "alone").exists()
    monkeypatch.setattr(runner, "SHARED", (str(script),))
    assert execute([str(script), str(tmp_path)], processes=2) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"part.py", "alone", "0", "1"}


def test_done_stages_are_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [work(tmp_path, "a", tmp_path), work(tmp_path, "b", tmp_path / "later"), work(tmp_path, "c", tmp_path)]
    with pytest.raises(InputError, match="stage b ended with status 3"):
        run_stages(stages, tmp_path)
    assert read_marker(tmp_path, "a")["done"]
    assert read_marker(tmp_path, "a")["results"] == {"name": "a"}
    failed = read_marker(tmp_path, "b")
    assert not failed["done"]
    assert read_marker(tmp_path, "c") == {}
    (tmp_path / "later").touch()
    run_stages(stages, tmp_path)
    assert [len(calls(tmp_path, name)) for name in "abc"] == [1, 2, 1]
    assert read_marker(tmp_path, "b")["seconds"] > failed["seconds"]  # of both attempts
    assert "[1/3] a: done before" in capsys.readouterr().out
    with pytest.raises(InputError, match="give the same flags or another --out"):
        run_stages([work(tmp_path, "a", tmp_path, "--other")], tmp_path)
    run_stages([work(tmp_path, "a", tmp_path, "--other", repeated=True)], tmp_path)
    assert len(calls(tmp_path, "a")) == 2


def test_without_its_product_a_stage_is_not_done(tmp_path: Path) -> None:
    """A training that is told to stop ends with status 0, too."""
    stage = dataclasses.replace(work(tmp_path, "a", tmp_path), products=(tmp_path / "last.pth",))
    with pytest.raises(InputError, match=r"did not make .*last\.pth"):
        run_stages([stage], tmp_path)
    assert not read_marker(tmp_path, "a")["done"]


def test_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    flags = ("--sam2_weights", "stand_in", "--resume", "pretrain/last.pth", "--HSA")
    stage = work(tmp_path, "a", tmp_path, *flags, training=tmp_path / "run")
    assert stage.to_run() == stage.command
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "checkpoint_00000002.pth").touch()
    run_stages([stage], tmp_path)
    assert calls(tmp_path, "a") == ["--HSA --resume auto"]
    assert read_marker(tmp_path, "a")["command"] == stage.typed  # as it was begun


SLOW = """
import signal, sys, time, pathlib
folder = pathlib.Path(sys.argv[1])
def stop(*_):
    time.sleep(0.2)
    (folder / "tidy").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
(folder / "started").touch()
time.sleep(60)
"""


def test_a_stage_may_end_in_order(tmp_path: Path) -> None:
    """SIGTERM reaches the running command, and its end is waited for."""
    (tmp_path / "slow.py").write_text(SLOW)
    code = (
        "import sys; from pathlib import Path; from tools.study.runner import Stage, run_stages\n"
        "out = Path(sys.argv[1])\n"
        "run_stages([Stage('slow', 'x', (str(out / 'slow.py'), str(out)), (out / 'product',))], out)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) != 0
    assert (tmp_path / "tidy").exists()
    marker = read_marker(tmp_path, "slow")
    assert not marker["done"]
    assert marker["seconds"] > 0


# ---- the plan ----


def test_the_plan_is_complete(tmp_path: Path) -> None:
    places = Places(tmp_path, tmp_path / "stand_in")
    stages = plan(places, Settings(), 0, (0, 1, 2), cuda=True)
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    assert {stage.group for stage in stages} == set(GROUPS)
    assert all((ROOT / stage.command[0]).is_file() for stage in stages)
    assert sum(name.startswith("ablation-") and name.endswith("valid_u") for name in names) == 9
    made: set[Path] = set()
    for stage in stages:  # whatever a command reads below the folder, an earlier one has made
        for argument in stage.command:
            path = Path(argument)
            if path.name == "last.pth" and path.is_relative_to(tmp_path):
                assert path in made
        made.update(stage.products)
    given = plan(Places(tmp_path, ROOT / "pretrained" / "nano"), QUICK, 0, (0,), cuda=False)
    assert not {"tokenizer", "stand_in", "precision-tf32"} & {stage.name for stage in given}
    assert {stage.group for stage in select(stages, None, ["ablation"])} == set(GROUPS) - {"ablation"}
    assert {stage.group for stage in select(stages, ["data", "summary"], [])} == {"data", "summary"}


def test_numbers_can_be_given() -> None:
    args = miniature.build_parser().parse_args(["--quick", "--ablation_steps", "7"])
    assert miniature.settings_from(args) == dataclasses.replace(QUICK, ablation_steps=7)
    assert miniature.settings_from(miniature.build_parser().parse_args([])) == Settings()


# ---- frozen weights ----


def test_a_changed_frozen_tensor_is_found(tmp_path: Path) -> None:
    model = build_micro()
    model.save_pretrained(tmp_path / "stand_in")
    with torch.no_grad():
        model.cmt_adapters[0].get_parameter("proj_vis_down.0.weight").add_(1)
    model.save_pretrained(tmp_path / "trained")
    frozen.main([str(tmp_path / "stand_in"), str(tmp_path / "trained"), "--out", str(tmp_path / "frozen.json")])
    assert json.loads((tmp_path / "frozen.json").read_text())["identical"]
    with torch.no_grad():
        model.sam.no_mem_embed.view(-1)[0] *= -1
    model.save_pretrained(tmp_path / "wrong")
    with pytest.raises(InputError, match=r"1 of \d+ frozen tensors .* sam\.no_mem_embed"):
        frozen.main([str(tmp_path / "stand_in"), str(tmp_path / "wrong"), "--out", str(tmp_path / "frozen.json")])
    assert json.loads((tmp_path / "frozen.json").read_text())["differing"] == ["sam.no_mem_embed"]


def test_bits_are_compared() -> None:
    zero, nan = torch.zeros(2), torch.full((2,), float("nan"))
    assert frozen.same_bits(nan, nan.clone())
    assert not frozen.same_bits(zero, -zero)
    assert not frozen.same_bits(zero, zero.double())
    assert not frozen.same_bits(zero, torch.zeros(1, 2))
    assert not frozen.same_bits(zero, None)
