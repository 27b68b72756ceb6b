"""From values of flags to a network that is ready to run, and a note of where its weights came from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from configs.schema import ModelConfig
from engine.inference.options import InferenceOptions
from engine.inference.record import describe_weights
from engine.runtime import resolve_device
from models.build import load_model
from models.checkpoint import read_checkpoint, stored_arguments
from models.checkpoint_formats import arguments_of
from models.model_folder import is_folder, read_folder_config, require_shipped
from models.samwise import SAMWISE
from models.stream import compile_network

logger = logging.getLogger(__name__)

_WEIGHTS = ("resume", "sam2_weights", "roberta", "untrained", "seed")


def options_from(flags: Mapping[str, Any]) -> InferenceOptions:
    """The options that values of flags stand for.

    Raises:
        InputError: a value that does not fit.
    """
    return InferenceOptions(**{field.name: flags[field.name] for field in fields(InferenceOptions)})


def weights_to_resume(flags: Mapping[str, Any]) -> str | None:
    """The value of `--resume`; where no weights are given, the model folder of a version that is in the repository.

    Args:
        flags: values of flags.

    Raises:
        InputError: that folder is missing.
    """
    if flags["resume"] is not None or flags["sam2_weights"] is not None or flags["untrained"]:
        return flags["resume"]
    folder = require_shipped(flags["sam2_version"])
    return None if folder is None else str(folder)


def stored_flags(resume: str | None) -> Mapping[str, Any]:
    """What a checkpoint says about its architecture, as values of flags; nothing without a checkpoint.

    Raises:
        InputError: the file is missing or damaged.
    """
    if resume is None:
        return {}
    config = stored_config(resume)
    return stored_arguments(read_checkpoint(resume)) if config is None else arguments_of(config)


def stored_config(resume: str | None) -> ModelConfig | None:
    """The architecture that a model folder describes, whole; None where `resume` is something else.

    Raises:
        InputError: the folder is none that `save_pretrained` wrote.
    """
    if resume is None or not is_folder(resume):
        return None
    return read_folder_config(Path(resume).expanduser()).model


def load_network(config: ModelConfig, device: str, flags: Mapping[str, Any]) -> tuple[SAMWISE, dict[str, Any]]:
    """Load a network and say what was loaded.

    Args:
        config: the architecture.
        device: value of `--device`.
        flags: values of all flags; those that name weights decide what is loaded, and `compile` whether it is compiled.

    Returns:
        The network on its device, and facts for run.json.

    Raises:
        InputError: files that are missing or do not fit, or an unknown device.
    """
    weights = {name: flags[name] for name in _WEIGHTS}
    model, report = load_model(config, device=resolve_device(device), **weights)
    logger.info("%s", report.summary())
    if flags["compile"]:
        compile_network(model)
    return model, {"flags": dict(flags), "weights": describe_weights(report)}
