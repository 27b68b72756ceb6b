"""The weights in a training's checkpoints: what changes every few minutes, the whole network for the best and the last.

Frozen weights (0.8 GB of base) stay in the files they came from. A checkpoint names these files and holds a hash of the
frozen tensors, so that a continued training has the same or does not begin.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.train.checkpoints import StoredCheckpoint
from models.base_weights import published_state
from models.checkpoint import Checkpoint, LoadReport, load_checkpoint, read_checkpoint
from models.checkpoint_keys import FAIRSEQ_ENCODER, is_ignored, is_trainable, to_fairseq
from models.model_folder import is_folder, read_folder
from models.samwise import SAMWISE
from models.stand_in import load_on_stand_in
from util.errors import InputError

FROZEN = "frozen"  # the key of `frozen_record` in a checkpoint
VOCABULARY = "vocabulary"  # of a checkpoint: SHA-256 of the tokens that it was trained with


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What training changes, BatchNorm's buffers included, under published keys: "model" of frequent checkpoints.

    Every script's `--resume` reads it, and takes the frozen weights from the base files.
    """
    return {key: value for key, value in model.state_dict().items() if is_trainable(key)}


def complete_state(model: nn.Module, files: Iterable[Path]) -> dict[str, Tensor]:
    """All weights under the published keys, those included that nothing reads: "model" of the best and the last.

    Args:
        model: a SAMWISE network.
        files: where its weights came from (`LoadReport.files`); they hold the tensors that nothing reads. Files that
            are gone are passed over: no network needs these tensors.
    """
    unread = {"text_encoder._float_tensor": torch.zeros(1), f"{FAIRSEQ_ENCODER}version": torch.full((1,), 3.0)}
    for file in files:
        if file.is_file():
            state = published_state(read_checkpoint(file))
            unread |= {key: value for key, value in state.items() if is_ignored(key)}
    return {**unread, **{to_fairseq(key): value for key, value in model.state_dict().items()}}


def frozen_record(model: nn.Module, files: Iterable[Path]) -> dict[str, Any]:
    """What a checkpoint says of the weights that it does not hold; made once, it takes a second or two.

    Args:
        model: a SAMWISE network.
        files: where its weights came from (`LoadReport.files`); none if they are random.
    """
    return {"files": [str(file) for file in files], "sha256": _frozen_digest(model)}


def _frozen_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        if not is_trainable(key):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load_network(
    model: SAMWISE, stored: StoredCheckpoint, *, sam2_weights: str | None = None, roberta: str | None = None
) -> LoadReport:
    """Read a training's checkpoint into `model`, in place: what it holds, and the frozen weights it was trained with.

    Args:
        model: a network of the same configuration. If the training began with random weights, its frozen ones stay
            as they are: the same seed must have made them.
        stored: a checkpoint with "model", and with `FROZEN` unless that is complete.
        sam2_weights: frozen weights to use instead of those that the checkpoint names, or where these are gone.
        roberta: the same, beside `sam2_weights` or where these are gone.

    Raises:
        InputError: files that are missing or do not fit, or frozen weights other than those of the training.
    """
    arguments = stored.state.get("args")
    checkpoint = Checkpoint(stored.path, "samwise", stored.state["model"], arguments)
    record = stored.state.get(FROZEN)
    if record is None:
        return load_checkpoint(model, checkpoint, allow_fresh=False)
    frozen = _named_tensors(model, record["files"]) if sam2_weights is None else None
    if frozen is not None:
        checkpoint = dataclasses.replace(checkpoint, state={**frozen, **checkpoint.state})
        report = load_checkpoint(model, checkpoint, allow_fresh=False)
    elif sam2_weights is not None and is_folder(sam2_weights):
        report = load_on_stand_in(model, checkpoint, read_folder(sam2_weights), roberta)
    else:
        report = load_checkpoint(model, checkpoint, sam2_weights=sam2_weights, roberta=roberta, allow_fresh=False)
    if _frozen_digest(model) != record["sha256"]:
        files = ", ".join(record["files"]) or "none: random weights of another --seed"
        raise InputError(
            f"the frozen weights are not those that {stored.path} was trained with (from {files}): put these files "
            "back, or name them with --sam2_weights and --roberta"
        )
    return report


def _named_tensors(model: nn.Module, files: Sequence[str]) -> Mapping[str, Tensor] | None:
    """The frozen tensors in `files` under published keys; None if one is gone.

    No files mean random weights: then the tensors are the network's own.
    """
    if not files:
        return {to_fairseq(key): value for key, value in model.state_dict().items() if not is_trainable(key)}
    if not all(Path(file).is_file() for file in files):
        return None
    states = [published_state(read_checkpoint(file)) for file in reversed(files)]  # the first has the last word
    return {key: value for state in states for key, value in state.items() if not is_trainable(key)}
