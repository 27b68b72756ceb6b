"""Loading on a stand-in: a model folder gives SAM 2 and the text encoder where a checkpoint lacks them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from torch import Tensor

from models.base_weights import published_state
from models.checkpoint import LoadReport, load_checkpoint, stored_arguments
from models.checkpoint_formats import Checkpoint
from models.checkpoint_keys import (
    ADAPTERS,
    OBJECT_SCORES,
    SAM2,
    TEXT_ENCODER,
    TEXT_PROJECTION,
    Part,
    from_fairseq,
    part_of,
    to_fairseq,
)
from models.model_folder import ModelFolder
from models.samwise import SAMWISE
from util.errors import InputError

_FROZEN = (SAM2, OBJECT_SCORES, TEXT_ENCODER)
_FRESH = (TEXT_PROJECTION, ADAPTERS)  # what `load_checkpoint` expects of every checkpoint, and a stand-in lacks


def load_on_stand_in(
    model: SAMWISE, checkpoint: Checkpoint | None, folder: ModelFolder, roberta: str | None = None
) -> LoadReport:
    """Load a checkpoint, and from a model folder the frozen parts that it lacks.

    Args:
        model: the network, freshly initialised.
        checkpoint: what was trained, with or without the frozen parts; None leaves all that trains fresh.
        folder: the stand-in; of its tensors only those of SAM 2 and of the text encoder are used.
        roberta: where the text encoder comes from instead, see `load_weights`.

    Raises:
        InputError: files that do not fit the network.
    """
    name = model.config.sam2.name
    if checkpoint is not None and (theirs := stored_arguments(checkpoint).get("sam2_version", name)) != name:
        raise InputError(f"{checkpoint.path} was trained with --sam2_version {theirs}, not {name}")
    own = {} if checkpoint is None else published_state(checkpoint)
    targets = model.state_dict()
    wanted = {part_of(key) for key in targets} & set(_FROZEN) - {part_of(key) for key in own}
    wanted -= {TEXT_ENCODER} if roberta else set()
    frozen = _tensors_of(wanted, folder.checkpoint.state)
    if lacking := [key for key in _tensors_of(wanted, targets) if key not in frozen]:
        raise InputError(f"{folder.path} lacks {lacking[0]}, which this network needs (another --sam2_version?)")
    fresh = _tensors_of(_FRESH, targets) if checkpoint is None else {}
    state = {to_fairseq(key): tensor for key, tensor in {**frozen, **fresh}.items()} | own
    source = checkpoint or Checkpoint(folder.checkpoint.path, "samwise", {})
    report = load_checkpoint(model, dataclasses.replace(source, state=state), roberta=roberta)
    warnings = [
        f"untrained: the {part.name}, no file holds the {count} tensors"
        for part in _FRESH
        if (count := sum(part_of(key) is part for key in fresh))
    ]
    taken = {from_fairseq(key) for key in frozen}
    extra = () if not taken or folder.checkpoint.path in report.files else (folder.checkpoint.path,)
    return LoadReport(
        (*report.files, *extra),
        tuple(key for key in report.loaded if key not in taken and key not in fresh),
        (*taken, *report.from_base),
        (*report.fresh, *fresh),
        report.ignored,
        (*report.warnings, *warnings),
    )


def _tensors_of(parts: Collection[Part | None], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if part_of(key) in parts}
