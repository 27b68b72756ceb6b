"""BatchNorm over the batches of all processes, also on CPUs, where torch's `SyncBatchNorm` does not run."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """The sum over processes. Each gradient is the sum of theirs: all of them read the result."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = value.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class AnywhereSyncBatchNorm(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` whose statistics, and their gradients, are those of all processes; parameters as there.

    Args:
        source: the layer whose parameters and buffers it takes over.
        group: process group.
    """

    def __init__(self, source: nn.BatchNorm2d, group: Any) -> None:
        super().__init__(source.num_features, source.eps, source.momentum)
        self.group = group
        self.weight, self.bias = source.weight, source.bias
        self._buffers.update(source._buffers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); statistics at least in float32."""
        if not self.training:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        count = values.new_tensor(float(values.numel() // values.shape[1]))
        sums = _Sum.apply(torch.cat([values.sum((0, 2, 3)), count[None]]), self.group)
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = values - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3)), self.group) / total
        self._remember(mean.detach(), variance.detach(), total)
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


def synchronise_norms(model: nn.Module, group: Any) -> None:
    """Replace every BatchNorm in `model`; call it before the model is wrapped for several processes.

    Args:
        model: on its device.
        group: process group over which statistics are taken; on GPUs torch's own layer is used.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, _BatchNorm):
                continue
            assert isinstance(child, nn.BatchNorm2d)
            if child.weight.is_cuda:
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child, group))
            else:
                setattr(parent, name, AnywhereSyncBatchNorm(child, group))
