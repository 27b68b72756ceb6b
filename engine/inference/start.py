"""From values of flags to a network that is ready to run, and a note of where its weights came from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from configs.schema import ModelConfig
from engine.inference.options import InferenceOptions
from engine.inference.record import describe_weights
from engine.runtime import take_device
from models.build import load_model
from models.checkpoint import read_checkpoint, stored_arguments
from models.checkpoint_formats import arguments_of
from models.model_folder import is_folder, read_folder_config, require_shipped
from models.samwise import SAMWISE
from models.stream import compile_network
from util.errors import InputError

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
        flags: values of all flags; those that name weights decide what is loaded, `compile` whether it is compiled,
            and `cuda_graphs`, where a script has it, whether what was compiled is recorded.

    Returns:
        The network on its device, and facts for run.json.

    Raises:
        InputError: files that are missing or do not fit, an unknown device, or one that cannot do what is asked.
    """
    resolved, weights = take_device(device), {name: flags[name] for name in _WEIGHTS}
    compiler = compiler_options(flags, resolved)
    model, report = load_model(config, device=resolved, **weights)
    logger.info("%s", report.summary())
    if compiler is not None:
        compile_network(model, flags["precision"], **compiler)
    return model, {"flags": dict(flags), "weights": describe_weights(report)}


def compiler_options(flags: Mapping[str, Any], device: torch.device) -> dict[str, str] | None:
    """Options of `torch.compile` that values of flags stand for; None where nothing is to be compiled.

    Args:
        flags: values of all flags.
        device: of the network.

    Raises:
        InputError: CUDA graphs of a network that is not compiled, or on another device.
    """
    if not flags.get("cuda_graphs"):
        return {} if flags["compile"] else None
    if not flags["compile"] or device.type != "cuda":
        found = f"{'--compile' if flags['compile'] else 'no --compile'} and the device {device}"
        raise InputError(f"--cuda_graphs: expected --compile and a CUDA device, found {found}: leave --cuda_graphs out")
    return {"mode": "reduce-overhead"}
