"""The encoder and the step of a network as programs of `torch.export`, and a description of what they take and give.

Axes: E sentences, L tokens, T frames of a clip, N tokens of the stride-16 map, P prompts, C width, D memory channels, S
side of the network input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from models.samwise import SAMWISE, FrameFeatures
from models.static_step import StaticStep, StreamState, without_parts
from models.tokenizer import TokenBatch
from util.errors import InputError

FEWEST_TOKENS = 3  # start, a word, end


@dataclass(frozen=True)
class Value:
    """An input or output of a program.

    Attributes:
        name: of the value.
        axes: names of the axes that may have any length, by their place.
        meaning: one sentence.
        state: whether it is remembered between frames: the output becomes the next frame's input.
    """

    name: str
    axes: dict[int, str]
    meaning: str
    state: bool = False

    def describe(self, tensor: Tensor) -> dict[str, Any]:
        """Plain values, with the sizes and the type of an example."""
        shape = [self.axes.get(place, size) for place, size in enumerate(tensor.shape)]
        dtype = str(tensor.dtype).removeprefix("torch.")
        return {"name": self.name, "shape": shape, "dtype": dtype, "meaning": self.meaning, "state": self.state}


_EACH = {0: "expressions"}
_CLIP = {0: "expressions", 1: "frames"}
_STATE = (
    Value("memories", _EACH, "memories of the last frames, the newest last", True),
    Value("pointers", _EACH, "object pointers of the last frames, the newest first", True),
    Value("last_switch", _EACH, "frame of the last switch of what is remembered, 0 before the first", True),
    Value("frame_index", {}, "number of frames before this one; all of the state is zero before the first", True),
)
ENCODER_INPUTS = (
    Value("frames", {0: "frames"}, "a clip: RGB / 255, minus mean, over std, then zeros at the right and the bottom"),
    Value("token_ids", {0: "expressions", 1: "tokens"}, "the sentences, padded with padding_id"),
    Value("words", {0: "expressions", 1: "tokens"}, "False for padding"),
)
ENCODER_OUTPUTS = (
    Value("features", _CLIP, "feature map of stride 16; frame t is [:, t], as for the next two"),
    Value("fine", {1: "frames"}, "features of stride 4, the same for all sentences"),
    Value("middle", _CLIP, "features of stride 8; one for all sentences where no text has entered them"),
    Value("prompts", _EACH, "prompt tokens of the sentences, for every frame of the clip"),
)
STEP_INPUTS = (
    Value("features", _EACH, "of the frame"),
    Value("fine", {}, "of the frame"),
    Value("middle", _EACH, "of the frame"),
    Value("prompts", _EACH, "of the clip"),
    *_STATE,
)
STEP_OUTPUTS = (
    Value("logits", _EACH, "mask logits; enlarge them to the side of the input, and crop the padding"),
    Value("scores", _EACH, "object-score logits, above 0 where the object is visible; infinite without scores"),
    Value("ious", _EACH, "predicted IoU of the mask, 0 to 1"),
    *_STATE,
)


class ClipEncoder(nn.Module):
    """Image and text encoder: one clip with its sentences."""

    def __init__(self, model: SAMWISE) -> None:
        super().__init__()
        self.model = cast(SAMWISE, without_parts(model, {"conditional_memory_encoder"}))
        self.model.sam = cast(
            Any, without_parts(model.sam, {"memory_attention", "memory_encoder", "obj_ptr_proj", "obj_ptr_tpos_proj"})
        )

    def forward(self, frames: Tensor, token_ids: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """frames (T, 3, S, S), token ids and words (E, L) -> the maps (E, T, ...) and prompts (E, P, C)."""
        features = self.model.encode(frames[None], TokenBatch(token_ids, words))
        return features.map, *features.fine, features.prompts[0]


class FrameStep(nn.Module):
    """`StaticStep` whose state is single tensors, which any program can hold."""

    def __init__(self, model: SAMWISE) -> None:
        super().__init__()
        self.step = StaticStep(model)

    def forward(
        self, features: Tensor, fine: Tensor, middle: Tensor, prompts: Tensor,
        memories: Tensor, pointers: Tensor, last_switch: Tensor, frame_index: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """See `STEP_INPUTS` and `STEP_OUTPUTS`."""
        state = StreamState(memories, pointers, last_switch, frame_index)
        result, after = self.step(FrameFeatures(features, (fine, middle), (prompts, None)), state)
        return (*result, *after)


@dataclass(frozen=True)
class Limits:
    """Longest axes that the programs take.

    Attributes:
        expressions, frames, tokens: at most so many.
    """

    expressions: int
    frames: int
    tokens: int

    def dimensions(self) -> dict[str, Any]:
        """Axes by name; one whose length is 1 at most is fixed, and ranges that are all but fixed are wider."""
        least = {"expressions": 1, "frames": 1, "tokens": FEWEST_TOKENS}
        most = {"expressions": self.expressions, "frames": self.frames, "tokens": self.tokens}
        return {name: Dim(name, min=least[name], max=max(most[name], 4)) for name in most if most[name] > 1}


def export_programs(
    model: SAMWISE, limits: Limits
) -> tuple[ExportedProgram, ExportedProgram, dict[str, list[dict[str, Any]]]]:
    """Trace the encoder and the step.

    Args:
        model: in evaluation mode.
        limits: longest axes.

    Returns:
        The encoder, the step, and a description of their inputs and outputs.

    Raises:
        InputError: a network with motion prompts.
    """
    if model.config.motion_prompt:
        raise InputError("a network with motion prompts cannot be exported: their number depends on the sentence")
    side, device = model.config.sam2.image_size, model.device
    expressions = min(limits.expressions, 3)
    clip = torch.zeros(limits.frames, 3, side, side, device=device)
    ids = torch.full((expressions, 2 * FEWEST_TOKENS), FEWEST_TOKENS, device=device)
    encoder, step = ClipEncoder(model).eval(), FrameStep(model).eval()
    inputs = (clip, ids, torch.ones_like(ids, dtype=torch.bool))
    with torch.no_grad():  # once as it is, for examples of what the step takes
        encoded = encoder(*inputs)
        first = (*(x[:, 0].contiguous() for x in encoded[:3]), encoded[3], *step.step.empty(expressions))
        result = step(*first)
    middle = {} if encoded[2].shape[0] == 1 < expressions else _EACH
    takes, gives = _with_middle(STEP_INPUTS, middle), _with_middle(ENCODER_OUTPUTS, {**middle, 1: "frames"})
    with _without_gradients(model):
        programs = _export(encoder, inputs, ENCODER_INPUTS, limits), _export(step, first, takes, limits)
    description = {
        "encoder inputs": [own.describe(x) for own, x in zip(ENCODER_INPUTS, inputs, strict=True)],
        "encoder outputs": [own.describe(x) for own, x in zip(gives, encoded, strict=True)],
        "step inputs": [own.describe(x) for own, x in zip(takes, first, strict=True)],
        "step outputs": [own.describe(x) for own, x in zip(STEP_OUTPUTS, result, strict=True)],
    }
    return *programs, description


def _with_middle(values: Sequence[Value], axes: dict[int, str]) -> list[Value]:
    """The same with the axes of `middle` as they are in this network."""
    return [Value(own.name, axes, own.meaning) if own.name == "middle" else own for own in values]


def _export(module: nn.Module, inputs: tuple[Tensor, ...], values: Sequence[Value], limits: Limits) -> ExportedProgram:
    known = limits.dimensions()
    shapes = {
        own.name: {place: known[name] for place, name in own.axes.items() if name in known} or None for own in values
    }
    return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)


@contextlib.contextmanager
def _without_gradients(model: SAMWISE) -> Iterator[None]:
    """Parameters ask for no gradient, but gradients are on: frames are not taken apart then, as a CPU would."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
