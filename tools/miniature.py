"""The paper in miniature, from nothing: data, a stand-in for SAM 2 and RoBERTa, training, scores, ablations, tables.

    python3 tools/miniature.py --out output/miniature
    python3 tools/miniature.py --quick --out output/quick
    python3 tools/miniature.py --stand_in pretrained/stand_in --skip ablation
    python3 tools/miniature.py --only baselines summary

Every stage is a command of the project; it is printed before it runs. Run the same line again after an interruption:
what is done is passed over, and a training goes on where it was. OUT/stages holds what is known of each stage,
OUT/tables.md and OUT/summary.json the results.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from configs.cli import natural_int, positive_int
from tools.study.places import Places
from tools.study.plan import GROUPS, plan, select
from tools.study.runner import execute, run_stages
from tools.study.settings import QUICK, Settings, flags
from util.command_line import Parser
from util.errors import run_script
from util.paths import writable_folder


def build_parser() -> argparse.ArgumentParser:
    """The command line. A number that is not given has the value of the full or of the quick study."""
    parser = Parser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("output/miniature"), help="default: output/miniature")
    parser.add_argument("--seed", type=natural_int, default=0, help="of data and trainings (0)")
    parser.add_argument("--seeds", type=natural_int, nargs="+", help="of the ablation's trainings (0 1 2; quick: 0)")
    parser.add_argument("--processes", type=positive_int, default=1, help="that share trainings and inferences (1)")
    parser.add_argument("--quick", action="store_true", help="a few steps on two videos: whether everything runs")
    parser.add_argument("--stand_in", type=Path, metavar="FOLDER", help="use this stand-in instead of training one")
    parser.add_argument("--only", nargs="+", choices=GROUPS, help="run only these stages; what they need must be there")
    parser.add_argument("--skip", nargs="+", choices=GROUPS, default=[], help="leave these stages out")
    numbers = parser.add_argument_group("sizes", "default: those of the full study, in parentheses")
    for name, text in flags().items():
        numbers.add_argument(f"--{name}", type=natural_int, help=f"{text} ({getattr(Settings, name)})")
    return parser


def settings_from(args: argparse.Namespace) -> Settings:
    """The numbers of the full or the quick study, with those that were given."""
    given = {name: value for name in flags() if (value := getattr(args, name)) is not None}
    return dataclasses.replace(QUICK if args.quick else Settings(), **given)


def main(argv: Sequence[str] | None = None) -> None:
    """Plan and run."""
    args = build_parser().parse_args(argv)
    settings = settings_from(args)
    out = writable_folder(args.out, "--out")
    places = Places(out, args.stand_in or out / "stand_in")
    seeds = tuple(args.seeds or settings.seeds)
    stages = plan(places, settings, args.seed, seeds, torch.cuda.is_available())
    run_stages(select(stages, args.only, args.skip), out, partial(execute, processes=args.processes))


if __name__ == "__main__":
    run_script(main)
