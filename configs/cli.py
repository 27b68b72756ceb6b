"""From a command line to checked values; the flags themselves are the table in `configs.flags`."""

from __future__ import annotations

import argparse
import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.flags import (
    FLAGS,
    GROUPS,
    Flag,
    frame_rate,
    natural_float,
    natural_int,
    port_number,
    positive_float,
    positive_int,
    probability,
    shard,
)
from configs.loading import change_model_config, load_model_config, network_versions
from configs.schema import SHIPPED_VERSIONS, ModelConfig, shipped_folder
from util.command_line import Parser
from util.errors import InputError

logger = logging.getLogger(__name__)


def build_parser(
    program: str, description: str, groups: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> argparse.ArgumentParser:
    """A parser of all flags of `groups`. It raises `InputError` instead of printing its usage.

    Args:
        program: the script's file name.
        description: what the script does, for `--help`.
        groups: keys of `GROUPS`, in the order of the help text.
        defaults: of flags that have another one in this script than in the table.
    """
    parser = Parser(program, description=description, formatter_class=_HelpFormatter)
    for group in groups:
        section = parser.add_argument_group(GROUPS[group])
        for flag in FLAGS:
            if flag.group == group:
                _add(section, replace(flag, default=(defaults or {}).get(flag.name, flag.default)))
    return parser


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=120)


def _add(section: argparse._ArgumentGroup, flag: Flag) -> None:
    default = "required" if flag.required else f"default: {flag.default_help or _shown(flag.default)}"
    text = f"{flag.help} ({default})".replace("%", "%%")
    if flag.default is False:
        section.add_argument(f"--{flag.name}", action="store_true", help=text)
        return
    section.add_argument(
        f"--{flag.name}",
        default=flag.default,
        help=text,
        type=flag.convert,
        nargs="+" if flag.several else None,
        choices=flag.choices() if flag.choices else None,
        required=flag.required,
        metavar=None if flag.choices else _METAVARS.get(flag.convert, "TEXT"),
    )


_METAVARS: dict[Callable[[str], Any], str] = {
    positive_int: "N",
    natural_int: "N",
    port_number: "N",
    natural_float: "X",
    positive_float: "X",
    frame_rate: "X",
    probability: "X",
    shard: "I/N",
}


def _shown(default: Any) -> str:
    if isinstance(default, list):
        return " ".join(map(str, default))
    return {"None": "none", "False": "off", "True": "on"}.get(str(default), str(default))


