"""Attention over time that follows objects: what velocities are read from.

An adapter whose HSA patches cover the frame can see where an object was and will be, but a short training finds neither
which frames to compare nor what to look for there. So its first heads begin with looking at fixed distances in time,
each pair with the same values, and are taught to look at the object that they come from.

Axes: B samples, T frames, p side of the map, A adapter width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from configs.schema import map_side
from models.cmt_adapter import HEADS, CMTAdapter
from models.sam2.position_encoding import sine_1d
from models.samwise import SAMWISE

SHIFTS = (1, -1, 2, -2, 3, -3)  # frames from the query to what a head looks at
_LENGTH = 8  # frames that the heads begin with telling apart
_TIME, _CONTENT = 8.0, 20.0  # logits that begin with saying the right frame, the same look
_SHRINK = 0.3  # of the ridge regression from the sine encoding of time


def begin_with_time(adapter: CMTAdapter) -> None:
    """Let the first heads of an adapter's HSA look `SHIFTS` frames away, at what looks alike."""
    attention = adapter.hsa.self_attn
    width = attention.out_proj.weight.shape[0]
    channels = width // HEADS
    frames = torch.arange(_LENGTH)[:, None].float()
    sines = sine_1d(_LENGTH, width, torch.device("cpu"))
    sines = sines - sines.mean(1, keepdim=True)  # what LayerNorm leaves
    read = sines.T @ torch.linalg.inv(sines @ sines.T + _SHRINK * torch.eye(_LENGTH))  # (A, frames)
    waves = 2 * math.pi * torch.tensor([1.0, 2.0]) / (_LENGTH + 1)
    away = torch.eye(width) - read @ torch.linalg.pinv(read)  # content that says nothing of time

    def code(at: Tensor) -> Tensor:
        return torch.cat([(waves * at).cos(), (waves * at).sin()], dim=1).T / math.sqrt(len(waves))

    timed = 2 * len(waves)
    gain = math.sqrt(channels)
    with torch.no_grad():
        queries, keys, values = attention.in_proj_weight.view(3, HEADS, channels, width)
        attention.in_proj_bias.view(3, HEADS, channels)[:2, : len(SHIFTS)] = 0
        for head, shift in enumerate(SHIFTS):
            looks = torch.randn(channels - timed, width) @ away
            looks = looks * math.sqrt(_CONTENT * gain / (channels - timed) / width)
            keys[head] = torch.cat([math.sqrt(_TIME * gain) * code(frames) @ read.T, looks])
            queries[head] = torch.cat([math.sqrt(_TIME * gain) * code(frames + shift) @ read.T, looks])
            values[head] = values[head - head % 2]


def adapters_over_the_frame(model: SAMWISE) -> dict[int, CMTAdapter]:
    """The adapters whose HSA patches cover the whole map, by their number."""
    config = model.config
    sides = [map_side(config.sam2.image_size, stage) for stage in config.fusion_stages]
    return {
        number: adapter
        for number, (adapter, side) in enumerate(zip(model.cmt_adapters, sides, strict=True))
        if isinstance(adapter, CMTAdapter) and adapter.patch == side
    }


@contextmanager
def watched(adapters: Mapping[int, CMTAdapter]) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """What the HSA of some adapters reads and gives meanwhile, by the adapter's number: (patches, T * p * p, A)."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(number: int) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        return lambda _, inputs, output: seen.update({number: (inputs[0], output)})

    handles = [adapter.hsa.register_forward_hook(keep(number)) for number, adapter in adapters.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def tracking_loss(adapter: CMTAdapter, x: Tensor, labels: Tensor) -> Tensor:
    """How much of their attention the first heads spend beside the object that they look from, `SHIFTS` frames away.

    Args:
        adapter: one with HSA over the whole frame.
        x: (B, T * p * p, A), what its HSA reads.
        labels: (B, T, p, p), 0 the ground.

    Returns:
        the mean of -log(share of the attention that meets the object), over tokens of objects that are there.
    """
    attention = adapter.hsa.self_attn
    frames, heads = labels.shape[1], len(SHIFTS)
    weights = attention.in_proj_weight.unflatten(0, (3, HEADS, -1))[:2, :heads]
    biases = attention.in_proj_bias.unflatten(0, (3, HEADS, -1))[:2, :heads]
    time = torch.arange(frames, device=x.device).repeat_interleave(labels[0, 0].numel())
    shifts = torch.tensor(SHIFTS, device=x.device)
    there = time[:, None] + shifts[:, None, None] == time  # (heads, queries, keys)
    losses = []
    for sample, numbers in zip(x, labels.flatten(1), strict=True):
        queries = numbers.nonzero().flatten()
        q = torch.einsum("na,hda->hnd", sample[queries], weights[0]) + biases[0][:, None]
        k = torch.einsum("na,hda->hnd", sample, weights[1]) + biases[1][:, None]
        logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        wanted = (numbers[queries, None] == numbers) & there[:, queries]
        found = logits.masked_fill(~wanted, -torch.inf).logsumexp(-1) - logits.logsumexp(-1)
        losses.append(-found[wanted.any(-1)])
    losses_all = torch.cat(losses)
    return losses_all.mean() if losses_all.numel() else x.sum() * 0
