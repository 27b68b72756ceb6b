"""Train SAMWISE on video clips (Ref-YouTube-VOS, MeViS); with --eval, evaluate a checkpoint as the training would."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from configs.cli import all_flags, network_from_args, parse_flags, refuse_other_sets
from configs.flags import VIDEO_SETS
from engine.inference.start import load_network, stored_config, stored_flags, weights_to_resume
from engine.train.evaluate import evaluate_checkpoint
from engine.train.start import (
    AUTO,
    checkpoint_to_continue,
    load_to_train,
    prepare,
    train,
    warn_of_inference_flags,
    warn_of_kept_values,
)
from util.distributed import joined_processes
from util.errors import InputError, run_script
from util.logging import setup_logging

GROUPS = ("train", "safety", "ytvos", "mevis", "davis", "split", "partial", "benchmark", "run", "weights", "model")


def run(args: argparse.Namespace) -> None:
    """Train, or with --eval evaluate, as parsed flags say."""
    with joined_processes(not args.no_distributed) as processes:
        setup_logging(processes.log_level)
        warn_of_inference_flags(args.given)
        if args.eval:
            if args.resume == AUTO:
                raise InputError("--resume auto goes on with a training: give --eval the file of a checkpoint")
            args.resume = weights_to_resume(all_flags(args))
            config = network_from_args(args, stored_flags(args.resume), stored_config(args.resume))
            model, facts = load_network(config, processes.device(args.device), all_flags(args))
            evaluate_checkpoint(model, all_flags(args), processes, facts)
            return
        continued = checkpoint_to_continue(all_flags(args))
        warn_of_kept_values(all_flags(args), args.given, continued)
        config = network_from_args(args, continued.state["args"] if continued else {}, training=True)
        start = prepare(all_flags(args), config, processes, continued)
        model, report = load_to_train(config, start, processes)
        train(model, report, start, processes)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_flags("main.py", __doc__, GROUPS, argv)
    refuse_other_sets(args, VIDEO_SETS, "main_pretrain.py")
    run(args)


if __name__ == "__main__":
    run_script(main)
