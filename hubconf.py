"""torch.hub entry points: `torch.hub.load(REPOSITORY, "samwise_base", resume="final_model.pth")`.

Each returns a network in evaluation mode, ready for `engine.infer`: with HSA and CME, or as a model folder says.
Arguments of every entry point:
    resume: checkpoint (path or URL) or model folder; without one the adapters are untrained and base weights are read
        from `pretrain`, but for nano, whose trained weights are part of the repository.
    sam2_weights: SAM 2 file or model folder for what the checkpoint lacks.
    roberta: folder or hub id of the tokenizer, and of the text encoder's weights if the checkpoint lacks them.
    untrained: True for random weights throughout.
    device: where the network goes.
    Further keywords override configuration fields (`use_cme_head=False`, `hsa=False`, ...).
"""

from __future__ import annotations

import logging
from typing import Any

from configs.loading import change_model_config, load_model_config
from engine.inference.start import stored_config, weights_to_resume
from engine.runtime import resolve_device
from models.build import load_model
from models.samwise import SAMWISE
from util.errors import InputError

logger = logging.getLogger(__name__)

dependencies = ["torch", "transformers", "tokenizers", "safetensors", "einops", "hydra", "iopath", "huggingface_hub"]


def _load(
    version: str,
    resume: str | None = None,
    sam2_weights: str | None = None,
    roberta: str | None = None,
    untrained: bool = False,
    device: str = "cpu",
    **values: Any,
) -> SAMWISE:
    weights = {"resume": resume, "sam2_weights": sam2_weights, "untrained": untrained, "sam2_version": version}
    resume = weights_to_resume(weights)
    stored = stored_config(resume)
    if stored is None:
        config = load_model_config(version, **{"hsa": True, "use_cme_head": True, **values})
    elif stored.sam2.name == version:
        config = change_model_config(stored, **values)
    else:
        raise InputError(f"{resume} holds a network of version {stored.sam2.name}, not {version}: use its entry point")
    model, report = load_model(
        config,
        resume=resume,
        sam2_weights=sam2_weights,
        roberta=roberta,
        untrained=untrained,
        device=resolve_device(device),
    )
    for warning in report.warnings:
        logger.warning(warning)
    return model


def samwise_nano(**arguments: Any) -> SAMWISE:
    """SAMWISE on a small stand-in for SAM 2, with the weights of this repository; arguments as above."""
    return _load("nano", **arguments)


def samwise_tiny(**arguments: Any) -> SAMWISE:
    """SAMWISE on SAM 2 tiny; arguments as above."""
    return _load("tiny", **arguments)


def samwise_small(**arguments: Any) -> SAMWISE:
    """SAMWISE on SAM 2 small; arguments as above."""
    return _load("small", **arguments)


def samwise_base(**arguments: Any) -> SAMWISE:
    """SAMWISE on SAM 2 base plus; arguments as above."""
    return _load("base", **arguments)


def samwise_large(**arguments: Any) -> SAMWISE:
    """SAMWISE on SAM 2 large; arguments as above."""
    return _load("large", **arguments)
