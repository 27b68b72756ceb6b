"""The benchmark of training compares ways that compute the same kind of step; no test looks at how long it takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.train.network import TrainingNetwork
from tools import benchmark_training as benchmark
from tools.bench import dropping, loading
from util.errors import InputError, run_script

SMALL = ["--sam2_version", "nano", "--image_size", "64", "--frames", "2"]


def test_step_and_memory_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "step.json"
    benchmark.main(["step", *SMALL, "--batch", "2", "--repeats", "1", "--json", str(result)])
    assert set(json.loads(result.read_text())["results"]["medians"]) == {"together", "one by one"}
    assert "times faster" in capsys.readouterr().out
    benchmark.main(["memory", *SMALL])
    assert capsys.readouterr().out.count(" GB ") == 2


def test_dropped_weights_are_timed_in_three_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dropping, "PATCHES", {"small": (2, 2, 8, 4)})
    result = tmp_path / "dropping.json"
    benchmark.main(["dropping", "--repeats", "1", "--json", str(result)])
    found = json.loads(result.read_text())["results"]["small"]
    assert set(found) == {"pytorch", "own", "nothing dropped"}
    assert all(seconds > 0 for seconds in found.values())
    assert "small (2x2 heads of 8 tokens)" in capsys.readouterr().out


def test_the_loop_gives_the_gradients_of_the_batch() -> None:
    """With BatchNorm's statistics fixed and nothing dropped, both ways compute the same."""
    options = benchmark.parse(["step", *SMALL, "--batch", "2"])
    network = TrainingNetwork(benchmark.random_network(options))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = benchmark.random_batch(options, 2)
    found = []
    for way in (benchmark.together, benchmark.one_by_one):
        network.zero_grad()
        way(network, batch, "fp32")
        found.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4 * scale + 1e-9, msg=name)


def test_steps_have_the_arithmetic_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch lets convolutions on a GPU use TF32 unless told otherwise; a training in float32 tells it."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    found = []

    def network(weight: torch.Tensor) -> dict[str, torch.Tensor]:
        weight.register_hook(lambda _: found.append(torch.backends.cudnn.allow_tf32))
        found.append(torch.backends.cudnn.allow_tf32)
        return {"loss": weight.sum()}

    benchmark.backward(network, [torch.ones(2, requires_grad=True)], "fp32")  # type: ignore[arg-type]
    assert found == [False, False]


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SIZE", (90, 160))


def test_loading_is_measured_with_every_number_of_processes(
    small_frames: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "loading.json"
    given = ["--image_size", "64", "--batch", "1", "--frames", "3", "--steps", "2", "--repeats", "2"]
    benchmark.main(["loading", *given, "--workers", "0", "1", "--json", str(result)])
    found = json.loads(result.read_text())["results"]
    assert {workers: len(seconds) for workers, seconds in found.items()} == {"0": 2, "1": 2}
    assert capsys.readouterr().out.splitlines()[1].split("  ")[:2] == ["workers", "clips per second"]


def test_clips_of_the_measured_videos_show_their_discs(small_frames: None, tmp_path: Path) -> None:
    loading.write_videos(tmp_path)
    clip = loading.open_clips(tmp_path, frames=5, side=128)[0, 7]
    assert clip.frames.shape[:2] == (5, 3)
    assert 0.02 < clip.masks.float().mean() < 0.2
    assert not clip.faults


@pytest.mark.parametrize(("flags", "message"), [(["--batch", "0"], "at least 1"), (["--workers", "-1"], "0 or more")])
def test_bad_numbers_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        benchmark.main(["step", *flags])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["step", *SMALL, "--device", "cuda"], "device cuda: expected one of this computer"),
        (["dropping", "--device", "cuda"], "dropping --device cuda: this is a way of CPUs"),
        (["memory", *SMALL, "--device", "foo"], "device 'foo': expected cpu, cuda, cuda:N or mps"),
        (["step", *SMALL, "--precision", "fp32", "bf16"], "step --precision fp32 bf16: expected one of them"),
        (["memory", *SMALL, "--activation_checkpointing"], "memory knows no --activation_checkpointing"),
        (["memory", "--image_size", "100"], "image_size must be a multiple of 32, found 100"),
        (["loading", "--image_size", "0"], "image_size must be at least 1, found 0"),
        (["step", "--no_such_flag"], "unrecognized arguments: --no_such_flag; see benchmark_training.py --help"),
        (["step", *SMALL, "--json", "."], "--json .: expected a file, found a folder"),
        (["step", *SMALL, "--json", f"{__file__}/step.json"], "step.json: the folder cannot be written to"),
    ],
)
def test_unusable_options_are_one_line(
    argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        run_script(lambda: benchmark.main(argv))
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out, shown.err.count("\n")) == (2, "", 1)
    assert message in shown.err


def test_seconds_end_when_the_device_has_done_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is given work faster than it does it, and a process may have several."""
    calls: list[object] = []
    monkeypatch.setattr(benchmark, "backward", lambda *_: calls.append("work"))
    monkeypatch.setattr(benchmark, "synchronize", calls.append)
    benchmark.main(["case", *SMALL])
    assert calls == ["work", torch.device("cpu")]
    calls.clear()
    benchmark.main(["step", *SMALL, "--batch", "2", "--repeats", "1"])
    assert calls == 2 * ["work", torch.device("cpu"), "work", "work", torch.device("cpu")]


def test_cases_that_failed_are_named_after_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text(
        '#!/bin/sh\ncase "$*" in *--activation_checkpointing*) echo no memory >&2; exit 3;; esac\n'
        'echo \'{"bytes": 1, "seconds": 1}\'\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    result = tmp_path / "memory.json"
    with pytest.raises(InputError, match=r"^fp32 with --activation_checkpointing: not measured"):
        benchmark.main(["memory", *SMALL, "--json", str(result)])
    found = json.loads(result.read_text())["results"]
    assert found == {"fp32": {"bytes": 1, "seconds": 1}, "fp32 with --activation_checkpointing": None}
