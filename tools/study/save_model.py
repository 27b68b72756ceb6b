"""Make a model folder of a checkpoint: everything that --resume and `SAMWISE.from_pretrained` need, in one place.

    python3 tools/study/save_model.py --sam2_version nano --sam2_weights STAND_IN \
        --resume output/X/checkpoints/last.pth --output_dir output/model
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.cli import all_flags, network_from_args, parse_flags
from engine.inference.start import load_network, stored_config, stored_flags
from engine.train.checkpoints import load_file
from models.model_folder import is_folder
from util.errors import InputError, run_script

GROUPS = ("weights", "run", "model")
_FACTS = ("dataset_file", "batch_size", "num_frames", "lr", "weight_decay", "clip_max_norm", "seed")


def main(argv: Sequence[str] | None = None) -> None:
    """Load and save."""
    args = parse_flags("tools/study/save_model.py", __doc__, GROUPS, argv)
    if args.resume is None or is_folder(args.resume):
        raise InputError("--resume: give the checkpoint of a training")
    config = network_from_args(args, stored_flags(args.resume), stored_config(args.resume))
    model, _ = load_network(config, "cpu", all_flags(args))
    checkpoint = load_file(args.resume)
    flags = checkpoint.state.get("args") or {}
    model.training_facts = {"steps": checkpoint.iteration, **{name: flags[name] for name in _FACTS if name in flags}}
    model.save_pretrained(Path(args.output_dir))
    size = sum(file.stat().st_size for file in Path(args.output_dir).iterdir())
    print(f"written to {args.output_dir} ({size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_script(main)
