"""Single kernels against the plain way, alternating."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.runtime import float32_arithmetic
from models.sam2.layers import attend, attend_in_blocks, fuses_gelu, has_bfloat16_products, linear, prefers_mkl
from util.memory import keep_freed_memory

from .measure import synchronize

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
# (batch, heads, queries, keys, channels of a head) for one sentence and clips of 8 frames of 1024x1024
ATTENTIONS = {
    "reading of memory": (1, 1, 4096, 6 * 4096 + 60, 256),
    "self-attention of a map": (1, 1, 4096, 4096, 256),
    "global block of tiny": (8, 4, 4096, 4096, 96),
    "windows of tiny": (8 * 25, 4, 196, 196, 96),
    "global block of base": (8, 8, 4096, 4096, 56),
    "windows of base": (8 * 25, 8, 196, 196, 56),
    "first windows of base": (8 * 1024, 2, 64, 64, 56),
}


def alternate(functions: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """Median seconds of each function, called in turn, with memory as sessions have it."""
    keep_freed_memory()
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


def fused_linear(x: Tensor, weight: Tensor, bias: Tensor, inside: bool) -> Tensor:
    """`linear` through oneDNN, with GELU inside of the fused product, or behind it."""
    layers = "models.sam2.layers"
    with patch(f"{layers}.prefers_mkl", lambda: False), patch(f"{layers}.fuses_gelu", lambda: inside):
        return linear(x, weight, bias, "gelu")


def benchmark_linear(options: argparse.Namespace) -> dict[str, Any]:
    """Linear layer with GELU at the sizes of Hiera base, and back."""
    results = {}
    gelu, library = "inside" if fuses_gelu() else "behind", "MKL" if prefers_mkl() else "oneDNN"
    print(f"the network has GELU {gelu}; products with many channels run in {library}")
    widths = ((65536, 112), (16384, 224), (4096, 448), (1024, 896))
    sizes = [(rows, *pair) for rows, width in widths for pair in ((width, 4 * width), (4 * width, width))]
    for rows, inputs, outputs in sizes:
        given = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
        ways: dict[str, Callable[[], Tensor]] = {"own": partial(own_linear, *given)}
        ways |= {name: partial(fused_linear, *given, name == "inside") for name in ("inside", "behind")}
        found = results[f"{rows}x{inputs} to {outputs}"] = alternate(ways, options.repeats)
        print(f"{f'{rows}x{inputs} to {outputs}':24} own {found['own'] * 1e3:7.1f} ms, fused with GELU inside "
              f"{found['inside'] * 1e3:7.1f} ms, behind {found['behind'] * 1e3:7.1f} ms, ratios "
              f"{found['inside'] / found['own']:.2f} and {found['behind'] / found['own']:.2f}")  # fmt: skip
    return results


def benchmark_attention(options: argparse.Namespace) -> dict[str, Any]:
    """PyTorch's kernels on a GPU. On the CPU one read of memory, and in bfloat16 the maps of 64x64."""
    device = torch.device(options.device)
    if device.type != "cpu":
        dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
        shapes = {name: (options.expressions * batch, *rest) for name, (batch, *rest) in ATTENTIONS.items()}
        with float32_arithmetic(options.precision):
            return {
                name: attention_kernels(name, shape, device, dtype, options.repeats) for name, shape in shapes.items()
            }
    results = {"memory": _read_of_memory(options.repeats)}
    if has_bfloat16_products():
        for heads, channels in ((8, 56), (4, 96), (1, 256)):
            results[f"{heads} heads of {channels}"] = _map_in_bfloat16(heads, channels, options.repeats)
    return results


def attention_kernels(
    name: str, shape: Sequence[int], device: torch.device, dtype: torch.dtype, repeats: int
) -> dict[str, float | None]:
    """Median seconds of what the network calls, where PyTorch chooses, and of each of `KERNELS`; None if one refuses.

    Args:
        name: in the printed line.
        shape: (batch, heads, queries, keys, channels of a head).
        device, dtype: of queries, keys and values.
        repeats: timed calls of each.
    """
    batch, heads, queries, keys, channels = shape
    random = partial(torch.randn, device=device, dtype=dtype)
    query, key, value = (random(batch, heads, count, channels) for count in (queries, keys, keys))
    ways: dict[str, Callable[[], Tensor]] = {"network": partial(attend, query, key, value)}
    ways |= {kernel: partial(_with_kernel, backend, query, key, value) for kernel, backend in KERNELS.items()}
    with torch.inference_mode():
        served = {way: function for way, function in ways.items() if _serves(function)}
    seconds = alternate(served, repeats)
    found = {way: seconds.get(way) for way in ways}
    flops = 4 * batch * heads * queries * keys * channels
    shown = (f"{way} {_rate(flops, median)}" for way, median in found.items())
    print(f"{name}, {batch}x{heads} heads of {channels}, {queries} to {keys}: {', '.join(shown)}")
    return found


def _with_kernel(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(query, key, value)


def _serves(function: Callable[[], Tensor]) -> bool:
    """False where PyTorch has no such kernel for this device, type or shape; it warns of the reasons."""
    try:
        function()
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    return True


def _rate(flops: int, seconds: float | None) -> str:
    return "refuses" if seconds is None else f"{seconds * 1e3:.3f} ms ({flops / seconds / 1e12:.2f} TFLOP/s)"


def _map_in_bfloat16(heads: int, channels: int, repeats: int) -> dict[str, float]:
    """The global blocks of base and tiny, and self-attention of memory attention."""
    query, key, value = (torch.randn(1, heads, 4096, channels).bfloat16() for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        found = alternate(
            {
                "fused": partial(F.scaled_dot_product_attention, query, key, value),
                "blocks": partial(attend, query, key, value),
            },
            repeats,
        )
    print(f"bfloat16, 4096 tokens, {heads} heads of {channels}: fused {found['fused']:.3f} s, "
          f"in blocks {found['blocks']:.3f} s, ratio {found['blocks'] / found['fused']:.2f}")  # fmt: skip
    return found


def _read_of_memory(repeats: int) -> dict[str, float]:
    """Six memories and fifteen pointers, with values of 256 and of 64 channels."""
    query, key = torch.randn(1, 4096, 256), torch.randn(1, 6 * 4096 + 60, 256)
    wide, narrow = torch.randn(*key.shape), torch.randn(1, key.shape[1], 64)
    found = alternate(
        {
            "wide": partial(F.scaled_dot_product_attention, query[:, None], key[:, None], wide[:, None]),
            "narrow": partial(attend_in_blocks, query, key, narrow),
        },
        repeats,
    )
    print(f"wide {found['wide']:.3f} s, narrow {found['narrow']:.3f} s, ratio {found['narrow'] / found['wide']:.2f}")
    return found
