"""Evaluation after each epoch and of a checkpoint, by the functions that the inference scripts call."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from datasets.mevis import open_mevis
from datasets.ref_davis import open_ref_davis
from datasets.refcoco import RefCocoDataset
from datasets.video_index import VideoDataset
from engine.inference.benchmarks import Benchmark, DavisBenchmark, ExpressionBenchmark
from engine.inference.manifest import HEADER_FILE
from engine.inference.options import InferenceOptions
from engine.inference.record import identity_of
from engine.inference.refcoco import evaluate_refcoco, image_identity, open_eval_sets, validation_files
from engine.inference.run import ALONE, run_benchmark
from engine.scoring.davis import DavisSequence, davis_sequences
from engine.train.checkpoints import CHECKPOINTS
from models.half_weights import forget_half_weights
from models.samwise import SAMWISE
from util.distributed import Processes
from util.paths import atomic_write_json, read_json_object

logger = logging.getLogger(__name__)

FOLDER = "evaluation"
TRAINING_RECORD = "run-training.json"
# What stays of earlier epochs: scores, tables and how they were made, but neither masks nor records of them.
_KEPT = ("scores.json", "run.json", "*.csv", "log.txt")


class EvaluationData(ABC):
    """The opened data of an evaluation.

    Attributes:
        headline: the measure that decides which epoch is best; the higher the better.
    """

    headline: ClassVar[str]

    @abstractmethod
    def sentences(self) -> Iterator[tuple[str, str]]:
        """Every sentence, after the place where it stands."""

    @abstractmethod
    def identity(self, model: SAMWISE, folder: Path, options: InferenceOptions) -> Mapping[str, Any]:
        """What decides the masks."""

    @abstractmethod
    def evaluate(
        self,
        model: SAMWISE,
        folder: Path,
        options: InferenceOptions,
        processes: Processes,
        facts: Mapping[str, Any],
    ) -> dict[str, float]:
        """Segment and score; all processes call it together. Returns all measures, the headline among them."""


class _VideoData(EvaluationData):
    """Common to the benchmarks of videos."""

    dataset: VideoDataset

    @abstractmethod
    def benchmark(self, folder: Path) -> Benchmark:
        """The benchmark with its results in `folder`."""

    @abstractmethod
    def figures(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """The measures in the content of scores.json."""

    def sentences(self) -> Iterator[tuple[str, str]]:
        """See `EvaluationData`."""
        return self.dataset.sentences()

    def identity(self, model: SAMWISE, folder: Path, options: InferenceOptions) -> Mapping[str, Any]:
        """See `EvaluationData`."""
        return identity_of(model, self.benchmark(folder).dataset, options)

    def evaluate(
        self,
        model: SAMWISE,
        folder: Path,
        options: InferenceOptions,
        processes: Processes,
        facts: Mapping[str, Any],
    ) -> dict[str, float]:
        """See `EvaluationData`."""
        scores = run_benchmark(model, self.benchmark(folder), options, processes, facts)
        assert scores is not None
        return self.figures(scores)


@dataclass(frozen=True)
class DavisData(_VideoData):
    """Ref-DAVIS17, split valid: for trainings on Ref-YouTube-VOS, whose own masks the owners long kept."""

    headline: ClassVar[str] = "J&F"
    dataset: VideoDataset
    sequences: Sequence[DavisSequence]
    subset: str

    def benchmark(self, folder: Path) -> Benchmark:
        """See `_VideoData`."""
        return DavisBenchmark(self.dataset, self.sequences, self.subset, folder)

    def figures(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """The average of the annotators: "J&F", "J", "F", "J-Recall", ..."""
        return {name.removesuffix("-Mean"): value for name, value in scores["average"].items()}


@dataclass(frozen=True)
class MevisData(_VideoData):
    """MeViS, split valid_u."""

    headline: ClassVar[str] = "J&F"
    dataset: VideoDataset

    def benchmark(self, folder: Path) -> Benchmark:
        """See `_VideoData`."""
        return ExpressionBenchmark(self.dataset, folder)

    def figures(self, scores: Mapping[str, Any]) -> dict[str, float]:
        """The official "J&F", "J", "F", and those by text."""
        by_text = {f"{name} by text": value for name, value in scores["by_text"].items()}
        return {**scores["official"], **by_text}


@dataclass(frozen=True)
class RefCocoData(EvaluationData):
    """Splits of RefCOCO, RefCOCO+ and RefCOCOg."""

    headline: ClassVar[str] = "overall_iou"
    sets: Sequence[RefCocoDataset]

    def sentences(self) -> Iterator[tuple[str, str]]:
        """See `EvaluationData`."""
        return itertools.chain.from_iterable(dataset.sentences() for dataset in self.sets)

    def identity(self, model: SAMWISE, folder: Path, options: InferenceOptions) -> Mapping[str, Any]:
        """See `EvaluationData`."""
        return image_identity(model, options)

    def evaluate(
        self,
        model: SAMWISE,
        folder: Path,
        options: InferenceOptions,
        processes: Processes,
        facts: Mapping[str, Any],
    ) -> dict[str, float]:
        """See `EvaluationData`: the mean of every measure over the sets, and where there are several, each set's."""
        scores = evaluate_refcoco(model, self.sets, folder, options, processes, facts)
        measures = next(iter(scores.values()))
        means = {name: float(np.mean([own[name] for own in scores.values()])) for name in measures}
        if len(scores) == 1:
            return means
        return means | {f"{own} {name}": value for own, found in scores.items() for name, value in found.items()}


