"""The three benchmark scripts from their command line: the documented commands in miniature, and bad input."""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import inference_davis
import inference_mevis
import inference_ytvos
from configs import loading
from tests import miniature
from tests.forked import Forked
from util.errors import run_script

SCRIPTS = {"mevis": inference_mevis.main, "ytvos": inference_ytvos.main, "davis": inference_davis.main}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three data sets and the configuration of the micro network."""
    root = tmp_path_factory.mktemp("data")
    miniature.write_mevis(root / "mevis", "valid")
    miniature.write_mevis(root / "mevis", "valid_u")
    miniature.write_ytvos(root / "ytvos")
    miniature.write_davis(root / "davis")
    miniature.write_configuration(root / "configs")
    return root


@pytest.fixture
def folder(data: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; the scripts build the micro network."""
    monkeypatch.setattr(loading, "CONFIG_DIR", data / "configs")
    return workplace


def command(script: str, data: Path, *more: str) -> list[str]:
    """The arguments of a run of `script` on the miniature."""
    quick = ["--name_exp", "X", "--num_workers", "0", f"--{script}_path", str(data / script)]
    return [*miniature.ARGUMENTS, *quick, *(["--allow_partial"] if script == "ytvos" else []), *more]


def test_mevis_valid_writes_pngs_and_the_zip(data: Path, folder: Path) -> None:
    inference_mevis.main(command("mevis", data))
    masks = sorted((folder / "output" / "X" / "Annotations").rglob("*.png"))
    assert len(masks) == (1 + 8 + 9 + 17) * 5
    with Image.open(folder / "output" / "X" / "Annotations" / "eight" / "3" / "00007.png") as image:
        assert (image.mode, image.size) == ("L", (20, 30))
        assert set(np.unique(np.asarray(image))) <= {0, 255}
    with zipfile.ZipFile(folder / "output" / "X" / "Annotations.zip") as archive:
        assert len(archive.namelist()) == len(masks)
    run = json.loads((folder / "output" / "X" / "run.json").read_text())
    assert run["flags"]["HSA"] is True
    assert run["flags"]["seed"] == 0
    assert run["weights"]["tensors"]["fresh"] > 0
    assert run["complete"] is True


