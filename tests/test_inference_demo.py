"""The script, as a user meets it: bad input gives one line and exit status 2, good input gives files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inference_demo
from datasets.media import open_media
from models.tokenizer import byte_tokenizer
from tests.conftest import build_micro
from tests.media_files import cut, picture, write_video
from tests.weight_files import save_published
from tools.make_demo_clip import clip
from util.errors import run_script

SCRIPT = Path(inference_demo.__file__)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good and bad inputs, a tokenizer, and a checkpoint of a network of another size."""
    folder = tmp_path_factory.mktemp("files")
    write_video(folder / "video.mp4", 3)
    write_video(folder / "fast.mp4", muxer={"movflags": "faststart"})
    cut(folder / "video.mp4", folder / "no_index.mp4", 0.8)
    cut(folder / "fast.mp4", folder / "half.mp4", 0.8)
    (folder / "text.mp4").write_text("this is not a video\n" * 50)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "whole.jpg")
    cut(folder / "whole.jpg", folder / "half.jpg", 0.8)
    (folder / "empty").mkdir()
    (folder / "mixed").mkdir()
    Image.fromarray(picture(20, 30)).save(folder / "mixed" / "1.png")
    Image.fromarray(picture(20, 31)).save(folder / "mixed" / "2.png")
    byte_tokenizer().save_pretrained(folder / "roberta")
    save_published(folder / "other_size.pth", build_micro(), sam2_version="large")
    torch.save({"model": {"sam.x": torch.zeros(100)}}, folder / "whole.pth")
    cut(folder / "whole.pth", folder / "corrupt.pth", 0.5)
    (folder / "a_file").write_text("")
    return folder


GOOD = {"--input_path": "video.mp4", "--text_prompts": "the disc", "--sam2_version": "tiny", "--output_dir": "out"}
BAD_INPUTS = {
    "missing path": ({"--input_path": "missing.mp4"}, "missing.mp4 does not exist"),
    "text called mp4": ({"--input_path": "text.mp4"}, "text.mp4: expected an image, a video or a folder of images"),
    "mp4 without its end": ({"--input_path": "no_index.mp4"}, "no_index.mp4: expected"),
    "truncated mp4": ({"--input_path": "half.mp4"}, "half.mp4: the video is cut off"),
    "truncated jpg": ({"--input_path": "half.jpg"}, "half.jpg: the image cannot be decoded"),
    "empty folder": ({"--input_path": "empty"}, "empty: expected a folder of images"),
    "mixed sizes": ({"--input_path": "mixed"}, "1.png is 30x20 and 2.png is 31x20"),
    "empty prompt": ({"--text_prompts": " "}, "--text_prompts: expected a sentence, but number 1 is empty"),
    "prompt over 512 tokens": ({"--text_prompts": "word " * 600}, "at most 512 are possible"),
    "checkpoint of another size": (
        {"--resume": "other_size.pth", "--roberta": "roberta"},
        "other_size.pth does not fit --sam2_version tiny",
    ),
    "corrupt checkpoint": ({"--resume": "corrupt.pth"}, "corrupt.pth is damaged or truncated"),
    "unwritable output": ({"--output_dir": "a_file/out"}, "a_file/out cannot be written to"),
    "unknown flag": ({"--promt": "x"}, "unknown argument --promt x"),
    "no weights": ({"--input_path": "whole.jpg", "--untrained": None}, "python tools/download_weights.py"),
}


def command(changes: dict[str, str | None]) -> list[str]:
    flags: dict[str, str | None] = {**GOOD, **({} if "--resume" in changes else {"--untrained": ""})} | changes
    return [part for name, value in flags.items() if value is not None for part in (name, value) if part]


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input(case: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    changes, message = BAD_INPUTS[case]
    monkeypatch.chdir(files)
    with pytest.raises(SystemExit) as end:
        run_script(lambda: inference_demo.main(command(changes)))
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize("case", ["truncated mp4", "unknown flag"])
def test_bad_input_in_a_process_of_its_own(case: str, files: Path) -> None:
    changes, message = BAD_INPUTS[case]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *command(changes)], cwd=files, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_image_with_untrained_weights(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    inference_demo.main(command({"--input_path": "whole.jpg", "--output_dir": str(tmp_path), "--HSA": ""}))
    record = json.loads((tmp_path / "result.json").read_text())
    assert (record["complete"], record["untrained"]) == (True, True)
    assert record["flags"]["sam2_version"] == "tiny"
    assert record["flags"]["HSA"] is True
    with Image.open(tmp_path / record["prompts"][0]["masks"][0]) as mask:
        assert (mask.mode, mask.size) == ("L", (64, 64))
        assert set(np.unique(np.asarray(mask))) <= {0, 255}
    printed = capsys.readouterr()
    assert "weights are untrained" in printed.out
    assert "frame/s" in printed.err


def test_shipped_clip() -> None:
    """The clip of `make demo` is small, and shows what the tool draws."""
    path = SCRIPT.parent / "docs" / "demo" / "shapes.mp4"
    media = open_media(str(path))
    assert (media.length, media.frame_size, media.fps) == (28, (270, 480), 12)
    assert path.stat().st_size < 300_000
    for shipped, drawn in zip(media, clip(), strict=True):
        assert np.abs(shipped.astype(int) - drawn).mean() < 6
