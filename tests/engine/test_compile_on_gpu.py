"""What is compiled for a GPU, without a GPU: graphs that can be recorded, see `test_infer_on_gpu`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from engine.infer import open_session
from models.sam2.hiera import WindowAttention
from models.stream import compile_network
from tests.engine.test_infer_on_gpu import CLIPS, SENTENCES, WINDOW, clip, gpu, on_gpu  # noqa: F401


@pytest.mark.slow
def test_graphs_take_nothing_from_the_host_and_change_nothing(gpu: Any) -> None:  # noqa: F811
    """Else PyTorch would not record them, and say so only on a GPU."""
    model, graphs = on_gpu(gpu), []

    def backend(graph: fx.GraphModule, given: list[Any]) -> Callable[..., Any]:
        graphs.append(graph)
        assert all(isinstance(value, Tensor) and value.is_cuda for value in given)
        written = [node for node in graph.graph.nodes if node.op == "call_method" and node.target.endswith("_")]
        assert not [node for node in written if node.args[0].op == "placeholder"]
        return graph.forward

    with gpu:
        compile_network(model, "bf16", backend=backend, fullgraph=True)
        session = open_session(model, SENTENCES, window=WINDOW, precision="bf16")
        for number in range(CLIPS):
            for result in session.feed(clip(number)):
                assert result.logits.is_cuda
                assert result.logits.dtype == torch.float32
    assert len(graphs) == 3  # the encoder, and the step with filling and with full memory


def test_one_graph_attends_in_the_windows_of_any_number_of_sentences(gpu: Any) -> None:  # noqa: F811
    """At full size, where they are more than a kernel takes: 3 to 16 sentences and 8 frames."""
    graphs = []

    def backend(graph: fx.GraphModule, given: list[Any]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    with gpu, torch.device("cuda"):
        attention = WindowAttention(16, 32, heads=4, window=4, pool=True).requires_grad_(False)
    with gpu, torch.autocast("cuda", torch.bfloat16):
        compiled = torch.compile(attention, backend=backend, fullgraph=True)
        for sentences in (3, 4, 7, 16):
            out = compiled(torch.empty(sentences * 8, 128, 128, 16, device="cuda"))
            assert out.shape == (sentences * 8, 64, 64, 32)
    assert len(graphs) == 2  # the first is of its number alone
