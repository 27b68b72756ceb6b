"""Where the time goes, and how close to the hardware it is.

    python tools/benchmark.py model --sam2_version tiny base     seconds per frame, a table of parts, FLOPs, memory
    python tools/benchmark.py expressions --sam2_version tiny    E sentences in one batch against E single runs
    python tools/benchmark.py linear                             the fused linear layer against PyTorch's own
    python tools/benchmark.py attention                          memory attention with narrow against wide values

Weights are random (they do not change the work), frames are noise of 960x540. What is compared alternates within one
run, and every figure is a median; the float32 matrix rate of the machine is measured between the runs and stands beside
them. Results are printed and, with --json, written to a file.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from configs.loading import load_model_config, sam2_versions
from engine.infer import open_session
from models.build import load_model
from models.sam2.layers import linear
from models.sam2.memory_attention import RotaryAttention
from models.samwise import SAMWISE
from util.errors import InputError, run_script
from util.memory import peak_memory
from util.paths import atomic_write_json

FRAME_SIZE = (540, 960)
SENTENCES = (
    "the red disc that moves to the right",
    "a small dog",
    "the person who stands up and walks away from the table",
    "the car on the left that turns",
)
MATRIX = 4096
REST = "pyramid, resizing, the rest"


@dataclass
class Part:
    """Time and work of one part of the network, summed over a run."""

    seconds: float = 0.0
    flops: float = 0.0


@dataclass
class Run:
    """One pass over the frames."""

    frames: int
    seconds: float
    parts: dict[str, Part] = field(default_factory=dict)


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read on the host means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, repeats: int = 3) -> float:
    """FLOP/s of a large float32 matrix product: the median of a few."""
    a, b = (torch.randn(MATRIX, MATRIX, device=device) for _ in range(2))
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / statistics.median(times[1:])


def parts_of(model: SAMWISE) -> dict[str, list[nn.Module]]:
    """Which modules count as which part of the table."""
    trunk, ends = model.sam.image_encoder.trunk, model.sam.image_encoder.trunk.stage_ends
    parts: dict[str, list[nn.Module]] = {"patch embedding": [trunk.patch_embed]}
    for stage, end in enumerate(ends):
        parts[f"Hiera stage {stage}"] = list(trunk.blocks[ends[stage - 1] if stage else 0 : end])
    return parts | {
        "text layers": list(model.text_encoder.encoder.layer),
        "adapters": [part for adapter in model.cmt_adapters for part in adapter_parts(adapter)],
        "memory attention": [model.sam.memory_attention],
        "mask decoder": [model.sam.sam_mask_decoder],
        "memory encoder": [model.sam.memory_encoder],
        "CME": [model.conditional_memory_encoder] if model.conditional_memory_encoder else [],
    }


def adapter_parts(adapter: nn.Module) -> list[nn.Module]:
    """An adapter, and those of its modules that look at the clip before it is called with the text."""
    return [adapter, *(part for name, part in adapter.named_children() if name in ("proj_vis_down", "hsa"))]


@contextmanager
def part_clock(model: SAMWISE, counter: FlopCounterMode | None) -> Iterator[dict[str, Part]]:
    """Measure parts through forward hooks; nothing in the network knows of it."""
    found, hooks, device = {name: Part() for name in parts_of(model)}, [], model.device

    def begin(module: nn.Module, inputs: Any) -> None:
        synchronize(device)
        starts.append((time.perf_counter(), counter.get_total_flops() if counter else 0))

    def end(part: Part) -> Callable[..., None]:
        def stop(module: nn.Module, inputs: Any, output: Any) -> None:
            synchronize(device)
            start, flops = starts.pop()
            part.seconds += time.perf_counter() - start
            part.flops += (counter.get_total_flops() if counter else 0) - flops

        return stop

    starts: list[tuple[float, int]] = []
    for name, modules in parts_of(model).items():
        for module in modules:
            hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end(found[name]))]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def count_linear(x: Sequence[int], weight: Sequence[int], *rest: Any, **keywords: Any) -> int:
    """FLOPs of the fused linear layer."""
    return 2 * int(np.prod(x)) * weight[0]


def count_attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *rest: Any, **keywords: Any) -> int:
    """FLOPs of the CPU's fused attention."""
    return 2 * int(np.prod(q[:-1])) * k[-2] * (q[-1] + v[-1])


