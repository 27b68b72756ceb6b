"""The attention of HSA forward and backward, on a CPU: weights dropped as PyTorch does it, as here, and not at all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from models.sam2.layers import attend

DROPOUT = 0.1
# (patches, heads, tokens, channels of a head) of clips of 8 frames; of tiny a part of the patches of 1024 pixels
PATCHES = {
    "tiny, patches of 8": (16, 8, 512, 32),
    "tiny, patches of 4": (64, 8, 128, 32),
    "nano, patches of 8": (36, 8, 512, 12),
    "nano, patches of 12": (4, 8, 1152, 12),
    "nano, patches of 6": (4, 8, 288, 12),
}
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def benchmark_dropping(repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of each way for each size, alternating; they are printed, too."""
    ways: dict[str, Attention] = {
        "pytorch": partial(F.scaled_dot_product_attention, dropout_p=DROPOUT),
        "own": partial(attend, dropout=DROPOUT),
        "nothing dropped": attend,
    }
    found = {}
    for name, (patches, heads, tokens, channels) in tqdm(PATCHES.items(), desc="dropping", unit="size"):
        given = [torch.randn(patches, tokens, heads, channels).transpose(1, 2).requires_grad_() for _ in range(3)]
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeats + 1):
            for way, function in ways.items():
                started = time.perf_counter()
                torch.autograd.grad(function(*given).sum(), given)
                times[way].append(time.perf_counter() - started)
        medians = found[name] = {way: statistics.median(seconds[1:]) for way, seconds in times.items()}
        shown = ", ".join(f"{way} {seconds * 1e3:.0f} ms" for way, seconds in medians.items())
        tqdm.write(f"{name} ({patches}x{heads} heads of {tokens} tokens): {shown}, own to pytorch "
                   f"{medians['own'] / medians['pytorch']:.2f}")  # fmt: skip
    return found
