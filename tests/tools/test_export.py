"""Exported programs: equal to the network, and at home where its code is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.infer import stream
from models.samwise import SAMWISE
from tests.conftest import SMALLEST, build_micro
from tools import export
from util.errors import InputError

SENTENCES = ["the red disc", "a square that moves to the left"]
WINDOW, FRAMES = 4, 21  # more frames than pointers, and a last clip of one
ALONE = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
unwanted = {"models", "engine", "configs", "util", "tools", "transformers"} & set(sys.modules)
assert not unwanted, unwanted
"""


@pytest.fixture(scope="module")
def network() -> SAMWISE:
    """The smallest network, inclined to switch what it remembers."""
    model = build_micro(seed=2, **SMALLEST)
    with torch.no_grad():
        model.conditional_memory_encoder.decision_class_head.bias.copy_(torch.tensor([-0.5, 0.5]))
    return model


def run_alone(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter that sees installed packages and nothing of this code base."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-I", "-c", ALONE, str(program), *arguments]
    return subprocess.run(command, cwd=program.parent, env=environment, capture_output=True, text=True, check=False)


def write_video(folder: Path) -> np.ndarray:
    """Frames as files that lose nothing; (T, H, W, 3)."""
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 26, 40, 3), dtype=np.uint8)
    folder.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index:05d}.png")
    return frames


def assert_runs_alone(network: SAMWISE, folder: Path, compiled: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Export, then compare the masks that run.py writes for two sentences, and for one, with the network's."""
    network.save_pretrained(folder / "network")
    out = folder / "exported"
    arguments = [str(folder / "network"), "--out", str(out), "--window", str(WINDOW), "--expressions", "4"]
    export.main([*arguments, *(["--aot"] if compiled else [])])
    assert "largest difference from the network itself" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        "encoder.pt2", "step.pt2", "interface.json", "tokenizer.json", "run.py",
    }  # fmt: skip
    frames = write_video(folder / "frames")
    for sentences in (SENTENCES, SENTENCES[1:]):
        masks = folder / f"masks{len(sentences)}"
        done = run_alone(out / "run.py", str(folder / "frames"), str(masks), *sentences)
        assert done.returncode == 0, done.stderr
        differing = 0
        for index, result in enumerate(stream(network, sentences, frames, window=WINDOW)):
            for number, expected in enumerate(result.masks()):
                with Image.open(masks / str(number) / f"{index:05d}.png") as image:
                    differing += int((np.asarray(image) != expected * np.uint8(255)).sum())
        assert differing <= 2, "more than rounding"
    described = json.loads((out / "interface.json").read_text())
    assert described["compiled"] is compiled
    assert [entry["name"] for entry in described["step"]["inputs"] if entry["state"]] == [
        "memories", "pointers", "last_switch", "frame_index",
    ]  # fmt: skip
    assert described["encoder"]["inputs"][0]["shape"] == ["frames", 3, 32, 32]
    for program in ("encoder", "step"):
        for entry in described[program]["inputs"] + described[program]["outputs"]:
            assert set(entry["shape"]) - set(described["axes"]) <= set(range(1 << 20))
            assert entry["meaning"]


@pytest.mark.slow
def test_an_export_runs_without_the_code(network: SAMWISE, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_runs_alone(network, tmp_path, False, capsys)
    assert all(parameter.grad_fn is None for parameter in network.parameters())
    assert run_alone(tmp_path / "exported" / "run.py", str(tmp_path / "network"), "x", "it").returncode == 1


@pytest.mark.slow
def test_a_compiled_export_runs_without_the_code(
    network: SAMWISE, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_runs_alone(network, tmp_path, True, capsys)


def test_the_code_is_out_of_sight_of_such_a_process(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("import models\n")
    done = run_alone(tmp_path / "empty.py")
    assert "No module named 'models'" in done.stderr


def test_motion_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="motion prompts"):
        export.write_export(build_micro(motion_prompt=True), tmp_path)


def test_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        export.main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
