"""The script, as a user meets it: bad input gives one line and exit status 2, good input gives files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inference_demo
from configs import schema
from datasets.media import open_media
from engine.demo_truth import read_truth
from models.tokenizer import byte_tokenizer
from tests.conftest import build_micro
from tests.forked import holding
from tests.media_files import cut, picture, write_video
from tests.weight_files import save_published
from tools.data import make_demo_clip
from util.errors import InputError, run_script
from util.metrics import jaccard, video_scores

SCRIPT = Path(inference_demo.__file__)
DEMO = SCRIPT.parent / "docs" / "demo"


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


def test_a_second_run_into_the_same_folder_is_one_line(files: Path, tmp_path: Path) -> None:
    child = holding(tmp_path / "out")
    arguments = [sys.executable, str(SCRIPT), *command({"--output_dir": str(tmp_path / "out")})]
    done = subprocess.run(arguments, cwd=files, capture_output=True, text=True, check=False)
    child.send(signal.SIGKILL)
    child.wait()
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: another run is writing to {tmp_path / 'out'}: wait for it, or choose")
    assert done.stderr.count("\n") == 1


def test_shipped_clip(tmp_path: Path) -> None:
    """The clip of `make demo` is small, and is what the tool draws: frames, sentences and truth."""
    make_demo_clip.main(["--out", str(tmp_path)])
    assert sum(file.stat().st_size for file in DEMO.iterdir()) < 600_000
    shipped, drawn = (open_media(str(folder / "shapes.mp4")) for folder in (DEMO, tmp_path))
    assert (shipped.length, shipped.frame_size, shipped.fps) == (40, (240, 320), 8)
    for one, other in zip(shipped, drawn, strict=True):
        assert np.abs(one.astype(int) - other).mean() < 6
    truth, again = (read_truth(folder / "shapes.json") for folder in (DEMO, tmp_path))
    assert truth.sentences == again.sentences
    examples = (DEMO / "shapes.txt").read_text().splitlines()
    assert len({tuple(truth.sentences[sentence]) for sentence in examples}) == 3
    assert len({tuple(names) for names in truth.sentences.values()}) >= 4  # they mean different things
    for sentence in truth.sentences:
        for index in range(truth.length):
            assert jaccard(truth.mask(sentence, index), again.mask(sentence, index)) > 0.9


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The micro network as the shipped nano."""
    build_micro("nano", switch_mem="avg").save_pretrained(tmp_path / "pretrained" / "nano")
    monkeypatch.setattr(schema, "PRETRAINED", tmp_path / "pretrained")
    return tmp_path / "pretrained" / "nano"


@pytest.fixture
def beginning(tmp_path: Path) -> Path:
    """A folder with the first three frames of the shipped clip, and truth.json beside it."""
    content = json.loads((DEMO / "shapes.json").read_text())
    content["objects"] = {name: masks[:3] for name, masks in content["objects"].items()}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "frames").mkdir()
    for index, frame in zip(range(3), open_media(str(DEMO / "shapes.mp4")), strict=False):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{index}.png")
    return tmp_path / "frames"


def test_without_weights_the_shipped_ones_are_used(
    shipped: Path, beginning: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With their flags; without prompts all sentences of a truth are used and scored."""
    out, truth = tmp_path / "out", read_truth(tmp_path / "truth.json")
    flags = ["--output_dir", str(out), "--device", "cpu", "--truth", str(truth.path)]
    inference_demo.main(["--input_path", str(beginning), *flags])
    record = json.loads((out / "result.json").read_text())
    used = {name: record["flags"][name] for name in ("sam2_version", "HSA", "use_cme_head", "switch_mem")}
    assert used == {"sam2_version": "nano", "HSA": True, "use_cme_head": True, "switch_mem": "avg"}
    assert (record["untrained"], record["weights"]["tensors"]["fresh"]) == (False, 0)
    assert record["weights"]["files"][0]["path"] == str(shipped / "model.safetensors")
    assert [prompt["text"] for prompt in record["prompts"]] == [*truth.sentences]
    for prompt in record["prompts"]:
        masks = [np.asarray(Image.open(out / file)) for file in prompt["masks"]]
        j, f = video_scores(masks, [truth.mask(prompt["text"], index) for index in range(3)])
        assert (prompt["J"], prompt["F"]) == pytest.approx((j.mean(), f.mean()))
    assert capsys.readouterr().out.splitlines()[-1] == f"look at: {out / 'contact_sheet.jpg'}"


VERSIONS: dict[str, tuple[list[str], str]] = {
    "checkpoint": (["--resume", "other_size.pth"], "does not fit --sam2_version base"),
    "base weights": (["--sam2_weights", "whole.pth"], "whole.pth"),
    "shipped ones gone": ([], "pretrained/nano does not exist, which is a part of the repository"),
    "truth of another video": (["--truth", str(DEMO / "shapes.json")], "is of 40 frames of 320x240"),
}


@pytest.mark.parametrize("case", VERSIONS)
def test_one_line_for_weights_and_truths_that_do_not_fit(
    case: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given weights without a version are of base, as ever."""
    more, message = VERSIONS[case]
    monkeypatch.chdir(files)
    monkeypatch.setattr(schema, "PRETRAINED", tmp_path / "pretrained")
    flags = ["--input_path", "whole.jpg", "--text_prompts", "the disc", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(InputError, match=message) as caught:
        inference_demo.main([*flags, *more])
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*"))
