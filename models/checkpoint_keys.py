"""The names of tensors in weight files: the parts of the network they belong to, and their mapping to this network.

The network keeps the published keys, with one exception: the text encoder carries the names of transformers'
`RobertaModel`, the published files those of fairseq. `from_fairseq` and `to_fairseq` are that mapping.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

TEXT = "text_encoder."
FAIRSEQ_ENCODER = "text_encoder.model.encoder.sentence_encoder."
FAIRSEQ_HEAD = "text_encoder.model.encoder.lm_head."
PATCH_EMBED = "sam.image_encoder.trunk.patch_embed.proj.weight"

# Tensors of published files that nothing in the network reads.
IGNORED = re.compile(
    r"text_encoder\._float_tensor"
    r"|text_encoder\.model\.encoder\.(sentence_encoder\.version|lm_head\..+|classification_heads\..+)"
    r"|sam\.(mask_downsample\..+|no_mem_pos_enc)"
    r"|sam\.sam_prompt_encoder\.(point_embeddings|mask_downscaling)\..+"
    r"|sam\.sam_mask_decoder\.output_hypernetworks_mlps\.[123]\..+"
)

_FAIRSEQ_NAMES = {  # fairseq: transformers
    "embed_tokens": "embeddings.word_embeddings",
    "embed_positions": "embeddings.position_embeddings",
    "layernorm_embedding": "embeddings.LayerNorm",
}
_FAIRSEQ_LAYER_NAMES = {  # the same inside layers.N of fairseq and encoder.layer.N of transformers
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
_TRANSFORMERS_NAMES = {ours: theirs for theirs, ours in _FAIRSEQ_NAMES.items()}
_TRANSFORMERS_LAYER_NAMES = {ours: theirs for theirs, ours in _FAIRSEQ_LAYER_NAMES.items()}

# (width of the patch embedding, number of blocks) of the known trunks.
_TRUNKS = {(32, 7): "nano", (96, 12): "tiny", (96, 16): "small", (112, 24): "base", (144, 48): "large"}


@dataclass(frozen=True)
class Part:
    """A part of the network that a file holds as a whole or not at all.

    Attributes:
        name: what reports call it.
        keys: matches the start of the keys of its tensors.
        trainable: part of what training changes, and of compact checkpoints.
        switch: the flag that decides whether the network has the part; "" if it always has it.
        without: that flag as it stands when the network lacks the part.
    """

    name: str
    keys: re.Pattern[str]
    trainable: bool
    switch: str = ""
    without: str = ""


OBJECT_SCORES = Part(
    "object scores",
    re.compile(r"sam\.(no_obj_ptr$|sam_mask_decoder\.(obj_score_token|pred_obj_score_head)\.)"),
    trainable=False,
    switch="--disable_pred_obj_score",
    without="--disable_pred_obj_score is given",
)
TEXT_PROJECTION = Part("text projection", re.compile(r"sam\.sam_prompt_encoder\.project_text\."), trainable=True)
MOTION_PROJECTION = Part(
    "motion projection",
    re.compile(r"sam\.sam_prompt_encoder\.project_motion_prompts\."),
    trainable=True,
    switch="--motion_prompt",
    without="--motion_prompt is not given",
)
SAM2 = Part("SAM 2", re.compile(r"sam\."), trainable=False)
TEXT_ENCODER = Part("text encoder", re.compile(r"text_encoder\."), trainable=False)
HSA = Part(
    "HSA",
    re.compile(r"cmt_adapters\.\d+\.(hsa\.|norm_pre_HSA\.|spatial_pos_embed$)"),
    trainable=True,
    switch="--HSA",
    without="--HSA is not given",
)
ADAPTERS = Part("adapters", re.compile(r"cmt_adapters\."), trainable=True)
CME = Part(
    "CME",
    re.compile(r"conditional_memory_encoder\."),
    trainable=True,
    switch="--use_cme_head",
    without="--use_cme_head is not given",
)
# The first that matches a key owns it.
PARTS = (OBJECT_SCORES, TEXT_PROJECTION, MOTION_PROJECTION, SAM2, TEXT_ENCODER, HSA, ADAPTERS, CME)


def part_of(key: str) -> Part | None:
    """The part that the tensor `key` belongs to; None for a name that no weight file of this network has."""
    return next((part for part in PARTS if part.keys.match(key)), None)


def is_trainable(key: str) -> bool:
    """Whether `key` belongs to a part that training changes (its BatchNorm buffers included)."""
    part = part_of(key)
    return part is not None and part.trainable


def is_ignored(key: str) -> bool:
    """Whether `key` (a published name) is on the written list of tensors that nothing reads."""
    return IGNORED.fullmatch(key) is not None


def _rename(key: str, names: Mapping[str, str], layer_names: Mapping[str, str], layers: tuple[str, str]) -> str | None:
    stem, _, leaf = key.rpartition(".")
    if stem in names:
        return f"{names[stem]}.{leaf}"
    if match := re.fullmatch(re.escape(layers[0]) + r"\.(\d+)\.(.+)", stem):
        number, inner = match.groups()
        if inner in layer_names:
            return f"{layers[1]}.{number}.{layer_names[inner]}.{leaf}"
    return None


def from_fairseq(key: str) -> str:
    """A published key under the network's name; keys outside the fairseq text encoder come back unchanged."""
    if not key.startswith(FAIRSEQ_ENCODER):
        return key
    layers = ("layers", "encoder.layer")
    name = _rename(key[len(FAIRSEQ_ENCODER) :], _FAIRSEQ_NAMES, _FAIRSEQ_LAYER_NAMES, layers)
    return key if name is None else TEXT + name


def to_fairseq(key: str) -> str:
    """The published name of one of the network's keys; the inverse of `from_fairseq`."""
    if not key.startswith(TEXT):
        return key
    layers = ("encoder.layer", "layers")
    name = _rename(key[len(TEXT) :], _TRANSFORMERS_NAMES, _TRANSFORMERS_LAYER_NAMES, layers)
    return key if name is None else FAIRSEQ_ENCODER + name


def trunk_of(state: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Width and number of blocks of the image encoder in `state` (keys with the `sam.` prefix); None without one."""
    if PATCH_EMBED not in state:
        return None
    blocks = re.compile(r"sam\.image_encoder\.trunk\.blocks\.(\d+)\.")
    return state[PATCH_EMBED].shape[0], len({match[1] for key in state if (match := blocks.match(key))})


def has_sam21(keys: Iterable[str]) -> bool:
    """Whether a whole SAM 2 among `keys` (with the `sam.` prefix) is a SAM 2.1."""
    return "sam.no_obj_embed_spatial" in keys


def detect_sam2_version(state: Mapping[str, Tensor]) -> str | None:
    """The `--sam2_version` that the SAM 2 in `state` (keys with the `sam.` prefix) was made with; None if unknown."""
    trunk = trunk_of(state)
    size = None if trunk is None else _TRUNKS.get(trunk)
    return f"{size}_2.1" if size and has_sam21(state) else size
