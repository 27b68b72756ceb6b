"""Where the time goes, and how close to the hardware it is.

    python tools/benchmark.py end_to_end --sam2_version tiny base   JPEG to PNG files: seconds, parts, FLOPs, memory
    python tools/benchmark.py end_to_end --compile                  the same, compiled, without the parts
    python tools/benchmark.py end_to_end --compare REVISION         this tree against a git revision, alternating
    python tools/benchmark.py end_to_end --against "--precision bf16"    these settings against others, alternating
    python tools/benchmark.py end_to_end --against "--compile"      the network as it is against compiled
    python tools/benchmark.py expressions --sam2_version tiny       E sentences in one batch against one
    python tools/benchmark.py linear                                the fused linear layer against PyTorch's own
    python tools/benchmark.py attention                             memory attention with narrow against wide values
    python tools/benchmark.py attention --device cuda --precision bf16    PyTorch's attention kernels on a GPU

Weights are random (they do not change the work), frames are 960x540. The memory is filled first, which is also the
warm-up; then clips follow. What is compared alternates within one run, and every figure is a median; the matrix rate of
the machine, in the same precision, is measured between the clips and stands beside them. Results are printed and, with
--json and --plot, written to files.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import platform
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tqdm import tqdm

from configs.loading import sam2_versions
from configs.schema import SHIPPED_VERSIONS
from engine.inference.start import compiler_options
from engine.runtime import float32_arithmetic, resolve_device
from tools.bench.command_line import check_outputs, join_value
from tools.bench.compare import ROOT, Side, alternate_clips, checked_out
from tools.bench.end_to_end import BESIDE, SENTENCES, Clip, Pipeline, Settings, plain_computation, random_model
from tools.bench.kernels import benchmark_attention, benchmark_linear
from tools.bench.measure import matrix_rate
from tools.bench.report import plot_parts, plot_sides, print_end_to_end, print_expressions
from util.command_line import Parser
from util.errors import InputError, run_script
from util.memory import peak_memory
from util.paths import atomic_write_json

CLIPS_ON_GPU = 8  # timed together: a GPU computes one while the one before is written


def settings_of(options: argparse.Namespace, version: str) -> Settings:
    """What the command line asks for, for one network."""
    names = ("expressions", "window", "precision", "device", "compile", "cuda_graphs")
    clips = options.clips or (CLIPS_ON_GPU if options.device.startswith("cuda") else 1)
    return Settings(version, **{name: getattr(options, name) for name in names}, clips=clips)


def work(flops: float, seconds: float, rate: float) -> dict[str, float]:
    """FLOPs per frame, the seconds that they take at the matrix rate, and the share of the rate that was reached."""
    return {"tflop_per_frame": flops / 1e12, "floor_seconds": flops / rate, "share": flops / rate / seconds}


def rate_of(settings: Settings, device: torch.device) -> float:
    """The matrix rate in FLOP/s, in the precision of what is measured."""
    with float32_arithmetic(settings.precision):
        return matrix_rate(device, torch.bfloat16 if settings.precision == "bf16" else torch.float32)


def measure(settings: Settings, repeats: int, plain: bool) -> dict[str, Any]:
    """Seconds per frame of whole clips, of their parts, and the counted work.

    Args:
        settings: what is measured. A compiled network has no parts; its work is counted with one that is not.
        repeats: clips that are timed as a whole, and again with their parts.
        plain: also count what the same masks cost without any saving, one sentence at a time.
    """
    model, eager = random_model(settings), dataclasses.replace(settings, compile=False, cuda_graphs=False)
    rates, clips, tables = [rate_of(settings, model.device)], list[Clip](), list[Clip]()
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)  # another network may have been there
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        pipeline = stack.enter_context(Pipeline(model, settings, Path(folder)))
        pipeline.fill()
        for _ in tqdm(range(repeats), desc=settings.version, unit="clip"):
            clips.append(pipeline.clip())
            rates.append(rate_of(settings, model.device))
        tables = [pipeline.clip_in_parts() for _ in range(0 if settings.compile else repeats)]
        memory = peak_memory(model.device)
        if settings.compile:
            model = random_model(eager)
            pipeline = stack.enter_context(Pipeline(model, eager, Path(folder)))
            pipeline.fill()
        counted = pipeline.clip_in_parts(count=True)
        flops = {"done": total_flops(counted)}
        if plain:
            alone = dataclasses.replace(eager, expressions=1)
            pipeline = stack.enter_context(Pipeline(model, alone, Path(folder)))
            with plain_computation(pipeline):
                pipeline.fill()
                flops["plain"] = total_flops(pipeline.clip_in_parts(count=True)) * settings.expressions
    seconds, rate = [clip.seconds / clip.frames for clip in clips], statistics.median(rates)
    total = statistics.median(seconds)
    return {
        "seconds_per_frame": total,
        "spread": [min(seconds), max(seconds)],
        "expressions": settings.expressions,
        "matrix_gflops": rate / 1e9,
        "matrix_spread": [min(rates) / 1e9, max(rates) / 1e9],
        "work": {kind: work(value / counted.frames, total, rate) for kind, value in flops.items()},
        "peak_memory_gb": memory / 1e9,
        "parts": [row(name, tables, counted) for name in counted.parts] if tables else [],
    }


def total_flops(clip: Clip) -> float:
    """Of all parts."""
    return sum(part.flops for part in clip.parts.values())


def row(name: str, tables: Sequence[Clip], counted: Clip) -> dict[str, Any]:
    """A part's median seconds and its work, per frame."""
    seconds = statistics.median(clip.parts[name].seconds / clip.frames for clip in tables)
    gflop = counted.parts[name].flops / counted.frames / 1e9
    return {"part": name, "seconds": seconds, "gflop": gflop, "beside": name in BESIDE}


