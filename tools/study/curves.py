"""Curves of the study's trainings, from their logs."""

from __future__ import annotations

import json
from pathlib import Path

from engine.train.log import LOG_NAME
from tools.plot_log import draw, read_run, save
from tools.study.places import FINETUNE, PRETRAIN, Places
from util.errors import InputError

_SMOOTH = 50  # iterations that curves are means over
_COLUMNS, _PANEL = 3, (5.0, 3.0)  # of the stand-in's picture; inches


def draw_curves(places: Places) -> list[Path]:
    """Draw curves.png of pre-training and fine-tuning and curves-stand-in.png, of those that have logs.

    Raises:
        InputError: a log is damaged.
    """
    drawn = []
    folders = [folder for name in (PRETRAIN, FINETUNE) if _has_log(folder := places.runs / name)]
    if folders:
        drawn.append(places.out / "curves.png")
        save(draw([read_run(folder, folder.name) for folder in folders], _SMOOTH), drawn[-1])
    if _has_log(places.stand_in / "training"):
        drawn.append(places.out / "curves-stand-in.png")
        _draw_stand_in(places.stand_in / "training" / LOG_NAME, drawn[-1])
    return drawn


def _has_log(folder: Path) -> bool:
    return (folder / LOG_NAME).is_file() and (folder / LOG_NAME).stat().st_size > 0


def _draw_stand_in(log: Path, out: Path) -> None:
    """A panel for each quantity in the log of tools/train_stand_in.py, a colour for each of its parts."""
    from matplotlib.figure import Figure  # slow to import

    try:
        lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        names = list(dict.fromkeys(name for line in lines for name in line if name not in ("stage", "step")))
        stages = list(dict.fromkeys(line["stage"] for line in lines))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{log} is damaged ({error!r}): mend or remove it") from error
    rows = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * _PANEL[0], rows * _PANEL[1]), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, name in zip(grid, names, strict=False):
        for stage in stages:
            points = [(line["step"], line[name]) for line in lines if line["stage"] == stage and name in line]
            axes.plot(*zip(*points, strict=True), ".-", label=stage, linewidth=1.2)
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend()
    for axes in grid[len(names) :]:
        axes.remove()
    save(figure, out)
