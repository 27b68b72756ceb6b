"""Generate RefShapes: referring video segmentation of moving shapes, in the layouts of the real benchmarks.

    python3 tools/data/make_refshapes.py --out data/refshapes --seed 0
    python3 tools/data/make_refshapes.py --out DIR --seed 7 --videos 10 --layouts mevis --workers 2

The same seed gives the same bytes, whatever the number of workers. Evaluation splits show colours on shapes that no
training split of any seed shows. Point --mevis_path, --ytvos_path, --davis_path and --coco_path of the scripts at
OUT/MeViS_release, OUT/ref-youtube-vos, OUT/ref-davis and OUT/coco; ytvos needs --allow_partial unless --videos is 202.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tqdm import tqdm

from tools.data.refshapes.coco_layout import write_coco
from tools.data.refshapes.contact_sheet import write_contact_sheet
from tools.data.refshapes.layouts import write_davis, write_json, write_mevis, write_ytvos
from tools.data.refshapes.records import IMAGE_FOLDER, Job, Record, make, prepare_worker
from tools.data.refshapes.video import VERSION
from util.command_line import Parser
from util.errors import InputError, run_script

LAYOUTS = ("mevis", "ytvos", "davis", "coco")
SUMMARY, MARKER, SHEET = "refshapes.json", ".refshapes-unfinished", "contact_sheet.png"
_TRAIN_PER_VIDEO, _IMAGES_PER_VIDEO = 8, 20


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/refshapes"), help="default: data/refshapes")
    parser.add_argument("--seed", type=int, default=0, help="0 or larger; default: 0")
    parser.add_argument("--videos", type=int, default=50, help="videos in each evaluation split (default: 50)")
    parser.add_argument("--train_videos", type=int, help="training videos (default: 8 times --videos)")
    parser.add_argument("--images", type=int, help="training images of coco (default: 20 times --videos)")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), help="default: all")
    parser.add_argument("--frames", type=int, help="frames of every video (default: 16 to 40, and some of 8, 9, 17)")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="of every video (default: mixed)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    args = parser.parse_args(argv)
    args.train_videos = _TRAIN_PER_VIDEO * args.videos if args.train_videos is None else args.train_videos
    args.images = _IMAGES_PER_VIDEO * args.videos if args.images is None else args.images
    for name, least in (("seed", 0), ("videos", 1), ("train_videos", 1), ("images", 1), ("workers", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name} is {getattr(args, name)}, expected at least {least}")
    if args.frames is not None and args.frames < 8:
        parser.error(f"--frames is {args.frames}, expected at least 8: motions need time")
    if args.size is not None and not all(96 <= side <= 1024 for side in args.size):
        parser.error(f"--size is {args.size[0]} {args.size[1]}, expected sides of 96 to 1024 pixels")
    return args


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that decides the contents of the data set."""
    return {
        "version": VERSION,
        "seed": args.seed,
        "videos": args.videos,
        "train_videos": args.train_videos,
        "images": args.images if "coco" in args.layouts else 0,
        "layouts": [layout for layout in LAYOUTS if layout in args.layouts],
        "frames": args.frames,
        "size": args.size,
    }


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """All videos and images, in the order of the records."""
    layouts = tuple(layout for layout in LAYOUTS if layout in args.layouts)
    size = None if args.size is None else (args.size[1], args.size[0])
    counts = {"train": args.train_videos, "valid_u": args.videos, "valid": args.videos, "test": args.videos}
    needed = {
        "train": {"mevis", "ytvos", "davis"},
        "valid_u": {"mevis"},
        "valid": {"mevis", "ytvos", "davis"},
        "test": {"ytvos"},
    }
    jobs = [
        Job(args.out, layouts, args.seed, split, index, 0, args.frames, size)
        for split, count in counts.items()
        if needed[split] & set(layouts)
        for index in range(count)
    ]
    if "coco" in layouts:
        images = {"image_train": args.images} | dict.fromkeys(
            ("image_val", "image_testA", "image_testB", "image_test"), args.videos
        )
        places = [(split, index) for split, count in images.items() for index in range(count)]
        jobs += [
            Job(args.out, layouts, args.seed, *place, number, None, size) for number, place in enumerate(places, 1)
        ]
    return jobs


def run_jobs(jobs: Sequence[Job], workers: int) -> Iterator[Record]:
    """The records of the jobs, in their order."""
    prepare_worker()
    if workers == 1:
        yield from map(make, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, prepare_worker) as pool:
        yield from pool.map(make, jobs, chunksize=4)


def is_complete(args: argparse.Namespace) -> bool:
    """Whether the data set that is asked for is there already.

    Raises:
        InputError: the folder holds something else.
    """
    summary = args.out / SUMMARY
    if summary.is_file():
        try:
            found = json.loads(summary.read_bytes())["settings"]
        except (ValueError, KeyError, TypeError):
            found = None
        if found == settings(args):
            return True
        raise InputError(f"{args.out} holds a data set made with other settings; remove it, or give another --out")
    if args.out.is_dir() and any(args.out.iterdir()) and not (args.out / MARKER).is_file():
        raise InputError(f"{args.out} is not empty and no RefShapes data set; give a new folder as --out")
    return False


def count_kinds(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Split -> kind -> number of expressions."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        kinds = counts.setdefault(record["split"], Counter())
        kinds.update(item["kind"] for item in record["expressions"] + record.get("no_target", []))
    return {split: dict(sorted(kinds.items())) for split, kinds in counts.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Make the data set."""
    args = parse_args(argv)
    if is_complete(args):
        print(f"{args.out}: complete already")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / MARKER).touch()
    if "coco" in args.layouts:
        (args.out / IMAGE_FOLDER).mkdir(parents=True, exist_ok=True)
    jobs = jobs_of(args)
    records = list(tqdm(run_jobs(jobs, args.workers), total=len(jobs), desc="RefShapes", unit="video"))
    images = [record for record in records if record["split"].startswith("image_")]
    videos = [record for record in records if not record["split"].startswith("image_")]
    writers = {"mevis": ("MeViS_release", write_mevis), "ytvos": ("ref-youtube-vos", write_ytvos),
               "davis": ("ref-davis", write_davis)}  # fmt: skip
    for layout, (folder, write) in writers.items():
        if layout in args.layouts:
            write(args.out / folder, videos)
    if images:
        write_coco(args.out / "coco", images)
    sheet_split = next(
        split for split in ("valid", "valid_u", "test", "image_val") if any(r["split"] == split for r in records)
    )
    write_contact_sheet(args.out / SHEET, args.seed, sheet_split, args.videos, args.frames, jobs[0].size)
    kinds = count_kinds(records)
    facts = [{key: value for key, value in record.items() if key != "masks"} for record in records]
    write_json(args.out / SUMMARY, {"settings": settings(args), "kinds": kinds, "videos": facts})
    (args.out / MARKER).unlink()
    for split, counts in kinds.items():
        print(f"{split:<12} {sum(counts.values()):>6} expressions: {', '.join(f'{k} {n}' for k, n in counts.items())}")
    print(f"{args.out}: {len(videos)} videos, {len(images)} images; look at {args.out / SHEET}")


if __name__ == "__main__":
    run_script(main)
