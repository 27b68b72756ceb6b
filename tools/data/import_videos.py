"""Turn videos, and a table of sentences and masks, into a data set to train, evaluate and segment with.

    python3 tools/data/import_videos.py --table own/table.csv --videos own/videos --out data/own
    python3 tools/data/import_videos.py --table own/table.json --videos own/videos --out data/own --fps 6

The table has a row per sentence: video (below --videos), sentence, masks (a video, a folder of PNGs, or COCO RLEs in
JSON, beside the table; "none" if the sentence has no target), and if you like object, id, split, start and end. The
result has the layout of MeViS: point --mevis_path of the scripts at --out. See docs/custom-data.md.

A run that was cut off goes on where it was, and a changed table costs only what changed. Faults are listed together,
with exit status 2, and leave the data set as it was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.flags import frame_rate
from engine.scoring.pool import ScorePool
from engine.scoring.tables import text_table
from tools.data.importing.convert import Options, Task, convert, inspect
from tools.data.importing.fingerprints import Fingerprints
from tools.data.importing.layout import Layout, Record
from tools.data.importing.plan import Clip, Places, plan
from tools.data.importing.problems import Note, in_order, shown
from tools.data.importing.tables import SPLITS, read_table
from util.command_line import Parser
from util.errors import InputError, run_script
from util.locks import exclusive

REPORT, FAULTS = "import.json", ".import/faults.json"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True, help="CSV or JSON, one row per sentence")
    parser.add_argument("--videos", type=Path, required=True, help="folder of the videos that the table names")
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--split", choices=SPLITS, help="of rows that name none (default: by --valid_share)")
    parser.add_argument(
        "--valid_share", type=float, default=0.2, help="part of the other videos that goes to valid_u (default: 0.2)"
    )
    parser.add_argument("--fps", type=frame_rate, help="frames per second to keep (default: all)")
    parser.add_argument("--max_side", type=int, help="reduce frames whose longer side has more pixels (default: none)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    args = parser.parse_args(argv)
    if not 0 <= args.valid_share < 1:
        parser.error(f"--valid_share is {args.valid_share}, expected at least 0 and below 1")
    for name in ("max_side", "workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}, expected at least 1")
    return args


def refuse(faults: Sequence[Note], layout: Layout, table: Path) -> None:
    """Raise an InputError if there are faults, after the first were printed and all written."""
    if not faults:
        return
    faults = in_order(faults)
    path = layout.write_report(FAULTS, [asdict(fault) for fault in faults])
    print("\n".join(shown(faults, str(path))))
    raise InputError(f"{len(faults)} faults in {table} and its files; no data set was changed")


def run_on(pool: ScorePool, work: Callable[[Task], list[Note]], tasks: Sequence[Task], name: str) -> list[Note]:
    """What `work` says of all tasks, with a progress bar of that name."""
    if not tasks:
        return []
    return [note for notes in pool.map(work, tasks, [1] * len(tasks), name, "video") for note in notes]


def convert_all(clips: Sequence[Clip], args: argparse.Namespace, layout: Layout, known: Sequence[Note]) -> list[Task]:
    """Check all clips that are not finished, then convert them.

    Args:
        known: faults of the table, to be listed with those of the files.

    Raises:
        InputError: there are faults; what has been converted stays for the next run.
    """
    options = Options(args.fps, args.max_side)
    hashes = Fingerprints(layout.state / "files.json")
    paths = [path for clip in clips for path in (clip.path, *(m.path for m in clip.masks)) if path is not None]
    hashes.read(paths, args.workers)
    tasks = [layout.task(clip, options, hashes) for clip in clips]
    new = [task for task in tasks if not layout.is_finished(task)]
    if len(new) < len(tasks):
        print(f"{len(tasks) - len(new)} of {len(tasks)} videos are finished already")
    workers = min(args.workers, len(new))
    with ScorePool(workers if workers > 1 else 0) as pool:
        refuse([*known, *run_on(pool, inspect, new, "check")], layout, args.table)
        refuse(run_on(pool, convert, new, "convert"), layout, args.table)
    return tasks


def write_data_set(tasks: Sequence[Task], layout: Layout, warnings: list[Note]) -> tuple[list[Record], list[Record]]:
    """Put everything in its place; adds to `warnings`. Returns what there is to say of each split and each video."""
    records = layout.place(tasks)
    done = list(zip(tasks, records, strict=True))
    rows: list[Record] = []
    for split in [split for split in SPLITS if any(task.clip.split == split for task in tasks)]:
        own = [(task.clip, record) for task, record in done if task.clip.split == split]
        odd = layout.write_metadata(split, own)
        odd += [Note(clip.rows(place), text) for clip, record in own for place, text in record["warnings"]]
        rows.append(
            {
                "split": split,
                "videos": len(own),
                "frames": sum(record["frames"] for _, record in own),
                "expressions": sum(len(clip.sentences) for clip, _ in own),
                "warnings": len(set(odd)),
            }
        )
        warnings += odd
    videos = [
        {"split": task.clip.split, "name": task.clip.name, "video": task.clip.video, "start": task.clip.start,
         "end": task.clip.end, "frames": record["frames"], "height": record["size"][0], "width": record["size"][1],
         "rows": list(task.clip.rows())}
        for task, record in done
    ]  # fmt: skip
    return rows, videos


def other_splits(imported: Set[str], out: Path) -> list[Note]:
    """Warnings about splits that were not imported, but are there, or will be missed."""
    kept = [split for split in SPLITS if split not in imported and (out / split).is_dir()]
    notes = [Note((), f"{out / split} is of an earlier import and stays as it is") for split in kept]
    if "train" in imported and "valid_u" not in {*imported, *kept}:
        notes.append(Note((), "no video is in split valid_u: there is nothing to score the training with"))
    return notes


def report(args: argparse.Namespace, layout: Layout, warnings: Sequence[Note], content: dict[str, Any]) -> None:
    """Print the table and the first warnings, and write everything as JSON."""
    path = layout.write_report(REPORT, {**content, "warnings": [asdict(warning) for warning in warnings]})
    header = ("split", "videos", "frames", "expressions", "warnings")
    print(text_table(header, [[str(row[name]) for name in header] for row in content["splits"]]))
    print("\n".join([f"warning: {line}" for line in shown(warnings, str(path))] + [f"{layout.out}: complete; {path}"]))


def main(argv: Sequence[str] | None = None) -> None:
    """Import."""
    args = parse_args(argv)
    layout = Layout(args.out)
    layout.check()
    if not args.videos.is_dir():
        raise InputError(f"--videos {args.videos}: expected the folder of the videos, found no folder")
    rows, faults, warnings = read_table(args.table)
    clips, more, odd = plan(rows, Places(args.videos, args.table.parent), args.split, args.valid_share)
    with exclusive(layout.state / "lock", f"{args.out}: another import is writing there"):
        tasks = convert_all(clips, args, layout, [*faults, *more])
        warnings += odd
        splits, videos = write_data_set(tasks, layout, warnings)
        warnings += other_splits({row["split"] for row in splits}, args.out)
        settings = {"table": str(args.table), "fps": args.fps, "max_side": args.max_side}
        report(args, layout, in_order(warnings), {**settings, "splits": splits, "videos": videos})


if __name__ == "__main__":
    run_script(main)
