"""Curves of one or several trainings, from their log.jsonl, as one picture.

    python3 tools/plot_log.py output/NAME --out NAME.png
    python3 tools/plot_log.py output/A output/B --out both.png --smooth 100

A colour is a run, a panel a quantity. A run that is still going on can be drawn, too.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs.cli import positive_int
from engine.train.log import LOG_NAME
from util.command_line import Parser
from util.errors import InputError, run_script
from util.paths import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
_COLUMNS = 3
_PANEL = (5.0, 3.0)  # inches
_DASHED = "data_seconds"  # shares a panel with compute_seconds
# Panel -> the quantities in it, and a factor to the panel's unit.
_PANELS: dict[str, tuple[tuple[str, ...], float]] = {
    "learning rate": (("learning_rate",), 1.0),
    "gradient norm": (("gradient_norm",), 1.0),
    "seconds per iteration (dashed: waiting for data)": (("compute_seconds", _DASHED), 1.0),
    "clips per second": (("clips_per_second",), 1.0),
    "peak memory, GB": (("memory_bytes",), 1e-9),
}
_UNSMOOTHED = ("learning_rate", "memory_bytes")


@dataclass
class Run:
    """What one log says.

    Attributes:
        name: in the legend.
        iterations: their numbers, in the order of the file.
        values: quantity -> one number for each of `iterations`; nan where there is none. Losses are "loss NAME".
        scores: name -> {iteration: score}.
    """

    name: str
    iterations: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    scores: dict[str, dict[int, float]] = field(default_factory=dict)


def read_run(folder: Path, name: str) -> Run:
    """Read the log of a run. A last line without its end, which is being written, is left out.

    Raises:
        InputError: the folder or the log is missing or has no iteration yet, or a line is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder of a training (output/NAME)")
    path = folder / LOG_NAME
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); give the folder of a training, which main.py and "
            "main_pretrain.py write"
        ) from error
    run = Run(name)
    whole, _, _ = text.rpartition(b"\n")
    for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
        try:
            _add_line(run, json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number}, is damaged ({error!r}): remove the line, or resume the training, which does"
            ) from error
    if not run.iterations:
        raise InputError(f"{path} has no iteration yet; wait for the first, or leave this run out")
    return run


def _add_line(run: Run, line: Mapping[str, Any]) -> None:
    if "note" in line:
        return
    iteration = int(float(line["iteration"]))  # a float first: it has an end
    if "evaluation" in line:
        for name, score in line["evaluation"].items():
            run.scores.setdefault(name, {})[iteration] = _number(score)
        return
    found = {f"loss {name}": _number(value) for name, value in line["losses"].items()}
    for quantities, _ in _PANELS.values():
        found |= {quantity: _number(line[quantity]) for quantity in quantities}
    for quantity, value in found.items():
        column = run.values.setdefault(quantity, [math.nan] * len(run.iterations))
        column.append(value)
    run.iterations.append(iteration)
    for column in run.values.values():
        column.extend([math.nan] * (len(run.iterations) - len(column)))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def running_mean(values: Sequence[float] | np.ndarray, over: int) -> np.ndarray:
    """(N,) -> (N,): the mean of each value and up to `over` - 1 before it; nan counts as absent."""
    array = np.asarray(values, dtype=np.float64)
    known = np.isfinite(array)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, array, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    end = np.arange(1, len(array) + 1)
    begin = np.maximum(end - over, 0)
    count = counts[end] - counts[begin]
    return np.where(count > 0, (sums[end] - sums[begin]) / np.maximum(count, 1), np.nan)


def draw(runs: Sequence[Run], smooth: int) -> Figure:
    """One figure: a panel for each loss, each quantity and each score that any of the runs has."""
    from matplotlib.figure import Figure  # slow to import; without pyplot there is no window and no global state

    losses = dict.fromkeys(name for run in runs for name in sorted(run.values) if name.startswith("loss "))
    scores = dict.fromkeys(name for run in runs for name in run.scores)
    ordered = sorted(losses, key=lambda name: name != "loss total")
    panels = {**{name: ((name,), 1.0) for name in ordered}, **_PANELS}
    rows = -(-(len(panels) + len(scores)) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * _PANEL[0], rows * _PANEL[1] + 0.6), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, (title, (quantities, factor)) in zip(grid, panels.items(), strict=False):
        for number, run in enumerate(runs):
            for quantity in quantities:
                _curve(axes, run, quantity, factor, smooth, f"C{number % 10}")
        axes.set_title(_literal(title))
    for axes, name in zip(grid[len(panels) :], scores, strict=False):
        for number, run in enumerate(runs):
            points = sorted(run.scores.get(name, {}).items())
            axes.plot([at for at, _ in points], [100 * score for _, score in points], "o-", color=f"C{number % 10}")
        axes.set_title(f"{_literal(name)}, percent")
    _finish(figure, grid, [run.name for run in runs], len(panels) + len(scores))
    return figure


def _literal(name: str) -> str:
    """A name as it is: between dollar signs Matplotlib would look for formulas."""
    return name.replace("$", r"\$")


def _curve(axes: Axes, run: Run, quantity: str, factor: float, smooth: int, color: str) -> None:
    values = factor * np.asarray(run.values.get(quantity, []), dtype=np.float64)
    if not len(values):
        return
    style = "--" if quantity == _DASHED else "-"
    if smooth > 1 and quantity not in _UNSMOOTHED:
        axes.plot(run.iterations, values, style, color=color, alpha=0.2, linewidth=0.8)
        values = running_mean(values, smooth)
    axes.plot(run.iterations, values, style, color=color, linewidth=1.2, marker="." if len(values) == 1 else "")


def _finish(figure: Figure, grid: np.ndarray, names: Sequence[str], used: int) -> None:
    """Axes' labels, what is not used, and one legend for all panels."""
    from matplotlib.lines import Line2D

    for axes in grid[:used]:
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
        axes.margins(x=0.02)
        if not axes.get_title().startswith("learning"):
            axes.ticklabel_format(axis="y", useOffset=False)
    for axes in grid[used:]:
        axes.remove()
    handles = [Line2D([], [], color=f"C{number % 10}", label=_literal(name)) for number, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(names), 4), frameon=False)


def run_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; where two are the same, the paths."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def save(figure: Figure, out: Path) -> None:
    """Write the picture in the format of the name's end.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with atomic_path(out) as temporary:
            figure.savefig(temporary, dpi=110)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror or error}); give another --out") from error


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of trainings: output/NAME")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the picture: .png, .svg or .pdf")
    parser.add_argument(
        "--smooth", type=positive_int, default=1, metavar="N", help="draw means over N iterations above the values (1)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Read, draw, write."""
    args = build_parser().parse_args(argv)
    if args.out.suffix.lower() not in FORMATS:
        raise InputError(f"--out {args.out}: expected a name that ends in {', '.join(FORMATS)}")
    runs = [read_run(folder, name) for folder, name in zip(args.runs, run_names(args.runs), strict=True)]
    save(draw(runs, args.smooth), args.out)
    for run in runs:
        print(f"{run.name}: {len(run.iterations)} iterations up to {run.iterations[-1]}")
    print(f"written to {args.out}")


if __name__ == "__main__":
    run_script(main)