def benchmark_end_to_end(options: argparse.Namespace) -> dict[str, Any]:
    """Every network alone, or two sides of each in turns."""
    if options.compare or options.against:
        other = other_side(options)
        return {version: compare(options, other, version) for version in options.sam2_version}
    if options.compile and options.plot:
        raise InputError("a compiled network has no parts to draw: leave --plot out, or compare it with --against")
    results = {}
    for version in options.sam2_version:
        settings = settings_of(options, version)
        results[version] = measure(settings, options.repeats, not options.no_plain)
        print_end_to_end(f"{version}, {', '.join(f'{n} {v}' for n, v in list(vars(settings).items())[1:])}",
                         results[version])  # fmt: skip
    if options.plot:
        plot_parts(results, options.plot)
    return results


def other_side(options: argparse.Namespace) -> argparse.Namespace:
    """The options of the side that `--against` describes.

    Raises:
        InputError: it does not parse, or says what both sides have in common.
    """
    try:
        other = parse(["end_to_end", *shlex.split(options.against)], options)
        own = {field.name for field in dataclasses.fields(Settings)}
        common = [name for name, value in vars(other).items() if name not in own and value != getattr(options, name)]
        if common:
            raise InputError(f"--{common[0]} is the same for both sides: give it outside of --against")
    except ValueError as error:  # of shlex, or an InputError
        raise InputError(f"--against {options.against!r}: {error}") from error
    return other


def compare(options: argparse.Namespace, other: argparse.Namespace, version: str) -> dict[str, Any]:
    """This tree and these settings against a revision, other settings, or both."""
    own = settings_of(options, version)
    with contextlib.ExitStack() as stack:
        tree = stack.enter_context(checked_out(options.compare)) if options.compare else ROOT
        name = f"{options.compare or ''} {options.against}".strip()
        sides = (Side("this", ROOT, own), Side(name, tree, settings_of(other, version)))
        seconds = alternate_clips(sides, options.repeats, torch.get_num_threads())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first, second = medians.values()
    for side in sides:
        median, values = medians[side.name], seconds[side.name]
        print(
            f"{version}, {side.name}: {median:.4f} s per frame ({min(values):.4f} to {max(values):.4f}), "
            f"{side.settings.expressions / median:.3f} expression-frames per second"
        )
    print(f"{version}: this takes {first / second:.3f} times the time of {sides[1].name}")
    if options.plot:
        plot_sides(seconds, options.plot.with_stem(f"{options.plot.stem}_{version}"))
    return {"seconds_per_frame": seconds, "medians": medians, "ratio": first / second}


def benchmark_expressions(options: argparse.Namespace) -> dict[str, Any]:
    """E sentences in one batch, after the memory has filled, against one."""
    results = {}
    for version in options.sam2_version:
        batch = dataclasses.replace(settings_of(options, version), expressions=options.batch)
        results[version] = together_and_alone(batch, options.repeats)
        print_expressions(version, results[version])
    return results


