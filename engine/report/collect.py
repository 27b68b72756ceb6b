"""From a run's folder and its data set to the content of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.mevis import open_mevis
from datasets.ref_davis import annotator_expressions, open_ref_davis
from datasets.ref_ytvos import open_ref_ytvos
from datasets.video_index import Expression, LabelImages, Video, VideoDataset
from engine.evaluate_masks import OBJECTS_FILE, SCORES_FILE
from engine.published_figures import PUBLISHED, PublishedFigure, davis_title, split_title
from engine.report.rows import PredictedMasks, Report, Row, Score, ScoreTable
from engine.report.run_files import RunFiles, number, read_object, read_run, read_table
from engine.scoring.davis import MEASURES, DavisSequence, annotator_stores
from engine.scoring.mask_store import MaskStore, open_store
from util.errors import InputError

_LABELS = 256  # values of a palette PNG
_BY_TEXT = " by text"
_COLUMN_NOTE = "official: the mean over all sentences of all videos; by text: the mean over distinct sentences"
_ANNOTATOR_NOTE = "each column is one annotator's sentences; the average is that of the four"
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError)


def collect_report(folder: Path, given: Mapping[str, Any]) -> Report:
    """Read everything that a report of a run needs but for the pictures.

    Args:
        folder: of the run's results.
        given: see `engine.report.run_files.read_run`.

    Raises:
        InputError: something is missing, malformed, or does not belong to the rest.
    """
    run = read_run(folder, given)
    if run.benchmark == "davis":
        return _davis_report(run)
    if run.benchmark == "mevis":
        dataset = open_mevis(run.flags["mevis_path"], run.split, run.flags["mevis_version"])
    else:
        dataset = open_ref_ytvos(run.flags["ytvos_path"], run.split, run.flags["allow_partial"])
    return _expression_report(run, dataset)


def _remedy(run: RunFiles) -> str:
    return (
        f"score the masks again (tools/evaluate.py {run.benchmark} PREDICTIONS --output_dir {run.folder}), with the "
        "data that this report is made with"
    )


def _expression_report(run: RunFiles, dataset: VideoDataset) -> Report:
    path = run.folder / SCORES_FILE
    summary: dict[str, Any] = {}
    scores: dict[tuple[str, str], Score] = {}
    table, split = None, split_title(dataset)
    if dataset.ground_truth is not None:
        summary = read_object(path, _remedy(run))
        try:
            scores = {(entry["video"], entry["expression_id"]): _score(entry) for entry in summary["expressions"]}
            table = _expression_table(summary, PUBLISHED.get((run.benchmark, split)))
        except _MALFORMED as error:
            raise InputError(f"{path} is not as expected ({error!r}); {_remedy(run)}") from error
    elif path.exists():
        raise InputError(
            f"{path} exists, but {dataset.meta_path.parent} has no ground truth; give the path of the data that was "
            "scored, or remove the file"
        )
    folder = run.folder / "Annotations"
    where = run.predictions or (folder if folder.is_dir() else folder.with_suffix(".zip"))
    store = open_store(where, [video.name for video in dataset.videos])
    rows = []
    for video in dataset.videos:
        for expression in video.expressions:
            predicted = PredictedMasks(store, f"{video.name}/{expression.id}")
            rows.append(Row(video, expression, expression.id, predicted, scores.get((video.name, expression.id))))
    if dataset.ground_truth is not None and (len(scores) != len(rows) or any(row.score is None for row in rows)):
        raise InputError(
            f"{path} does not have the scores of the {len(rows)} expressions of {dataset.meta_path}; {_remedy(run)}"
        )
    return Report(_name(run), f"{run.benchmark} {split}", tuple(rows), table, dataset.ground_truth, run.records)


def _name(run: RunFiles) -> str:
    return run.folder.resolve().name


def _score(entry: Mapping[str, Any]) -> Score:
    """From an entry of scores.json."""
    j, f, area = (number(entry[name]) for name in ("J", "F", "target_area"))
    return Score(j, f, area, has_target=entry["has_target"] is True)


def _expression_table(summary: Mapping[str, Any], figure: PublishedFigure | None) -> ScoreTable:
    official, by_text = summary["official"], summary["by_text"]
    cells: dict[str, tuple[float | None, ...]] = {
        name: (number(official[name]), number(by_text[name])) for name in ("J", "F", "J&F")
    }
    for name in ("no_target_accuracy", "target_accuracy"):
        value = summary.get("no_target", {}).get(name)
        if value is not None:
            cells[name.replace("_", " ")] = (number(value), None)
    published = {measure.removesuffix(_BY_TEXT): figure.percent for measure in figure.measures} if figure else {}
    counts_text = figure is not None and any(measure.endswith(_BY_TEXT) for measure in figure.measures)
    columns = ("official", "by text")
    return ScoreTable(columns, cells, published, _notes(_COLUMN_NOTE, figure), ("J&F", columns[counts_text]))


def _notes(columns: str, figure: PublishedFigure | None) -> tuple[str, ...]:
    return (columns, f"published: {figure.note}" if figure else "nothing is published for this split")


def _davis_report(run: RunFiles) -> Report:
    dataset = open_ref_davis(run.flags["davis_path"])
    truth = dataset.ground_truth
    assert isinstance(truth, LabelImages)
    scores_path, objects_path = run.folder / SCORES_FILE, run.folder / OBJECTS_FILE
    results = read_object(scores_path, _remedy(run))
    objects = read_table(objects_path, _remedy(run))
    title = davis_title(run.flags["set"], run.flags["task"])
    try:
        table = _davis_table(results, PUBLISHED.get(("davis", title)))
        names = list(dict.fromkeys(entry["video"] for entry in objects))
    except _MALFORMED as error:
        raise InputError(f"{scores_path} or {objects_path} is not as expected ({error!r}); {_remedy(run)}") from error
    videos = {video.name: video for video in dataset.videos}
    absent = [name for name in names if name not in videos]
    if absent or not names:
        found = f"the sequence {absent[0]}, which {dataset.meta_path} lacks" if absent else "no sequence"
        raise InputError(f"{objects_path} has {found}; {_remedy(run)}")
    where = run.predictions or run.flags["results_path"] or run.folder / "eval_davis" / dataset.split
    stores = annotator_stores(where, [DavisSequence(name, "unsupervised", ()) for name in names])
    areas = _target_areas([videos[name] for name in names], truth)
    try:
        rows = [_davis_row(entry, videos[entry["video"]], stores, areas[entry["video"]]) for entry in objects]
    except _MALFORMED as error:
        raise InputError(f"{objects_path} does not fit {where} or the data ({error!r}); {_remedy(run)}") from error
    return Report(_name(run), f"davis {title}", tuple(rows), table, truth, run.records)


def _davis_table(results: Mapping[str, Any], figure: PublishedFigure | None) -> ScoreTable:
    columns = tuple(results)
    cells: dict[str, tuple[float | None, ...]] = {
        name: tuple(number(results[column][name]) for column in columns) for name in MEASURES
    }
    published = dict.fromkeys(figure.measures, figure.percent) if figure else {}
    return ScoreTable(columns, cells, published, _notes(_ANNOTATOR_NOTE, figure), (MEASURES[0], columns[-1]))


def _target_areas(videos: Sequence[Video], truth: LabelImages) -> dict[str, NDArray[np.float64]]:
    """Video -> (256,) mean share of a frame per object number."""
    areas = {}
    with tqdm(total=sum(len(video.frames) for video in videos), desc="target sizes", unit="frame") as bar:
        for video in videos:
            total = np.zeros(_LABELS)
            for index in range(len(video.frames)):
                labels = truth.labels(video, index)
                total += np.bincount(labels.reshape(-1), minlength=_LABELS) / labels.size
                bar.update()
            areas[video.name] = total / len(video.frames)
    return areas


def _davis_row(
    entry: Mapping[str, str], video: Video, stores: Mapping[str, MaskStore], areas: NDArray[np.float64]
) -> Row:
    """From a row of objects.csv; masks without annotators belong to objects, not to sentences."""
    annotator, true_object, found = entry["annotator"], int(entry["true_object"]), int(entry["predicted_object"])
    expression = Expression(str(true_object), f"object {true_object}", (true_object,), ())
    key, note = expression.id, ""
    if annotator.startswith("anno_"):
        sentences = annotator_expressions(video, int(annotator.removeprefix("anno_")))
        expression = {own.obj_ids: own for own in sentences}[expression.obj_ids]
        key = f"{expression.id} ({annotator})"
        matched = sentences[found - 1] if found <= len(sentences) else None
        if matched is None:
            note = "DAVIS's matching left no mask for this object"
        elif matched != expression:
            note = f"DAVIS's matching scores it with the mask of sentence {matched.id}: {matched.text}"
    score = Score(number(entry["J-Mean"]), number(entry["F-Mean"]), float(areas[true_object]), has_target=True)
    return Row(video, expression, key, PredictedMasks(stores[annotator], video.name, found), score, note)
