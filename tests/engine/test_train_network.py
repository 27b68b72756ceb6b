"""The step of training: what recomputing and several processes may not change."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from engine.train.network import TrainingNetwork
from engine.train.parallel import parallelise
from engine.train.recompute import recompute_activations
from engine.train.sync_norm import AnywhereSyncBatchNorm
from models.losses import IGNORED, memory_loss
from models.samwise import SAMWISE
from tests.conftest import build_micro
from tests.forked import partners
from util.distributed import joined_processes

SIDE, FRAMES = 64, 6  # CME looks at frame 5
CAPTIONS = ["the disc", "a longer sentence about the square", "the third one", "what moves to the left"]


def clips(count: int) -> tuple[Tensor, Tensor]:
    """Frames (count, T, 3, S, S) and targets (count, T, 48, S): a bright disc on noise."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(count, FRAMES, 3, SIDE, SIDE, generator=generator)
    y, x = torch.meshgrid(torch.arange(48), torch.arange(SIDE), indexing="ij")
    centres = 10 + 9 * torch.arange(count)[:, None] + 2 * torch.arange(FRAMES)
    targets = (x - centres[..., None, None]) ** 2 + (y - 24) ** 2 < 81
    frames[..., :48, :] += 2 * targets[:, :, None]
    return frames, targets.float()


def ready(dropout: float = 0.0, **values: Any) -> SAMWISE:
    """The micro network in training, with trainable parts as `build_model` chose them."""
    model = build_micro(**values).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return model


def step(model: SAMWISE, network: nn.Module, samples: slice) -> dict[str, float]:
    """Gradients of some of four clips; returns the losses."""
    dtype = model.sam.no_mem_embed.dtype
    frames, targets = (x.to(dtype) for x in clips(4))
    assert model.tokenizer is not None
    tokens = model.tokenizer(CAPTIONS)
    losses = network(frames[samples], tokens.ids[samples], tokens.words[samples], targets[samples])
    sum(losses.values(), torch.zeros(())).backward()
    return {name: loss.item() for name, loss in losses.items()}


def gradients(model: SAMWISE) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_only_what_samwise_adds_is_trained() -> None:
    model = ready()
    step(model, TrainingNetwork(model), slice(0, 2))
    trained = {name.split(".")[0] if "project_text" not in name else "project_text" for name in gradients(model)}
    assert trained == {"cmt_adapters", "conditional_memory_encoder", "project_text"}
    silent = {name for name, p in model.named_parameters() if p.requires_grad} - gradients(model).keys()
    assert silent == {f"conditional_memory_encoder.transformerBlock.norm2.{name}" for name in ("weight", "bias")}


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_recomputing_changes_no_gradient(dropout: float) -> None:
    results = []
    for recompute in (False, True):
        model = ready(dropout)
        if recompute:
            recompute_activations(model)
        torch.manual_seed(3)
        step(model, TrainingNetwork(model), slice(0, 2))
        results.append((gradients(model), model.state_dict()))
    (plain, state), (again, state_again) = results
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-6, atol=1e-6 * float(gradient.abs().max()), msg=name)
    for name, value in state.items():
        assert torch.equal(state_again[name], value), name


def test_what_is_compiled_stays_so_where_it_is_computed_again() -> None:
    results, compiled = [], []

    def backend(graph: fx.GraphModule, given: list[Any]) -> Callable[..., Any]:
        compiled.append(graph)
        return graph.forward

    for compiling in (False, True):
        model = ready()
        if compiling:
            model.sam.memory_encoder.compile(backend=backend)
            recompute_activations(model)
        step(model, TrainingNetwork(model), slice(0, 2))
        results.append(gradients(model))
    assert compiled
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, msg=name)


def _train_as_one_of_two(folder: Path, model: SAMWISE) -> None:
    with joined_processes() as processes:
        parallel = parallelise(model, processes)
        first = 2 * processes.rank
        losses = step(model, parallel.network, slice(first, first + 2))
        means = [value / 2 for value in parallel.total(list(losses.values()))]
        found = {"gradients": gradients(model), "state": model.state_dict(), "losses": means}
        torch.save(found, folder / f"{processes.rank}.pt")


def test_two_processes_are_one(tmp_path: Path) -> None:
    """Two processes with two clips each: losses, gradients and BatchNorm statistics of one process with four.

    In float64, where rounding does not hide a difference.
    """
    model = ready().double()
    losses = step(model, TrainingNetwork(model), slice(0, 4))
    assert losses["memory"] > 0
    assert [p.wait() for p in partners(partial(_train_as_one_of_two, tmp_path, ready().double()), 2)] == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["losses"] == pytest.approx(list(losses.values()), rel=1e-7)
        for name, value in gradients(model).items():
            scale = float(value.abs().max())
            torch.testing.assert_close(found["gradients"][name], value, rtol=1e-7, atol=1e-7 * scale, msg=name)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(found["state"][name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_synchronised_norm_keeps_names_and_evaluates_alike() -> None:
    norm = nn.BatchNorm2d(3)
    norm(torch.randn(2, 3, 4, 4))
    synchronised = AnywhereSyncBatchNorm(norm, group=None)
    assert synchronised.state_dict().keys() == norm.state_dict().keys()
    assert synchronised.weight is norm.weight
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(synchronised.eval()(x), norm.eval()(x))


@given(st.lists(st.sampled_from([IGNORED, 0, 1]), min_size=2, max_size=8), st.integers(0, 99), st.data())
def test_the_memory_loss_of_parts_is_that_of_the_whole(labels: list[int], seed: int, data: st.DataObject) -> None:
    """The mean over processes of their losses is the loss of all labels, however these are divided."""
    logits = torch.randn(len(labels), 2, generator=torch.Generator().manual_seed(seed))
    cut = data.draw(st.integers(1, len(labels) - 1))
    parts = [(logits[:cut], torch.tensor(labels[:cut])), (logits[cut:], torch.tensor(labels[cut:]))]
    weight = sum({IGNORED: 0.0, 0: 1.0, 1: 2.0}[label] for label in labels)
    losses = [memory_loss(*part, lambda _: torch.tensor(weight / 2)) for part in parts]
    whole = memory_loss(logits, torch.tensor(labels))
    torch.testing.assert_close(sum(losses) / 2, whole)
    if weight:
        known = torch.tensor(labels).masked_fill(torch.tensor(labels) == IGNORED, -100)
        torch.testing.assert_close(whole, nn.functional.cross_entropy(logits, known, torch.tensor([1.0, 2.0])))
    else:
        assert whole == 0


def test_bf16_changes_the_losses_little() -> None:
    model = ready()
    plain = step(model, TrainingNetwork(model), slice(0, 2))
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        rough = step(model, TrainingNetwork(model), slice(0, 2))
    assert sum(rough.values()) == pytest.approx(sum(plain.values()), rel=0.01)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.running_mean is not None and norm.running_mean.dtype == torch.float32 for norm in norms)
