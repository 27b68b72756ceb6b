"""Activation checkpointing: the parts whose activations are largest forget them and run again in the backward pass."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from torch import nn
from torch.utils.checkpoint import checkpoint

from models.samwise import SAMWISE


def heavy_parts(model: SAMWISE) -> Iterator[nn.Module]:
    """Modules behind the first adapter that keep much for the backward pass and have no BatchNorm.

    A BatchNorm would count a batch twice.
    """
    trunk = model.sam.image_encoder.trunk
    yield from trunk.blocks[trunk.stage_ends[model.config.fusion_stages[0]] :]
    yield from model.sam.memory_attention.layers
    yield model.sam.memory_encoder
    yield model.sam.sam_mask_decoder
    yield from model.text_encoder.encoder.layer
    for adapter in model.cmt_adapters:
        yield from (part for name, part in adapter.named_children() if name in ("hsa", "ca_V2T", "ca_T2V"))


def recompute_activations(model: SAMWISE) -> None:
    """Let `heavy_parts` recompute their activations. Random states are restored, so that dropout falls alike.

    What is compiled has to be so before: `checkpoint` stays out of what is compiled, and keeps out what it calls.
    """
    for part in heavy_parts(model):
        name = "forward" if part._compiled_call_impl is None else "_compiled_call_impl"
        setattr(part, name, functools.partial(checkpoint, getattr(part, name), use_reentrant=False))
