"""A compiled training: which graphs there are, and that an evaluation within it adds none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._dynamo import config
from torch._dynamo.utils import counters

from engine.infer import stream
from engine.train.compilation import compile_parts, uncompiled
from engine.train.network import TrainingNetwork
from engine.train.recompute import heavy_parts
from models.samwise import SAMWISE
from tests.conftest import SMALLEST, build_micro

SENTENCES = ["the disc", "the third one from the left"]


def without_dropout() -> SAMWISE:
    model = build_micro(**SMALLEST).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def learn(model: SAMWISE, count: int) -> float:
    """The loss of a step with that many clips."""
    assert model.tokenizer is not None
    side = model.config.sam2.image_size
    tokens = model.tokenizer(SENTENCES[:count])
    targets = torch.zeros(count, 2, 24, side)
    targets[..., 4:12, 8:20] = 1
    frames = torch.randn(count, 2, 3, side, side, generator=torch.Generator().manual_seed(0))
    losses = TrainingNetwork(model)(frames, tokens.ids, tokens.words, targets)
    total = sum(losses.values(), torch.zeros(()))
    total.backward()
    return total.item()


def segment(model: SAMWISE) -> torch.Tensor:
    """Logits of three frames, as an evaluation makes them."""
    model.eval()
    frames = torch.arange(3 * 24 * 32 * 3).remainder(251).byte().view(3, 24, 32, 3).numpy()
    logits = torch.stack([result.logits for result in stream(model, SENTENCES, frames)])
    model.train()
    return logits


@pytest.mark.slow
def test_an_evaluation_neither_runs_nor_adds_graphs_and_no_part_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "cache_size_limit", 2)  # too few for this network, as 8 may be for larger ones
    compiled: list[fx.GraphModule] = []
    runs: list[int] = []

    def backend(graph: fx.GraphModule, given: list[Any]) -> Callable[..., Any]:
        number = len(compiled)
        compiled.append(graph)
        return lambda *values: (runs.append(number), graph.forward(*values))[1]

    plain, model = without_dropout(), without_dropout()
    compile_parts(model, backend=backend)
    counters.clear()
    for count in (2, 1):  # the last batch of an epoch may be smaller
        before = len(compiled)
        torch.testing.assert_close(learn(model, count), learn(plain, count))
        assert len(compiled) > before
    graphs = len(compiled)
    runs.clear()
    with uncompiled(model):
        found = segment(model)
    assert not runs
    assert torch.equal(found, segment(plain))
    for count in (1, 2):
        learn(model, count)
    assert len(compiled) == graphs
    assert len(set(runs)) > 1
    assert not [reason for reason in counters["unimplemented"] if "limit" in reason]
    assert all(part._compiled_call_impl is not None for part in heavy_parts(model))
