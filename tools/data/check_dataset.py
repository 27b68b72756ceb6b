"""Check data sets on disk: every file there, every frame of the right size, every mask decodes.

    python3 tools/data/check_dataset.py                                   (all data sets under data/)
    python3 tools/data/check_dataset.py --dataset_file mevis --split valid_u --mevis_path DIR --json faults.json
    python3 tools/data/check_dataset.py --fast                            (what the other scripts check when they start)

Prints a table (videos, expressions, frames, faults) and the first faults; exit status 2 if there are any.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datasets.mevis import scan_mevis, versions_present
from datasets.ref_davis import scan_ref_davis
from datasets.ref_ytvos import scan_ref_ytvos
from datasets.refcoco import SPLITS as REFCOCO_SPLITS
from datasets.refcoco import RefCocoDataset, annotation_path, scan_refcoco
from datasets.validation import DEFAULT_WORKERS, Fault, run_checks
from datasets.video_index import VideoDataset
from util.command_line import Parser
from util.errors import InputError, run_script
from util.paths import atomic_write_json

VIDEO_SPLITS = {
    "mevis": ("train", "valid_u", "valid", "test"),
    "ytvos": ("train", "valid", "test"),
    "davis": ("train", "valid"),
}
FAULTS_SHOWN = 20

Scan = tuple[VideoDataset | RefCocoDataset, list[Fault]]


@dataclass(frozen=True)
class Row:
    """One line of the table; `faults` are texts that begin with the file and the key."""

    dataset: str
    split: str
    videos: int
    expressions: int
    frames: int
    faults: list[str]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; paths and names are those of the other scripts."""
    parser = Parser(description=__doc__)
    names = (*VIDEO_SPLITS, *REFCOCO_SPLITS)
    splits = sorted({split for splits in (*VIDEO_SPLITS.values(), *REFCOCO_SPLITS.values()) for split in splits})
    parser.add_argument(
        "--dataset_file",
        nargs="+",
        choices=(*names, "all"),
        metavar="NAME",
        help=f"{', '.join(names)}, or all (the three RefCOCO sets); default: those whose folder is there",
    )
    parser.add_argument("--split", nargs="+", choices=splits, metavar="SPLIT", help="default: the splits on disk")
    parser.add_argument("--mevis_path", type=Path, default=Path("data/MeViS_release"))
    parser.add_argument("--ytvos_path", type=Path, default=Path("data/ref-youtube-vos"))
    parser.add_argument("--davis_path", type=Path, default=Path("data/ref-davis"))
    parser.add_argument("--coco_path", type=Path, default=Path("data/coco"))
    parser.add_argument("--allow_partial", action="store_true", help="ytvos: accept another number of videos than 202")
    parser.add_argument("--fast", action="store_true", help="only metadata, file lists and first frames")
    parser.add_argument("--workers", type=int, default=DEFAULT_WORKERS, help=f"threads (default: {DEFAULT_WORKERS})")
    parser.add_argument("--json", type=Path, help="also write everything, with all faults, to this file")
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers is {args.workers}, expected at least 1")
    return args


def roots(args: argparse.Namespace) -> dict[str, Path]:
    """Data set -> its folder on the command line."""
    folders = {"mevis": args.mevis_path, "ytvos": args.ytvos_path, "davis": args.davis_path}
    return folders | dict.fromkeys(REFCOCO_SPLITS, args.coco_path)


def splits_on_disk(name: str, root: Path) -> list[str]:
    """The splits of one data set that `root` has; the usual one for evaluation if it has none."""
    if name in VIDEO_SPLITS:
        return [split for split in VIDEO_SPLITS[name] if (root / split).is_dir()] or ["valid"]
    return [split for split in REFCOCO_SPLITS[name] if annotation_path(root, name, split).is_file()] or ["val"]


def names_to_check(args: argparse.Namespace) -> list[str]:
    """The data sets asked for; without a wish, those whose folder is there.

    Raises:
        InputError: there is none.
    """
    folders = roots(args)
    if args.dataset_file is not None:
        wanted = {
            name: None for choice in args.dataset_file for name in (REFCOCO_SPLITS if choice == "all" else [choice])
        }
        return list(wanted)
    present = [name for name, root in folders.items() if (root / name if name in REFCOCO_SPLITS else root).is_dir()]
    if not present:
        places = ", ".join(str(root) for root in dict.fromkeys(folders.values()))
        raise InputError(f"found no data set in {places}; give its folder (--mevis_path ...), see docs/data.md")
    return present


def scans(name: str, split: str, root: Path, allow_partial: bool) -> Iterator[tuple[str, Scan]]:
    """Open one split without raising: the data set's name in the table, what was read, and its faults."""
    if name == "mevis":
        for version in versions_present(root, split) or (1,):
            yield ("mevis" if version == 1 else "mevis v2"), scan_mevis(root, split, version)
    elif name == "ytvos":
        yield name, scan_ref_ytvos(root, split, allow_partial)
    elif name == "davis":
        yield name, scan_ref_davis(root, split)
    else:
        yield name, scan_refcoco(root, name, split)


def check(title: str, split: str, scan: Scan, args: argparse.Namespace) -> Row:
    """Run the checks of one split; images count as videos of one frame."""
    dataset, faults = scan
    found = faults + run_checks(dataset.checks(full=not args.fast), args.workers, progress=f"{title} {split}")
    if isinstance(dataset, RefCocoDataset):
        images = len(dataset.by_image())
        counts = (images, len(dataset.objects), images)
    else:
        counts = (len(dataset.videos), dataset.expression_count(), dataset.frame_count())
    return Row(title, split, *counts, [str(fault) for fault in found])


def print_table(rows: Sequence[Row]) -> None:
    """The table, then the first faults of every row that has some."""
    print(f"{'data set':<10} {'split':<8} {'videos':>8} {'expressions':>12} {'frames':>9} {'faults':>7}")
    for row in rows:
        counts = f"{row.videos:>8} {row.expressions:>12} {row.frames:>9} {len(row.faults):>7}"
        print(f"{row.dataset:<10} {row.split:<8} {counts}")
    for row in rows:
        for fault in row.faults[:FAULTS_SHOWN]:
            print(f"{row.dataset} {row.split}: {fault}")
        if len(row.faults) > FAULTS_SHOWN:
            print(f"{row.dataset} {row.split}: and {len(row.faults) - FAULTS_SHOWN} more (--json FILE keeps them all)")


def main(argv: Sequence[str] | None = None) -> None:
    """Check, print, and exit with status 2 if there are faults."""
    args = parse_args(argv)
    rows = []
    for name in names_to_check(args):
        root = roots(args)[name]
        known = VIDEO_SPLITS.get(name) or REFCOCO_SPLITS[name]
        for split in args.split or splits_on_disk(name, root):
            if split not in known:
                raise InputError(f"{name} has no split {split!r}; its splits are {', '.join(known)}")
            rows += [check(title, split, scan, args) for title, scan in scans(name, split, root, args.allow_partial)]
    print_table(rows)
    if args.json is not None:
        atomic_write_json(args.json, {"rows": [asdict(row) for row in rows]})
    count = sum(len(row.faults) for row in rows)
    if count:
        raise InputError(f"{count} faults; what is named above has to be mended or downloaded again (docs/data.md)")


if __name__ == "__main__":
    run_script(main)
