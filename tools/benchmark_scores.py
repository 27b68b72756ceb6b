"""J and F of a video against a straightforward implementation: equal values, and how many times faster.

    python tools/benchmark_scores.py [--frames 100] [--size 480 854] [--repeats 5]

The straightforward way draws the boundary map of every whole frame and dilates it by a disk (OpenCV). Masks are blobs
with ragged edges that move; both ways alternate within one run, and the medians of their CPU time are printed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
from tqdm import tqdm

from util.command_line import Parser
from util.errors import InputError, run_script
from util.metrics import boundary_radius, video_scores
from util.paths import atomic_write_json

Scores = tuple[np.ndarray, np.ndarray]


def ragged_masks(frames: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """(T, H, W) bool: a noisy blob that moves, about a tenth of the frame."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    edge = cv2.GaussianBlur(rng.normal(size=size), (0, 0), 4) * 4
    radius = 0.19 * np.sqrt(height * width)
    centres = [(width * (0.3 + 0.4 * t / frames), height * (0.45 + 0.1 * np.sin(t / 5))) for t in range(frames)]
    return np.stack([np.hypot(x - cx, y - cy) < radius * (1 + edge) for cx, cy in centres])


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """(H, W) uint8: pixels that differ from their right, lower or lower-right neighbour."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, lower, corner = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return ((mask != right) | (mask != lower) | (mask != corner)).astype(np.uint8)


def straightforward(predictions: np.ndarray, targets: np.ndarray) -> Scores:
    """J (T,) and F (T,), frame by frame, as they are defined."""
    radius = boundary_radius(*predictions.shape[1:])
    side = np.arange(-radius, radius + 1)
    disk = (side[:, None] ** 2 + side**2 <= radius**2).astype(np.uint8)
    j, f = [], []
    for prediction, target in zip(predictions, targets, strict=True):
        union = (prediction | target).sum()
        j.append((prediction & target).sum() / union if union else 1.0)
        found, wanted = boundary_map(prediction), boundary_map(target)
        if not (found.any() and wanted.any()):
            f.append(float(found.any() == wanted.any()))
            continue
        precision = (found * cv2.dilate(wanted, disk)).sum() / found.sum()
        recall = (wanted * cv2.dilate(found, disk)).sum() / wanted.sum()
        f.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return np.array(j), np.array(f)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare."""
    parser = Parser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--size", type=int, nargs=2, default=[480, 854], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args(argv)
    if min(options.frames, options.repeats, *options.size) < 1:
        raise InputError("--frames, --size and --repeats need at least 1")
    cv2.setNumThreads(1)
    predictions, targets = (ragged_masks(options.frames, tuple(options.size), seed) for seed in (0, 1))
    ways: dict[str, Callable[[np.ndarray, np.ndarray], Scores]] = {
        "ours": video_scores,
        "straightforward": straightforward,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, Scores] = {}
    for _ in tqdm(range(options.repeats), desc="scores", unit="round"):
        for name, way in ways.items():
            started = time.process_time()
            values[name] = way(predictions, targets)
            seconds[name].append(time.process_time() - started)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(*values.values(), strict=True))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = medians["straightforward"] / medians["ours"]
    shown = f"ours {medians['ours']:.3f}, straightforward {medians['straightforward']:.3f}, {ratio:.1f} times faster"
    print(f"{options.frames} frames of {options.size[0]}x{options.size[1]}, CPU seconds: {shown}")
    print(f"largest difference {difference:.1e}")
    if options.json:
        atomic_write_json(options.json, {"medians": medians, "ratio": ratio, "largest difference": difference})


if __name__ == "__main__":
    run_script(main)
