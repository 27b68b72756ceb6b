"""The one table of command-line flags. A script names the groups that it understands; a new flag is a new row."""

from __future__ import annotations

import argparse
import difflib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from configs.loading import load_model_config, sam2_versions
from configs.schema import PRECISIONS, PROTOCOLS, SWITCH_MODES, ModelConfig
from util.errors import InputError

logger = logging.getLogger(__name__)

GROUPS = {
    "model": "model (must be as in the training of the checkpoint)",
    "weights": "weights",
    "run": "run",
    "demo": "input",
    "mevis": "MeViS",
    "ytvos": "Ref-YouTube-VOS",
    "davis": "Ref-DAVIS17",
    "split": "split",
    "partial": "incomplete data",
    "benchmark": "benchmark run",
}


def _number(kind: type[int] | type[float], accepts: Callable[[float], bool], expected: str) -> Callable[[str], Any]:
    """A converter that says what it expected where it refuses."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not math.isfinite(value) or not accepts(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
        return value

    return convert


positive_int = _number(int, lambda value: value >= 1, "a whole number of at least 1")
natural_int = _number(int, lambda value: value >= 0, "a whole number of at least 0")
positive_float = _number(float, lambda value: value > 0, "a number above 0")
probability = _number(float, lambda value: 0 < value < 1, "a number between 0 and 1, both excluded")


def shard(text: str) -> tuple[int, int]:
    """ "2/8" as (1, 8): the number counts from 0."""
    number, slash, parts = text.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f"expected i/n with i from 1 to n, found {text!r}")
    return int(number) - 1, int(parts)


@dataclass(frozen=True)
class Flag:
    """One row of the table.

    Attributes:
        name: without the two hyphens; also the attribute of the parsed arguments.
        group: key of `GROUPS`.
        default: value where the flag is not given. False makes the flag a switch without a value.
        help: one sentence, without the default.
        convert: from text to a value.
        several: whether it takes one or more values.
        choices: returns the allowed values.
        required: whether it must be given.
        default_help: what `--help` gives as the default where None stands for something that depends on other flags.
    """

    name: str
    group: str
    default: Any
    help: str
    convert: Callable[[str], Any] = str
    several: bool = False
    choices: Callable[[], Sequence[str]] | None = None
    required: bool = False
    default_help: str = ""


FLAGS = (
    Flag("sam2_version", "model", "base", "which SAM 2", choices=sam2_versions),
    Flag("HSA", "model", False, "hierarchical selective attention in the adapters"),
    Flag("HSA_patch_size", "model", [8, 4, 2], "side of its patches in each adapter, in tokens", positive_int, True),
    Flag("use_cme_head", "model", False, "conditional memory encoder: notice when another object fits better"),
    Flag("switch_mem", "model", "reweight", "what enters memory at such a switch", choices=lambda: SWITCH_MODES),
    Flag("cme_decision_window", "model", 4, "frames between two such decisions", positive_int),
    Flag("disable_pred_obj_score", "model", False, "no object scores: the object counts as visible in every frame"),
    Flag("motion_prompt", "model", False, "verbs of the sentence become further prompts (needs spaCy)"),
    Flag("adapter_dim", "model", 256, "width inside the adapters", positive_int),
    Flag("fusion_stages", "model", [1, 2, 3], "image stages that end with an adapter", positive_int, True),
    Flag("fusion_stages_txt", "model", [4, 8, 12], "text layers that have run at each adapter", positive_int, True),
    Flag("resume", "weights", None, "SAMWISE checkpoint, file or URL"),
    Flag(
        "sam2_weights",
        "weights",
        None,
        "SAM 2 file, for what the checkpoint lacks",
        default_help="pretrain/<official file name>",
    ),
    Flag(
        "roberta",
        "weights",
        None,
        "folder or hub id of RoBERTa: its tokenizer, and its weights if the checkpoint lacks them",
        default_help="pretrain/roberta-base",
    ),
    Flag("untrained", "weights", False, "random weights from --seed, to try the program: the masks mean nothing"),
    Flag("device", "run", "cuda", "cuda, cuda:N, mps or cpu; the CPU where the device is missing"),
    Flag("seed", "run", 0, "of everything random", natural_int),
    Flag("threshold", "run", 0.5, "probability above which a pixel belongs to the object", probability),
    Flag("eval_clip_window", "run", 8, "frames that are processed together", positive_int),
    Flag("precision", "run", "fp32", "arithmetic", choices=lambda: PRECISIONS),
    Flag("output_dir", "run", "output", "folder of the results"),
    Flag("input_path", "demo", None, "image, video, folder of frames, or URL", required=True),
    Flag("text_prompts", "demo", None, "one or more sentences, each in quotes", several=True, required=True),
    Flag(
        "fps",
        "demo",
        None,
        "frames per second to use of a video, or that a folder of frames stands for",
        positive_float,
        default_help="all frames of a video; 10",
    ),
    Flag("mevis_path", "mevis", "data/MeViS_release", "folder that holds the splits"),
    Flag(
        "mevis_version",
        "mevis",
        None,
        "which metadata, where both are there: 2 has expressions without a target",
        _number(int, lambda value: value in (1, 2), "1 or 2"),
        default_help="1 if it is there",
    ),
    Flag("ytvos_path", "ytvos", "data/ref-youtube-vos", "folder that holds meta_expressions and the splits"),
    Flag("davis_path", "davis", "data/ref-davis", "folder that tools/data/convert_davis_to_ytvos.py has made"),
    Flag("set", "davis", "val", "which sequences are scored: the name of a list in DAVIS/ImageSets/2017"),
    Flag("task", "davis", "unsupervised", "how they are scored", choices=lambda: ("unsupervised", "semi-supervised")),
    Flag(
        "results_path",
        "davis",
        None,
        "folder of the palette PNGs",
        default_help="eval_davis/valid in the folder of the results",
    ),
    Flag("split", "split", "valid", "which part of the data set", choices=lambda: ("valid", "valid_u", "test")),
    Flag("allow_partial", "partial", False, "go on with another number of videos than the benchmark has"),
    Flag("name_exp", "benchmark", "default", "name of the folder of the results, in --output_dir"),
    Flag(
        "protocol",
        "benchmark",
        "paper",
        "paper gives the published numbers, fixed segments a last clip of one frame as any other",
        choices=lambda: PROTOCOLS,
    ),
    Flag(
        "expressions_per_batch",
        "benchmark",
        None,
        "expressions of a video that run together at most",
        positive_int,
        default_help="as many as memory allows, up to 16 on a GPU and 4 on a CPU",
    ),
    Flag("batch_size_val", "benchmark", 1, "above 1: the same as --expressions_per_batch", positive_int),
    Flag(
        "max_size", "benchmark", 1024, "long side of resized frames; can only be what the network takes", positive_int
    ),
    Flag("num_workers", "benchmark", 4, "processes that score, and threads that write", natural_int),
    Flag("overwrite", "benchmark", False, "start anew instead of going on with what is finished"),
    Flag("shard", "benchmark", None, "i/n: only the i-th of n parts of the videos; --merge joins them", shard),
    Flag("merge", "benchmark", False, "segment nothing: check, score and pack what the shards have made"),
    Flag("visualize", "benchmark", False, "also draw overlays and one contact sheet per video"),
    Flag("no_distributed", "benchmark", False, "run alone, whatever launcher has started this process"),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Every mistake on the command line is one line that names the flag and what was expected."""
        raise InputError(f"{message}; see {self.prog} --help")


