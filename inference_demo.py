"""Segment what sentences describe in an image, a video, a folder of frames or a live stream."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from configs.cli import all_flags, network_from_args, parse_flags, prefer_shipped_version
from datasets.media import open_source
from engine.demo import clean_prompts
from engine.demo_truth import read_truth, report
from engine.inference.start import load_network, stored_config, stored_flags, weights_to_resume
from engine.live import LiveOptions, segment_source
from util.errors import run_script
from util.locks import exclusive_folder
from util.logging import setup_logging


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_flags("inference_demo.py", __doc__, ("demo", "weights", "run", "model"), argv)
    setup_logging()
    prefer_shipped_version(args)
    truth = None if args.truth is None else read_truth(args.truth)
    prompts = clean_prompts(args.text_prompts or (list(truth.sentences) if truth else []))
    live = LiveOptions(args.drop, args.live, args.save_masks)
    source = open_source(args.input_path, args.fps, live=live != LiveOptions())
    with exclusive_folder(args.output_dir):
        if truth is not None:
            truth.check(source, prompts)
        args.resume = weights_to_resume(all_flags(args))
        config = network_from_args(args, stored_flags(args.resume), stored_config(args.resume))
        model, facts = load_network(config, args.device, all_flags(args))
        facts["untrained"] = facts["weights"]["tensors"]["fresh"] > 0
        options = {"window": args.eval_clip_window, "threshold": args.threshold, "precision": args.precision}
        record = segment_source(model, source, prompts, args.output_dir, live=live, facts=facts, **options)
        logging.info("%s", report(record, source, truth))


if __name__ == "__main__":
    run_script(main)
