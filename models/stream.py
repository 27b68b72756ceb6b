"""Segmenting the frames of one video one after the other, in either of two ways that give the same masks.

A CPU that runs the code as it is written reads the memories that there are and decodes a second time where CME looks:
whatever is left out saves time. A GPU would have to wait for such decisions, and compiled code to be compiled for each
number of memories: there every frame is a `StaticStep`. What is remembered is written in the same form by both, so that
either goes on where the other stopped.

Axes: E expressions, as in `models.session`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch

from models.half_weights import with_half_weights
from models.samwise import SAMWISE, ClipFeatures, FrameFeatures
from models.static_step import FrameMasks, StaticStep, StreamState
from util.errors import InputError

MOST_GRAPHS = 16  # of the encoder, and of the step: for numbers of sentences and of verbs, with filling and full memory
# The step of each network that was compiled, and the precision of its weights.
_COMPILED: WeakKeyDictionary[SAMWISE, tuple[StaticStep, str]] = WeakKeyDictionary()


class Stream(Protocol):
    """A video that is being segmented, and what is remembered of it."""

    def step(self, frame: FrameFeatures) -> FrameMasks:
        """Segment the next frame and remember it."""

    def reset(self) -> None:
        """Forget everything."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""

    def state_dict(self) -> dict[str, Any]:
        """What `Session.state_dict` returns; frames that follow do not change it."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, of either kind of stream and on any device."""


class GrowingStream:
    """Reads the memories that there are, and decides on the host where CME looks.

    Args:
        model: the network.
    """

    def __init__(self, model: SAMWISE) -> None:
        self._model = model
        self._session = model.new_session()

    def step(self, frame: FrameFeatures) -> FrameMasks:
        """See `Stream`."""
        decoded = self._model.step(frame, self._session).decoded
        return FrameMasks(decoded.logits, decoded.score, decoded.iou)

    def reset(self) -> None:
        """See `Stream`."""
        self._session.reset()

    @property
    def nbytes(self) -> int:
        """See `Stream`."""
        return self._session.nbytes

    def state_dict(self) -> dict[str, Any]:
        """See `Stream`."""
        return self._session.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Stream`."""
        self._session.load_state_dict(state, self._model.device)


class StaticStream:
    """Has room for everything from the first frame on, and never waits for the device.

    Args:
        static_step: of the network; all its streams may share it.
        expressions: E.
    """

    _frame_index: int  # known here as well as on the device
    _state: StreamState

    def __init__(self, static_step: StaticStep, expressions: int) -> None:
        self._static_step = static_step
        self._expressions = expressions
        self.reset()

    def step(self, frame: FrameFeatures) -> FrameMasks:
        """See `Stream`."""
        full = self._frame_index >= self._static_step.frames_until_full
        masks, self._state = self._static_step(frame.packed(), self._state, full)
        self._frame_index += 1
        return masks

    @torch.inference_mode()  # as the states that follow: code is compiled once more for any other kind of tensor
    def reset(self) -> None:
        """See `Stream`."""
        self._frame_index = 0
        self._state = self._static_step.empty(self._expressions)

    @property
    def nbytes(self) -> int:
        """See `Stream`."""
        return sum(value.numel() * value.element_size() for value in self._state)

    def state_dict(self) -> dict[str, Any]:
        """See `Stream`."""
        memories, pointers = self._state.memories.unbind(1), self._state.pointers.unbind(1)
        return {
            "frame_index": self._frame_index,
            "memories": [memory.clone() for memory in memories[max(len(memories) - self._frame_index, 0) :]],
            "pointers": [pointer.clone() for pointer in pointers[: self._frame_index]],
            "last_switch": self._state.last_switch,
        }

    @torch.inference_mode()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Stream`."""
        self.reset()
        self._frame_index = state["frame_index"]
        self._state.frame_index.fill_(self._frame_index)
        for age, memory in enumerate(reversed(state["memories"]), start=1):
            self._state.memories[:, -age] = memory
        for age, pointer in enumerate(state["pointers"]):
            self._state.pointers[:, age] = pointer
        if state["last_switch"] is not None:
            self._state.last_switch.copy_(state["last_switch"])


class CompiledStep(StaticStep):
    """A step to be compiled, whose results stay as they are when it runs again.

    Recorded as a CUDA graph, code writes what it returns into the same memory each time.
    """

    def __call__(self, frame: FrameFeatures, state: StreamState, full: bool = False) -> tuple[FrameMasks, StreamState]:
        """See `StaticStep.forward`."""
        masks, after = super().__call__(frame, state, full)
        return FrameMasks(*(x.clone() for x in masks)), StreamState(*(x.clone() for x in after))


def _cloning(encode: Callable[..., ClipFeatures]) -> Callable[..., ClipFeatures]:
    """The same, whose results stay as they are when it runs again, see `CompiledStep`."""

    @functools.wraps(encode)
    def cloned(*args: Any, **keywords: Any) -> ClipFeatures:
        return encode(*args, **keywords).clone()

    return cloned


def open_stream(model: SAMWISE, expressions: int) -> Stream:
    """Begin a video: with static shapes on a GPU and for a compiled network.

    Args:
        model: the network, on its device.
        expressions: E.
    """
    if model in _COMPILED:
        return StaticStream(_COMPILED[model][0], expressions)
    return StaticStream(StaticStep(model), expressions) if model.device.type == "cuda" else GrowingStream(model)


def is_compiled(model: SAMWISE) -> bool:
    """Whether `compile_network` was given the network."""
    return model in _COMPILED


def network_for(model: SAMWISE, precision: str) -> SAMWISE:
    """What runs a network under `engine.runtime.autocast`: itself, or with `bf16` its twin with rounded weights.

    Args:
        model: the network, on its device.
        precision: `fp32`, `tf32` or `bf16`.

    Raises:
        InputError: it was compiled for bf16, and this is another precision.
    """
    if model not in _COMPILED:
        return with_half_weights(model) if precision == "bf16" else model
    compiled_for = _COMPILED[model][1]
    if compiled_for == "bf16" != precision:
        raise InputError(f"the network was compiled for the precision bf16, found {precision}: load it again")
    return model


def allow_graphs(most: int) -> None:
    """Let the compiler keep that many graphs of a function, in the whole process; by default it keeps 8."""
    from torch._dynamo import config  # takes a second, and only compilation needs it

    config.cache_size_limit = max(config.cache_size_limit, most)


def compile_network(model: SAMWISE, precision: str = "fp32", **options: Any) -> None:
    """Compile what inference runs, the encoder and the step, when they are first needed.

    Clips of one length with the same number of sentences and tokens share a graph of the encoder; the first clip of
    another length or number has one more compiled, which serves further ones as well. The step depends on the number of
    sentences (and of verbs, with motion prompts), and on whether the memory is full. The limit of graphs that the
    compiler keeps of a function is raised to `MOST_GRAPHS` for the whole process.

    Args:
        model: the network, on its device; what it computes stays the same up to rounding.
        precision: of its sessions. Compiled for bf16 it is of no use for another one, and its weights must not change.
        options: of `torch.compile`; `mode="reduce-overhead"` records CUDA graphs.
    """
    if is_compiled(model):
        return
    allow_graphs(MOST_GRAPHS)
    network = network_for(model, precision)
    step = CompiledStep(network)
    step.compile(**options)
    model.encode = _cloning(torch.compile(network.encode, **options))  # type: ignore[method-assign]
    _COMPILED[model] = (step, precision)
