"""Where and how precisely a script computes."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import Any

import torch

from models.sam2.layers import has_bfloat16_products
from util.errors import InputError

logger = logging.getLogger(__name__)


def resolve_device(name: str, *, fall_back: bool = True) -> torch.device:
    """The device of a name.

    Args:
        name: cpu, cuda, cuda:N or mps.
        fall_back: where this computer has none of that kind, take the CPU with a notice.

    Raises:
        InputError: not such a name, a number that no GPU has, or without `fall_back` none of that kind.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {name!r}: expected cpu, cuda, cuda:N or mps")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[device.type] and not fall_back:
        raise InputError(f"device {name}: expected one of this computer, found none of that kind; try cpu")
    if not available[device.type]:
        logger.warning("device %s is not available here: using the CPU", name)
        return torch.device("cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name}: this computer has {torch.cuda.device_count()} GPUs, counted from 0")
    return device


def take_device(name: str) -> torch.device:
    """`resolve_device` for a script, whose current GPU it becomes: page-locked memory and random states ask for that.

    Raises:
        InputError: as `resolve_device`.
    """
    device = resolve_device(name)
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


@contextlib.contextmanager
def float32_arithmetic(precision: str) -> Iterator[None]:
    """Let CUDA multiply float32 matrices as TF32 (`--precision tf32`) or exactly (`fp32`, `bf16`), for a while."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Products in bfloat16 for a while with `--precision bf16`; says once where a CPU is not made for them."""
    if precision != "bf16":
        return contextlib.nullcontext()
    if device.type == "cpu" and not has_bfloat16_products():
        _warn_of_slow_products()
    return torch.autocast(device.type, torch.bfloat16)


@functools.cache
def _warn_of_slow_products() -> None:
    logger.warning("--precision bf16: this CPU has neither avx512_bf16 nor AMX; fp32 is faster here")
