"""Frozen dataclasses for all that configuration can say, and what their values must be like.

Numbers and names only: nothing here builds anything.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from util.errors import InputError

T = TypeVar("T")

ADAPTER_HEADS = 8
DECODER_HEADS = 8
PRETRAINED = Path(__file__).resolve().parents[1] / "pretrained"  # model folders that are part of the repository
SHIPPED_VERSIONS = ("nano",)

SWITCH_MODES = ("all_mask", "reweight", "avg")
PROTOCOLS = ("paper", "fixed")
PRECISIONS = ("fp32", "tf32", "bf16")
FRAME_RATES = (0.001, 1000)  # the lowest and the highest that may be asked for, frames per second


@dataclass(frozen=True)
class HieraConfig:
    """The image encoder (SAM 2 paper, section 3; Hiera, arXiv 2306.00989).

    Attributes:
        embed_dim: channels of stage 0; they double at every stage.
        num_heads: attention heads of stage 0; they double at every stage.
        stages: blocks per stage.
        global_blocks: indices, over all blocks, of those that attend over the whole image.
        windows: side of the attention window in each stage, in tokens.
        background_grid: side of the learned background position grid.
    """

    embed_dim: int
    num_heads: int
    stages: tuple[int, ...]
    global_blocks: tuple[int, ...]
    windows: tuple[int, ...]
    background_grid: int


@dataclass(frozen=True)
class Sam2Config:
    """One SAM 2 or SAM 2.1 network.

    Attributes:
        name: value of `--sam2_version`.
        checkpoint: name of the official weight file in `pretrain`, or of that in `shipped_folder`.
        image_size: side of the square network input in pixels.
        hiera: the image encoder.
        model_dim: width of features, prompts, decoder and memory attention.
        memory_dim: channels of one stored memory.
        memory_attention_layers: layers of the memory attention.
        memory_attention_hidden: feed-forward width of the memory attention.
        decoder_hidden: feed-forward width of the two-way transformer.
        max_memories: frames of the past whose encoded memories are read.
        max_pointers: frames of the past whose object pointers are read.
        no_object_memory: SAM 2.1: a learned vector is added to memories of frames without the object.
        pointer_time: SAM 2.1: object pointers carry a projected encoding of their age.
    """

    name: str
    checkpoint: str
    image_size: int
    hiera: HieraConfig
    model_dim: int
    memory_dim: int
    memory_attention_layers: int
    memory_attention_hidden: int
    decoder_hidden: int
    max_memories: int
    max_pointers: int
    no_object_memory: bool
    pointer_time: bool


@dataclass(frozen=True)
class TextConfig:
    """The RoBERTa text encoder.

    Attributes:
        vocab_size: rows of the token embedding.
        hidden_size: width.
        layers: number of transformer layers.
        heads: attention heads per layer.
        intermediate_size: feed-forward width.
        max_positions: rows of the position embedding (two more than the longest sentence in tokens).
    """

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    max_positions: int


@dataclass(frozen=True)
class ModelConfig:
    """The whole network: a SAM 2, a text encoder, and what SAMWISE puts between them.

    Attributes:
        sam2: the frozen SAM 2.
        text: the frozen text encoder.
        adapter_dim: width inside the cross-modal temporal adapters.
        fusion_stages: Hiera stages that end with an adapter.
        fusion_stages_txt: number of text layers that have run when the adapter of the same position reads the text.
        hsa: hierarchical selective attention inside the adapters (`--HSA`).
        hsa_patch_size: side of the HSA patches of each adapter, in tokens.
        use_cme_head: the conditional memory encoder.
        switch_mem: what a positive CME decision writes to memory: one of `SWITCH_MODES`.
        cme_decision_window: N: CME looks at frame t > N if the last switch was at least N - 1 frames before.
        pred_obj_score: object scores (off with `--disable_pred_obj_score`).
        motion_prompt: verbs of the sentence become further prompt tokens.
    """

    sam2: Sam2Config
    text: TextConfig
    adapter_dim: int
    fusion_stages: tuple[int, ...]
    fusion_stages_txt: tuple[int, ...]
    hsa: bool
    hsa_patch_size: tuple[int, ...]
    use_cme_head: bool
    switch_mem: str
    cme_decision_window: int
    pred_obj_score: bool
    motion_prompt: bool


def shipped_folder(sam2_version: str) -> Path | None:
    """The model folder with the weights of a version that is part of the repository; None for the official SAM 2s."""
    return PRETRAINED / sam2_version if sam2_version in SHIPPED_VERSIONS else None


def from_dict(cls: type[T], data: Any, where: str = "") -> T:
    """Build the (nested) dataclass `cls` from plain containers.

    Raises:
        InputError: a missing or unknown key, or a value of the wrong type, named with its full path.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"configuration {where.removesuffix('.') or cls.__name__}: expected names with values")
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if fields != set(data):
        missing, unknown = sorted(fields - set(data)), sorted(map(str, set(data) - fields))
        raise InputError(f"configuration {where or cls.__name__}: missing {missing}, unknown {unknown}")
    hints = typing.get_type_hints(cls)
    return cls(**{name: _convert(hints[name], data[name], f"{where}{name}") for name in fields})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, f"{where}.")  # type: ignore[arg-type]
    if typing.get_origin(hint) is tuple:
        value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        kind = typing.get_args(hint)[0]
        if all(type(item) is kind for item in value):
            return value
    elif isinstance(hint, types.UnionType):
        if isinstance(value, hint):
            return value
    elif type(value) is hint:
        return value
    raise InputError(f"configuration {where}: expected {hint}, found {value!r}")


