"""tools/plot_log.py: what it draws of logs that a training wrote, and what it says about those that it cannot draw."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.train.log import IterationRecord, TrainingLog
from tools.plot_log import draw, main, read_run, run_names, running_mean
from util.errors import InputError


def write_run(folder: Path, iterations: int = 4, memory: bool = True, scores: bool = True) -> Path:
    """A run whose total loss is 10 - iteration, with an evaluation after every second one."""
    with TrainingLog(folder, total=iterations, start=0, name=folder.name) as log:
        log.note("started")
        for iteration in range(1, iterations + 1):
            losses = {"mask": 1.0, "dice": 2.0, **({"memory": 3.0} if memory else {}), "total": 10.0 - iteration}
            rate = 1e-5 / iteration
            log.iteration(IterationRecord(0, iteration, losses, rate, 0.5, 0.1, 0.4, 8.0, 3_000_000_000))
            if scores and iteration % 2 == 0:
                log.evaluation(0, iteration, {"J&F": iteration / 10})
    return folder


def panels(figure: Any) -> dict[str, list[Any]]:
    return {axes.get_title(): axes.get_lines() for axes in figure.axes}


def test_a_picture_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pictures" / "both.png"
    main([str(write_run(tmp_path / "a")), str(write_run(tmp_path / "b", 3)), "--out", str(out), "--smooth", "2"])
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 600
        assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24)) > 100
    assert capsys.readouterr().out.splitlines() == [
        "a: 4 iterations up to 4",
        "b: 3 iterations up to 3",
        f"written to {out}",
    ]


def test_a_name_that_would_be_a_formula(tmp_path: Path) -> None:
    main([str(write_run(tmp_path / "log$x_{$", 1)), "--out", str(tmp_path / "a.svg")])
    assert "log$x_{$" in (tmp_path / "a.svg").read_text()


def test_another_format(tmp_path: Path) -> None:
    main([str(write_run(tmp_path / "a", 1)), "--out", str(tmp_path / "a.svg")])
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")


def test_every_quantity_has_a_panel_with_a_curve_per_run(tmp_path: Path) -> None:
    runs = [
        read_run(write_run(tmp_path / "a"), "a"),
        read_run(write_run(tmp_path / "b", 3, memory=False, scores=False), "b"),
    ]
    figure = draw(runs, smooth=1)
    found = panels(figure)
    assert list(found) == [
        *("loss total", "loss dice", "loss mask", "loss memory", "learning rate", "gradient norm"),
        *("seconds per iteration (dashed: waiting for data)", "clips per second", "peak memory, GB", "J&F, percent"),
    ]
    first, second = found["loss total"]
    assert first.get_xydata().tolist() == [[1, 9], [2, 8], [3, 7], [4, 6]]
    assert second.get_xydata().tolist() == [[1, 9], [2, 8], [3, 7]]
    assert first.get_color() != second.get_color()
    assert len(found["loss memory"]) == 1
    compute, data, *_ = found["seconds per iteration (dashed: waiting for data)"]
    assert (compute.get_linestyle(), data.get_linestyle()) == ("-", "--")
    assert (compute.get_ydata()[0], data.get_ydata()[0]) == (0.4, 0.1)
    assert found["peak memory, GB"][0].get_ydata().tolist() == pytest.approx([3.0] * 4)
    assert found["J&F, percent"][0].get_xydata().tolist() == [[2, 20], [4, 40]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_smoothing_draws_means_above_the_values_but_not_of_the_learning_rate(tmp_path: Path) -> None:
    found = panels(draw([read_run(write_run(tmp_path / "a"), "a")], smooth=2))
    values, means = found["loss total"]
    assert values.get_ydata().tolist() == [9, 8, 7, 6]
    assert means.get_ydata().tolist() == [9, 8.5, 7.5, 6.5]
    assert values.get_alpha() < 1
    assert len(found["learning rate"]) == 1


@given(st.lists(st.one_of(st.floats(-1e3, 1e3), st.just(math.nan)), min_size=1, max_size=20), st.integers(1, 25))
def test_running_means(values: list[float], over: int) -> None:
    found = running_mean(values, over)
    for end, mean in enumerate(found, start=1):
        known = [value for value in values[max(end - over, 0) : end] if not math.isnan(value)]
        expected = np.mean(known) if known else math.nan
        assert mean == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_a_run_that_is_going_on(tmp_path: Path) -> None:
    """The last line is being written; a repeated evaluation replaces the first; null is a gap."""
    folder = write_run(tmp_path / "a")
    with (folder / "log.jsonl").open("a") as handle:
        handle.write('{"evaluation": {"J&F": 0.9}, "epoch": 0, "iteration": 4}\n')
        line = (folder / "log.jsonl").read_text().splitlines()[1].replace('"iteration": 1', '"iteration": 5')
        handle.write(line.replace('"gradient_norm": 0.5', '"gradient_norm": null') + "\n")
        handle.write('{"epoch": 0, "itera')
    run = read_run(folder, "a")
    assert run.iterations == [1, 2, 3, 4, 5]
    assert run.scores == {"J&F": {2: 0.2, 4: 0.9}}
    assert math.isnan(run.values["gradient_norm"][-1])


def test_runs_of_the_same_name_keep_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_names([Path("one/x"), Path("two/y/")]) == ["x", "y"]
    assert run_names([Path("one/x"), Path("two/x")]) == ["one/x", "two/x"]
    assert run_names([Path(), Path("x")]) == [tmp_path.name, "x"]


def append(line: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / "log.jsonl").open("a") as handle:
            handle.write(line + "\n")

    return change


def only_notes(folder: Path) -> None:
    log = folder / "log.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0])


def as_folder(folder: Path) -> None:
    (folder / "log.jsonl").unlink()
    (folder / "log.jsonl").mkdir()


FAULTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no folder": (lambda folder: folder.rename(folder.with_name("b")), "a.png", "is not a folder; give the folder"),
    "no log": (lambda folder: (folder / "log.jsonl").unlink(), "a.png", "cannot be read (No such file or directory)"),
    "a folder": (as_folder, "a.png", "cannot be read (Is a directory)"),
    "nothing yet": (only_notes, "a.png", "has no iteration yet"),
    "an empty log": (lambda folder: (folder / "log.jsonl").write_text(""), "a.png", "has no iteration yet"),
    "a damaged line": (append("{"), "a.png", "log.jsonl, line 8, is damaged"),
    "zeros": (append("\0\0"), "a.png", "line 8, is damaged"),
    "an endless number": (append('{"iteration": 1e400}'), "a.png", "line 8, is damaged"),
    "a number too long": (append('{"iteration": 1' + "0" * 500 + "}"), "a.png", "line 8, is damaged"),
    "deep brackets": (append("[" * 100_000), "a.png", "line 8, is damaged"),
    "no object": (append("[1]"), "a.png", "line 8, is damaged"),
    "a missing quantity": (append('{"iteration": 9, "losses": {}}'), "a.png", "KeyError('learning_rate')"),
    "a text for a number": (append('{"iteration": 9, "evaluation": {"J": "x"}}'), "a.png", "line 8, is damaged"),
    "another format": (lambda folder: None, "a.docx", "expected a name that ends in .png, .svg, .pdf"),
    "no place": (lambda folder: None, "a/log.jsonl/a.png", "cannot be written"),
    "a folder's name": (lambda folder: (folder / "b.png").mkdir(), "a/b.png", "not a regular file"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_drawn_is_one_line(tmp_path: Path, name: str) -> None:
    damage, out, message = FAULTS[name]
    folder = write_run(tmp_path / "a")
    damage(folder)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        main([str(folder), "--out", str(tmp_path / out)])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.png"))


def test_a_users_error_has_exit_status_2(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "tools" / "plot_log.py"
    command = [sys.executable, str(script), "nowhere", "--out", "a.png"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 2
    assert run.stderr.splitlines() == ["error: nowhere is not a folder; give the folder of a training (output/NAME)"]
