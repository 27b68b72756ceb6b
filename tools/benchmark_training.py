"""What a training step costs: seconds against a straightforward loop, memory, and the time until clips are there.

    python tools/benchmark_training.py step --image_size 256 --batch 4     the batch together, against clip by clip
    python tools/benchmark_training.py memory --frames 8                   peak memory of a clip, each case in a process
    python tools/benchmark_training.py loading --workers 0 1 2             clips per second that come from the disk
    python tools/benchmark_training.py dropping                            attention of HSA on a CPU, weights dropped

Weights and clips are random. `step` alternates the two ways within one run and prints medians; the loop takes the clips
one after the other, and the frames of each one by one wherever the network looks at frames alone. `loading` has no
network: JPEG frames of 1280x720 go through the data set, its augmentation and the loading processes of a training.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from tqdm import tqdm

from configs.loading import load_model_config, network_versions
from engine.runtime import float32_arithmetic, resolve_device
from engine.train.network import TrainingNetwork
from engine.train.recompute import recompute_activations
from models.build import build_model
from models.samwise import SAMWISE
from models.tokenizer import pad_tokens
from tools.bench.command_line import check_outputs
from tools.bench.dropping import benchmark_dropping
from tools.bench.loading import open_clips, print_loading, seconds_per_clip, write_videos
from tools.bench.measure import synchronize
from util.command_line import Parser
from util.errors import InputError, run_script
from util.memory import peak_memory
from util.paths import atomic_write_json

SENTENCE = [0, *range(100, 110), 2]
PRECISIONS = ("fp32", "bf16")


def random_network(options: argparse.Namespace) -> SAMWISE:
    """A network in training, on its device, with HSA and CME."""
    torch.manual_seed(0)
    config = load_model_config(options.sam2_version, hsa=True, use_cme_head=True, sam2__image_size=options.image_size)
    return build_model(config).to(options.device).train()


def random_batch(options: argparse.Namespace, clips: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frames (B, T, 3, S, S), token ids and words (B, L), and targets (B, T, H, S) of a 16:9 video."""
    side = options.image_size
    height = side * 9 // 16
    frames = torch.zeros(clips, options.frames, 3, side, side)
    frames[..., :height, :] = torch.randn(clips, options.frames, 3, height, side)
    targets = torch.zeros(clips, options.frames, height, side)
    targets[..., height // 4 : height // 2, side // 4 : side // 2] = 1
    tokens = pad_tokens([SENTENCE] * clips)
    return (frames.to(options.device), tokens.ids.to(options.device), tokens.words.to(options.device),
            targets.to(options.device))  # fmt: skip


def backward(network: TrainingNetwork, batch: Sequence[Tensor], precision: str, share: float = 1.0) -> None:
    """One forward and backward pass, with the arithmetic of a training."""
    with float32_arithmetic(precision):
        with torch.autocast(batch[0].device.type, torch.bfloat16, enabled=precision == "bf16"):
            losses = network(*batch)
        (share * torch.stack(list(losses.values())).sum()).backward()


def together(network: TrainingNetwork, batch: Sequence[Tensor], precision: str) -> None:
    """The way of `engine.train`: one batch."""
    backward(network, batch, precision)


def one_by_one(network: TrainingNetwork, batch: Sequence[Tensor], precision: str) -> None:
    """The straightforward way: a loop over clips, and over the frames of each."""
    model = network.model
    model._by_frame = lambda function, x, rows=0: torch.cat([function(frame) for frame in x.split(1)])  # type: ignore[method-assign]
    try:
        for clip in range(len(batch[0])):
            backward(network, [values[clip : clip + 1] for values in batch], precision, 1 / len(batch[0]))
    finally:
        del model._by_frame


def benchmark_step(options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of both ways, alternating."""
    network = TrainingNetwork(random_network(options))
    if options.activation_checkpointing:
        recompute_activations(network.model)
    batch = random_batch(options, options.batch)
    ways = {"together": together, "one by one": one_by_one}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in tqdm(range(options.repeats + 1), desc="step", unit="round"):
        for name, way in ways.items():
            network.zero_grad(set_to_none=True)
            started = time.perf_counter()
            way(network, batch, options.precision[0])
            synchronize(batch[0].device)
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["one by one"] / medians["together"]
    print(f"{options.sam2_version}, {options.image_size} px, {options.batch} clips of {options.frames} frames")
    print(f"together {medians['together']:.3f} s, one by one {medians['one by one']:.3f} s, {ratio:.2f} times faster")
    return {"medians": medians, "seconds": seconds, "ratio": ratio}


def benchmark_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of forward and backward for one clip, every case in a process of its own."""
    found: dict[str, Any] = {}
    cases = [(precision, again) for precision in options.precision for again in (False, True)]
    print(f"{options.sam2_version}, {options.image_size} px, one clip of {options.frames} frames: peak memory")
    for precision, again in tqdm(cases, desc="memory", unit="case"):
        command = [sys.executable, __file__, "case", "--precision", precision, "--sam2_version", options.sam2_version]
        command += ["--image_size", str(options.image_size), "--frames", str(options.frames)]
        command += ["--device", options.device, *(["--activation_checkpointing"] if again else [])]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        name = f"{precision}{' with --activation_checkpointing' if again else ''}"
        if ended.returncode:
            tqdm.write(f"{name:40} ended with status {ended.returncode}: {ended.stderr.strip().splitlines()[-1:]}")
            found[name] = None
            continue
        found[name] = json.loads(ended.stdout.splitlines()[-1])
        tqdm.write(f"{name:40} {found[name]['bytes'] / 1e9:6.2f} GB {found[name]['seconds']:8.1f} s")
    return found


def one_case(options: argparse.Namespace) -> dict[str, Any]:
    """Run one clip and say what it needed."""
    network = TrainingNetwork(random_network(options))
    if options.activation_checkpointing:
        recompute_activations(network.model)
    batch = random_batch(options, 1)
    started = time.perf_counter()
    backward(network, batch, options.precision[0])
    synchronize(batch[0].device)
    case = {"bytes": peak_memory(batch[0].device), "seconds": time.perf_counter() - started}
    print(json.dumps(case))
    return case


def benchmark_loading(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per clip with each number of loading processes."""
    print(f"clips of {options.frames} frames of 1280x720 for {options.image_size} px, {options.batch} in a step")
    with tempfile.TemporaryDirectory() as folder:
        write_videos(Path(folder))
        clips = open_clips(Path(folder), options.frames, options.image_size)
        found = {
            workers: seconds_per_clip(clips, options.batch, workers, options.steps, options.repeats)
            for workers in options.workers
        }
    print_loading(found)
    return {str(workers): seconds for workers, seconds in found.items()}


BENCHMARKS = {
    "step": benchmark_step,
    "memory": benchmark_memory,
    "loading": benchmark_loading,
    "dropping": lambda options: benchmark_dropping(options.repeats),
    "case": one_case,
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser("benchmark_training.py", description=__doc__)
    parser.add_argument("benchmark", choices=BENCHMARKS, help="case: one row of memory, in this process")
    parser.add_argument("--sam2_version", default="tiny", choices=network_versions(), metavar="VERSION")
    parser.add_argument("--image_size", type=int, default=1024, help="side of the network's input (default 1024)")
    parser.add_argument("--batch", type=int, default=4, help="clips of a step (default 4)")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip (default 8)")
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=PRECISIONS, help="(default fp32)")
    parser.add_argument("--activation_checkpointing", action="store_true", help="recompute, in step and case")
    parser.add_argument("--repeats", type=int, default=3, help="counted rounds after a warm-up (default 3)")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2], help="of loading (default 0 1 2)")
    parser.add_argument("--steps", type=int, default=8, help="batches of a round of loading (default 8)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args(argv)
    if min(options.batch, options.frames, options.repeats, options.steps) < 1:
        raise InputError("--batch, --frames, --repeats and --steps need at least 1")
    if min(options.workers) < 0:
        raise InputError(f"--workers {min(options.workers)}: expected 0 or more processes")
    if options.benchmark in ("step", "case") and len(options.precision) > 1:
        raise InputError(f"{options.benchmark} --precision {' '.join(options.precision)}: expected one of them")
    if options.benchmark == "dropping" and options.device != "cpu":
        raise InputError(f"dropping --device {options.device}: this is a way of CPUs; leave --device out")
    if options.benchmark in ("memory", "loading", "dropping") and options.activation_checkpointing:
        raise InputError(f"{options.benchmark} knows no --activation_checkpointing: leave it out (memory has both)")
    load_model_config(options.sam2_version, hsa=True, sam2__image_size=options.image_size)  # a size that does not fit
    resolve_device(options.device, fall_back=False)  # figures of a CPU must not pass for those of a GPU
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Run one benchmark.

    Raises:
        InputError: unusable options, or cases of `memory` that failed; what was measured is written.
    """
    options = parse(argv)
    check_outputs({"--json": options.json})
    results = BENCHMARKS[options.benchmark](options)
    if options.json:
        given = {name: str(value) for name, value in vars(options).items()}
        atomic_write_json(options.json, {"options": given, "torch": torch.__version__, "results": results})
    failed = [name for name, found in results.items() if found is None]
    if failed:
        raise InputError(f"{', '.join(failed)}: not measured; the last line of each is above: mend it and run again")


if __name__ == "__main__":
    run_script(main)
