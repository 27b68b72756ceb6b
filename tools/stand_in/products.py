"""Matrix products of linear layers in bfloat16, everything else in float32.

Autocast also moves attention, normalisation and element-wise work to bfloat16, for which CPUs have no instructions: a
step then takes longer than in float32. The products alone are faster where the CPU has them (avx512_bf16, amx_bf16).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.overrides import TorchFunctionMode

_LINEAR = F.linear
_LEAST = 1 << 20  # multiplications, below which the conversions cost more than the product saves


class _Product(torch.autograd.Function):
    """x (N, C), weight (C', C), bias (C') or None -> (N, C')."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x_half, weight_half = x.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(x_half, weight_half)
        return _LINEAR(x_half, weight_half, None if bias is None else bias.bfloat16()).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        half = gradient.bfloat16()
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            (half @ weight).float() if to_x else None,
            (half.t() @ x).float() if to_weight else None,
            gradient.sum(0) if to_bias else None,
        )


class HalfProducts(TorchFunctionMode):
    """While entered, `F.linear` of large float32 tensors multiplies in bfloat16, forwards and backwards."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        if func is F.linear:
            return _linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if x.dtype != torch.float32 or x.numel() * weight.shape[0] < _LEAST:
        return _LINEAR(x, weight, bias)
    product: Tensor = _Product.apply(x.flatten(0, -2), weight, bias)
    return product.unflatten(0, x.shape[:-1])
