"""Scores of finished predictions on disk, with every file that a run's folder gets: scores.json and CSV tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets.refcoco import RefCocoDataset
from datasets.video_index import VideoDataset
from engine.scoring.davis import (
    MEASURES,
    DavisSequence,
    SequenceScore,
    average,
    global_results,
    score_sequence,
    write_davis_csv,
)
from engine.scoring.expressions import (
    ExpressionScore,
    expression_tasks,
    mean_scores,
    score_expression,
    summarise,
)
from engine.scoring.mask_store import MaskStore, open_store
from engine.scoring.pool import ScorePool
from engine.scoring.refcoco import SentenceScore, score_refcoco
from engine.scoring.tables import write_csv
from util.errors import InputError
from util.paths import atomic_write_json, writable_folder

SCORES_FILE = "scores.json"
EXPRESSIONS_FILE = "expressions.csv"
VIDEOS_FILE = "videos.csv"
OBJECTS_FILE = "objects.csv"


def evaluate_expressions(
    dataset: VideoDataset, predictions: str | Path, output_dir: Path, num_workers: int
) -> dict[str, Any]:
    """Score VIDEO/EXPRESSION/FRAME.png of a MeViS or Ref-YouTube-VOS split.

    Args:
        dataset: the split, with ground truth.
        predictions: folder or zip file, with or without `Annotations/` at its top.
        output_dir: gets scores.json, expressions.csv and videos.csv.
        num_workers: processes; 0 scores in this one.

    Returns:
        See `engine.scoring.expressions.summarise`.

    Raises:
        InputError: the split has no ground truth, predictions are missing or malformed, or `output_dir` cannot be
            written to, which is tried before anything is scored.
    """
    tasks = expression_tasks(dataset)
    store = open_store(predictions, [video.name for video in dataset.videos])
    store.require(name for task in tasks for name in task.names())
    writable_folder(output_dir)
    with ScorePool(num_workers) as pool:
        frames = [len(task.video.frames) for task in tasks]
        scores = pool.map(partial(score_expression, store=store), tasks, frames, "scoring", "frame")
    return write_expression_scores(output_dir, scores)


def write_expression_scores(output_dir: Path, scores: Sequence[ExpressionScore]) -> dict[str, Any]:
    """Write scores.json, expressions.csv and videos.csv; returns the content of scores.json.

    Args:
        scores: in the order of the metadata file, which decides which of two equal sentences counts by text.
    """
    summary = summarise(scores)
    columns = list(summary["expressions"][0])
    rows = [[entry[column] for column in columns] for entry in summary["expressions"]]
    write_csv(output_dir / EXPRESSIONS_FILE, columns, rows)
    by_video: dict[str, list[ExpressionScore]] = {}
    for score in scores:
        by_video.setdefault(score.video, []).append(score)
    write_csv(
        output_dir / VIDEOS_FILE,
        ("video", "frames", "expressions", "J", "F", "J&F"),
        [[video, own[0].frames, len(own), *mean_scores(own).values()] for video, own in by_video.items()],
    )
    atomic_write_json(output_dir / SCORES_FILE, summary)
    return summary


def evaluate_davis(
    sequences: Sequence[DavisSequence],
    stores: Mapping[str, MaskStore],
    subset: str,
    csv_dirs: Mapping[str, Path],
    output_dir: Path,
    num_workers: int,
) -> dict[str, dict[str, float]]:
    """Score palette PNGs of DAVIS sequences, per annotator.

    Args:
        sequences: of `engine.scoring.davis.davis_sequences`.
        stores: annotator -> predictions, see `engine.scoring.davis.annotator_stores`.
        subset: name of the set of sequences, part of the CSV names.
        csv_dirs: annotator -> folder that gets DAVIS's two CSV files.
        output_dir: gets scores.json, objects.csv and videos.csv.
        num_workers: processes; 0 scores in this one.

    Returns:
        The content of scores.json: annotator -> DAVIS's seven measures; with several annotators also "average".

    Raises:
        InputError: predictions are missing or malformed, or one of the folders cannot be written to, which is tried
            before anything is scored.
    """
    for folder in (output_dir, *csv_dirs.values()):
        writable_folder(folder)
    results, scores = {}, {}
    with ScorePool(num_workers) as pool:
        frames = [len(sequence.scored_files) for sequence in sequences]
        for name, store in stores.items():
            scores[name] = pool.map(partial(score_sequence, store=store), sequences, frames, f"scoring {name}", "frame")
            results[name] = global_results(scores[name])
            write_davis_csv(csv_dirs[name], subset, scores[name])
    if len(results) > 1:
        results["average"] = average(list(results.values()))
    _write_davis_tables(output_dir, scores)
    atomic_write_json(output_dir / SCORES_FILE, results)
    return results


def _write_davis_tables(output_dir: Path, scores: Mapping[str, Sequence[SequenceScore]]) -> None:
    sequences = [(name, score) for name, annotator in scores.items() for score in annotator]
    objects = []
    for name, score in sequences:
        for item in score.objects:
            j, f = item.j, item.f
            place = [name, score.sequence, item.label, item.true_object, item.predicted_object, len(item.j_frames)]
            objects.append([*place, (j.mean + f.mean) / 2, j.mean, j.recall, j.decay, f.mean, f.recall, f.decay])
    header = ("annotator", "video", "label", "true_object", "predicted_object", "frames", *MEASURES)
    write_csv(output_dir / OBJECTS_FILE, header, objects)
    videos = []
    for name, score in sequences:
        values = global_results([score])
        videos.append([name, score.sequence, len(score.objects), *(values[measure] for measure in MEASURES)])
    write_csv(output_dir / VIDEOS_FILE, ("annotator", "video", "objects", *MEASURES), videos)


def evaluate_refcoco(
    dataset: RefCocoDataset, results: str | Path | Sequence[Mapping[str, Any]], output_dir: Path
) -> dict[str, float]:
    """Score COCO results of one split of RefCOCO, RefCOCO+ or RefCOCOg.

    Args:
        results: a JSON file with a list of results, or the list.
        output_dir: gets scores.json ({"NAME/SPLIT": measures}) and expressions.csv.

    Returns:
        The measures; see `engine.scoring.refcoco.score_refcoco`, also for what is raised. An `output_dir` that cannot
        be written to is an InputError before anything is scored.
    """
    found = _read_results(Path(results)) if isinstance(results, str | Path) else results
    writable_folder(output_dir)
    summary, scores = score_refcoco(dataset, found)
    write_csv(
        output_dir / EXPRESSIONS_FILE,
        ("image_id", "file_name", "sentence", "iou", "intersection", "union"),
        [_sentence_row(score) for score in scores],
    )
    atomic_write_json(output_dir / SCORES_FILE, {f"{dataset.name}/{dataset.split}": summary})
    return summary


def _sentence_row(score: SentenceScore) -> list[Any]:
    item = score.item
    return [item.id, item.file_name, item.text, score.iou, score.intersection, score.union]


def _read_results(path: Path) -> list[Mapping[str, Any]]:
    try:
        results = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; give the JSON file of COCO results") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable as JSON ({error}); give a list of COCO results") from error
    if not isinstance(results, list):
        raise InputError(f"{path} holds a JSON {type(results).__name__}; expected a list of COCO results")
    return results
