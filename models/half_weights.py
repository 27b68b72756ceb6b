"""A network whose products have their weights in bfloat16, beside the one in float32.

Autocast rounds the weights of a product whenever it runs, and keeps the outcome only of those that are trained: a GPU
would start a kernel for each of a thousand weights and biases again with every frame. Rounded once they are the same.
"""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from models.cmt_adapter import PackedAttention
from models.samwise import SAMWISE

_PRODUCTS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, PackedAttention)
_FOLDED = ("neck", "conv_s0", "conv_s1", "proj_vis_down", "proj_vis_up")  # meet other weights in float32 first
_ROUNDED: WeakKeyDictionary[SAMWISE, tuple[Any, SAMWISE]] = WeakKeyDictionary()


def with_half_weights(model: SAMWISE) -> SAMWISE:
    """The network for work under autocast to bfloat16: the same numbers, fewer kernels.

    Everything but the rounded weights is shared. The result is kept until the network changes or goes.

    Args:
        model: in float32, on its device.
    """
    state = [model.training, *((id(x), x.device, 0 if x.is_inference() else x._version) for x in model.parameters())]
    known, rounded = _ROUNDED.get(model, (None, model))
    if state != known:
        rounded = _round(model)
        _ROUNDED[model] = (state, rounded)
    return rounded


def forget_half_weights(model: SAMWISE) -> None:
    """Free what `with_half_weights` keeps of a network."""
    _ROUNDED.pop(model, None)


def _round(module: Any) -> Any:
    twin = copy.copy(module)
    children = module._modules.items()
    twin._modules = {name: child if child is None or name in _FOLDED else _round(child) for name, child in children}
    if isinstance(module, _PRODUCTS):
        twin._parameters = {
            name: None if x is None else nn.Parameter(x.detach().to(torch.bfloat16), requires_grad=False)
            for name, x in module._parameters.items()
        }
    return twin