def test_mevis_valid_u_is_scored(data: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inference_mevis.main(command("mevis", data, "--split", "valid_u"))
    scores = json.loads((folder / "output" / "X" / "scores.json").read_text())
    assert {"official", "by_text", "no_target", "expressions"} <= set(scores)
    assert "57.1" in capsys.readouterr().out


def test_shards_from_the_command_line(data: Path, folder: Path) -> None:
    inference_ytvos.main(command("ytvos", data, "--shard", "1/2"))
    inference_ytvos.main(command("ytvos", data, "--shard", "2/2"))
    inference_ytvos.main(["--ytvos_path", str(data / "ytvos"), "--name_exp", "X", "--allow_partial", "--merge"])
    merged = folder / "output" / "X"
    inference_ytvos.main(command("ytvos", data, "--output_dir", "whole"))
    for name in ("Annotations.zip", "scores.json"):
        assert (merged / name).read_bytes() == (folder / "whole" / "X" / name).read_bytes()


def test_davis_is_scored_for_each_annotator_and_by_either_task(data: Path, folder: Path) -> None:
    options = ["--set", "long", "--results_path", str(folder / "pngs"), "--batch_size_val", "8", "--max_size", "64"]
    listing = data / "davis" / "DAVIS" / "ImageSets" / "2017" / "long.txt"
    listing.write_text("nine\nseventeen\n")
    scores = []
    for task in ("unsupervised", "semi-supervised"):  # the second finds the masks of the first
        inference_davis.main(command("davis", data, "--task", task, *options))
        scores.append(json.loads((folder / "output" / "X" / "scores.json").read_text()))
        assert list(scores[-1]) == ["anno_0", "anno_1", "anno_2", "anno_3", "average"]
    assert scores[0] != scores[1]
    attempts = json.loads((folder / "output" / "X" / "run.json").read_text())["attempts"]
    assert [attempt["masks"] for attempt in attempts] == [35 * 8, 0]
    assert (folder / "pngs" / "anno_2" / "global_results-long.csv").is_file()
    assert (folder / "pngs" / "anno_2" / "one" / "00000.png").is_file()


def test_torchrun_shares_the_videos(data: Path, folder: Path) -> None:
    """The launcher of torchrun, with forks for fresh interpreters."""
    launch = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="X", max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="fork",
    )  # fmt: skip
    launcher = partial(elastic_launch(launch, inference_mevis.main), command("mevis", data))
    assert Forked(launcher).wait() == 0
    inference_mevis.main(command("mevis", data, "--output_dir", "alone"))
    assert json.loads((folder / "output" / "X" / "run.json").read_text())["processes"] == 2
    both, alone = (folder / name / "X" / "Annotations.zip" for name in ("output", "alone"))
    assert both.read_bytes() == alone.read_bytes()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_every_flag_with_its_default(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        SCRIPTS[script](["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert text.count("(default: ") + text.count("default:\n") >= 30
    assert f"--{script}_path" in text
    assert "--expressions_per_batch" in text


def harmed_frame(copy: Path) -> None:
    (copy / "mevis" / "valid" / "JPEGImages" / "one" / "00000.jpg").write_bytes(b"\xff\xd8 cut off")


def missing_video(copy: Path) -> None:
    for frame in (copy / "mevis" / "valid" / "JPEGImages" / "nine").iterdir():
        frame.unlink()


def missing_masks(copy: Path) -> None:
    (copy / "mevis" / "valid_u" / "mask_dict.json").unlink()


def no_json(copy: Path) -> None:
    (copy / "mevis" / "valid" / "meta_expressions.json").write_text("{")


def no_sentence(copy: Path) -> None:
    meta = copy / "mevis" / "valid" / "meta_expressions.json"
    meta.write_text(meta.read_text().replace('"exp": "a flying elephant"', '"exp": ""', 1))


def unknown_masks(copy: Path) -> None:
    (copy / "output" / "X" / "Annotations" / "old").mkdir(parents=True)


def file_for_a_folder(copy: Path) -> None:
    (copy / "output").write_text("a file")


def no_weights(copy: Path) -> None:
    (copy / "weights.pth").write_text("these are no weights")


def nothing(copy: Path) -> None:
    """The data are as they should be."""


BAD_INPUT: dict[str, tuple[str, list[str], Callable[[Path], None], str]] = {
    "data folder missing": ("mevis", ["--mevis_path", "nowhere"], nothing, "docs/data.md"),
    "split missing": ("mevis", ["--split", "test"], nothing, "the folder is missing"),
    "video without frames": ("mevis", [], missing_video, "nine: 9 of 9 frames are missing"),
    "damaged first frame": ("mevis", [], harmed_frame, "one/00000.jpg"),
    "masks missing": ("mevis", ["--split", "valid_u"], missing_masks, "mask_dict.json"),
    "metadata is no JSON": ("mevis", [], no_json, "not readable as JSON"),
    "expression without sentence": ("mevis", [], no_sentence, "expressions/4"),
    "version 2 is not there": ("mevis", ["--mevis_version", "2"], nothing, "meta_expressions_v2.json"),
    "unknown split": ("mevis", ["--split", "train"], nothing, "--split"),
    "unknown flag": ("mevis", ["--shards", "1/2"], nothing, "did you mean --shard?"),
    "shard out of range": ("mevis", ["--shard", "3/2"], nothing, "expected i/n"),
    "shard is no fraction": ("mevis", ["--shard", "2"], nothing, "expected i/n"),
    "nothing to merge": ("mevis", ["--merge"], nothing, "run the inference"),
    "threshold out of range": ("mevis", ["--threshold", "1.5"], nothing, "between 0 and 1"),
    "window of no frame": ("mevis", ["--eval_clip_window", "0"], nothing, "at least 1"),
    "batch of none": ("mevis", ["--expressions_per_batch", "0"], nothing, "at least 1"),
    "negative workers": ("mevis", ["--num_workers", "-1"], nothing, "at least 0"),
    "size of another network": ("mevis", ["--max_size", "512"], nothing, "frames of 64 pixels"),
    "unknown device": ("mevis", ["--device", "gpu"], nothing, "device 'gpu': expected cpu"),
    "name that leads away": ("mevis", ["--name_exp", "a/../../x"], nothing, "--name_exp: expected the name of"),
    "name from the root": ("davis", ["--name_exp", "/x"], nothing, "--name_exp: expected the name of"),
    "checkpoint missing": ("mevis", ["--resume", "nowhere.pth"], nothing, "nowhere.pth"),
    "checkpoint is a text": ("mevis", ["--resume", "weights.pth"], no_weights, "holds no weights"),
    "masks of unknown origin": ("mevis", [], unknown_masks, "unknown origin"),
    "output is a file": ("mevis", [], file_for_a_folder, "output"),
    "number of videos": ("ytvos", ["--ytvos_path", "ytvos"], nothing, "expected 202"),
    "unknown set": ("davis", ["--set", "test"], nothing, "test.txt is missing"),
    "unknown task": ("davis", ["--task", "strict"], nothing, "--task"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gives_one_line_and_status_2(
    case: str, data: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, arguments, prepare, message = BAD_INPUT[case]
    for name in ("mevis", "ytvos", "davis"):
        subprocess.run(["cp", "-r", str(data / name), str(folder / name)], check=True)
    prepare(folder)
    before = sorted(folder.rglob("*"))
    defaults = [*miniature.ARGUMENTS, "--name_exp", "X", f"--{script}_path", str(folder / script)]
    if "--resume" in arguments:
        defaults.remove("--untrained")
    with pytest.raises(SystemExit) as end:
        run_script(lambda: SCRIPTS[script]([*defaults, *arguments]))
    errors = capsys.readouterr().err
    assert end.value.code == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors
    written = {path for path in folder.rglob("*") if path.is_file()} - set(before)
    assert {path.suffix for path in written} <= {".txt", ".lock"}


def test_without_weights_the_command_that_gets_them_is_named(
    data: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument for argument in command("mevis", data) if argument != "--untrained"]
    with pytest.raises(SystemExit):
        run_script(lambda: inference_mevis.main(arguments))
    assert "tools/download_weights.py" in capsys.readouterr().err
