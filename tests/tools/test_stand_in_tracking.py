"""Heads of HSA that look into other frames for the object that they look from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.cmt_adapter import HEADS, CMTAdapter
from models.sam2.position_encoding import sine_1d
from tools.stand_in.tracking import SHIFTS, begin_with_time, tracking_loss, watched

WIDTH, SIDE, FRAMES = 96, 3, 8


@pytest.fixture
def adapter() -> CMTAdapter:
    torch.manual_seed(0)
    return CMTAdapter(WIDTH, 16, WIDTH, SIDE).eval()


def attention_shares(adapter: CMTAdapter, x: Tensor) -> Tensor:
    """(heads, queries, keys) of x (N, A)."""
    attention = adapter.hsa.self_attn
    q, k, _ = torch.nn.functional.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    q, k = (y.unflatten(-1, (HEADS, -1)).transpose(0, 1) for y in (q, k))
    return (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)


def test_heads_begin_with_looking_at_other_frames(adapter: CMTAdapter) -> None:
    begin_with_time(adapter)
    time = sine_1d(FRAMES, WIDTH, torch.device("cpu"))
    shares = attention_shares(adapter, adapter.norm_pre_HSA(time)).detach()
    frames = torch.arange(FRAMES).float()
    for head, shift in enumerate(SHIFTS):
        inside = (frames + shift >= 1) & (frames + shift < FRAMES - 1)
        away = shares[head] @ frames - frames
        assert away[inside] == pytest.approx(torch.full_like(away[inside], shift), abs=0.8), shift
    values = adapter.hsa.self_attn.in_proj_weight.view(3, HEADS, -1, WIDTH)[2]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_heads_begin_with_looking_for_what_looks_alike(adapter: CMTAdapter) -> None:
    begin_with_time(adapter)
    looks = torch.randn(4, WIDTH)
    time = sine_1d(FRAMES, WIDTH, torch.device("cpu"))
    shares = attention_shares(adapter, adapter.norm_pre_HSA(time[:, None] + looks).flatten(0, 1)).detach()
    alike = shares.view(HEADS, FRAMES, 4, FRAMES, 4).sum(3).mean(1).diagonal(dim1=1, dim2=2)
    assert alike[: len(SHIFTS)].mean() > 0.7  # one of four would be chance


def test_the_loss_is_the_attention_that_misses_the_object(adapter: CMTAdapter) -> None:
    labels = torch.zeros(2, FRAMES, SIDE, SIDE, dtype=torch.int64)
    for frame in range(FRAMES):
        labels[0, frame, frame % SIDE, 0] = 1
        labels[:, frame, 1:, 1 + frame % 2] = 2
    x = torch.randn(2, FRAMES * SIDE * SIDE, WIDTH)
    wanted = []
    for sample in range(2):
        shares = attention_shares(adapter, x[sample]).view(HEADS, FRAMES, SIDE**2, FRAMES, SIDE**2)
        numbers = labels[sample].flatten(1)
        for head, shift in enumerate(SHIFTS):
            for frame in range(max(0, -shift), min(FRAMES, FRAMES - shift)):
                for place in numbers[frame].nonzero().flatten():
                    met = numbers[frame + shift] == numbers[frame, place]
                    if met.any():
                        wanted.append(-shares[head, frame, place, frame + shift][met].sum().log())
    loss = tracking_loss(adapter, x, labels)
    assert loss.item() == pytest.approx(torch.stack(wanted).mean().item(), rel=1e-4)
    assert tracking_loss(adapter, x, torch.zeros_like(labels)).item() == 0


def test_what_hsa_reads_is_seen_and_can_be_learned_from(adapter: CMTAdapter) -> None:
    adapter.train()
    labels = torch.zeros(1, FRAMES, SIDE, SIDE, dtype=torch.int64)
    for frame in range(FRAMES):
        labels[0, frame, frame % SIDE, 1] = 1
    visual = torch.randn(1, FRAMES, SIDE, SIDE, WIDTH) + 2.0 * labels[..., None]
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        with watched({0: adapter}) as seen:
            adapter.look(visual)
        loss = tracking_loss(adapter, seen[0][0], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    with watched({0: adapter}) as seen:
        pass
    adapter.look(visual)
    assert not seen
