"""What J and F are worth: scores on RefShapes without a model, and of a model that is asked for something else.

    python3 tools/study/baselines.py data/refshapes output/X/Annotations --out baselines.json

- largest: for every sentence the object that covers the largest part of the video, with its true masks;
- all: all objects of the video, with their true masks;
- other: the prediction for another sentence of the same video that means other objects, scored against the truth of
  the first; the mean over all such sentences;
- disjoint: the same with sentences that have no object in common with the first;
- chosen: the object (or, where several are meant, all of them) that the prediction overlaps most, with its true masks:
  what is lost there is lost by choosing the wrong object, the rest by wrong outlines;
- grid: the truth itself, shrunk to the resolution of nano's masks and enlarged again.

A model that listens scores far less in "other" and "disjoint" than for the sentences themselves.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.cli import natural_int
from datasets.mevis import open_mevis
from engine.scoring.mask_store import open_store
from engine.scoring.pool import ScorePool
from engine.scoring.tables import text_table
from tools.data.make_refshapes import SUMMARY as FACTS
from tools.study.scores import mean_of
from tools.study.video_baselines import BASELINES, DISJOINT, OTHER, Entry, VideoTask, score_video, video_tasks
from util.command_line import Parser
from util.errors import InputError, run_script
from util.paths import atomic_write_json


def own_entries(entries: Sequence[Entry]) -> list[Entry]:
    """Of "other" or "disjoint": the same expressions with the scores of their own sentences."""
    return [{**entry, "J": entry["own_J"], "F": entry["own_F"]} for entry in entries]


def score_baselines(data: Path, predictions: Path, split: str, num_workers: int) -> dict[str, list[Entry]]:
    """All baselines of a split.

    Args:
        data: a folder that tools/data/make_refshapes.py made.
        predictions: folder or zip of VIDEO/EXPRESSION/FRAME.png.
        split: one with ground truth.
        num_workers: processes; 0 scores in this one.

    Raises:
        InputError: files are missing or do not fit.
    """
    dataset = open_mevis(data / "MeViS_release", split, version=1)
    try:
        records = json.loads((data / FACTS).read_bytes())["videos"]
        objects = {record["name"]: len(record["objects"]) for record in records if record["split"] == split}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{data / FACTS} is damaged ({error!r})") from error
    tasks = video_tasks(dataset, objects)
    store = open_store(predictions, [task.video.name for task in tasks])
    score: Callable[[VideoTask], dict[str, list[Entry]]] = partial(score_video, store=store)
    with ScorePool(num_workers) as pool:
        frames = [len(task.video.frames) for task in tasks]
        found = pool.map(score, tasks, frames, "baselines", "frame")
    return {name: [entry for own in found for entry in own[name]] for name in BASELINES}


def main(argv: Sequence[str] | None = None) -> None:
    """Score, write, print."""
    parser = Parser(description=__doc__)
    parser.add_argument("data", type=Path, help="RefShapes: a folder that tools/data/make_refshapes.py made")
    parser.add_argument("predictions", type=Path, help="folder or zip of the masks of inference_mevis.py")
    parser.add_argument("--split", default="valid_u", help="one with ground truth (valid_u)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write: J and F of every expression")
    parser.add_argument(
        "--num_workers", type=natural_int, default=4, help="scoring processes, 0: none but this one (4)"
    )
    args = parser.parse_args(argv)
    baselines = score_baselines(args.data, args.predictions, args.split, args.num_workers)
    atomic_write_json(args.out, baselines)
    rows = []
    for name, entries in baselines.items():
        if entries:
            mean = mean_of(entries)
            own = f"{100 * mean_of(own_entries(entries)).j_and_f:.1f}" if name in (OTHER, DISJOINT) else ""
            rows.append([name, f"{100 * mean.j_and_f:.1f}", own, str(mean.expressions)])
    print(text_table(("", "J&F", "own sentence", "expressions"), rows))


if __name__ == "__main__":
    run_script(main)
