"""Loading weights into a network: strict, with a report of where every tensor came from.

A checkpoint may hold everything (published ones do), or only some parts (compact ones hold what training changes).
Frozen parts that it lacks come from the base weights, trainable ones may start fresh; each part is either whole or
absent. Anything else that is missing, unexpected or of another shape is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from configs.schema import ModelConfig
from models.base_weights import published_state, read_roberta, read_sam2
from models.checkpoint_formats import Checkpoint, arguments_of, read_checkpoint, save_compact, stored_arguments
from models.checkpoint_keys import (
    CME,
    HSA,
    MOTION_PROJECTION,
    OBJECT_SCORES,
    PARTS,
    SAM2,
    TEXT,
    TEXT_ENCODER,
    Part,
    detect_sam2_version,
    from_fairseq,
    has_sam21,
    is_ignored,
    part_of,
    trunk_of,
)
from util.errors import InputError

__all__ = [
    "Checkpoint",
    "LoadReport",
    "load_checkpoint",
    "load_weights",
    "read_checkpoint",
    "save_compact",
    "stored_arguments",
]

_FROM_SAM2 = (SAM2, OBJECT_SCORES)
_MAY_START_FRESH = (HSA, CME, MOTION_PROJECTION)
# Arguments that decide the architecture, and the part whose presence in the file already shows them.
_ARCHITECTURE: dict[str, Part | None] = {
    "HSA": HSA,
    "HSA_patch_size": None,
    "adapter_dim": None,
    "fusion_stages": None,
    "fusion_stages_txt": None,
    "use_cme_head": CME,
    "disable_pred_obj_score": OBJECT_SCORES,
    "motion_prompt": MOTION_PROJECTION,
}


@dataclass(frozen=True)
class LoadReport:
    """Where the tensors of a network came from; together `loaded`, `from_base` and `fresh` are all of them.

    Attributes:
        files: the files that were read.
        loaded: keys taken from the checkpoint.
        from_base: keys taken from the SAM 2 and RoBERTa files.
        fresh: keys that keep their fresh initialisation.
        ignored: keys of the files that the network has no use for, under the files' published names.
        warnings: contradictions and surprises, one sentence each.
    """

    files: tuple[Path, ...]
    loaded: tuple[str, ...]
    from_base: tuple[str, ...]
    fresh: tuple[str, ...]
    ignored: tuple[str, ...]
    warnings: tuple[str, ...]

    def summary(self) -> str:
        """One line of counts, and a further line for every warning."""
        counts = (
            f"weights: {len(self.loaded)} tensors from the checkpoint, {len(self.from_base)} from base weights, "
            f"{len(self.fresh)} freshly initialised, {len(self.ignored)} ignored "
            f"({', '.join(str(file) for file in self.files) or 'no file'})"
        )
        return "\n".join([counts, *(f"warning: {warning}" for warning in self.warnings)])


@dataclass
class _Assembly:
    """What is gathered for a network while its files are read.

    Attributes:
        targets: the network's own tensors.
        tensors: what will be written to them.
        ignored: keys of the files without use.
        warnings: sentences for the report.
        files: the files read.
    """

    config: ModelConfig
    targets: Mapping[str, Tensor]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def keys(self, part: Part) -> list[str]:
        """The network's keys of one part."""
        return [key for key in self.targets if part_of(key) is part]

    def absent(self, part: Part) -> bool:
        """Whether the network has the part and nothing of it was found so far."""
        keys = self.keys(part)
        return bool(keys) and not any(key in self.tensors for key in keys)


def load_weights(
    model: nn.Module,
    *,
    resume: str | None,
    sam2_weights: str | None = None,
    roberta: str | None = None,
    allow_fresh: bool = True,
) -> LoadReport:
    """Read weight files into `model`, in place; parameters may be on any device, of any dtype, or on "meta".

    Args:
        model: a SAMWISE network (with a `config: ModelConfig`). Tensors on the meta device are replaced by the
            loaded ones (on the CPU), all others are overwritten.
        resume: a published, training or compact checkpoint (path or URL); None for base weights alone.
        sam2_weights: the SAM 2 file for what `resume` lacks; None for the official name in `pretrain`.
        roberta: folder, file or hub id of RoBERTa for what `resume` lacks; None for `pretrain/roberta-base`.
        allow_fresh: whether trainable parts that are in no file may keep their fresh initialisation (the report warns).

    Raises:
        InputError: a file that cannot be read or does not fit; the message names the first keys and the flag to change.
    """
    checkpoint = None if resume is None else read_checkpoint(resume)
    return load_checkpoint(model, checkpoint, sam2_weights=sam2_weights, roberta=roberta, allow_fresh=allow_fresh)


