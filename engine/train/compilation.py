"""`--compile` in training: the heaviest parts are compiled, each by itself, and evaluation runs without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.train.recompute import heavy_parts
from models.samwise import SAMWISE
from models.stream import allow_graphs

# Of one kind of part: blocks and adapters have several sizes, and a batch of another size has one more of each of them.
_MOST_GRAPHS = 64


def compile_parts(model: SAMWISE, **options: Any) -> None:
    """Compile `heavy_parts` when they first run.

    The limit of graphs that the compiler keeps of a function is raised for the whole process: a part beyond it would
    never be compiled.

    Args:
        model: the network; what it computes stays the same up to rounding.
        options: of `torch.compile`.
    """
    allow_graphs(_MOST_GRAPHS)
    for part in heavy_parts(model):
        part.compile(**options)


@contextmanager
def uncompiled(model: SAMWISE) -> Iterator[None]:
    """Run as it is written what `compile_parts` has compiled.

    No graph of a training serves an evaluation, which has no gradients and other batches; there, almost every part
    would be compiled once more.
    """
    compiled = {part: part._compiled_call_impl for part in heavy_parts(model)}
    for part in compiled:
        part._compiled_call_impl = None
    try:
        yield
    finally:
        for part, call in compiled.items():
            part._compiled_call_impl = call
