"""Look into weight files and convert SAMWISE checkpoints between the published and the compact format.

    python tools/checkpoint.py inspect FILE_OR_FOLDER [--keys]
    python tools/checkpoint.py to-compact PUBLISHED OUT
    python tools/checkpoint.py to-published COMPACT OUT --base PUBLISHED
    python tools/checkpoint.py to-published COMPACT OUT [--sam2_weights FILE_OR_FOLDER] [--roberta FOLDER]

A conversion keeps every bit of every tensor that the target format holds.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs.loading import load_model_config
from configs.schema import ModelConfig
from models.base_weights import ROBERTA_FILES, published_state, read_roberta, read_sam2
from models.build import build_model
from models.checkpoint import Checkpoint, load_checkpoint, read_checkpoint, save_compact, stored_arguments
from models.checkpoint_formats import arguments_of
from models.checkpoint_keys import (
    CME,
    FAIRSEQ_ENCODER,
    HSA,
    MOTION_PROJECTION,
    OBJECT_SCORES,
    PATCH_EMBED,
    detect_sam2_version,
    is_ignored,
    is_trainable,
    part_of,
)
from models.model_folder import CONFIG_FILE, FORMAT, is_folder, read_folder, require_shipped
from models.samwise import SAMWISE
from util.command_line import Parser, filled_text
from util.errors import InputError, run_script
from util.paths import atomic_write, is_url, read_json_object
from util.torch_files import save_torch


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run one of the three commands."""
    parser = Parser(description="inspect and convert weight files")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect_parser = commands.add_parser("inspect", help="show what a weight file of any kind holds")
    inspect_parser.add_argument(
        "file", type=filled_text, help="a weight file, its URL, or a folder: with a model or RoBERTa"
    )
    inspect_parser.add_argument("--keys", action="store_true", help="list every tensor")
    compact_parser = commands.add_parser("to-compact", help="keep what training changes, about 20 MB")
    compact_parser.add_argument("published", type=filled_text, help="a checkpoint that holds everything")
    compact_parser.add_argument("out", type=Path, help="the .safetensors file to write")
    published_parser = commands.add_parser("to-published", help="a checkpoint in the original's format")
    published_parser.add_argument("compact", type=filled_text, help="a compact checkpoint")
    published_parser.add_argument("out", type=Path, help="the .pth file to write")
    published_parser.add_argument("--base", type=filled_text, help="published checkpoint that gives the frozen tensors")
    sam2_help = "without --base: official SAM 2 file, or model folder (default: pretrain/...; nano: pretrained/nano)"
    published_parser.add_argument("--sam2_weights", help=sam2_help)
    roberta_help = "without --base: RoBERTa folder (default: pretrain/roberta-base, or the model folder)"
    published_parser.add_argument("--roberta", type=filled_text, help=roberta_help)
    args = parser.parse_args(argv)
    if args.command == "inspect":
        print("\n".join(inspect(args.file, args.keys)))
        return
    inputs = vars(args).get("published"), vars(args).get("compact"), vars(args).get("base")
    if any(path and not is_url(path) and Path(path).resolve() == args.out.resolve() for path in inputs):
        raise InputError(f"{args.out} is an input of the conversion: give another path to write to")
    kind, other = (".safetensors", ".pth") if args.command == "to-compact" else (".pth", ".safetensors")
    if args.out.suffix.lower() == other:
        raise InputError(f"{args.out}: {args.command} writes a {kind} file, found the name of a {other} file")
    if args.command == "to-compact":
        to_compact(args.published, args.out)
    else:
        to_published(args.compact, args.out, args.base, args.sam2_weights, args.roberta)
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)")


def inspect(path: str, list_keys: bool = False) -> Iterable[str]:
    """The lines of a report on a weight file: its kind, its parts, and what it says about its architecture."""
    checkpoint = _read(path)
    state = published_state(checkpoint)
    version = detect_sam2_version(state)
    yield f"{checkpoint.path}: {checkpoint.kind} weights" + (f", --sam2_version {version}" if version else "")
    groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in state.items():
        part = part_of(key)
        groups["not used" if is_ignored(key) else part.name if part else "unknown"][key] = tensor
    yield f"{'part':<18} {'tensors':>8} {'parameters':>13} {'size':>10}  type"
    for name, tensors in [*groups.items(), ("total", state)]:
        yield f"{name:<18} {_figures(tensors.values())}"
    arguments = stored_arguments(checkpoint)
    yield "stored configuration:" if checkpoint.config else "stored arguments:" if arguments else "no stored arguments"
    yield from (f"  {name} = {value}" for name, value in sorted(arguments.items()))
    if list_keys:
        for key, tensor in checkpoint.state.items():
            yield f"{key}  {list(tensor.shape)}  {str(tensor.dtype).removeprefix('torch.')}"


def _read(path: str) -> Checkpoint:
    if is_url(path) or not Path(path).is_dir():
        return read_checkpoint(path)
    config = read_json_object(Path(path) / CONFIG_FILE) or {}
    if config.get("format") == FORMAT:
        return read_folder(path).checkpoint
    if not any((Path(path) / name).is_file() for name in ROBERTA_FILES):
        raise InputError(f"{path} is a folder that holds neither a model nor RoBERTa's weights: give a file")
    return read_roberta(path)


def _figures(tensors: Iterable[Tensor]) -> str:
    tensors = list(tensors)
    parameters = sum(tensor.numel() for tensor in tensors)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    return f"{len(tensors):>8,} {parameters:>13,} {size:>7.2f} MB  {', '.join(types)}"