def load_checkpoint(
    model: nn.Module,
    checkpoint: Checkpoint | None,
    *,
    sam2_weights: str | None = None,
    roberta: str | None = None,
    allow_fresh: bool = True,
) -> LoadReport:
    """As `load_weights`, with a checkpoint that was already read."""
    config = model.config
    assert isinstance(config, ModelConfig)
    work = _Assembly(config, model.state_dict())
    if checkpoint is not None:
        _take_checkpoint(work, checkpoint)
    loaded = tuple(work.tensors)
    if any(work.absent(part) for part in _FROM_SAM2):
        parts = tuple(part for part in _FROM_SAM2 if work.absent(part))
        _take_base(work, read_sam2(sam2_weights, config.sam2), parts)
    elif sam2_weights is not None:
        work.warnings.append("--sam2_weights is not used: the checkpoint holds all of SAM 2")
    if work.absent(TEXT_ENCODER):
        _take_base(work, read_roberta(roberta), (TEXT_ENCODER,))
    from_base = tuple(work.tensors)[len(loaded) :]
    fresh = _take_fresh(work, checkpoint, allow_fresh)
    _write(model, work)
    return LoadReport(tuple(work.files), loaded, from_base, fresh, tuple(work.ignored), tuple(work.warnings))


def _take_checkpoint(work: _Assembly, checkpoint: Checkpoint) -> None:
    if checkpoint.kind not in ("samwise", "compact"):
        flag = "--sam2_weights" if checkpoint.kind == "sam2" else "--roberta"
        raise InputError(f"{checkpoint.path} holds {checkpoint.kind} weights alone: give it with {flag}")
    state = published_state(checkpoint)
    _check_version(work.config, state, checkpoint)
    unused = _take(work, state, checkpoint.path, PARTS)
    shown = set(unused)
    stored = stored_arguments(checkpoint)
    for part, keys in unused.items():
        work.ignored.extend(keys)
        if part is CME and not stored.get("use_cme_head", True):
            continue  # published checkpoints hold it untrained
        work.warnings.append(
            f"{len(keys)} {part.name} tensors of {checkpoint.path} are not used, because {part.without}"
        )
    shown |= {part for part in _MAY_START_FRESH if work.absent(part)}
    work.warnings.extend(_contradictions(work.config, stored, shown))


def _take_base(work: _Assembly, checkpoint: Checkpoint, parts: tuple[Part, ...]) -> None:
    state = published_state(checkpoint)
    _check_version(work.config, state, checkpoint)
    unused = _take(work, state, checkpoint.path, parts)
    work.ignored.extend(key for keys in unused.values() for key in keys)
    if missing := [key for part in parts for key in work.keys(part) if key not in work.tensors]:
        raise InputError(f"{checkpoint.path} lacks {_first(missing)}: is it complete?")


def _take(work: _Assembly, state: Mapping[str, Tensor], file: Path, parts: tuple[Part, ...]) -> dict[Part, list[str]]:
    """Gather the tensors of `state` (published names) that belong to `parts`.

    Returns:
        the keys of parts that the network was built without, to be reported.
    """
    missing, unexpected, misshapen = [], [], []
    unused: dict[Part, list[str]] = {}
    present = {part_of(key) for key in state if not is_ignored(key)}
    for published, tensor in state.items():
        key, part = from_fairseq(published), part_of(published)
        target = work.targets.get(key)
        if target is not None:
            if target.shape != tensor.shape or target.is_floating_point() != tensor.is_floating_point():
                misshapen.append(f"{published} {_form(tensor)} where {_form(target)} is expected")
            elif part in parts:
                work.tensors[key] = tensor
        elif is_ignored(published):
            work.ignored.append(published)
        elif part is not None and part.switch and not work.keys(part):
            unused.setdefault(part, []).append(published)
        else:
            unexpected.append(published)
    for part in parts:
        if part in present:
            missing += [key for key in work.keys(part) if key not in work.tensors]
    _refuse_misfits(file, missing, unexpected, misshapen)
    work.files.append(file)
    return unused


