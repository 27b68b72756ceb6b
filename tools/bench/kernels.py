"""Single kernels against the plain way, alternating."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.sam2.layers import attend_narrow, linear

from .measure import synchronize


def alternate(functions: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """Median seconds of each function, called in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    with torch.inference_mode():
        for _ in range(repeats + 1):
            for name, function in functions.items():
                start = time.perf_counter()
                synchronize(function().device)
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def own_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """PyTorch's linear layer, then its GELU."""
    return F.gelu(F.linear(x, weight, bias))


def benchmark_linear(options: argparse.Namespace) -> dict[str, Any]:
    """Linear layer with GELU at the sizes of Hiera base."""
    results = {}
    for rows, inputs, outputs in ((65536, 112, 448), (16384, 224, 896), (4096, 448, 1792), (1024, 896, 3584)):
        x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
        found = alternate(
            {"own": partial(own_linear, x, weight, bias), "fused": partial(linear, x, weight, bias, "gelu")},
            options.repeats,
        )
        name = f"{rows}x{inputs} to {outputs}"
        results[name] = found
        print(f"{name:24} own {found['own'] * 1e3:7.1f} ms, fused {found['fused'] * 1e3:7.1f} ms, "
              f"ratio {found['fused'] / found['own']:.2f}")  # fmt: skip
    return results


def benchmark_attention(options: argparse.Namespace) -> dict[str, Any]:
    """One read of six memories and fifteen pointers on the CPU, with values of 256 and of 64 channels."""
    query, key = torch.randn(1, 4096, 256), torch.randn(1, 6 * 4096 + 60, 256)
    wide, narrow = torch.randn(*key.shape), torch.randn(1, key.shape[1], 64)
    found = alternate(
        {
            "wide": partial(F.scaled_dot_product_attention, query[:, None], key[:, None], wide[:, None]),
            "narrow": partial(attend_narrow, query, key, narrow),
        },
        options.repeats,
    )
    print(f"wide {found['wide']:.3f} s, narrow {found['narrow']:.3f} s, ratio {found['narrow'] / found['wide']:.2f}")
    return found
