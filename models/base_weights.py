"""The frozen base weights: official SAM 2 files and RoBERTa, found, read, and brought under the published names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from configs.schema import Sam2Config
from models.checkpoint_formats import Checkpoint, read_checkpoint
from models.checkpoint_keys import FAIRSEQ_ENCODER, FAIRSEQ_HEAD, TEXT, to_fairseq
from util.errors import InputError, one_line
from util.paths import is_url, local_path

logger = logging.getLogger(__name__)

PRETRAIN = Path("pretrain")
DEFAULT_ROBERTA = str(PRETRAIN / "roberta-base")
ROBERTA_FILES = ("model.safetensors", "pytorch_model.bin", "model.pt")
_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_UNUSED_TRANSFORMERS = re.compile(
    r"pooler\..+|embeddings\.(position_ids|token_type_embeddings\.weight)|lm_head\.decoder\..+"
)


def read_sam2(path: str | None, config: Sam2Config) -> Checkpoint:
    """Read an official SAM 2 or SAM 2.1 file.

    Args:
        path: the file or its URL; None for the official name in `pretrain`.
        config: names the official file.

    Raises:
        InputError: no such file, or not a SAM 2 file.
    """
    file = local_path(path) if path else PRETRAIN / config.checkpoint
    if not file.exists():
        raise InputError(
            f"{file} does not exist, and the SAM 2 weights are not in the checkpoint: run "
            f"`python tools/download_weights.py {config.name}` or give --sam2_weights"
        )
    checkpoint = read_checkpoint(file)
    if checkpoint.kind != "sam2":
        raise InputError(f"--sam2_weights {file}: expected an official SAM 2 file, found {checkpoint.kind} weights")
    return checkpoint


def read_roberta(source: str | None) -> Checkpoint:
    """Read RoBERTa's weights.

    Args:
        source: a transformers folder (model.safetensors or pytorch_model.bin), a fairseq folder (model.pt), one of
            these files, or the hub id of a transformers model (cached, or downloaded unless HF_HUB_OFFLINE is set);
            None for `pretrain/roberta-base`.

    Raises:
        InputError: nothing of that name, or not RoBERTa.
    """
    checkpoint = read_checkpoint(_find_roberta(source or DEFAULT_ROBERTA))
    if checkpoint.kind not in ("roberta", "fairseq roberta"):
        raise InputError(f"--roberta {checkpoint.path}: expected RoBERTa, found {checkpoint.kind} weights")
    return checkpoint


def is_hub_id(source: str) -> bool:
    """Whether `source` can only be a hub id: `owner/name` or `name` where neither that path nor a folder `owner` is."""
    path = Path(source)
    local = path.exists() or source.startswith("pretrain/") or (path.parent != Path() and path.parent.is_dir())
    return not local and _HUB_ID.fullmatch(source) is not None


def _find_roberta(source: str) -> Path:
    path = local_path(source) if is_url(source) else Path(source).expanduser()
    if path.is_dir():
        for name in ROBERTA_FILES:
            if (path / name).is_file():
                return path / name
        raise InputError(
            f"--roberta {path} holds none of {', '.join(ROBERTA_FILES)}, and RoBERTa's weights are not in the "
            "checkpoint: run `python tools/download_weights.py roberta-base`"
        )
    if path.exists():
        return path
    if not is_hub_id(source):
        raise InputError(
            f"--roberta {path} does not exist, and RoBERTa's weights are not in the checkpoint: run "
            "`python tools/download_weights.py roberta-base` or give a folder that holds them"
        )
    return _from_hub(source)


def _from_hub(repository: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError

    logger.info("taking RoBERTa from the hub model %s", repository)
    try:
        try:
            return Path(hf_hub_download(repository, "model.safetensors"))
        except EntryNotFoundError:
            return Path(hf_hub_download(repository, "pytorch_model.bin"))
    except Exception as error:  # offline, refused, no such model, no such file: each its own class
        raise InputError(
            f"--roberta {repository} is no folder, and the hub model of that name cannot be read ({one_line(error)}); "
            "run `python tools/download_weights.py roberta-base` and give its folder"
        ) from error


def published_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of a file of any kind under the names of published SAMWISE checkpoints.

    What a transformers file holds beyond the published names (pooler, position ids) is left out.

    Raises:
        InputError: a RoBERTa with token-type embeddings, which this network has no place for.
    """
    if checkpoint.kind == "sam2":
        return {f"sam.{key}": value for key, value in checkpoint.state.items()}
    if checkpoint.kind == "roberta":
        return _from_transformers(checkpoint)
    if checkpoint.kind == "fairseq roberta":
        return _from_fairseq_file(checkpoint.state)
    return {to_fairseq(key): value for key, value in checkpoint.state.items()}


def _from_transformers(checkpoint: Checkpoint) -> dict[str, Tensor]:
    state = {key.removeprefix("roberta."): value for key, value in checkpoint.state.items()}
    types = state.get("embeddings.token_type_embeddings.weight")
    if types is not None and types.any():
        raise InputError(
            f"{checkpoint.path} has token-type embeddings that are not zero: it is not the RoBERTa that this network "
            "uses; give roberta-base"
        )
    result = {}
    for key, value in state.items():
        if key.startswith("lm_head.") and not _UNUSED_TRANSFORMERS.fullmatch(key):
            result[FAIRSEQ_HEAD + key.removeprefix("lm_head.")] = value
        elif not _UNUSED_TRANSFORMERS.fullmatch(key):
            result[to_fairseq(TEXT + key)] = value
    if FAIRSEQ_HEAD + "bias" in result:  # the head's matrix is the token embedding
        result[FAIRSEQ_HEAD + "weight"] = state["embeddings.word_embeddings.weight"]
    return result


def _from_fairseq_file(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result = {}
    for key, value in state.items():
        if key.endswith("_float_tensor"):
            result["text_encoder._float_tensor"] = value
            continue
        name = re.sub(r"^(\w+\.)?(de|en)coder\.", "text_encoder.model.encoder.", key)
        name = name.replace(f"{FAIRSEQ_ENCODER}emb_layer_norm.", f"{FAIRSEQ_ENCODER}layernorm_embedding.")
        if match := re.fullmatch(r"(.+\.self_attn)\.in_proj_(weight|bias)", name):
            for projection, rows in zip("qkv", torch.chunk(value, 3), strict=True):
                result[f"{match[1]}.{projection}_proj.{match[2]}"] = rows
        else:
            result[name] = value
    return result
