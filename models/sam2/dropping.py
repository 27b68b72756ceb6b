"""Attention that drops weights, on a CPU.

PyTorch's fused kernel for CPUs drops nothing, and its other way keeps all weights for the backward pass, gigabytes at
full size, and draws every one of them by itself. Here a part at a time is computed, and again in the backward pass, as
in FlashAttention (arXiv 2205.14135, algorithm 4), but with all keys at once.
`python tools/benchmark_training.py dropping` compares the two.

Axes: W windows (samples times heads), N queries, M keys, d channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

LEVELS = 1 << 16  # of the random numbers: a probability is rounded to a multiple of 1 / LEVELS
WEIGHTS_AT_ONCE = 1 << 20
FEWEST_ROWS = 256  # of a part: with fewer the products are slow


@torch.compiler.disable
def attend_and_drop(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Scaled dot-product attention whose weights are dropped with a probability, and the others raised accordingly.

    What is dropped depends on the state of PyTorch's random generator, from which one number is drawn.

    Args:
        query: (B, heads, N, d).
        key, value: (B, heads, M, d).
        dropout: the probability, below 1.

    Returns:
        (B, heads, N, d).
    """
    threshold = round(dropout * LEVELS)
    query, value = query * query.shape[-1] ** -0.5, value * (LEVELS / (LEVELS - threshold))
    seed = int(torch.randint(2**63 - 1, ()))
    parts = (x.flatten(0, 1).contiguous() for x in (query, key, value))
    return _Attention.apply(*parts, threshold, seed).unflatten(0, query.shape[:2])


class _Attention(torch.autograd.Function):
    """Attention with queries that are scaled and values that are raised already."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, threshold: int, seed: int) -> Tensor:
        out = torch.empty_like(query)
        with torch.autocast("cpu", enabled=False):
            for windows, rows, weights, kept in _weights(query, key, threshold, seed):
                out[windows, rows] = torch.bmm(weights.mul_(kept).to(value.dtype), value[windows])
        ctx.save_for_backward(query, key, value, out)
        ctx.threshold, ctx.seed = threshold, seed
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        to_query, to_key, to_value = torch.empty_like(query), *(torch.zeros_like(_exact(x)) for x in (key, value))
        mean = _exact(gradient).mul(out).sum(dim=-1, keepdim=True)  # of what weights of a row get, by these weights
        with torch.autocast("cpu", enabled=False):
            for windows, rows, weights, kept in _weights(query, key, ctx.threshold, ctx.seed):
                own = gradient[windows, rows]
                to_weights = _exact(torch.bmm(own, value[windows].mT)).mul_(kept)
                to_scores = to_weights.sub_(mean[windows, rows]).mul_(weights).to(query.dtype)
                to_query[windows, rows] = torch.bmm(to_scores, key[windows])
                to_key[windows] += torch.bmm(to_scores.mT, query[windows, rows])
                to_value[windows] += torch.bmm(weights.mul_(kept).to(query.dtype).mT, own)
        return to_query, to_key.to(key.dtype), to_value.to(value.dtype), None, None


def _weights(query: Tensor, key: Tensor, threshold: int, seed: int) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """A part at a time, several windows or some rows of one.

    Yields:
        which windows and which rows; their weights, at least in float32; and 1 for those that are kept, 0 for others.
        The last two belong to the caller until the next ones are asked for.
    """
    count, rows, columns = query.shape[0], query.shape[1], key.shape[1]
    height = min(max(WEIGHTS_AT_ONCE // columns, FEWEST_ROWS), rows)
    size = max(WEIGHTS_AT_ONCE // (rows * columns), 1)
    kept_ones = _exact(query.new_empty(min(size, count) * height * columns))
    stream = np.random.SFC64(seed)
    for start, top in itertools.product(range(0, count, size), range(0, rows, height)):
        part = slice(start, start + size), slice(top, top + height)
        weights = _exact(torch.bmm(query[part], key[part[0]].mT))
        torch.softmax(weights, dim=-1, out=weights)
        kept = kept_ones[: weights.numel()].view_as(weights)
        torch.ge(_levels(stream, weights.numel()).view_as(weights), threshold - LEVELS // 2, out=kept)
        yield *part, weights, kept


def _exact(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _levels(stream: np.random.SFC64, count: int) -> Tensor:
    """`count` random numbers, int16, all of them equally likely."""
    return torch.from_numpy(stream.random_raw(-(-count // 4)).view(np.int16))[:count]
