"""From names and flags to a `ModelConfig`, through Hydra's Compose API and the YAML files beside this module."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from configs.schema import SHIPPED_VERSIONS, ModelConfig, check_model_config, from_dict, map_side
from util.errors import InputError

CONFIG_DIR = Path(__file__).resolve().parent


def sam2_versions() -> tuple[str, ...]:
    """The official SAM 2 networks, whose weights are downloaded."""
    return tuple(name for name in network_versions() if name not in SHIPPED_VERSIONS)


def network_versions() -> tuple[str, ...]:
    """The values of `--sam2_version`: the names of the files in configs/sam2."""
    names = (path.stem for path in sorted((CONFIG_DIR / "sam2").glob("*.yaml")))
    return tuple(name for name in names if name != "common")


def load_model_config(sam2_version: str = "base", text: str | None = None, **values: Any) -> ModelConfig:
    """Compose the configuration of a network.

    Args:
        sam2_version: one of `network_versions()`.
        text: name of a file in configs/text; None for the one that the version goes with.
        values: fields of `ModelConfig` to override (`hsa=True`, `cme_decision_window=4`, ...); nested fields are
            written with a double underscore (`sam2__image_size=256`). All others have the version's own values. A
            `hsa_patch_size` of 0 is the whole map.

    Raises:
        InputError: an unknown version or field, or a value that does not fit.
    """
    if sam2_version not in network_versions():
        raise InputError(f"--sam2_version {sam2_version!r} is unknown: expected one of {', '.join(network_versions())}")
    if text is not None and not (CONFIG_DIR / "text" / f"{text}.yaml").is_file():
        raise InputError(f"there is no text encoder {text!r} in {CONFIG_DIR / 'text'}")
    overrides = [f"sam2='{sam2_version}'"]
    if (CONFIG_DIR / "network" / f"{sam2_version}.yaml").is_file():
        overrides.append(f"network='{sam2_version}'")
    if text is not None:
        overrides.append(f"text='{text}'")
    return _with_values(_compose(overrides), values)


def change_model_config(config: ModelConfig, **values: Any) -> ModelConfig:
    """The same network with other values of some fields, named as in `load_model_config`.

    Raises:
        InputError: an unknown field, or a value that does not fit.
    """
    return _with_values(dataclasses.asdict(config), values)


def _with_values(container: dict[Any, Any], values: Mapping[str, Any]) -> ModelConfig:
    for name, value in values.items():
        node: Any = container
        *parents, leaf = name.split("__")
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            raise InputError(f"configuration has no field {name.replace('__', '.')!r}")
        node[leaf] = value
    if 0 in container["hsa_patch_size"]:
        sides = (map_side(container["sam2"]["image_size"], stage) for stage in container["fusion_stages"])
        patches = zip(container["hsa_patch_size"], sides, strict=False)
        container["hsa_patch_size"] = [patch or side for patch, side in patches]
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
