"""What is compiled for a GPU, without a GPU: graphs that can be recorded, see `test_infer_on_gpu`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from engine.infer import open_session
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
