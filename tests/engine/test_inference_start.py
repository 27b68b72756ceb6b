"""From flags to a network that is ready to run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.inference.start import compiler_options
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
