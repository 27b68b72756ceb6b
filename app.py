"""A web page on which to segment videos and images by sentences."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from configs.cli import all_flags, network_from_args, parse_flags, prefer_shipped_version
from engine.inference.start import load_network, stored_config, stored_flags, weights_to_resume
from engine.web.jobs import RunOptions
from engine.web.limits import Limits
from engine.web.server import Address, serve
from util.errors import run_script
from util.logging import setup_logging


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_flags("app.py", __doc__, ("web", "weights", "run", "model"), argv)
    setup_logging()
    prefer_shipped_version(args)
    if "output_dir" in args.given:
        logging.warning("--output_dir is not used: results are downloaded from the page")
    args.resume = weights_to_resume(all_flags(args))
    config = network_from_args(args, stored_flags(args.resume), stored_config(args.resume))
    model, _ = load_network(config, args.device, all_flags(args))
    options = RunOptions(args.eval_clip_window, args.precision)
    serve(model, Limits(frames=args.max_frames), options, args.threshold, Address(args.host, args.port))


if __name__ == "__main__":
    run_script(main)
