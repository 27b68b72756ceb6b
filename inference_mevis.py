"""Segment MeViS: PNGs and a zip for the benchmark's server (splits valid and test), or scores (split valid_u)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.cli import all_flags, network_from_args, parse_flags
from datasets.mevis import open_mevis
from engine.inference.benchmarks import ExpressionBenchmark
from engine.inference.run import check_folders, merge_shards, run_benchmark
from engine.inference.start import load_network, options_from, stored_config, stored_flags, weights_to_resume
from util.distributed import joined_processes
from util.errors import run_script
from util.logging import setup_logging

GROUPS = ("mevis", "split", "benchmark", "array", "run", "weights", "model")


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_flags("inference_mevis.py", __doc__, GROUPS, argv)
    with joined_processes(not args.no_distributed) as processes:
        setup_logging(processes.log_level)
        dataset = open_mevis(args.mevis_path, args.split, args.mevis_version)
        benchmark = ExpressionBenchmark(dataset, Path(args.output_dir) / args.name_exp)
        options = options_from(all_flags(args))
        if args.merge:
            merge_shards(benchmark, options, processes)
            return
        check_folders(benchmark)
        args.resume = weights_to_resume(all_flags(args))
        config = network_from_args(args, stored_flags(args.resume), stored_config(args.resume))
        model, facts = load_network(config, processes.device(args.device), all_flags(args))
        run_benchmark(model, benchmark, options, processes, facts)


if __name__ == "__main__":
    run_script(main)