def open_evaluation_data(dataset_file: str, flags: Mapping[str, Any]) -> EvaluationData:
    """Open what a network that was trained on `dataset_file` is evaluated on.

    Args:
        dataset_file: value of `--dataset_file`.
        flags: values of flags, as far as they apply: davis_path, set, task, allow_partial, mevis_path, mevis_version,
            coco_path, eval_sets.

    Raises:
        InputError: data are missing or broken; files are named.
    """
    if dataset_file == "mevis":
        return MevisData(open_mevis(flags["mevis_path"], "valid_u", flags.get("mevis_version")))
    if dataset_file in ("ytvos", "davis"):
        path, subset = flags["davis_path"], flags.get("set", "val")
        task, partial = flags.get("task", "unsupervised"), flags.get("allow_partial", False)
        data = DavisData(open_ref_davis(path), davis_sequences(path, task, subset, partial), subset)
        data.benchmark(Path())  # says now if sequences are missing
        return data
    return RefCocoData(open_eval_sets(flags["coco_path"], dataset_file, flags.get("eval_sets")))


def check_evaluation_data(
    dataset_file: str, flags: Mapping[str, Any], processes: Processes = ALONE
) -> EvaluationData | None:
    """Open the evaluation data of a training, once, before it starts. Other arguments as for `open_evaluation_data`.

    Args:
        processes: the first warns where there are no data.

    Returns:
        The data; None where they are not there at all.

    Raises:
        InputError: the data are there, but incomplete or broken.
    """
    wanted = _evaluation_places(dataset_file, flags)
    if any(place.exists() for place in wanted):
        return open_evaluation_data(dataset_file, flags)
    if processes.is_main:
        logger.warning(
            "epochs will not be evaluated, and none will be called the best: %s is not there (docs/data.md tells how "
            "to get it)",
            " or ".join(map(str, wanted)),
        )
    return None


def _evaluation_places(dataset_file: str, flags: Mapping[str, Any]) -> list[Path]:
    """Files and folders of which one is there if the data are."""
    if dataset_file == "mevis":
        return [Path(flags["mevis_path"]) / "valid_u"]
    if dataset_file in ("ytvos", "davis"):
        root = Path(flags["davis_path"])
        return [root / "meta_expressions" / "valid", root / "valid"]
    if flags.get("eval_sets"):
        return [Path()]  # asked for by name: they must be there
    return list(validation_files(flags["coco_path"], dataset_file).values())


