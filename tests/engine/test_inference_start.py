"""From flags to a network that is ready to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.mevis import open_mevis
from engine.inference.benchmarks import ExpressionBenchmark
from engine.inference.options import InferenceOptions
from engine.inference.run import run_benchmark
from engine.inference.start import compiler_options
from models import motion_prompts
from models.samwise import SAMWISE
from tests import miniature
from tests.conftest import build_micro
from util.errors import InputError

GPU, CPU = torch.device("cuda:1"), torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "device", "options"),
    [
        ({"compile": False, "cuda_graphs": False}, GPU, None),
        ({"compile": False}, CPU, None),  # a script without the flag
        ({"compile": True}, CPU, {}),
        ({"compile": True, "cuda_graphs": False}, GPU, {}),
        ({"compile": True, "cuda_graphs": True}, GPU, {"mode": "reduce-overhead"}),
    ],
)
def test_options_of_the_compiler(flags: dict[str, Any], device: torch.device, options: dict[str, str] | None) -> None:
    assert compiler_options(flags, device) == options
    assert options is None or (options.get("mode") or "default") in torch._inductor.list_mode_options()


@pytest.mark.parametrize(
    ("compiled", "device", "found"),
    [(True, CPU, "--compile and the device cpu"), (False, GPU, "no --compile and the device cuda:1")],
)
def test_cuda_graphs_need_a_gpu_and_a_compiled_network(compiled: bool, device: torch.device, found: str) -> None:
    with pytest.raises(InputError, match=f"expected --compile and a CUDA device, found {found}"):
        compiler_options({"compile": compiled, "cuda_graphs": True}, device)


@pytest.mark.parametrize(("protocol", "warnings"), [("paper", 1), ("fixed", 0)])
def test_frames_that_forget_each_other_are_warned_of(
    micro_model: SAMWISE, tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: str, warnings: int
) -> None:
    miniature.write_mevis(tmp_path / "data", "valid", {"three": (3, (24, 32))})
    options = InferenceOptions(num_workers=0, eval_clip_window=1, protocol=protocol)
    run_benchmark(micro_model, ExpressionBenchmark(open_mevis(tmp_path / "data", "valid"), tmp_path / "run"), options)
    assert caplog.text.count("no frame remembers another; --protocol fixed keeps the memory") == warnings


def test_a_missing_language_model_is_no_fault_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(motion_prompts, "SPACY_MODEL", "no_such_model")
    motion_prompts._language_model.cache_clear()
    miniature.write_mevis(tmp_path / "data", "valid", {"three": (3, (24, 32))})
    model = build_micro()
    assert model.tokenizer is not None
    model.tokenizer.motion_prompt = True
    benchmark = ExpressionBenchmark(open_mevis(tmp_path / "data", "valid"), tmp_path / "run")
    with pytest.raises(InputError, match=r"^--motion_prompt needs spaCy with no_such_model"):
        run_benchmark(model, benchmark, InferenceOptions(num_workers=0))
