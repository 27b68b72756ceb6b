"""Evaluation on RefCOCO, RefCOCO+ and RefCOCOg as a function of (network, sets, options)."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets.refcoco import SPLITS, RefCocoDataset, annotation_path, open_refcoco
from datasets.validation import raise_on_faults, run_checks
from engine import evaluate_masks
from engine.inference.batching import automatic_batch
from engine.inference.images import ImageSegmenter, cut_into_units
from engine.inference.manifest import Manifest
from engine.inference.options import InferenceOptions
from engine.inference.record import RunRecord, describe_network, environment, log_to, remove_outcome
from engine.inference.run import ALONE, check_sentences
from engine.inference.sentence_records import Rle, SentenceRecords
from engine.published_figures import refcoco_table
from engine.runtime import float32_arithmetic
from models.samwise import SAMWISE
from util.distributed import Processes
from util.errors import InputError
from util.interrupts import sigterm_as_interrupt
from util.paths import atomic_write, atomic_write_json, read_json_object, remove_temporary_files

logger = logging.getLogger(__name__)

ALL_SETS = "all"
RESULTS_FOLDER, RESULTS_FILE = "results", "results.json"
SCORE = 1.0  # of every mask: there is one per sentence, and the network says nothing about its certainty
_BATCH_NOTE = "expressions_per_batch"
_CATEGORY = 1


def set_name(dataset: RefCocoDataset) -> str:
    """ "refcoco/val", as in `--eval_sets` and scores.json."""
    return f"{dataset.name}/{dataset.split}"


def open_eval_sets(
    coco_path: str | Path, dataset_file: str, eval_sets: Sequence[str] | None = None
) -> list[RefCocoDataset]:
    """Open the sets to evaluate on and check them fully: every image's header and every mask.

    Args:
        coco_path: the folder that holds `train2014` and one folder per data set.
        dataset_file: value of `--dataset_file`. Without `eval_sets` it means the validation split of that data set, and
            `all` means the validation splits that are there.
        eval_sets: names such as "refcoco+/testA"; None or empty for the default.

    Raises:
        InputError: an unknown name, or files are missing or malformed; they are named.
    """
    sets: list[RefCocoDataset] = []
    for name in eval_sets or _default_sets(coco_path, dataset_file):
        own, _, split = name.partition("/")
        if split not in SPLITS.get(own, ()):
            known = " ".join(f"{own}/{split}" for own, splits in SPLITS.items() for split in splits)
            raise InputError(f"--eval_sets: {name!r} is unknown; expected some of {known}")
        if name not in map(set_name, sets):
            sets.append(open_refcoco(coco_path, own, split))
    for dataset in sets:
        if not dataset.objects:
            raise InputError(f"{dataset.path} holds no sentences: choose other --eval_sets")
        raise_on_faults(run_checks(dataset.checks(full=True)), set_name(dataset))
    return sets


def validation_files(coco_path: str | Path, dataset_file: str) -> dict[str, Path]:
    """The names of the sets that are evaluated by default, with their files, whether these exist or not.

    Raises:
        InputError: `dataset_file` has no images.
    """
    names = list(SPLITS) if dataset_file == ALL_SETS else [dataset_file]
    if not set(names) <= set(SPLITS):
        known = ", ".join((*SPLITS, ALL_SETS))
        raise InputError(f"--dataset_file {dataset_file} has no images to evaluate on; expected one of {known}")
    return {f"{name}/val": annotation_path(coco_path, name, "val") for name in names}


def _default_sets(coco_path: str | Path, dataset_file: str) -> list[str]:
    files = validation_files(coco_path, dataset_file)
    there = [name for name, path in files.items() if path.is_file()]
    if not there:
        raise InputError(
            f"none of {', '.join(map(str, files.values()))} is there: tools/data/convert_refexp_to_coco.py makes them; "
            "--coco_path is the folder that holds them, and --eval_sets chooses other splits"
        )
    return there


def evaluate_refcoco(
    model: SAMWISE,
    sets: Sequence[RefCocoDataset],
    folder: Path,
    options: InferenceOptions,
    processes: Processes = ALONE,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, float]]:
    """Segment and score splits, or go on where an earlier run with the same weights and options stopped.

    All processes call it together. `folder` gets scores.json, run.json, log.txt, a folder `manifest` of records, and
    per split results/NAME/SPLIT with results.json (COCO results), expressions.csv and scores.json of its own.

    Args:
        model: the network with its tokenizer, on the device of this process.
        sets: of `open_eval_sets`.
        folder: of all results.
        options: how to run it; what belongs to videos (window, protocol, shard, pictures) has no meaning here.
        processes: those that share the work. Their number does not change a pixel.
        facts: what else run.json shall say.

    Returns:
        "NAME/SPLIT" -> measures, see `engine.scoring.refcoco.score_refcoco`. scores.json holds these beside those of
        other sets that earlier calls scored in this folder.

    Raises:
        InputError: the folder holds masks of other weights or options, a sentence is too long, an image does not
            decode, memory does not suffice for one sentence, or another process failed.
        OSError: a file cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM. In all these cases what is finished stays, and the next run goes on.
    """
    if options.visualize:
        logger.warning("--visualize draws videos, not the images of RefCOCO: it is ignored")
    for dataset in sets:
        check_sentences(model, dataset.sentences())
    run = _Run(model, folder, options, processes)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_as_interrupt())
        stack.enter_context(float32_arithmetic(options.precision))
        stack.callback(model.train, model.training)
        model.eval()
        if processes.is_main:
            stack.enter_context(log_to(folder / "log.txt"))
            stack.enter_context(run.manifest.locked("run"))
        run.begin(facts or {})
        return run.work(sets)


def image_identity(model: SAMWISE, options: InferenceOptions) -> dict[str, Any]:
    """Everything that decides the mask of a sentence but for rounding; plain values under names for people."""
    return {**{f"--{name}": getattr(options, name) for name in ("threshold", "precision")}, **describe_network(model)}


class _Run:
    """One call of `evaluate_refcoco`."""

    def __init__(self, model: SAMWISE, folder: Path, options: InferenceOptions, processes: Processes) -> None:
        self.model = model
        self.folder = folder
        self.options = options
        self.processes = processes
        self.results = folder / RESULTS_FOLDER
        self.manifest = Manifest(folder / "manifest" / RESULTS_FOLDER, self.results)
        self.started = time.perf_counter()
        self.batch = 1
        self.record: RunRecord | None = None

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Agree with the other processes and with an earlier run."""
        identity, options = image_identity(self.model, self.options), self.options
        size, device = self.model.config.sam2.image_size, self.model.device
        batch = min(self.processes.gather(options.batch or automatic_batch(size, 1, device)))
        if self.processes.is_main:
            if options.overwrite:
                remove_outcome(RESULTS_FOLDER, self.folder)
                for folder in (self.results, self._records_folder()):
                    if folder.is_dir():
                        shutil.rmtree(folder)
            self.manifest.start(identity, {_BATCH_NOTE: batch}, options.overwrite)
            for folder in (self.folder, self.manifest.folder, *self.results.glob("*/*")):
                remove_temporary_files(folder)
        self.processes.barrier()
        self.manifest.join(identity)
        self.batch = options.batch or self.manifest.note(_BATCH_NOTE, batch)
        if self.processes.is_main:
            content = {
                **facts,
                "environment": environment(device),
                _BATCH_NOTE: self.batch,
                "processes": self.processes.size,
            }
            self.record = RunRecord(self.folder / "run.json", identity, content)

    def work(self, sets: Sequence[RefCocoDataset]) -> dict[str, dict[str, float]]:
        """Segment this process's share of all sets; the main process scores them."""
        segmenter = ImageSegmenter(self.model, self.options, self.batch)
        scores: dict[str, dict[str, float]] = {}
        for dataset in sets:
            masks = self.processes.gather(self._segment(segmenter, dataset))
            if self.processes.is_main:
                scores[set_name(dataset)] = self._score(
                    dataset, {key: rle for own in masks for key, rle in own.items()}
                )
        timings = self.processes.gather(self._timing(segmenter))
        if self.record is not None:
            self.record.add_timing(timings)
            atomic_write_json(self.folder / evaluate_masks.SCORES_FILE, self._all_scores())
            self.record.complete()
        return self.processes.gather(scores)[0]

    def _records_folder(self) -> Path:
        return self.manifest.folder / "sentences"

    def _segment(self, segmenter: ImageSegmenter, dataset: RefCocoDataset) -> dict[int, Rle]:
        """The masks of this process's share, by the sentence's id."""
        records = SentenceRecords(self._records_folder() / set_name(dataset), dataset, self.processes.rank)
        units = cut_into_units(dataset, self.batch)[self.processes.rank :: self.processes.size]
        finished = records.read()
        pending = [rest for unit in units if (rest := tuple(item for item in unit if item.id not in finished))]
        total, todo = (sum(map(len, own)) for own in (units, pending))
        if todo < total:
            logger.info("%s: going on, %d of %d sentences are finished", set_name(dataset), total - todo, total)
        with (
            records,
            tqdm(
                desc=set_name(dataset),
                total=total,
                initial=total - todo,
                unit="sentence",
                miniters=1,  # they come image by image
                disable=not self.processes.is_main,
            ) as bar,
        ):
            new = segmenter.run(dataset, pending, records, bar)
        kept = {item.id: finished[item.id] for unit in units for item in unit if item.id in finished}
        return {**kept, **new}

    def _score(self, dataset: RefCocoDataset, masks: Mapping[int, Rle]) -> dict[str, float]:
        """Write the results of one set and score them."""
        results = [
            {"image_id": item.id, "category_id": _CATEGORY, "segmentation": masks[item.id], "score": SCORE}
            for item in dataset.objects
        ]
        folder = self.results / set_name(dataset)
        with atomic_write(folder / RESULTS_FILE, "w") as handle:
            json.dump(results, handle)
        measures = evaluate_masks.evaluate_refcoco(dataset, results, folder)
        logger.info("%s", refcoco_table(dataset.name, dataset.split, measures))
        return measures

    def _all_scores(self) -> dict[str, Any]:
        """Of every set that was scored in this folder, by this call or an earlier one."""
        files = (self.results / name / split / evaluate_masks.SCORES_FILE for name in SPLITS for split in SPLITS[name])
        return {name: measures for file in files for name, measures in (read_json_object(file) or {}).items()}

    def _timing(self, segmenter: ImageSegmenter) -> dict[str, float]:
        """What was done, and the seconds that it took."""
        clocks = segmenter.clocks
        return {
            "masks": segmenter.sentences,
            "frames": segmenter.images,
            "decode": clocks.decode.seconds,
            "wait": clocks.wait.seconds,
            "model": clocks.model.seconds,
            "postprocess": clocks.postprocess.seconds,
            "write": segmenter.write_seconds,
            "total": time.perf_counter() - self.started,
        }
