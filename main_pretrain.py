"""Train SAMWISE on the images of RefCOCO, RefCOCO+ and RefCOCOg; with --eval, evaluate a checkpoint on them."""

from __future__ import annotations

from collections.abc import Sequence

from configs.cli import parse_flags, refuse_other_sets
from configs.flags import IMAGE_SETS
from main import run
from util.errors import run_script

GROUPS = ("train", "safety", "coco", "benchmark", "run", "weights", "model")
DEFAULTS = {"dataset_file": "all", "num_frames": 1}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_flags("main_pretrain.py", __doc__, GROUPS, argv, DEFAULTS)
    refuse_other_sets(args, IMAGE_SETS, "main.py")
    run(args)


if __name__ == "__main__":
    run_script(main)
