"""The figures that the authors of SAMWISE published, and tables that set one's own scores beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets.mevis import META_FILES
from datasets.video_index import VideoDataset
from engine.scoring.davis import MEASURES, TASKS
from engine.scoring.tables import text_table


@dataclass(frozen=True)
class PublishedFigure:
    """A published score in percent, which of our measures it belongs beside, and what a reader should know about it."""

    percent: float
    measures: tuple[str, ...]
    note: str


_WHICH_IOU = "the authors do not say whether this is the overall or the mean IoU"

# (benchmark, split) -> figure
PUBLISHED: Mapping[tuple[str, str], PublishedFigure] = {
    ("mevis", "valid"): PublishedFigure(49.5, ("J&F",), "measured by the benchmark's server"),
    ("mevis", "valid_u"): PublishedFigure(57.1, ("J&F by text",), "averaged over distinct sentences"),
    ("ytvos", "valid"): PublishedFigure(69.2, ("J&F",), "measured by the benchmark's server"),
    ("davis", "val"): PublishedFigure(70.6, ("J&F-Mean",), "average of four annotators, unsupervised task"),
    ("refcoco", "val"): PublishedFigure(75.6, ("overall_iou", "mean_iou"), _WHICH_IOU),
    ("refcoco+", "val"): PublishedFigure(65.8, ("overall_iou", "mean_iou"), _WHICH_IOU),
    ("refcocog", "val"): PublishedFigure(66.8, ("overall_iou", "mean_iou"), _WHICH_IOU),
}


def split_title(dataset: VideoDataset) -> str:
    """The split of a video benchmark as in PUBLISHED; of MeViS's version 2, whose sentences are others, as text."""
    return f"{dataset.split} (version 2)" if dataset.meta_path.name == META_FILES[2] else dataset.split


def expressions_table(dataset: VideoDataset, summary: Mapping[str, Any]) -> str:
    """MeViS and Ref-YouTube-VOS: the official averages, those by text, and the published figure.

    Args:
        dataset: what was scored.
        summary: what `engine.scoring.expressions.summarise` returned.
    """
    rows = dict(summary["official"])
    rows.update({f"{name} by text": value for name, value in summary["by_text"].items()})
    for name in ("no_target_accuracy", "target_accuracy"):
        if summary.get("no_target", {}).get(name) is not None:
            rows[name] = summary["no_target"][name]
    return _table(dataset.name, split_title(dataset), {"ours": rows})


def davis_title(subset: str, task: str) -> str:
    """A set of DAVIS as in PUBLISHED; with the other task, whose measures are others, as text."""
    return subset if task == TASKS[0] else f"{subset} ({task})"


def davis_table(subset: str, task: str, results: Mapping[str, Mapping[str, float]]) -> str:
    """Ref-DAVIS17: one column per annotator and their average, or one column.

    Args:
        subset, task: what was scored and how, as in `--set` and `--task`.
        results: column -> MEASURES.
    """
    columns = {name: {key: values[key] for key in MEASURES} for name, values in results.items()}
    return _table("davis", davis_title(subset, task), columns)


def refcoco_table(benchmark: str, split: str, summary: Mapping[str, float]) -> str:
    """RefCOCO, RefCOCO+ and RefCOCOg: what `engine.scoring.refcoco.score_refcoco` returned."""
    return _table(benchmark, split, {"ours": summary})


def _table(benchmark: str, split: str, columns: Mapping[str, Mapping[str, float]]) -> str:
    figure = PUBLISHED.get((benchmark, split))
    measures = list(next(iter(columns.values())))
    header = [f"{benchmark} {split} (%)", *columns]
    rows = [[measure, *(f"{100 * values[measure]:.2f}" for values in columns.values())] for measure in measures]
    if figure is None:
        return text_table(header, rows)
    published = [f"{figure.percent:.1f}" if measure in figure.measures else "" for measure in measures]
    table = text_table([*header, "published"], [[*row, cell] for row, cell in zip(rows, published, strict=True)])
    return f"{table}\npublished: {figure.note}"
