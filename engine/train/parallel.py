"""Several processes that train one network: gradients and statistics are those of the whole batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from engine.train.network import TrainingNetwork
from engine.train.sync_norm import synchronise_norms
from models.samwise import SAMWISE
from util.distributed import Processes

# What newer versions of torch call `broadcast_buffers`. The only buffers are BatchNorm's, and are alike already.
_NAMES = inspect.signature(DistributedDataParallel.__init__).parameters
_BUFFERS_STAY = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"


@dataclass(frozen=True)
class Parallel:
    """The network of this process among those of the run.

    Attributes:
        network: what to call, a `TrainingNetwork` or its wrapper.
        processes: those that train together.
    """

    network: nn.Module
    processes: Processes

    def total(self, values: list[float]) -> list[float]:
        """Sums over processes; every process gets them."""
        if self.processes.group is None:
            return values
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers, group=self.processes.group)
        return numbers.tolist()


def _mean_over(processes: Processes, group: Any) -> Callable[[Tensor], Tensor]:
    def mean(value: Tensor) -> Tensor:
        value = value.detach().clone()
        dist.all_reduce(value, group=group)
        return value / processes.size

    return mean


def parallelise(model: SAMWISE, processes: Processes) -> Parallel:
    """Prepare a network, on its device, for training by `processes`.

    BatchNorm is synchronised before the network is wrapped. Gradients travel through NCCL on GPUs, otherwise gloo.
    """
    if processes.group is None:
        alone = TrainingNetwork(model)
        return Parallel(alone, processes)
    on_gpu = model.device.type == "cuda"
    groups = [dist.new_group(backend="nccl" if on_gpu else "gloo") for _ in range(2)]
    synchronise_norms(model, groups[0])
    inner = TrainingNetwork(model, _mean_over(processes, groups[0]))
    buffers: dict[str, Any] = {_BUFFERS_STAY: False}
    network = DistributedDataParallel(
        inner,
        device_ids=[model.device.index] if on_gpu else None,
        process_group=groups[1],
        **buffers,
        find_unused_parameters=model.conditional_memory_encoder is not None,  # it is silent in short clips
    )
    return Parallel(network, processes)
