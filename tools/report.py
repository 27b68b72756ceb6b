"""One HTML page of a benchmark run: scores beside the published ones, plots, pictures, and how the run was made.

    python3 tools/report.py output/NAME
    python3 tools/report.py output/NAME --mevis_path /data/MeViS --cases 12 --out name.html
    python3 tools/report.py output/evaluation --dataset_file mevis --predictions someones_masks.zip

The page needs no other file and no network. Where the data are and what was run is read from the run's run.json; the
last line is for masks that were made otherwise and scored with tools/evaluate.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs.cli import natural_int
from engine.report.cases import draw_cases
from engine.report.collect import collect_report
from engine.report.page import render
from engine.report.run_files import BENCHMARKS
from util.command_line import Parser, filled_text
from util.errors import run_script
from util.paths import atomic_write


def build_parser() -> argparse.ArgumentParser:
    """The command line. Flags that name the run or its data have no default: run.json says what they are."""
    parser = Parser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run's results: output/NAME")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the folder of the run)")
    parser.add_argument("--cases", type=natural_int, default=6, help="pictures of so many worst and best cases (6)")
    data = parser.add_argument_group(
        "data, where they are elsewhere than run.json says", argument_default=argparse.SUPPRESS
    )
    data.add_argument("--mevis_path", type=filled_text, help="folder of the splits of MeViS")
    data.add_argument("--version", type=int, choices=(1, 2), dest="mevis_version", help="of the metadata of MeViS")
    data.add_argument("--ytvos_path", type=filled_text, help="folder of Ref-YouTube-VOS")
    data.add_argument("--davis_path", type=filled_text, help="folder of Ref-DAVIS17")
    data.add_argument("--allow_partial", action="store_true", help="a part of the benchmark")
    data.add_argument("--predictions", type=Path, help="folder or zip of the masks")
    other = parser.add_argument_group("what run.json says, where there is none", argument_default=argparse.SUPPRESS)
    other.add_argument("--dataset_file", choices=BENCHMARKS, help="which benchmark")
    other.add_argument("--split", help="which part of it (MeViS: valid_u, Ref-YouTube-VOS: valid)")
    other.add_argument("--set", help="list of DAVIS's sequences that was scored (val)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Read, draw, write."""
    args = vars(build_parser().parse_args(argv))
    folder, out, count = args.pop("run"), args.pop("out"), args.pop("cases")
    report = collect_report(folder, args)
    page = render(report, draw_cases(report, count))
    out = out or folder / "report.html"
    with atomic_write(out, "w") as handle:
        handle.write(page)
    print(f"written to {out} ({len(page.encode()) / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_script(main)
