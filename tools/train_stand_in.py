"""Train all parameters of a small network from nothing: a stand-in for SAM 2 and RoBERTa, to be frozen afterwards.

    python3 tools/train_stand_in.py --sam2_version nano --roberta pretrain/nano-tokenizer --dataset_file all \
        --num_frames 1 --coco_path data/refshapes/coco --lr 1e-3 --batch_size 32 --name_exp stand-in-images
    python3 tools/train_stand_in.py ... --dataset_file mevis --num_frames 8 --mevis_path data/refshapes/MeViS_release \
        --resume output/stand-in-images/checkpoints/last.pth --name_exp stand-in

Its flags are those of main.py and main_pretrain.py. Nothing is dropped at random, object scores and IoU have losses of
their own (engine/train/stand_in.py). The tokenizer comes from tools/train_tokenizer.py, the data from
tools/data/make_refshapes.py; what is trained here is what main_pretrain.py and main.py then keep frozen.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs.cli import all_flags, model_config_from_args, parse_flags
from configs.schema import ModelConfig
from engine.train.stand_in import StandInNetwork
from engine.train.start import Start, checkpoint_to_continue, load_to_train, prepare, train
from models.checkpoint import LoadReport, load_weights
from models.samwise import SAMWISE
from util.distributed import Processes, joined_processes
from util.errors import InputError, run_script
from util.logging import setup_logging

GROUPS = ("train", "safety", "coco", "mevis", "ytvos", "davis", "partial", "benchmark", "run", "weights", "model")
DEFAULTS = {"sam2_version": "nano", "lr": 1e-3}


def load_whole(config: ModelConfig, start: Start, processes: Processes) -> tuple[SAMWISE, LoadReport]:
    """A network whose parameters all learn: random ones, or those of a checkpoint that holds all of them.

    Raises:
        InputError: files that are missing or do not fit.
    """
    resume = None if start.continued else start.flags["resume"]
    fresh = dataclasses.replace(start, flags={**start.flags, "untrained": True, "resume": None})
    model, report = load_to_train(config, fresh, processes)
    if resume is not None:
        report = load_weights(model, resume=resume)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.requires_grad_(True), report


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_flags("tools/train_stand_in.py", __doc__, GROUPS, argv, DEFAULTS)
    if args.roberta is None:
        raise InputError("--roberta: give the folder of a tokenizer, which tools/train_tokenizer.py makes")
    with joined_processes(not args.no_distributed) as processes:
        setup_logging(processes.log_level)
        flags = {**all_flags(args), "no_evaluation": True}
        continued = checkpoint_to_continue(flags)
        config = model_config_from_args(args)
        start = prepare(flags, config, processes, continued)
        model, report = load_whole(config, start, processes)
        train(model, report, start, processes, StandInNetwork)


if __name__ == "__main__":
    run_script(main)
