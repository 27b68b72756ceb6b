"""Check the masks of a submission, made by anyone, or check and pack them.

    python3 tools/submission.py check output/X/Annotations --dataset_file mevis
    python3 tools/submission.py check output/X/Annotations.zip --dataset_file ytvos
    python3 tools/submission.py zip output/X/Annotations --dataset_file mevis

Exit status 2 if there are faults; then no zip is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.mevis import open_mevis
from datasets.ref_ytvos import open_ref_ytvos
from datasets.video_index import VideoDataset
from engine.submission import (
    ZIP_PREFIXES,
    expected_files,
    folder_faults,
    raise_on_faults,
    write_zip,
    zip_faults,
)
from util.command_line import Parser
from util.errors import InputError, run_script


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; the paths and flags of the data sets are those of the inference scripts."""
    parser = Parser(description=__doc__)
    parser.add_argument("command", choices=("check", "zip"))
    parser.add_argument("masks", type=Path, help="folder that holds VIDEO/EXPRESSION/FRAME.png; check: or a zip")
    parser.add_argument("--dataset_file", choices=tuple(ZIP_PREFIXES), required=True)
    parser.add_argument("--split", default="valid", choices=("valid", "valid_u", "test"), help="default: valid")
    parser.add_argument("--mevis_path", type=Path, default=Path("data/MeViS_release"))
    parser.add_argument("--version", type=int, choices=(1, 2), help="of the metadata of MeViS; 1 if both are there")
    parser.add_argument("--ytvos_path", type=Path, default=Path("data/ref-youtube-vos"))
    parser.add_argument("--allow_partial", action="store_true", help="ytvos: accept another number of videos than 202")
    parser.add_argument("--output", type=Path, help="zip to write (default: the folder's name with .zip, beside it)")
    return parser.parse_args(argv)


def open_dataset(args: argparse.Namespace) -> VideoDataset:
    """The split that the masks are for."""
    if args.dataset_file == "mevis":
        return open_mevis(args.mevis_path, args.split, args.version)
    return open_ref_ytvos(args.ytvos_path, args.split, args.allow_partial)


def main(argv: Sequence[str] | None = None) -> None:
    """Check, and for `zip` pack."""
    args = parse_args(argv)
    if args.command == "zip" and not args.masks.is_dir():
        raise InputError(f"{args.masks}: expected the folder that holds VIDEO/EXPRESSION/FRAME.png")
    output: Path = args.output or args.masks.resolve().with_name(f"{args.masks.resolve().name}.zip")
    if args.command == "zip" and args.masks.resolve() in output.resolve().parents:
        raise InputError(f"{output} is in the folder of the masks, which holds nothing else: give another --output")
    sizes = expected_files(open_dataset(args))
    prefix = ZIP_PREFIXES[args.dataset_file]
    packed = args.masks.is_file()
    raise_on_faults(zip_faults(args.masks, sizes, prefix) if packed else folder_faults(args.masks, sizes), args.masks)
    print(f"{args.masks}: {len(sizes)} masks, no faults")
    if args.command == "zip":
        write_zip(args.masks, output, sizes, prefix)
        print(f"{output}: written, {output.stat().st_size} bytes")


if __name__ == "__main__":
    run_script(main)