def map_side(image_size: int, stage: int) -> int:
    """Tokens along a side of the map that a Hiera stage gives."""
    return image_size // (4 << stage)


def check_model_config(config: ModelConfig) -> None:
    """Refuse combinations that no network can have, naming the flag to change.

    Raises:
        InputError: see the message.
    """
    _check_sizes(config)
    stages = len(config.sam2.hiera.stages)
    fusion, text = config.fusion_stages, config.fusion_stages_txt
    if len(fusion) != len(text) or len(fusion) != len(config.hsa_patch_size):
        raise InputError(
            "--fusion_stages, --fusion_stages_txt and --HSA_patch_size need one value per adapter each, "
            f"found {fusion}, {text} and {config.hsa_patch_size}"
        )
    if not fusion or list(fusion) != sorted(set(fusion)) or not all(1 <= stage < stages for stage in fusion):
        raise InputError(f"--fusion_stages must rise from at least 1 to at most {stages - 1}, found {fusion}")
    if list(text) != sorted(set(text)) or not all(1 <= layer <= config.text.layers for layer in text):
        raise InputError(f"--fusion_stages_txt must rise from at least 1 to at most {config.text.layers}, found {text}")
    for stage, patch in zip(fusion, config.hsa_patch_size, strict=True):
        side = map_side(config.sam2.image_size, stage)
        if config.hsa and (patch < 1 or side % patch):
            raise InputError(f"--HSA_patch_size {patch} does not divide the {side}x{side} map of stage {stage}")
    if config.adapter_dim < ADAPTER_HEADS or config.adapter_dim % ADAPTER_HEADS:
        raise InputError(f"--adapter_dim must be a multiple of {ADAPTER_HEADS}, found {config.adapter_dim}")
    if config.switch_mem not in SWITCH_MODES:
        raise InputError(f"--switch_mem {config.switch_mem!r} is unknown: expected one of {', '.join(SWITCH_MODES)}")
    if config.cme_decision_window < 1:
        raise InputError(f"--cme_decision_window must be at least 1, found {config.cme_decision_window}")


def _check_sizes(config: ModelConfig) -> None:
    """Refuse numbers that no flag sets and that fit no network."""
    sam2, hiera, text = config.sam2, config.sam2.hiera, config.text
    for part in (sam2, hiera, text):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if isinstance(value, int) and not isinstance(value, bool) and value < 1:
                raise InputError(f"configuration {field.name} must be at least 1, found {value}")
    if len(hiera.stages) != 4 or len(hiera.windows) != 4 or min(hiera.stages + hiera.windows) < 1:
        raise InputError(f"hiera needs 4 stages and 4 windows, found {hiera.stages} and {hiera.windows}")
    for name, value, divisor in (
        ("image_size", sam2.image_size, 32),
        ("model_dim", sam2.model_dim, 2 * DECODER_HEADS),
        ("model_dim (by memory_dim)", sam2.model_dim, sam2.memory_dim),
        ("memory_dim", sam2.memory_dim, 4),
        ("embed_dim (by num_heads)", hiera.embed_dim, hiera.num_heads),
        ("hidden_size (by heads)", text.hidden_size, text.heads),
    ):
        if value % divisor:
            raise InputError(f"{name} must be a multiple of {divisor}, found {value}")