def parse_flags(
    program: str,
    description: str,
    groups: Sequence[str],
    argv: Sequence[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> argparse.Namespace:
    """Parse a command line.

    Args:
        program, description, groups: see `build_parser`.
        argv: the arguments; None for those of the process.
        defaults: of flags that have another one in this script than in the table.

    Returns:
        one attribute per flag of the groups, and `given`, a frozenset of the names that the command line contains.

    Raises:
        InputError: an unknown flag (the nearest known one is named), or a value that does not fit.
    """
    parser = build_parser(program, description, groups, defaults)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"unknown argument {' '.join(unknown)}{_hint(unknown[0].split('=')[0], groups)}")
    for action in parser._actions:
        action.default, action.required = argparse.SUPPRESS, False
    args.given, args.adopted = frozenset(vars(parser.parse_args(argv))), frozenset()
    return args


def _hint(unknown: str, groups: Sequence[str]) -> str:
    """What may be meant by a flag that a script with flags of `groups` does not have."""
    if any(unknown == f"--{flag.name}" for flag in FLAGS):
        return " (other scripts have it: leave it out, or run one of them)"
    known = {f"--{flag.name}".lower(): flag.name for flag in FLAGS if flag.group in groups}
    near = difflib.get_close_matches(unknown.lower(), known, n=1)
    return f" (did you mean --{known[near[0]]}?)" if near else ""


def prefer_shipped_version(args: argparse.Namespace) -> None:
    """Without weights on the command line and without `--sam2_version`, the version whose weights are shipped.

    Args:
        args: from `parse_flags`; changed in place.
    """
    if "sam2_version" not in args.given and args.resume is None and args.sam2_weights is None:
        args.sam2_version = SHIPPED_VERSIONS[0]


def adopt_stored_flags(args: argparse.Namespace, stored: Mapping[str, Any]) -> None:
    """Take the model flags that were not given from what a checkpoint says about itself, and say so.

    `--sam2_version` stays: a checkpoint of another size is a mistake to report, not to follow.

    Args:
        args: from `parse_flags`; changed in place.
        stored: arguments of the checkpoint's training.
    """
    for flag in FLAGS:
        value = stored.get(flag.name)
        value = list(value) if isinstance(value, tuple) else value
        adoptable = flag.group == "model" and flag.name != "sam2_version" and flag.name not in args.given
        if adoptable and type(value) is type(flag.default):
            if value != getattr(args, flag.name):
                logger.info("--%s %s is taken from the checkpoint", flag.name, _shown(value))
            setattr(args, flag.name, value)
            args.adopted |= {flag.name}


# flag: field of `ModelConfig`
_FIELDS = {
    "adapter_dim": "adapter_dim",
    "fusion_stages": "fusion_stages",
    "fusion_stages_txt": "fusion_stages_txt",
    "HSA": "hsa",
    "HSA_patch_size": "hsa_patch_size",
    "use_cme_head": "use_cme_head",
    "switch_mem": "switch_mem",
    "cme_decision_window": "cme_decision_window",
    "motion_prompt": "motion_prompt",
}


def model_config_from_args(args: argparse.Namespace, stored: ModelConfig | None = None) -> ModelConfig:
    """The network that the flags of the group "model" describe.

    Flags that were neither given nor stored take the values that belong to the version; `args` has them afterwards.

    Args:
        args: from `parse_flags`; changed in place.
        stored: the network of the model folder that is resumed: it comes before the version.

    Raises:
        InputError: flags that contradict each other, or `stored`.
    """
    known = args.given | args.adopted
    values = {field: getattr(args, flag) for flag, field in _FIELDS.items() if flag in known}
    if "disable_pred_obj_score" in known:
        values["pred_obj_score"] = not args.disable_pred_obj_score
    if stored is None:
        config = load_model_config(args.sam2_version, **values)
    elif "sam2_version" in args.given and args.sam2_version != stored.sam2.name:
        raise InputError(
            f"--sam2_version {args.sam2_version}: --resume {args.resume} holds a network of version "
            f"{stored.sam2.name}; leave the flag out"
        )
    else:
        config = change_model_config(stored, **values)
    for flag, field in _FIELDS.items():
        value = getattr(config, field)
        setattr(args, flag, list(value) if isinstance(value, tuple) else value)
    args.sam2_version, args.disable_pred_obj_score = config.sam2.name, not config.pred_obj_score
    return config


def refuse_other_sets(args: argparse.Namespace, sets: Sequence[str], other: str) -> None:
    """Refuse a `--dataset_file` that is not among `sets`, naming the script `other` that takes it.

    Raises:
        InputError: as said.
    """
    if args.dataset_file not in sets:
        raise InputError(f"--dataset_file {args.dataset_file}: expected {', '.join(sets)} here; {other} takes it")


def check_weights_given(args: argparse.Namespace, config: ModelConfig, training: bool = False) -> None:
    """Refuse to start without weights, and warn where the masks will mean nothing.

    Args:
        args: from `parse_flags`.
        config: the network.
        training: whether it is to be trained: then it may begin untrained.

    Raises:
        InputError: no checkpoint and no SAM 2 file, and `--untrained` is not given; or it is given with a checkpoint.
    """
    if args.resume == "auto" and training:
        return
    if args.untrained and args.resume:
        raise InputError("--untrained and --resume exclude each other: drop one")
    if args.untrained:
        logger.warning("the weights are untrained (--untrained): masks are meaningless")
    elif args.resume is None:
        shipped = shipped_folder(config.sam2.name)
        base = args.sam2_weights or str(shipped or f"pretrain/{config.sam2.checkpoint}")
        if not Path(base).exists() and "://" not in base:
            cure = "restore it (git checkout)" if shipped else "run `python tools/download_weights.py`"
            raise InputError(
                f"no --resume checkpoint is given, and {base} does not exist either: give --resume, {cure}, or try "
                "the program with --untrained (random weights)"
            )
        if not training:
            logger.warning("no --resume checkpoint: what SAMWISE adds to SAM 2 is untrained, and masks are meaningless")


def check_version(args: argparse.Namespace, stored: Mapping[str, Any]) -> None:
    """Refuse a `--sam2_version` that is not that of the checkpoint's training, before its other flags are adopted.

    Raises:
        InputError: they differ.
    """
    version = stored.get("sam2_version")
    if version in network_versions() and version != args.sam2_version:
        source = "the checkpoint" if args.resume == "auto" else args.resume
        raise InputError(
            f"{source} does not fit --sam2_version {args.sam2_version}: it was trained with {version}; give "
            f"--sam2_version {version}"
        )


def check_image_size(args: argparse.Namespace, config: ModelConfig) -> None:
    """Refuse a `--max_size` that is not the side of the network's input.

    Raises:
        InputError: they differ.
    """
    side = config.sam2.image_size
    if "max_size" in args.given and args.max_size != side:
        raise InputError(
            f"--max_size {args.max_size}: this network takes frames of {side} pixels; leave it out, or choose another "
            "--sam2_version"
        )


def network_from_args(
    args: argparse.Namespace,
    stored: Mapping[str, Any],
    stored_config: ModelConfig | None = None,
    training: bool = False,
) -> ModelConfig:
    """The network to load: what the flags and a checkpoint's stored arguments say, after all checks of flags.

    Args:
        args: from `parse_flags`; changed in place as `adopt_stored_flags` says.
        stored: arguments of the checkpoint's training; empty without a checkpoint, and where it is only what another
            training begins with.
        stored_config: the network of the model folder that is resumed.
        training: see `check_weights_given`.

    Raises:
        InputError: see `check_version`, `model_config_from_args`, `check_weights_given` and `check_image_size`.
    """
    if stored_config is None:
        check_version(args, stored)
    adopt_stored_flags(args, stored)
    config = model_config_from_args(args, stored_config)
    check_weights_given(args, config, training)
    check_image_size(args, config)
    return config


def all_flags(args: argparse.Namespace) -> dict[str, Any]:
    """The values of all flags, as plain numbers, texts and lists, for the record of a run."""
    return {flag.name: getattr(args, flag.name) for flag in FLAGS if hasattr(args, flag.name)}
