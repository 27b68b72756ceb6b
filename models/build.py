"""From configuration to a network with its weights and tokenizer."""

from __future__ import annotations

import torch

from configs.schema import ModelConfig
from models.base_weights import DEFAULT_ROBERTA
from models.checkpoint import LoadReport, load_weights
from models.checkpoint_keys import is_trainable
from models.cmt_adapter import CMTAdapter
from models.conditional_memory_encoder import ConditionalMemoryEncoder
from models.sam2.sam2 import SAM2
from models.samwise import SAMWISE
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
        resume: checkpoint (path or URL); None for base weights with untrained adapters.
        sam2_weights, roberta: base weights, see `load_weights`; the tokenizer comes from `roberta` in any case.
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
        report = load_weights(model, resume=resume, sam2_weights=sam2_weights, roberta=roberta)
    tokenizer = byte_tokenizer() if untrained and roberta is None else load_tokenizer(roberta or DEFAULT_ROBERTA)
    model.tokenizer = Tokenizer(tokenizer, config.text.max_positions - 2, config.motion_prompt)
    return model.to(device), report
