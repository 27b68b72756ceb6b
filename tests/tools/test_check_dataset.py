"""`check_dataset.py`: the table, the faults, the exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.benchmark_files import write_coco, write_davis, write_json, write_mevis, write_ytvos
from tools.data.check_dataset import main
from util.errors import InputError

TOOL = Path(__file__).resolve().parents[2] / "tools/data/check_dataset.py"


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """All benchmarks, without faults, and the flags that name their folders."""
    write_mevis(tmp_path / "mevis")
    write_mevis(tmp_path / "mevis", meta="meta_expressions_v2.json")
    write_mevis(tmp_path / "mevis", "valid")
    write_ytvos(tmp_path / "ytvos", "train", ["a", "b"], frames=2)
    write_davis(tmp_path / "davis")
    write_coco(tmp_path / "coco")
    return [part for name in ("mevis", "ytvos", "davis", "coco") for part in (f"--{name}_path", str(tmp_path / name))]


def table(text: str) -> dict[str, list[int]]:
    """ "data set split" -> videos, expressions, frames, faults."""
    rows = [line.rsplit(maxsplit=4) for line in text.splitlines()]
    return {
        " ".join(row[0].split()): [int(number) for number in row[1:]]
        for row in rows
        if len(row) == 5 and row[-1].isdigit() and row[1].isdigit()
    }


def test_sound_data(flags: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main([*flags, "--json", str(tmp_path / "out/report.json")])
    expected = {
        "mevis valid_u": [2, 6, 4, 0],
        "mevis v2 valid_u": [2, 6, 4, 0],
        "mevis valid": [2, 6, 4, 0],
        "ytvos train": [2, 4, 4, 0],
        "davis valid": [1, 8, 2, 0],
        "refcocog val": [2, 3, 2, 0],
    }
    assert table(capsys.readouterr().out) == expected
    rows = json.loads((tmp_path / "out/report.json").read_text())["rows"]
    assert [f"{row['dataset']} {row['split']}" for row in rows] == list(expected)
    assert all(row["faults"] == [] for row in rows)


def test_faults_are_listed_and_counted(flags: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "mevis/valid_u/JPEGImages/one/00001.jpg")
    (tmp_path / "davis/valid/Annotations/walk/00000.png").write_bytes(b"")
    with pytest.raises(InputError, match="3 faults"):
        main([*flags, "--json", str(tmp_path / "report.json")])
    output = capsys.readouterr().out
    counts = {name: row[3] for name, row in table(output).items()}
    assert counts == {"mevis valid_u": 1, "mevis v2 valid_u": 1, "mevis valid": 0, "ytvos train": 0, "davis valid": 1,
                      "refcocog val": 0}  # fmt: skip
    assert "valid_u/JPEGImages/one/00001.jpg: one: the frame is 9x9 (width x height)" in output
    assert "davis valid: " in output
    assert "walk/00000.png: walk: the mask does not decode" in output
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert sum(len(row["faults"]) for row in rows) == 3


def test_the_fast_check_leaves_out_what_takes_long(flags: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "mevis/valid_u/JPEGImages/one/00001.jpg")
    main([*flags, "--fast"])
    with pytest.raises(InputError, match="2 faults"):
        main(flags)


def test_many_faults_are_cut_short(flags: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    frames = {f"v{number}": {"expressions": {"0": {}}, "frames": []} for number in range(30)}
    write_json(tmp_path / "mevis/valid_u/meta_expressions.json", {"videos": frames})
    with pytest.raises(InputError, match="60 faults"):
        main([*flags, "--dataset_file", "mevis", "--split", "valid_u"])
    output = capsys.readouterr().out
    assert "mevis valid_u: and 40 more" in output
    assert output.count("the expression has no 'exp'") + output.count("has no frames") == 20


def test_data_sets_that_are_asked_for_have_to_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"found no data set in .*nowhere"):
        main([part for name in ("mevis", "ytvos", "davis", "coco") for part in (f"--{name}_path", "nowhere")])
    with pytest.raises(InputError, match="9 faults"):
        main(
            ["--mevis_path", str(tmp_path), "--ytvos_path", str(tmp_path / "x"), "--davis_path", str(tmp_path / "x"),
             "--coco_path", str(tmp_path), "--dataset_file", "mevis", "ytvos", "davis", "all"]
        )  # fmt: skip
    output = capsys.readouterr().out
    assert f"mevis valid: {tmp_path / 'valid'}: the folder is missing" in output
    assert "convert_refexp_to_coco.py makes it" in output


def test_a_split_that_does_not_exist(flags: list[str]) -> None:
    with pytest.raises(InputError, match="davis has no split 'testA'; its splits are train, valid"):
        main([*flags, "--dataset_file", "davis", "--split", "testA"])


def test_as_a_program(flags: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), *flags]
    sound = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert sound.returncode == 0, sound.stderr
    (tmp_path / "davis/valid/Annotations/walk/00000.png").unlink()
    faulty = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert faulty.returncode == 2
    assert faulty.stderr.rstrip().splitlines()[-1].startswith("error: 1 faults")


def test_real_layouts(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = shared / "data"
    folders = [
        "--mevis_path",
        data / "mevis",
        "--ytvos_path",
        data / "ref-youtube-vos",
        "--davis_path",
        data / "ref-davis",
    ]
    main([*map(str, folders), "--fast", "--dataset_file", "mevis", "ytvos", "davis"])
    assert table(capsys.readouterr().out) == {
        "mevis valid_u": [5, 12, 230, 0],
        "mevis valid": [5, 12, 230, 0],
        "ytvos train": [5, 9, 46, 0],
        "davis valid": [5, 36, 230, 0],
    }
