"""Attention that drops weights on a CPU: its values and gradients, what it drops, and what it keeps in memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.sam2 import dropping
from models.sam2.layers import attend

Inputs = tuple[Tensor, Tensor, Tensor]
NOTHING = 1e-12  # a probability that is rounded to none


def inputs(rows: int = 10, columns: int = 7, channels: int = 8) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, n, channels) for n in (rows, columns, columns))
    query, key, value = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    return query, key, value


def uniform(windows: int, rows: int, columns: int, dropout: float) -> Tensor:
    """(windows, rows, columns): all weights, equal before they are dropped, each times the number of columns."""
    zeros, ones = torch.zeros(1, windows, rows, columns), torch.eye(columns).expand(1, windows, columns, columns)
    return attend(zeros, zeros[:, :, :1].expand(1, windows, columns, columns), ones * columns, dropout=dropout)[0]


@pytest.fixture(params=[1, 100, 1 << 20])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Some rows at a time, one window (of 70 weights), and all of them."""
    monkeypatch.setattr(dropping, "WEIGHTS_AT_ONCE", request.param)
    monkeypatch.setattr(dropping, "FEWEST_ROWS", 2)
    return int(request.param)


def test_without_dropping_it_is_attention(at_once: int) -> None:
    given = inputs()
    whole, parts = F.scaled_dot_product_attention(*given), attend(*given, dropout=NOTHING)
    torch.testing.assert_close(parts, whole)
    expected, found = (torch.autograd.grad(out.square().sum(), given) for out in (whole, parts))
    torch.testing.assert_close(found, expected)


def test_gradients_are_those_of_the_values(at_once: int) -> None:
    def seeded(*given: Tensor) -> Tensor:
        torch.manual_seed(4)
        return attend(*given, dropout=0.4)

    assert torch.autograd.gradcheck(seeded, inputs(rows=3, columns=4, channels=2))


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_what_is_dropped(dropout: float, at_once: int) -> None:
    torch.manual_seed(0)
    weights = uniform(30, 20, 16, dropout)
    dropped = weights == 0
    torch.testing.assert_close(weights[~dropped], torch.full_like(weights[~dropped], 1 / (1 - dropout)))
    for share, count in ((dropped.float().mean(), 9600), *((row.float().mean(), 480) for row in dropped.unbind(2))):
        assert abs(share - dropout) < 4.5 * math.sqrt(dropout * (1 - dropout) / count)
    assert len({tuple(window.flatten().tolist()) for window in dropped}) == 30


def test_the_random_state_decides_and_moves_on() -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append((uniform(2, 3, 50, 0.3), uniform(2, 3, 50, 0.3)))
    (first, then), again, (other, _) = results
    assert torch.equal(first, again[0])
    assert torch.equal(then, again[1])
    assert not torch.equal(first, then)
    assert not torch.equal(first, other)


def test_weights_are_not_kept_for_the_backward_pass() -> None:
    given, kept = inputs(rows=100, columns=100), []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    unpack: Callable[[Tensor], Tensor] = lambda tensor: tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(note, unpack):
        attend(*given, dropout=0.1)
    assert sum(kept) == 4 * given[0].numel()  # query, key, value and the result


def test_half_precision() -> None:
    given = tuple(x.detach().bfloat16().requires_grad_() for x in inputs())
    whole = F.scaled_dot_product_attention(*(x.float() for x in given))
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*given, dropout=NOTHING)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), whole, atol=0.02, rtol=0.02)
    gradients = torch.autograd.grad(found.float().square().sum(), given)
    expected = torch.autograd.grad(whole.square().sum(), given)
    for own, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(own, other, atol=0.05, rtol=0.05)
