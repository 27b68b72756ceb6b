"""From configuration to a network with its weights and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from configs.schema import ModelConfig, shipped_folder
from models.base_weights import DEFAULT_ROBERTA
from models.checkpoint import LoadReport, load_checkpoint, load_weights, read_checkpoint
from models.checkpoint_keys import is_trainable
from models.cmt_adapter import CMTAdapter
from models.conditional_memory_encoder import ConditionalMemoryEncoder
from models.model_folder import is_folder, read_folder, require_shipped
from models.sam2.sam2 import SAM2
from models.samwise import SAMWISE
from models.stand_in import load_on_stand_in
from models.text_encoder import TextEncoder
from models.tokenizer import Tokenizer, byte_tokenizer, load_tokenizer
from util.errors import InputError


def build_model(config: ModelConfig) -> SAMWISE:
    """A freshly initialised network in evaluation mode; only what SAMWISE trains requires gradients."""
    text_dim = config.text.hidden_size
    channels = [config.sam2.hiera.embed_dim << stage for stage in config.fusion_stages]
    adapters = [
        CMTAdapter(width, text_dim, config.adapter_dim, patch if config.hsa else None)
        for width, patch in zip(channels, config.hsa_patch_size, strict=True)
    ]
    model = SAMWISE(
        config,
        SAM2(config.sam2, text_dim, config.pred_obj_score, config.motion_prompt),
        TextEncoder(config.text),
        adapters,
        ConditionalMemoryEncoder(config.sam2.model_dim) if config.use_cme_head else None,
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trainable(name))
    return model.eval()


def load_model(
    config: ModelConfig,
    *,
    resume: str | None = None,
    sam2_weights: str | None = None,
    roberta: str | None = None,
    untrained: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[SAMWISE, LoadReport]:
    """A network with its weights and tokenizer.

    Args:
        config: the architecture.
        resume: checkpoint (path or URL) or model folder; None for base weights with untrained adapters.
        sam2_weights: SAM 2 for what `resume` lacks: an official file, or a model folder, which then also stands in for
            the text encoder. None for the file in `pretrain`, or the folder of a version that is part of the
            repository.
        roberta: see `load_weights`; the tokenizer comes from it in any case, and without it from a model folder.
        untrained: random weights throughout, for trying the machinery without any file.
        seed: of everything that is freshly initialised.
        device: where the network goes.

    Raises:
        InputError: files that are missing or do not fit, or given although they would not be used.
    """
    if untrained and (resume is not None or sam2_weights is not None):
        raise InputError("--untrained means random weights: drop it, or drop --resume and --sam2_weights")
    torch.manual_seed(seed)
    model = build_model(config)
    if untrained:
        report = LoadReport((), (), (), tuple(model.state_dict()), (), ("all weights are untrained",))
    else:
        report = _load(model, resume, sam2_weights, roberta)
    if untrained and roberta is None:
        model.tokenizer = _fitting(byte_tokenizer(), config)
    else:
        model.tokenizer = find_tokenizer(config, resume=resume, sam2_weights=sam2_weights, roberta=roberta)
    return model.to(device), report


def find_tokenizer(
    config: ModelConfig, *, resume: str | None = None, sam2_weights: str | None = None, roberta: str | None = None
) -> Tokenizer:
    """The tokenizer that goes with weights, given as for `load_model`.

    It is that of `roberta`, else of a model folder among the others or of the version, else the one in `pretrain`.

    Raises:
        InputError: it is missing, or was made for another text encoder.
    """
    folders: list[str | Path] = [
        source for source in (resume, sam2_weights) if source is not None and is_folder(source)
    ]
    if not (roberta or folders) and sam2_weights is None and (folder := require_shipped(config.sam2.name)):
        folders.append(folder)
    return _fitting(load_tokenizer(roberta or str([*folders, DEFAULT_ROBERTA][0])), config)


def _load(model: SAMWISE, resume: str | None, sam2_weights: str | None, roberta: str | None) -> LoadReport:
    if resume is not None and is_folder(resume):
        folder = read_folder(resume)
        model.training_facts = folder.config.training
        return load_checkpoint(model, folder.checkpoint, sam2_weights=sam2_weights, roberta=roberta)
    base: str | Path | None = sam2_weights
    if base is None and (resume is None or roberta is None):
        base = require_shipped(model.config.sam2.name)
    elif base is None:  # all may be in the two: only the rest is in the repository
        base = shipped_folder(model.config.sam2.name)
    if base is None or not is_folder(base):
        return load_weights(model, resume=resume, sam2_weights=sam2_weights, roberta=roberta)
    checkpoint = None if resume is None else read_checkpoint(resume)
    return load_on_stand_in(model, checkpoint, read_folder(base), roberta)


def _fitting(tokenizer: Any, config: ModelConfig) -> Tokenizer:
    """The tokenizer as the network takes it, unless it was made for another text encoder."""
    tokens = max(tokenizer.get_vocab().values()) + 1
    if tokens > config.text.vocab_size:
        raise InputError(
            f"the tokenizer has {tokens} tokens, but the text encoder of --sam2_version {config.sam2.name} "
            f"knows {config.text.vocab_size}: give the tokenizer that belongs to it with --roberta"
        )
    return Tokenizer(tokenizer, config.text.max_positions - 2, config.motion_prompt)
