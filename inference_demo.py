"""Segment what sentences describe in an image, a video or a folder of frames."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from configs.cli import adopt_stored_flags, all_flags, check_weights_given, model_config_from_args, parse_flags
from datasets.media import open_media
from engine.demo import check_output_dir, clean_prompts, segment_media
from engine.runtime import resolve_device
from models.build import load_model
from models.checkpoint import read_checkpoint, stored_arguments
from util.errors import run_script
from util.logging import setup_logging

WEIGHTS = ("resume", "sam2_weights", "roberta", "untrained", "seed")


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_flags("inference_demo.py", __doc__, ("demo", "weights", "run", "model"), argv)
    setup_logging()
    prompts = clean_prompts(args.text_prompts)
    media = open_media(args.input_path, args.fps)
    check_output_dir(args.output_dir)
    if args.resume:
        adopt_stored_flags(args, stored_arguments(read_checkpoint(args.resume)))
    config = model_config_from_args(args)
    check_weights_given(args, config)
    device = resolve_device(args.device)
    model, report = load_model(config, device=device, **{name: getattr(args, name) for name in WEIGHTS})
    logging.info(report.summary())
    options = {"window": args.eval_clip_window, "threshold": args.threshold, "precision": args.precision}
    facts = {"untrained": bool(report.fresh), "flags": all_flags(args)}
    logging.info("results: %s", segment_media(model, media, prompts, args.output_dir, facts=facts, **options))


if __name__ == "__main__":
    run_script(main)
