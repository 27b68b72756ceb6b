"""Clocks and counters: seconds and FLOPs of the parts of the network, and the matrix rate of the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.sam2 import layers
from models.samwise import SAMWISE

MATRIX = 4096  # side of the matrices of `matrix_rate`
GPU_MATRIX, GPU_PRODUCTS = 8192, 8  # there, and how many are started before they are waited for


@dataclass
class Part:
    """Time and work of one part, summed over a run."""

    seconds: float = 0.0
    flops: float = 0.0


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read on the host means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32, repeats: int = 3) -> float:
    """FLOP/s of a large matrix product: the median of a few, with the faster of the libraries that PyTorch brings."""
    side, at_once = (GPU_MATRIX, GPU_PRODUCTS) if device.type == "cuda" else (MATRIX, 1)
    a, b, out = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))
    products: list[Callable[[], Any]] = [lambda: [torch.mm(a, b, out=out) for _ in range(at_once)]]
    halves = dtype == torch.bfloat16 and layers.has_bfloat16_products()  # which the oldest revisions do not know
    fused = device.type == "cpu" and (dtype == torch.float32 or halves)
    if fused and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "none"))
    best = min(statistics.median(_seconds(product, device, repeats + 1)[1:]) for product in products)
    return 2 * side**3 * at_once / best


def _seconds(function: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return times


def parts_of(model: SAMWISE) -> dict[str, list[nn.Module]]:
    """Which modules count as which part of the table."""
    trunk, ends = model.sam.image_encoder.trunk, model.sam.image_encoder.trunk.stage_ends
    parts: dict[str, list[nn.Module]] = {"patch embedding": [trunk.patch_embed]}
    for stage, end in enumerate(ends):
        parts[f"Hiera stage {stage}"] = list(trunk.blocks[ends[stage - 1] if stage else 0 : end])
    return parts | {
        "text layers": list(model.text_encoder.encoder.layer),
        "adapters": [part for adapter in model.cmt_adapters for part in adapter_parts(adapter)],
        "memory attention": [model.sam.memory_attention],
        "mask decoder": [model.sam.sam_mask_decoder],
        "memory encoder": [model.sam.memory_encoder],
        "CME": [model.conditional_memory_encoder] if model.conditional_memory_encoder else [],
    }


def adapter_parts(adapter: nn.Module) -> list[nn.Module]:
    """An adapter, and those of its modules that look at the clip before it is called with the text."""
    return [adapter, *(part for name, part in adapter.named_children() if name in ("proj_vis_down", "hsa"))]


@contextmanager
def part_clock(model: SAMWISE, counter: FlopCounterMode | None = None) -> Iterator[dict[str, Part]]:
    """Measure parts through forward hooks; nothing in the network knows of it."""
    found, hooks, device = {name: Part() for name in parts_of(model)}, [], model.device

    def begin(module: nn.Module, inputs: Any) -> None:
        synchronize(device)
        starts.append((time.perf_counter(), counter.get_total_flops() if counter else 0))

    def end(part: Part) -> Callable[..., None]:
        def stop(module: nn.Module, inputs: Any, output: Any) -> None:
            synchronize(device)
            start, flops = starts.pop()
            part.seconds += time.perf_counter() - start
            part.flops += (counter.get_total_flops() if counter else 0) - flops

        return stop

    starts: list[tuple[float, int]] = []
    for name, modules in parts_of(model).items():
        for module in modules:
            hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end(found[name]))]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def timed(
    owner: Any, name: str, part: Part, device: torch.device, counter: FlopCounterMode | None = None
) -> Iterator[None]:
    """Measure the calls of a function that `owner`, a module, a class or an object, has under `name`."""
    function = getattr(owner, name)
    own = name in vars(owner)

    def measured(*args: Any, **keywords: Any) -> Any:
        synchronize(device)
        start, flops = time.perf_counter(), counter.get_total_flops() if counter else 0
        result = function(*args, **keywords)
        synchronize(device)
        part.seconds += time.perf_counter() - start
        part.flops += (counter.get_total_flops() if counter else 0) - flops
        return result

    setattr(owner, name, measured)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, function)
        else:
            delattr(owner, name)


def count_linear(x: Sequence[int], weight: Sequence[int], *rest: Any, **keywords: Any) -> int:
    """FLOPs of the fused linear layer."""
    return 2 * int(np.prod(x)) * weight[0]


def count_attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *rest: Any, **keywords: Any) -> int:
    """FLOPs of the CPU's fused attention."""
    return 2 * int(np.prod(q[:-1])) * k[-2] * (q[-1] + v[-1])


def flop_counter() -> FlopCounterMode:
    """Counts matrix products, convolutions and attention, the CPU's fused kernels included."""
    known: dict[Any, Callable[..., int]] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: count_attention}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        known[torch.ops.mkldnn._linear_pointwise] = count_linear
    return FlopCounterMode(display=False, custom_mapping=known)
