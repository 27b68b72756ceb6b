"""From values of flags to a training: what main.py and main_pretrain.py have in common."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from configs.schema import ModelConfig
from datasets.training import ClipSet, open_training_set
from engine.inference.record import command_line, describe_weights, environment, log_to
from engine.inference.run import check_sentences
from engine.runtime import take_device
from engine.train.checkpoints import CHECKPOINTS, CheckpointStore, StoredCheckpoint, load_file
from engine.train.evaluate import EpochEvaluation
from engine.train.loop import Position, Training
from engine.train.options import TrainOptions
from engine.train.weights import FROZEN, VOCABULARY, load_network
from models.build import find_tokenizer, load_model
from models.checkpoint import LoadReport
from models.checkpoint_formats import arguments_of
from models.samwise import SAMWISE
from util.distributed import Processes
from util.errors import InputError
from util.paths import atomic_write_json, is_url, writable_folder

logger = logging.getLogger(__name__)

AUTO = "auto"
_ORIGIN = ("resume", "sam2_weights", "roberta", "untrained")
_STATE = ("args", "model", "optimizer", "lr_scheduler", "position", "sequence", "clips", "random")  # `Training.restore`
_KEPT = ("lr", "lr_drop", "weight_decay")  # what optimizer and schedule bring along


@dataclass(frozen=True)
class Start:
    """Where a training begins.

    Attributes:
        flags: values of all flags, as plain numbers, texts and lists.
        folder: of the results.
        clips: the training data.
        evaluation: what follows every epoch, or None.
        continued: the checkpoint to go on from, or None for a new training.
    """

    flags: Mapping[str, Any]
    folder: Path
    clips: ClipSet
    evaluation: EpochEvaluation | None
    continued: StoredCheckpoint | None

    @property
    def stored(self) -> Mapping[str, Any]:
        """Flags that the checkpoint to go on from was made with."""
        return {} if self.continued is None else self.continued.state["args"]

    @property
    def origin(self) -> dict[str, Any]:
        """Flags that say where weights and vocabulary came from when the training began, however often it went on.

        Checkpoints keep them in place of `--resume auto`. Files that moved since then can be named anew.
        """
        begun = {name: (self.stored or self.flags)[name] for name in _ORIGIN}
        moved = {name: self.flags[name] for name in ("sam2_weights", "roberta") if self.flags[name] is not None}
        return {**begun, **moved}

    def weight_files(self, report: LoadReport) -> Sequence[Path]:
        """Where the frozen weights came from: as `report` says, or as the training that goes on has noted."""
        record = None if self.continued is None else self.continued.state.get(FROZEN)
        return report.files if record is None else [Path(file) for file in record["files"]]


def result_folder(flags: Mapping[str, Any]) -> Path:
    """Where the results of a training go."""
    return Path(flags["output_dir"]) / flags["name_exp"]


def checkpoint_to_continue(flags: Mapping[str, Any]) -> StoredCheckpoint | None:
    """The checkpoint that `--resume auto` means; None for a new training.

    Raises:
        InputError: there is none to go on from, it lacks what going on needs, or there are some although the training
            shall start anew.
    """
    folder = result_folder(flags)
    store = CheckpointStore(folder / CHECKPOINTS, flags["keep_checkpoints"])
    if flags["resume"] == AUTO:
        continued = store.require_latest()
        _refuse_another_format(continued)
        return continued
    if flags["overwrite"]:
        return None
    if any(store.folder.glob("*.pth")):
        raise InputError(
            f"{folder} holds checkpoints of an earlier training: --resume auto goes on with it, --overwrite starts "
            "anew, and another --name_exp keeps both"
        )
    return None


def _refuse_another_format(continued: StoredCheckpoint) -> None:
    """A whole checkpoint that another revision of this program wrote may not say all that going on needs."""
    state, known = continued.state, {field.name for field in fields(Position)}
    faults = [f"lacks {name!r}" for name in _STATE if name not in state]
    faults += [f"lacks --{name}" for name in _ORIGIN if name not in state.get("args", _ORIGIN)]
    faults += [f"has an unknown position {name!r}" for name in state.get("position", ()) if name not in known]
    if faults:
        raise InputError(
            f"--resume auto: {continued.path} {faults[0]}: another revision of this program wrote it; go on with that "
            "one, or begin another --name_exp from its weights (--resume last.pth or best.pth)"
        )


def warn_of_inference_flags(given: Collection[str]) -> None:
    """Say which of the flags `given` neither a training uses nor its evaluation, whose split and folders are fixed."""
    for name in ("split", "results_path"):
        if name in given:
            logger.warning("--%s is not used: it is for the inference scripts", name)


def warn_of_kept_values(flags: Mapping[str, Any], given: Collection[str], continued: StoredCheckpoint | None) -> None:
    """Say which given values a training does not use; one that goes on has an optimizer and a schedule already.

    Args:
        flags: values of all flags.
        given: names of those on the command line.
        continued: from `checkpoint_to_continue`.
    """
    stored = {} if continued is None else continued.state["args"]
    for name in _KEPT:
        if name in given and name in stored and flags[name] != stored[name]:
            logger.warning("--%s %s is not used: the training that goes on has %s", name, flags[name], stored[name])
        if name in given and "resume_optimizer" in given and continued is None:
            logger.warning("--%s is not used: --resume_optimizer takes that of %s", name, flags["resume"])
    for name in ("overwrite", "start_epoch", "resume_optimizer"):
        if name in given and continued is not None:
            logger.warning("--%s is not used: the training goes on where it was", name)
    if "cuda_graphs" in given:
        logger.warning("--cuda_graphs is not used: it is for inference")


def prepare(
    flags: Mapping[str, Any], config: ModelConfig, processes: Processes, continued: StoredCheckpoint | None = None
) -> Start:
    """Check everything that can be checked before weights are loaded.

    Args:
        flags: values of all flags.
        config: the network to train.
        processes: those that train together.
        continued: from `checkpoint_to_continue`.

    Raises:
        InputError: data that is missing or broken, or flags that do not fit each other or `continued`.
    """
    folder = result_folder(flags)
    if processes.is_main:
        writable_folder(folder)
    TrainOptions.from_flags(flags).share(processes.size)
    resume = flags["resume"]
    if flags["overwrite"] and resume not in (None, AUTO) and not is_url(resume):
        removed = (folder / CHECKPOINTS).resolve()
        if removed in Path(resume).resolve().parents:
            raise InputError(f"--overwrite would remove {resume}: copy the file, or choose another --name_exp")
    if flags["resume_optimizer"] and flags["resume"] is None:
        raise InputError("--resume_optimizer needs the checkpoint that holds the optimizer: give its file to --resume")
    if flags["start_epoch"] >= flags["epochs"]:
        raise InputError(
            f"--start_epoch {flags['start_epoch']}: epochs count from 0, and --epochs is {flags['epochs']}"
        )
    if continued is not None:
        _refuse_another_network(config, continued)
    clips = open_training_set(
        flags["dataset_file"],
        **{name: flags.get(name, "") for name in ("ytvos_path", "mevis_path", "davis_path", "coco_path")},
        num_frames=flags["num_frames"],
        side=config.sam2.image_size,
        augment=flags["augm_resize"],
        seed=flags["seed"],
        mevis_version=flags.get("mevis_version"),
    )
    evaluation = None if flags["no_evaluation"] else EpochEvaluation.open(flags, folder, processes)
    return Start(flags, folder, clips, evaluation, continued)


def _refuse_another_network(config: ModelConfig, continued: StoredCheckpoint) -> None:
    stored = continued.state["args"]
    for name, value in arguments_of(config).items():
        if stored.get(name, value) != value:
            raise InputError(
                f"--resume auto: {continued.path} was written with --{name} {stored[name]}, found {value}: give the "
                "same flags, or another --name_exp"
            )


def load_to_train(config: ModelConfig, start: Start, processes: Processes) -> tuple[SAMWISE, LoadReport]:
    """The network with the weights to begin or to go on with, on the device of this process.

    Raises:
        InputError: files that are missing or do not fit, or a sentence that is too long.
    """
    flags, origin = start.flags, start.origin
    device = take_device(processes.device(flags["device"]))
    if start.continued is None:
        model, report = load_model(config, device=device, seed=flags["seed"], **origin)
    else:
        model, _ = load_model(config, untrained=True, roberta=origin["roberta"], seed=flags["seed"], device=device)
        report = load_network(model, start.continued, sam2_weights=flags["sam2_weights"], roberta=flags["roberta"])
        if not origin.pop("untrained"):
            model.tokenizer = find_tokenizer(config, **origin)
        _check_vocabulary(model, start.continued)
    logger.info("%s", report.summary())
    check_sentences(model, start.clips.sentences())
    if start.evaluation is not None:
        check_sentences(model, start.evaluation.data.sentences())
    return model, report


def _check_vocabulary(model: SAMWISE, continued: StoredCheckpoint) -> None:
    assert model.tokenizer is not None
    if continued.state.get(VOCABULARY, model.tokenizer.digest) != model.tokenizer.digest:
        raise InputError(
            f"{continued.path} was trained with another vocabulary than the one found: name the folder of its "
            "tokenizer with --roberta"
        )


def train(model: SAMWISE, report: LoadReport, start: Start, processes: Processes) -> bool:
    """Train to the end, or until a request to stop.

    Args:
        model, report: from `load_to_train`.
        start: from `prepare`.
        processes: those that train together.

    Returns:
        whether the end was reached.

    Raises:
        InputError: there is nothing to train, or see `Training`.
    """
    flags, folder = start.flags, start.folder
    options = TrainOptions.from_flags(flags)
    with contextlib.ExitStack() as stack:
        if processes.is_main:
            stack.enter_context(log_to(folder / "log.txt"))
        training = Training(
            model,
            start.clips,
            options,
            folder,
            processes,
            {**flags, **start.origin},
            start.weight_files(report),
            start.evaluation,
        )
        if start.continued is not None:
            training.restore(start.continued)
        elif (first := flags["start_epoch"] * training.steps_per_epoch) >= training.total:
            raise InputError(
                f"--start_epoch {flags['start_epoch']} begins after {first} steps, where the training ends "
                f"(--max_iterations {flags['max_iterations']}): nothing would be trained"
            )
        else:
            training.skip_epochs(flags["start_epoch"])
        if flags["resume_optimizer"] and start.continued is None:
            training.optimization.load(load_file(flags["resume"]).state, flags["resume"])
        training.flags |= training.optimization.flags
        anew = flags["overwrite"] and start.continued is None
        return training.run(anew, lambda: _announce(training, report))


def _announce(training: Training, report: LoadReport) -> None:
    """Say, and write to run.json, what is going to happen."""
    options, model, processes = training.options, training.model, training.processes
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    logger.info(
        "%.2f M of %.2f M parameters are trained, on %d clips in %d steps of %d (%d in each of %d processes)",
        trained / 1e6,
        total / 1e6,
        len(training.clips),
        training.total,
        options.batch_size,
        training.share,
        processes.size,
    )
    content = {
        "command": command_line(),
        "flags": training.flags,
        "weights": describe_weights(report),
        "environment": environment(model.device),
        "parameters": {"trained": trained, "total": total},
        "clips": len(training.clips),
        "steps": training.total,
    }
    atomic_write_json(training.folder / "run.json", content)