def flop_counter() -> FlopCounterMode:
    """Counts matrix products, convolutions and attention, the CPU's fused kernels included."""
    known: dict[Any, Callable[..., int]] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: count_attention}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        known[torch.ops.mkldnn._linear_pointwise] = count_linear
    return FlopCounterMode(display=False, custom_mapping=known)


def run_video(model: SAMWISE, options: argparse.Namespace, sentences: Sequence[str], count: bool = False) -> Run:
    """Segment the frames from raw pixels to masks of the source's size."""
    noise = np.random.default_rng(0).integers(0, 256, (options.frames, *FRAME_SIZE, 3), dtype=np.uint8)
    counter = flop_counter() if count else None
    session = open_session(model, sentences, window=options.window, precision=options.precision)
    with part_clock(model, counter) as parts:
        if counter:
            counter.__enter__()
        start = time.perf_counter()
        for result in session.feed(noise) + session.flush():
            result.masks()
        synchronize(model.device)
        seconds = time.perf_counter() - start
        if counter:
            counter.__exit__(None, None, None)
    parts[REST] = Part(seconds - sum(part.seconds for part in parts.values()))
    if counter:
        parts[REST].flops = counter.get_total_flops() - sum(part.flops for part in parts.values())
    return Run(options.frames, seconds, parts)


def random_model(version: str, options: argparse.Namespace) -> SAMWISE:
    """A network with HSA and CME and random weights."""
    config = load_model_config(version, hsa=True, use_cme_head=True)
    return load_model(config, untrained=True, device=options.device)[0]