def build_parser(program: str, description: str, groups: Sequence[str]) -> argparse.ArgumentParser:
    """A parser of all flags of `groups`. It raises `InputError` instead of printing its usage.

    Args:
        program: the script's file name.
        description: what the script does, for `--help`.
        groups: keys of `GROUPS`, in the order of the help text.
    """
    parser = _Parser(program, description=description, allow_abbrev=False, formatter_class=_HelpFormatter)
    for group in groups:
        section = parser.add_argument_group(GROUPS[group])
        for flag in FLAGS:
            if flag.group == group:
                _add(section, flag)
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
    positive_float: "X",
    probability: "X",
    shard: "I/N",
}


def _shown(default: Any) -> str:
    if isinstance(default, list):
        return " ".join(map(str, default))
    return {"None": "none", "False": "off", "True": "on"}.get(str(default), str(default))


def parse_flags(
    program: str, description: str, groups: Sequence[str], argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse a command line.

    Args:
        program, description, groups: see `build_parser`.
        argv: the arguments; None for those of the process.

    Returns:
        one attribute per flag of the groups, and `given`, a frozenset of the names that the command line contains.

    Raises:
        InputError: an unknown flag (the nearest known one is named), or a value that does not fit.
    """
    parser = build_parser(program, description, groups)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [f"--{flag.name}" for flag in FLAGS if flag.group in groups]
        near = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
        parser.error(f"unknown argument {' '.join(unknown)}" + (f" (did you mean {near[0]}?)" if near else ""))
    for action in parser._actions:
        action.default, action.required = argparse.SUPPRESS, False
    args.given = frozenset(vars(parser.parse_args(argv)))
    return args


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
        if adoptable and type(value) is type(flag.default) and value != getattr(args, flag.name):
            logger.info("--%s %s is taken from the checkpoint", flag.name, _shown(value))
            setattr(args, flag.name, value)


def model_config_from_args(args: argparse.Namespace) -> ModelConfig:
    """The network that the flags of the group "model" describe.

    Raises:
        InputError: flags that contradict each other.
    """
    return load_model_config(
        args.sam2_version,
        adapter_dim=args.adapter_dim,
        fusion_stages=args.fusion_stages,
        fusion_stages_txt=args.fusion_stages_txt,
        hsa=args.HSA,
        hsa_patch_size=args.HSA_patch_size,
        use_cme_head=args.use_cme_head,
        switch_mem=args.switch_mem,
        cme_decision_window=args.cme_decision_window,
        pred_obj_score=not args.disable_pred_obj_score,
        motion_prompt=args.motion_prompt,
    )


def check_weights_given(args: argparse.Namespace, config: ModelConfig) -> None:
    """Refuse to start without weights, and warn where the masks will mean nothing.

    Raises:
        InputError: no checkpoint and no SAM 2 file, and `--untrained` is not given; or it is given with a checkpoint.
    """
    if args.untrained and args.resume:
        raise InputError("--untrained and --resume exclude each other: drop one")
    if args.untrained:
        logger.warning("the weights are untrained (--untrained): masks are meaningless")
    elif args.resume is None:
        base = args.sam2_weights or f"pretrain/{config.sam2.checkpoint}"
        if not Path(base).exists() and "://" not in base:
            raise InputError(
                f"no --resume checkpoint is given, and {base} does not exist either: give --resume, run "
                f"`python tools/download_weights.py`, or try the program with --untrained (random weights)"
            )
        logger.warning("no --resume checkpoint: what SAMWISE adds to SAM 2 is untrained, and masks are meaningless")


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


def network_from_args(args: argparse.Namespace, stored: Mapping[str, Any]) -> ModelConfig:
    """The network to load: what the flags and a checkpoint's stored arguments say, after all checks of flags.

    Args:
        args: from `parse_flags`; changed in place as `adopt_stored_flags` says.
        stored: arguments of the checkpoint's training; empty without a checkpoint.

    Raises:
        InputError: see `model_config_from_args`, `check_weights_given` and `check_image_size`.
    """
    adopt_stored_flags(args, stored)
    config = model_config_from_args(args)
    check_weights_given(args, config)
    check_image_size(args, config)
    return config


def all_flags(args: argparse.Namespace) -> dict[str, Any]:
    """The values of all flags, as plain numbers, texts and lists, for the record of a run."""
    return {flag.name: getattr(args, flag.name) for flag in FLAGS if hasattr(args, flag.name)}
