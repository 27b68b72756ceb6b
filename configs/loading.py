"""From names and flags to a `ModelConfig`, through Hydra's Compose API and the YAML files beside this module."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from configs.schema import SWITCH_MODES, ModelConfig
from util.errors import InputError

CONFIG_DIR = Path(__file__).resolve().parent
ADAPTER_HEADS = 8
T = TypeVar("T")


def sam2_versions() -> tuple[str, ...]:
    """The values of `--sam2_version`: the names of the files in configs/sam2."""
    names = (path.stem for path in sorted((CONFIG_DIR / "sam2").glob("*.yaml")))
    return tuple(name for name in names if name != "common")


def load_model_config(sam2_version: str = "base", text: str = "roberta_base", **values: Any) -> ModelConfig:
    """Compose the configuration of a network.

    Args:
        sam2_version: one of `sam2_versions()`.
        text: name of a file in configs/text.
        values: fields of `ModelConfig` to override (`hsa=True`, `cme_decision_window=4`, ...); nested fields are
            written with a double underscore (`sam2__image_size=256`).

    Raises:
        InputError: an unknown version or field, or a value that does not fit.
    """
    if sam2_version not in sam2_versions():
        raise InputError(f"--sam2_version {sam2_version!r} is unknown: expected one of {', '.join(sam2_versions())}")
    if not (CONFIG_DIR / "text" / f"{text}.yaml").is_file():
        raise InputError(f"there is no text encoder {text!r} in {CONFIG_DIR / 'text'}")
    container = _compose([f"sam2='{sam2_version}'", f"text='{text}'"])
    for name, value in values.items():
        node: Any = container
        *parents, leaf = name.split("__")
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            raise InputError(f"configuration has no field {name.replace('__', '.')!r}")
        node[leaf] = value
    config = from_dict(ModelConfig, container)
    check_model_config(config)
    return config


def _compose(overrides: list[str]) -> dict[Any, Any]:
    """What Hydra makes of the files; works inside a program that uses Hydra itself, whose state is put back."""
    own = GlobalHydra.instance()
    theirs = own.hydra
    own.clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            container = OmegaConf.to_container(compose("model", overrides=overrides), resolve=True)
    finally:
        GlobalHydra.instance().hydra = theirs
    assert isinstance(container, dict)
    return container


def from_dict(cls: type[T], data: Mapping[Any, Any], where: str = "") -> T:
    """Build the (nested) dataclass `cls` from plain containers.

    Raises:
        InputError: a missing or unknown key, or a value of the wrong type, named with its full path.
    """
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


def check_model_config(config: ModelConfig) -> None:
    """Refuse combinations that no network can have, naming the flag to change.

    Raises:
        InputError: see the message.
    """
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
        side = config.sam2.image_size // (4 << stage)
        if config.hsa and (patch < 1 or side % patch):
            raise InputError(f"--HSA_patch_size {patch} does not divide the {side}x{side} map of stage {stage}")
    if config.sam2.image_size % 32:
        raise InputError(f"image_size must be a multiple of 32, found {config.sam2.image_size}")
    if config.adapter_dim < ADAPTER_HEADS or config.adapter_dim % ADAPTER_HEADS:
        raise InputError(f"--adapter_dim must be a multiple of {ADAPTER_HEADS}, found {config.adapter_dim}")
    if config.switch_mem not in SWITCH_MODES:
        raise InputError(f"--switch_mem {config.switch_mem!r} is unknown: expected one of {', '.join(SWITCH_MODES)}")
    if config.cme_decision_window < 1:
        raise InputError(f"--cme_decision_window must be at least 1, found {config.cme_decision_window}")