def _check_version(config: ModelConfig, state: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """Refuse weights that were made for another SAM 2 than the network's."""
    trunk = trunk_of(state)
    expected = (config.sam2.hiera.embed_dim, sum(config.sam2.hiera.stages))
    if trunk is None:
        stored = stored_arguments(checkpoint).get("sam2_version", config.sam2.name)
        if checkpoint.kind in ("samwise", "compact") and stored != config.sam2.name:
            raise InputError(f"{checkpoint.path} was trained with --sam2_version {stored}, not {config.sam2.name}")
    elif trunk != expected or has_sam21(state) != config.sam2.no_object_memory:
        version = detect_sam2_version(state)
        advice = f"looks like {version}, use --sam2_version {version}" if version else "is of no official size"
        raise InputError(
            f"{checkpoint.path} does not fit --sam2_version {config.sam2.name}: its SAM 2 (trunk of width {trunk[0]}, "
            f"{trunk[1]} blocks) {advice}"
        )


def _contradictions(config: ModelConfig, stored: Mapping[str, Any], shown: set[Part]) -> list[str]:
    """A sentence for every stored architecture argument that differs, but those that the parts in `shown` reveal."""
    sentences = []
    for name, ours in arguments_of(config).items():
        if name not in _ARCHITECTURE or name not in stored or _ARCHITECTURE[name] in shown:
            continue
        theirs = list(stored[name]) if isinstance(stored[name], tuple) else stored[name]
        if name == "HSA_patch_size" and not (config.hsa and stored.get("HSA")):
            continue
        if theirs != ours:
            sentences.append(f"--{name} is {ours} here, but the checkpoint was trained with {theirs}")
    return sentences


def _take_fresh(work: _Assembly, checkpoint: Checkpoint | None, allow_fresh: bool) -> tuple[str, ...]:
    fresh: list[str] = []
    for part in (part for part in PARTS if part.trainable and work.absent(part)):
        keys = work.keys(part)
        switch = f"; drop {part.switch} or give a checkpoint trained with it" if part.switch else ""
        if checkpoint is not None and part not in _MAY_START_FRESH:
            raise InputError(f"{checkpoint.path} holds no {part.name} ({_first(keys)}): it is no SAMWISE checkpoint")
        if not allow_fresh:
            raise InputError(f"no file holds weights of the {part.name} ({_first(keys)}){switch or '; give --resume'}")
        work.warnings.append(f"untrained: the {part.name}, no file holds the {len(keys)} tensors{switch}")
        fresh += keys
        if part is MOTION_PROJECTION:  # it starts as a copy of the sentence's projection
            for key in keys:
                source = key.replace("project_motion_prompts", "project_text")
                if source in work.tensors:
                    work.tensors[key] = work.tensors[source]
    return tuple(fresh)


def _write(model: nn.Module, work: _Assembly) -> None:
    on_meta = {key: work.tensors[key].to(work.targets[key].dtype) for key in work.tensors if work.targets[key].is_meta}
    model.load_state_dict(on_meta, strict=False, assign=True)
    model.load_state_dict({key: work.tensors[key] for key in work.tensors if key not in on_meta}, strict=False)


def _refuse_misfits(file: Path, missing: list[str], unexpected: list[str], misshapen: list[str]) -> None:
    """Raise an InputError that names the first keys of each list, if any list has some."""
    found = {"missing": missing, "unexpected": unexpected, "of another form": misshapen}
    faults = [f"{len(keys)} {name}: {_first(keys)}" for name, keys in found.items() if keys]
    if not faults:
        return
    key = (misshapen or unexpected or missing)[0]
    if "spatial_pos_embed" in key:
        advice = "--HSA_patch_size differs?"
    elif key.startswith("cmt_adapters."):
        advice = "--fusion_stages or --adapter_dim differs?"
    elif key.startswith(TEXT):
        advice = "another text encoder than RoBERTa-base?"
    elif misshapen or unexpected:
        advice = "another --sam2_version, or another network?"
    else:
        advice = "an incomplete file?"
    raise InputError(f"{file} does not fit this network: {'; '.join(faults)} ({advice})")


def _first(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _form(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
