"""tools/report.py with runs and data that are incomplete or do not fit: one line, and an older page stays."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.benchmark_files import write_json
from tests.report_runs import davis_run, scored_mevis
from tools.report import main
from util.errors import InputError


@pytest.fixture
def mevis_run(tmp_path: Path) -> Path:
    """A run on MeViS."""
    return scored_mevis(tmp_path)


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)


Fault = Callable[[Path], None]
FAULTS: dict[str, tuple[Fault, list[str], str]] = {
    "no folder": (shutil.rmtree, [], "is not a folder"),
    "no record": (lambda run: (run / "run.json").unlink(), [], "run.json is missing: give the folder"),
    "shards": (lambda run: (run / "run.json").rename(run / "run-shard-1-of-2.json"), [], "--merge"),
    "broken record": (lambda run: (run / "run.json").write_text("{"), [], "run.json is not readable as JSON"),
    "record is a list": (lambda run: (run / "run.json").write_text("[]"), [], "expected an object"),
    "unfinished": (
        lambda run: edit_json(run / "run.json", lambda record: record.update(complete=False)),
        [],
        "the run is not finished",
    ),
    "no data set": (
        lambda run: edit_json(run / "run.json", lambda record: record.update(identity=None)),
        [],
        "does not name its data set",
    ),
    "a training": (
        lambda run: write_json(run / "run.json", {"command": "python main.py", "flags": {}, "steps": 4}),
        [],
        "expected the results of an inference, found a training",
    ),
    "RefCOCO": (
        lambda run: (
            (run / "results").mkdir(),
            edit_json(run / "run.json", lambda record: record.update(identity={"--threshold": 0.5})),
        )[1],
        [],
        "expected the run of a video benchmark, found RefCOCO",
    ),
    "another benchmark": (lambda run: None, ["--dataset_file", "ytvos"], "run.json says mevis"),
    "another split": (lambda run: None, ["--split", "valid"], "run.json says valid_u"),
    "no data": (lambda run: None, ["--mevis_path", "nowhere"], "the folder is missing"),
    "no scores": (lambda run: (run / "scores.json").unlink(), [], "scores.json is missing; score the masks again"),
    "a score that is none": (
        lambda run: edit_json(run / "scores.json", lambda scores: scores["expressions"][0].update(J=float("nan"))),
        [],
        "nan is not a finite number",
    ),
    "scores without averages": (
        lambda run: edit_json(run / "scores.json", lambda scores: scores.pop("by_text")),
        [],
        "is not as expected (KeyError('by_text'))",
    ),
    "scores of other data": (
        lambda run: edit_json(run / "scores.json", lambda scores: scores["expressions"].pop()),
        [],
        "does not have the scores of the 6 expressions",
    ),
    "no masks": (lambda run: shutil.rmtree(run / "Annotations"), [], "Annotations.zip does not exist"),
    "a mask too few": (
        lambda run: (run / "Annotations" / "one" / "1" / "00001.png").unlink(),
        [],
        "00001.png is missing",
    ),
    "a mask of another size": (
        lambda run: Image.new("L", (9, 9)).save(run / "Annotations" / "one" / "1" / "00001.png"),
        [],
        "one, sentence 1, frame 00001: the predicted mask is 9x9, its frame 32x24",
    ),
    "a broken frame": (
        lambda run: (run.parent / "data/valid_u/JPEGImages/one/00001.jpg").write_bytes(b"no"),
        [],
        "the image does not decode",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_missing_or_wrong_is_one_line_and_leaves_the_older_page(mevis_run: Path, name: str) -> None:
    damage, options, message = FAULTS[name]
    out = mevis_run.parent / "page.html"
    out.write_text("older")
    damage(mevis_run)
    with pytest.raises(InputError) as caught:
        main([str(mevis_run), "--out", str(out), *options])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert out.read_text() == "older"
    assert not list(mevis_run.parent.glob(".*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("walk", "run"), "the sequence run, which"),
        (lambda text: text.replace("anno_0", "anno_x"), "does not fit"),
        (lambda text: text.splitlines()[0], "has no sequence"),
        (lambda text: "a,b\n1,2\n", "is not as expected"),
    ],
)
def test_a_table_of_davis_that_does_not_fit(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    run = davis_run(tmp_path)
    (run / "objects.csv").write_text(change((run / "objects.csv").read_text()))
    with pytest.raises(InputError, match=re.escape(message)):
        main([str(run)])


def test_a_users_error_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "tools" / "report.py"
    command = [sys.executable, str(script), str(tmp_path / "nowhere")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 2
    assert run.stderr.splitlines() == [
        f"error: {tmp_path / 'nowhere'} is not a folder; give the folder of a run's results (output/NAME)"
    ]
