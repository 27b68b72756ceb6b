"""Tables and plots of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from util.paths import atomic_write


def print_end_to_end(name: str, result: Mapping[str, Any]) -> None:
    """One network's figures and the table of its parts."""
    total, rate = result["seconds_per_frame"], result["matrix_gflops"]
    (low, high), (slow, fast) = result["spread"], result["matrix_spread"]
    print(
        f"\n{name}: {total:.4f} s per frame ({low:.4f} to {high:.4f}), {result['expressions'] / total:.3f} "
        f"expression-frames per second, peak memory {result['peak_memory_gb']:.1f} GB\n"
        f"matrix rate {rate:.0f} GFLOP/s ({slow:.0f} to {fast:.0f})"
    )
    for kind in ("done", "plain"):
        if (work := result["work"].get(kind)) is not None:
            print(
                f"work {kind}: {work['tflop_per_frame']:.3f} TFLOP per frame, at the matrix rate "
                f"{work['floor_seconds']:.4f} s: {work['share']:.1%} of the rate"
            )
    if result["parts"]:
        print(f"{'part':30} {'s/frame':>9} {'share':>6} {'GFLOP':>8} {'GFLOP/s':>9} {'of rate':>8}")
    for row in result["parts"]:
        speed = row["gflop"] / row["seconds"] if row["seconds"] else 0.0  # CME does not look in every clip
        share = f"{row['seconds'] / total:6.1%}" if not row["beside"] else "beside"
        print(f"{row['part']:30} {row['seconds']:9.4f} {share} {row['gflop']:8.1f} {speed:9.1f} {speed / rate:8.1%}")


def print_expressions(name: str, result: Mapping[str, Any]) -> None:
    """What a batch of sentences takes, times the time of one, and the same for the parts of one clip."""
    ratios = result["all"]
    print(
        f"\n{name}: {result['expressions']} expressions in one batch take {result['ratio']:.2f} times the time of one "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    if result["parts"]:
        print(f"{'part':30} {'s, one':>9} {'s, batch':>9} {'ratio':>6}")
    for part, seconds in result["parts"].items():
        ratio = seconds["together"] / max(seconds["one"], 1e-9)
        print(f"{part:30} {seconds['one']:9.3f} {seconds['together']:9.3f} {ratio:6.2f}")


def plot_parts(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A PNG with one bar per part and network: seconds per frame, and in outline what its work takes at the rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.5 + 3.4 * len(results)), layout="constrained")
    for number, (name, result) in enumerate(results.items()):
        axes = figure.add_subplot(len(results), 1, number + 1)
        rows = result["parts"][::-1]
        labels = [row["part"] + (" (beside)" if row["beside"] else "") for row in rows]
        axes.barh(labels, [row["seconds"] for row in rows], color="#4477aa", label="measured")
        floors = [row["gflop"] / result["matrix_gflops"] for row in rows]
        axes.barh(labels, floors, fill=False, edgecolor="#222222", label="its work at the matrix rate")
        axes.set_title(f"{name}: {result['seconds_per_frame']:.3f} s per frame", fontsize=10)
        axes.set_xlabel("seconds per frame")
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, loc="lower right")
    with atomic_write(path) as handle:
        figure.savefig(handle, format="png", dpi=130)


def plot_sides(seconds: Mapping[str, list[float]], path: Path) -> None:
    """A PNG with a dot per clip: seconds per frame of the sides, in the order in which they took turns."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot(1, 1, 1)
    for name, values in seconds.items():
        axes.plot(range(1, len(values) + 1), values, marker="o", label=name)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("clip")
    axes.set_ylabel("seconds per frame")
    axes.legend(fontsize=8)
    with atomic_write(path) as handle:
        figure.savefig(handle, format="png", dpi=130)
