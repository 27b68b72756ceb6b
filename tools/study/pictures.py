"""Pictures of a study: predictions beside the truth, for the worst, a middling and the best videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.mevis import open_mevis
from engine.inference.benchmarks import ExpressionBenchmark
from engine.inference.pictures import PictureJob, draw_pictures
from tools.study.places import SPLIT, VALID_U, Places
from tools.study.scores import mean_of, read_scores


def choose(entries: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Names of videos by their mean J&F: the worst, that in the middle, the best (fewer if there are fewer)."""
    own: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        own.setdefault(entry["video"], []).append(entry)
    order = sorted(own, key=lambda name: mean_of(own[name]).j_and_f)
    places = {"best": len(order) - 1, "middle": len(order) // 2, "worst": 0}
    return {order[place]: what for what, place in places.items()}


def draw_examples(places: Places) -> list[Path]:
    """Draw pictures/VIDEO.jpg of some videos of valid_u, frames beside each other; nothing without predictions."""
    masks, scores = places.masks(VALID_U), places.scores(VALID_U)
    if not scores.is_file():
        return []
    chosen = choose(read_scores(scores))
    dataset = open_mevis(places.data / "MeViS_release", SPLIT, version=1)
    benchmark = ExpressionBenchmark(dataset, places.runs / VALID_U)
    drawn = []
    for video in dataset.videos:
        if video.name in chosen:
            folder = places.out / "pictures" / chosen[video.name]
            targets = benchmark.targets(video)
            job = PictureJob(video, targets, masks, benchmark.objects, dataset.ground_truth, folder)
            draw_pictures(job)
            drawn.append(job.sheet)
    return drawn