def benchmark_model(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per frame and per part for each version; the floor is the counted work at the matrix rate."""
    results: dict[str, Any] = {}
    for version in options.sam2_version:
        model = random_model(version, options)
        sentences = SENTENCES[: options.expressions]
        counted = run_video(model, options, sentences, count=True)
        runs, rates = [], [matrix_rate(model.device)]
        for _ in tqdm(range(options.repeats), desc=version, unit="run"):
            runs.append(run_video(model, options, sentences))
            rates.append(matrix_rate(model.device))
        rate = statistics.median(rates)
        seconds = [run.seconds / run.frames for run in runs]
        rows = []
        for name, part in counted.parts.items():
            spent = statistics.median(run.parts[name].seconds for run in runs) / options.frames
            rows.append({"part": name, "seconds": spent, "gflop": part.flops / options.frames / 1e9})
        flops = sum(part.flops for part in counted.parts.values()) / options.frames
        results[version] = {
            "seconds_per_frame": statistics.median(seconds),
            "spread": [min(seconds), max(seconds)],
            "tflop_per_frame": flops / 1e12,
            "matrix_gflops": rate / 1e9,
            "floor_seconds": flops / rate,
            "times_floor": statistics.median(seconds) / (flops / rate),
            "peak_memory_gb": peak_memory(model.device) / 1e9,
            "parts": rows,
        }
        print_model(version, options, results[version])
    return results


def print_model(version: str, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """The table of one version."""
    total, rate = result["seconds_per_frame"], result["matrix_gflops"]
    print(
        f"\n{version}, window {options.window}, {options.frames} frames, {options.expressions} expression(s), "
        f"{options.precision}: {total:.2f} s per frame ({result['spread'][0]:.2f} to {result['spread'][1]:.2f}), "
        f"{result['tflop_per_frame']:.3f} TFLOP per frame\nfloat32 matrix rate {rate:.0f} GFLOP/s, so the floor is "
        f"{result['floor_seconds']:.2f} s: {result['times_floor']:.2f} times the floor; "
        f"peak memory {result['peak_memory_gb']:.1f} GB"
    )
    print(f"{'part':30} {'s/frame':>8} {'share':>6} {'GFLOP':>8} {'GFLOP/s':>8} {'of rate':>8}")
    for row in result["parts"]:
        speed = row["gflop"] / max(row["seconds"], 1e-9)
        print(
            f"{row['part']:30} {row['seconds']:8.3f} {row['seconds'] / total:6.1%} {row['gflop']:8.1f} {speed:8.1f} "
            f"{speed / rate:8.1%}"
        )


def benchmark_expressions(options: argparse.Namespace) -> dict[str, Any]:
    """E sentences together against each alone: the time of the batch over the mean time of one."""
    results: dict[str, Any] = {}
    for version in options.sam2_version:
        model = random_model(version, options)
        run_video(model, options, SENTENCES[:1])
        ratios = []
        for _ in tqdm(range(options.repeats), desc=version, unit="run"):
            together = run_video(model, options, SENTENCES).seconds
            alone = [run_video(model, options, [sentence]).seconds for sentence in SENTENCES]
            ratios.append(together / statistics.mean(alone))
        results[version] = {"expressions": len(SENTENCES), "ratio": statistics.median(ratios), "all": ratios}
        print(
            f"{version}: {len(SENTENCES)} expressions in one batch take {statistics.median(ratios):.2f} times the time "
            f"of one ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    return results


def alternate(functions: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """Median seconds of each function, called in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    with torch.inference_mode():
        for _ in range(repeats + 1):
            for name, function in functions.items():
                start = time.perf_counter()
                synchronize(function().device)
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def own_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """PyTorch's linear layer, then its GELU."""
    return F.gelu(F.linear(x, weight, bias))


def benchmark_linear(options: argparse.Namespace) -> dict[str, Any]:
    """Linear layer with GELU at the sizes of Hiera base."""
    results = {}
    for rows, inputs, outputs in ((65536, 112, 448), (16384, 224, 896), (4096, 448, 1792), (1024, 896, 3584)):
        x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
        found = alternate(
            {
                "own": partial(own_linear, x, weight, bias),
                "fused": partial(linear, x, weight, bias, "gelu"),
            },
            options.repeats,
        )
        name = f"{rows}x{inputs} to {outputs}"
        results[name] = found
        print(f"{name:24} own {found['own'] * 1e3:7.1f} ms, fused {found['fused'] * 1e3:7.1f} ms, "
              f"ratio {found['fused'] / found['own']:.2f}")  # fmt: skip
    return results


def benchmark_attention(options: argparse.Namespace) -> dict[str, Any]:
    """One read of six memories and fifteen pointers, over 64-d values projected afterwards and over projected ones."""
    grid, pointers = (64, 64), 60
    wide, narrow = RotaryAttention(256, 64), RotaryAttention(256, 64, narrow_values=True)
    narrow.load_state_dict(wide.state_dict())
    query, memory = torch.randn(1, 4096, 256), torch.randn(1, 6 * 4096 + pointers, 64)
    modules = {"wide": wide.eval().to(options.device), "narrow": narrow.eval().to(options.device)}
    query, memory = query.to(options.device), memory.to(options.device)
    found = alternate(
        {name: partial(module, query, memory, memory, grid, pointers) for name, module in modules.items()},
        options.repeats,
    )
    print(f"wide {found['wide']:.3f} s, narrow {found['narrow']:.3f} s, ratio {found['narrow'] / found['wide']:.2f}")
    return found


BENCHMARKS = {
    "model": benchmark_model,
    "expressions": benchmark_expressions,
    "linear": benchmark_linear,
    "attention": benchmark_attention,
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--sam2_version", nargs="+", default=["tiny"], choices=sam2_versions(), metavar="VERSION")
    parser.add_argument("--frames", type=int, default=8, help="frames of the video (default 8)")
    parser.add_argument("--window", type=int, default=8, help="frames per clip (default 8)")
    parser.add_argument("--expressions", type=int, default=1, help=f"1 to {len(SENTENCES)} (default 1)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "tf32", "bf16"))
    parser.add_argument("--repeats", type=int, default=3, help="counted runs after a warm-up (default 3)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args(argv)
    if min(options.frames, options.window, options.repeats) < 1 or not 1 <= options.expressions <= len(SENTENCES):
        raise InputError(f"--frames, --window and --repeats need at least 1, --expressions 1 to {len(SENTENCES)}")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Run one benchmark."""
    options = parse(argv)
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