def to_compact(published: str, out: Path) -> None:
    """Write the trainable tensors of a published checkpoint, with the configuration that its tensors show.

    Raises:
        InputError: not a SAMWISE checkpoint that holds everything.
    """
    checkpoint = read_checkpoint(published)
    if checkpoint.kind != "samwise":
        raise InputError(f"{published}: expected a published SAMWISE checkpoint, found {checkpoint.kind} weights")
    model = _empty_model(infer_config(checkpoint))
    load_checkpoint(model, checkpoint, allow_fresh=False)
    save_compact(out, model)


def to_published(compact: str, out: Path, base: str | None, sam2_weights: str | None, roberta: str | None) -> None:
    """Write a compact checkpoint together with frozen weights in the original's format.

    Args:
        compact: the compact checkpoint.
        out: the file to write: {"model": tensors, "args": the architecture's arguments}.
        base: a published checkpoint that gives the frozen tensors, or None.
        sam2_weights: without `base`, the official SAM 2 file, or a model folder; None for the file in `pretrain`, or
            the folder of a version that is part of the repository.
        roberta: without `base`, a RoBERTa folder; None for the model folder, or the one in `pretrain`.

    Raises:
        InputError: an input of another kind, or a base that does not fit the compact checkpoint.
    """
    trained = read_checkpoint(compact)
    config = trained.config
    if config is None:
        raise InputError(f"{compact}: expected a compact checkpoint, found {trained.kind} weights")
    if base is not None:
        if sam2_weights or roberta:
            raise InputError("--base holds everything: drop --sam2_weights and --roberta")
        source = read_checkpoint(base)
        if source.kind != "samwise":
            raise InputError(f"--base {base}: expected a published checkpoint, found {source.kind} weights")
        frozen = published_state(source)
    else:
        frozen = _frozen_state(config, sam2_weights, roberta)
    model = _empty_model(config)
    state = {key: trained.state.get(key, tensor) for key, tensor in frozen.items()} | dict(trained.state)
    report = load_checkpoint(model, Checkpoint(Path(base or out), "samwise", state), allow_fresh=False)
    if report.from_base:
        raise InputError(f"{base} lacks {report.from_base[0]}, which the compact checkpoint needs; give another --base")
    with atomic_write(out) as handle:
        save_torch({"model": state, "args": argparse.Namespace(**arguments_of(config))}, handle)


def _frozen_state(config: ModelConfig, sam2_weights: str | None, roberta: str | None) -> dict[str, Tensor]:
    """What training does not change, under published names, from base weights or from a model folder."""
    unread = {"text_encoder._float_tensor": torch.zeros(1), f"{FAIRSEQ_ENCODER}version": torch.full((1,), 3.0)}
    source = sam2_weights or require_shipped(config.sam2.name)
    if source is None or not is_folder(source):
        sam2 = published_state(read_sam2(sam2_weights, config.sam2))
        return unread | published_state(read_roberta(roberta)) | sam2
    state = published_state(read_folder(source).checkpoint)
    frozen = {key: tensor for key, tensor in state.items() if not is_trainable(key)}
    return unread | frozen | (published_state(read_roberta(roberta)) if roberta else {})


def _empty_model(config: ModelConfig) -> SAMWISE:
    with torch.device("meta"):
        return build_model(config)


def infer_config(checkpoint: Checkpoint) -> ModelConfig:
    """The configuration of a checkpoint that holds a whole SAM 2, from its tensors and its stored arguments.

    Tensors decide where they can. Published checkpoints hold the conditional memory encoder even when it was not
    trained: there the arguments decide.

    Raises:
        InputError: no SAM 2 of an official size in it, or no adapters.
    """
    state = published_state(checkpoint)
    if all(map(is_trainable, state)):
        raise InputError(
            f"{checkpoint.path} holds only what training changes, as checkpoint_N.pth of a training does: give its "
            "last.pth (written at the end) or best.pth, which hold everything"
        )
    version = detect_sam2_version(state)
    adapters = sorted(
        key for key in state if key.startswith("cmt_adapters.") and key.endswith("proj_vis_down.0.weight")
    )
    if version is None or not adapters:
        lacks = "adapters" if version else "SAM 2 image encoder of an official size"
        raise InputError(f"{checkpoint.path} holds no {lacks}: expected a published SAMWISE checkpoint")
    stored = stored_arguments(checkpoint)
    parts = {part_of(key) for key in state}
    values: dict[str, Any] = {name: stored[name] for name in ("switch_mem", "cme_decision_window") if name in stored}
    if "fusion_stages_txt" in stored:
        values["fusion_stages_txt"] = list(stored["fusion_stages_txt"])
    if HSA in parts:
        positions = sorted(key for key in state if key.endswith(".spatial_pos_embed"))
        values["hsa_patch_size"] = [math.isqrt(state[key].shape[3]) for key in positions]
    elif "HSA_patch_size" in stored:
        values["hsa_patch_size"] = list(stored["HSA_patch_size"])
    width = state[PATCH_EMBED].shape[0]
    return load_model_config(
        version,
        adapter_dim=state[adapters[0]].shape[0],
        fusion_stages=[round(math.log2(state[key].shape[1] / width)) for key in adapters],
        hsa=HSA in parts,
        use_cme_head=CME in parts and stored.get("use_cme_head", True),
        pred_obj_score=OBJECT_SCORES in parts and not stored.get("disable_pred_obj_score", False),
        motion_prompt=MOTION_PROJECTION in parts,
        **values,
    )


if __name__ == "__main__":
    run_script(main)