@dataclass(frozen=True)
class EpochEvaluation:
    """Evaluates a network as it is after an epoch.

    Results go to `folder`/evaluation/epoch_N. If the same weights were evaluated there before, in part or fully, that
    is not done again; results of others are removed. Of other epochs scores and tables stay, masks do not.

    Attributes:
        data: of `check_evaluation_data`.
        options: how to run it.
        flags: values of all flags, for run.json.
        folder: of the training.
        processes: those that share the work; all of them make the same calls.
    """

    data: EvaluationData
    options: InferenceOptions
    flags: Mapping[str, Any]
    folder: Path
    processes: Processes = ALONE

    @classmethod
    def open(cls, flags: Mapping[str, Any], folder: Path, processes: Processes = ALONE) -> EpochEvaluation | None:
        """Open the data before training starts. Arguments, result and errors: as for `check_evaluation_data`."""
        data = check_evaluation_data(flags["dataset_file"], flags, processes)
        return None if data is None else cls(data, evaluation_options(flags), flags, folder, processes)

    def __call__(self, model: SAMWISE, epoch: int) -> tuple[float, dict[str, float]]:
        """Evaluate; all processes call it together. Draws no random number, and leaves the network in its mode.

        Args:
            model: the network itself (not wrapped for training), on the device of this process.
            epoch: which one.

        Returns:
            The figure that decides which epoch is best, and all figures, as fractions.

        Raises:
            InputError, OSError, KeyboardInterrupt: as `run_benchmark`. What is finished stays; the next call goes on.
        """
        own, on_gpu = self.folder / FOLDER / f"epoch_{epoch}", model.device.type == "cuda"
        if self.processes.is_main:
            _remove_results_of_others(own, self.data.identity(model, own, self.options))
        self.processes.barrier()
        if on_gpu:
            torch.cuda.empty_cache()  # the batch is chosen by the memory that is free
        facts = {"flags": dict(self.flags), "epoch": epoch}
        figures = self.data.evaluate(model, own, self.options, self.processes, facts)
        forget_half_weights(model)
        if on_gpu:
            torch.cuda.empty_cache()
        if self.processes.is_main:
            for other in sorted((self.folder / FOLDER).glob("epoch_*")):
                if other != own:
                    _keep_scores_only(other)
        return figures[self.data.headline], figures


def evaluation_options(flags: Mapping[str, Any]) -> InferenceOptions:
    """The options that values of flags stand for, in a training: `--overwrite` means the training there.

    Raises:
        InputError: a value that does not fit.
    """
    names = {field.name for field in dataclasses.fields(InferenceOptions)} - {"overwrite", "shard"}
    return InferenceOptions(**{name: flags[name] for name in names if name in flags})


def evaluate_checkpoint(
    model: SAMWISE, flags: Mapping[str, Any], processes: Processes = ALONE, facts: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """What `--eval` does: evaluate a network as after an epoch. All processes call it together.

    Args:
        model: on the device of this process.
        flags: values of all flags; results go to `--output_dir`/`--name_exp`, and `--overwrite` starts anew there. The
            run.json of a training there is kept as run-training.json.
        processes: those that share the work.
        facts: what else run.json shall say.

    Returns:
        All figures, as fractions.

    Raises:
        InputError: data are missing or broken; also as `run_benchmark`.
    """
    folder = Path(flags["output_dir"]) / flags["name_exp"]
    if processes.is_main:
        _keep_training_record(folder)
    data = open_evaluation_data(flags["dataset_file"], flags)
    options = dataclasses.replace(evaluation_options(flags), overwrite=flags["overwrite"])
    return data.evaluate(model, folder, options, processes, facts or {})


def _keep_training_record(folder: Path) -> None:
    """Before run.json is that of an evaluation: how the training in the same folder was made stays known."""
    record = read_json_object(folder / "run.json") or {}
    if (folder / CHECKPOINTS).is_dir() and "steps" in record:
        atomic_write_json(folder / TRAINING_RECORD, record)


def _remove_results_of_others(folder: Path, identity: Mapping[str, Any]) -> None:
    """Remove `folder` unless it holds results of the same weights and options: it belongs to this training alone."""
    headers = [read_json_object(path) or {} for path in folder.glob(f"manifest/*/{HEADER_FILE}")]
    if folder.exists() and [header.get("identity") for header in headers] != [identity]:
        logger.info("%s holds the evaluation of other weights: it is made anew", folder)
        shutil.rmtree(folder)


def _keep_scores_only(folder: Path) -> None:
    shutil.rmtree(folder / "manifest", ignore_errors=True)
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before the folder
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()
        elif not any(path.match(pattern) for pattern in _KEPT):
            path.unlink()
