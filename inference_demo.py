"""Segment what sentences describe in an image, a video or a folder of frames."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from configs.cli import all_flags, network_from_args, parse_flags
from datasets.media import open_media
from engine.demo import check_output_dir, clean_prompts, segment_media
from engine.inference.start import load_network, stored_config, stored_flags, weights_to_resume
from util.errors import run_script
from util.logging import setup_logging


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_flags("inference_demo.py", __doc__, ("demo", "weights", "run", "model"), argv)
    setup_logging()
    prompts = clean_prompts(args.text_prompts)
    media = open_media(args.input_path, args.fps)
    check_output_dir(args.output_dir)
    args.resume = weights_to_resume(all_flags(args))
    config = network_from_args(args, stored_flags(args.resume), stored_config(args.resume))
    model, facts = load_network(config, args.device, all_flags(args))
    facts["untrained"] = facts["weights"]["tensors"]["fresh"] > 0
    options = {"window": args.eval_clip_window, "threshold": args.threshold, "precision": args.precision}
    logging.info("results: %s", segment_media(model, media, prompts, args.output_dir, facts=facts, **options))


if __name__ == "__main__":
    run_script(main)