def together_and_alone(batch: Settings, repeats: int) -> dict[str, Any]:
    """Seconds of clips with a batch of sentences, each between two with one; then of the parts of one clip each."""
    model = random_model(batch)
    sides = {"together": batch, "one": dataclasses.replace(batch, expressions=1)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        pipelines = {
            name: stack.enter_context(Pipeline(model, side, Path(folder) / name)) for name, side in sides.items()
        }
        for pipeline in pipelines.values():
            pipeline.fill()
        seconds["one"].append(pipelines["one"].clip().seconds)
        for _ in tqdm(range(repeats), desc=batch.version, unit="round"):
            for name, pipeline in pipelines.items():
                seconds[name].append(pipeline.clip().seconds)
        parts = {}
        if not batch.compile:
            tables = {name: pipeline.clip_in_parts().parts for name, pipeline in pipelines.items()}
            parts = {part: {name: tables[name][part].seconds for name in sides} for part in tables["together"]}
    around = [statistics.mean(pair) for pair in itertools.pairwise(seconds["one"])]  # a machine's speed drifts
    ratios = [together / one for together, one in zip(seconds["together"], around, strict=True)]
    return {
        "expressions": batch.expressions,
        "ratio": statistics.median(ratios),
        "all": ratios,
        **seconds,
        "parts": parts,
    }


BENCHMARKS = {
    "end_to_end": benchmark_end_to_end,
    "expressions": benchmark_expressions,
    "linear": benchmark_linear,
    "attention": benchmark_attention,
}


def parse(argv: Sequence[str] | None, defaults: argparse.Namespace | None = None) -> argparse.Namespace:
    """Read the command line; `defaults` stand for what it does not say."""
    parser = Parser("benchmark.py", description=__doc__)
    parser.add_argument("benchmark", choices=BENCHMARKS)
    versions = (*sam2_versions(), *SHIPPED_VERSIONS)
    parser.add_argument("--sam2_version", nargs="+", default=["tiny"], choices=versions, metavar="VERSION")
    parser.add_argument("--window", type=int, default=8, help="frames per clip (default 8)")
    parser.add_argument("--expressions", type=int, default=1, help=f"in end_to_end, 1 to {len(SENTENCES)} (default 1)")
    parser.add_argument("--batch", type=int, default=4, help="E of `expressions` (default 4)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "tf32", "bf16"))
    parser.add_argument("--repeats", type=int, default=3, help="how often clips are timed (default 3)")
    parser.add_argument("--clips", type=int, help=f"timed together (default 1; on a GPU {CLIPS_ON_GPU})")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile; then there is no table of parts")
    parser.add_argument("--cuda_graphs", action="store_true", help="with --compile: replay CUDA graphs")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--compare", metavar="REVISION", help="measure a git revision in turns with this tree")
    parser.add_argument("--against", default="", metavar="FLAGS", help="what the other side is given on top")
    parser.add_argument("--no_plain", action="store_true", help="do not count the work without savings, which is slow")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--plot", type=Path, help="draw the results into this PNG file")
    if defaults is not None:
        parser.set_defaults(**vars(defaults))
    options = parser.parse_args(join_value(sys.argv[1:] if argv is None else argv, "--against"))
    if min(options.window, options.repeats, 1 if options.clips is None else options.clips) < 1:
        raise InputError("--window, --repeats and --clips need at least 1")
    if not all(1 <= count <= len(SENTENCES) for count in (options.expressions, options.batch)):
        raise InputError(f"--expressions and --batch need 1 to {len(SENTENCES)}")
    if options.threads is not None and options.threads < 1:
        raise InputError(f"--threads {options.threads}: expected 1 or more; leave it out for PyTorch's choice")
    device = resolve_device(options.device, fall_back=False)  # figures of a CPU must not pass for those of a GPU
    compiler_options(vars(options), device)
    if options.benchmark != "end_to_end" and (options.compare or options.against or options.plot):
        raise InputError(f"{options.benchmark} knows no --compare, --against or --plot: end_to_end does")
    if options.benchmark == "linear" and options.device != "cpu":
        raise InputError(f"linear --device {options.device}: these are layers of a CPU; leave --device out")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Run one benchmark."""
    options = parse(argv)
    check_outputs({"--json": options.json, "--plot": options.plot})
    if options.threads:
        torch.set_num_threads(options.threads)
    machine = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else options.device,
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    results = BENCHMARKS[options.benchmark](options)
    if options.json:
        given = {name: str(value) for name, value in vars(options).items()}
        atomic_write_json(options.json, {"machine": machine, "options": given, "results": results})


if __name__ == "__main__":
    run_script(main)
