"""Exported programs: equal to the network, and at home where its code is not."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.media_image import read_image
from engine.infer import stream
from models.samwise import SAMWISE
from tests.conftest import SMALLEST, build_micro
from tools import export
from tools.exporting import run as runner
from util.errors import InputError

SENTENCES = ["the red disc", "a square that moves to the left"]
WINDOW, FRAMES = 4, 21  # more frames than pointers, and a last clip of one
ALONE = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
unwanted = {"models", "engine", "configs", "util", "tools", "transformers"} & set(sys.modules)
assert not unwanted, unwanted
"""


@pytest.fixture(scope="module")
def network() -> SAMWISE:
    """The smallest network, inclined to switch what it remembers."""
    model = build_micro(seed=2, **SMALLEST)
    with torch.no_grad():
        model.conditional_memory_encoder.decision_class_head.bias.copy_(torch.tensor([-0.5, 0.5]))
    return model


def run_alone(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter that sees installed packages and nothing of this code base."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-I", "-c", ALONE, str(program), *arguments]
    return subprocess.run(command, cwd=program.parent, env=environment, capture_output=True, text=True, check=False)


def write_video(folder: Path) -> np.ndarray:
    """Frames as files that lose nothing; (T, H, W, 3)."""
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 26, 40, 3), dtype=np.uint8)
    folder.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{index:05d}.png")
    return frames


def assert_runs_alone(network: SAMWISE, folder: Path, compiled: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Export, then compare the masks that run.py writes for two sentences, and for one, with the network's."""
    network.save_pretrained(folder / "network")
    out = folder / "exported"
    arguments = [str(folder / "network"), "--out", str(out), "--window", str(WINDOW), "--expressions", "4"]
    export.main([*arguments, *(["--aot"] if compiled else [])])
    assert "largest difference from the network itself" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        "encoder.pt2", "step.pt2", "interface.json", "tokenizer.json", "run.py",
    }  # fmt: skip
    frames = write_video(folder / "frames")
    for sentences in (SENTENCES, SENTENCES[1:]):
        masks = folder / f"masks{len(sentences)}"
        done = run_alone(out / "run.py", str(folder / "frames"), str(masks), *sentences)
        assert done.returncode == 0, done.stderr
        differing = 0
        for index, result in enumerate(stream(network, sentences, frames, window=WINDOW)):
            for number, expected in enumerate(result.masks()):
                with Image.open(masks / str(number) / f"{index:05d}.png") as image:
                    differing += int((np.asarray(image) != expected * np.uint8(255)).sum())
        assert differing <= 2, "more than rounding"
    described = json.loads((out / "interface.json").read_text())
    assert described["compiled"] is compiled
    assert [entry["name"] for entry in described["step"]["inputs"] if entry["state"]] == [
        "memories", "pointers", "last_switch", "frame_index",
    ]  # fmt: skip
    assert described["encoder"]["inputs"][0]["shape"] == ["frames", 3, 32, 32]
    for program in ("encoder", "step"):
        for entry in described[program]["inputs"] + described[program]["outputs"]:
            assert set(entry["shape"]) - set(described["axes"]) <= set(range(1 << 20))
            assert entry["meaning"]


@pytest.mark.slow
def test_an_export_runs_without_the_code(network: SAMWISE, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_runs_alone(network, tmp_path, False, capsys)
    assert all(parameter.grad_fn is None for parameter in network.parameters())
    assert run_alone(tmp_path / "exported" / "run.py", str(tmp_path / "network"), "x", "it").returncode == 2


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(200, 200), (torch.zeros(1, 200),))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            export._save(program, tmp_path / "step.pt2", False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_compiled_export_runs_without_the_code(
    network: SAMWISE, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_runs_alone(network, tmp_path, True, capsys)


def test_the_code_is_out_of_sight_of_such_a_process(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("import models\n")
    done = run_alone(tmp_path / "empty.py")
    assert "No module named 'models'" in done.stderr


def test_motion_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="motion prompts"):
        export.write_export(build_micro(motion_prompt=True), tmp_path)


def test_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        export.main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])


TOKENIZER = Path(__file__).resolve().parents[2] / "pretrained" / "nano" / "tokenizer.json"
INTERFACE = {
    "device": "cpu",
    "image": {"side": 32, "short_side": 18, "window": 4, "mean": [0.5] * 3, "std": [0.5] * 3},
    "text": {"padding_id": 1},
    "axes": {"expressions": 2, "frames": 4, "tokens": 8},
    "encoder": {"file": "encoder.pt2"},
    "step": {"file": "step.pt2", "inputs": [{"state": True, "shape": ["expressions", 1], "dtype": "float32"}]},
}


def see_all(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """An encoder that passes the clip on, and a step that finds the object everywhere."""
    if len(inputs) == 3:
        frames, ids, _ = inputs
        return frames[None], frames[None], frames[None], ids
    logits = torch.ones(len(inputs[-1]), 8, 8)
    return logits, logits, logits, inputs[-1]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The run.py of a folder whose programs do next to nothing."""
    folder = tmp_path / "package"
    folder.mkdir()
    shutil.copyfile(TOKENIZER, folder / "tokenizer.json")
    (folder / "interface.json").write_text(json.dumps(INTERFACE))
    shutil.copyfile(str(runner.__file__), folder / "run.py")
    spec = importlib.util.spec_from_file_location("package_run", folder / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.Exported, "_load", lambda self, path: see_all)
    return module


Refused = Callable[..., str]


@pytest.fixture
def refused(package: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one line with which run.py ends, with status 2."""

    def line_of(frames: Path, out: Path, *sentences: str) -> str:
        monkeypatch.setattr(sys, "argv", ["run.py", str(frames), str(out), *sentences])
        with pytest.raises(SystemExit) as ended:
            package.run()
        shown = capsys.readouterr()
        assert (ended.value.code, shown.out, shown.err.count("\n")) == (2, "", 1)
        return shown.err

    return line_of


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_folders_that_cannot_be_used_are_one_line(refused: Refused, tmp_path: Path) -> None:
    write_video(tmp_path / "frames")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    assert "nowhere: expected a folder of images, found nothing" in refused(tmp_path / "nowhere", out, "it")
    assert "file: expected a folder of images, found a file" in refused(tmp_path / "file", out, "it")
    assert "found none" in refused(tmp_path / "empty", out, "it")
    assert "the following arguments are required: sentences; see run.py --help" in refused(tmp_path / "frames", out)
    assert not out.exists()
    line = refused(tmp_path / "frames", tmp_path / "file", "it")
    assert "file: expected a folder for the masks, found a file; give another path" in line
    assert "Not a directory" in refused(tmp_path / "frames", tmp_path / "file" / "out", "it")


def test_frames_are_not_replaced_by_their_masks(refused: Refused, tmp_path: Path) -> None:
    write_video(tmp_path / "1")
    before = files_below(tmp_path)
    assert "1: masks would replace the frames there" in refused(tmp_path / "1", tmp_path, "a", "b")
    assert files_below(tmp_path) == before


def test_sentences_that_cannot_be_used_are_one_line(refused: Refused, tmp_path: Path) -> None:
    write_video(tmp_path / "frames")
    given = tmp_path / "frames", tmp_path / "out"
    assert "sentence 1 is empty" in refused(*given, "it", "  ")
    assert "sentence 0 is no valid Unicode text" in refused(*given, "\udcff")
    assert "expected at most 2 sentences, found 3: give fewer" in refused(*given, "a", "b", "c")
    assert "sentence 1 has 12 tokens, at most 8 are possible" in refused(*given, "a", "one " * 10)
    assert not (tmp_path / "out").exists()


def test_a_truncated_frame_is_one_line_and_masks_before_it_stay(refused: Refused, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    write_video(frames)
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((40, 26), 90).save(whole)
    (frames / "00006.png").unlink()
    (frames / "00006.jpg").write_bytes(whole.read_bytes()[:-200])
    assert "00006.jpg: the image cannot be decoded" in refused(frames, tmp_path / "out", "it")
    assert files_below(tmp_path / "out") == [*(f"0/{index:05d}.png" for index in range(6)), "masks.json"]


def test_masks_of_a_longer_run_go_and_files_of_others_stay(package: ModuleType, tmp_path: Path) -> None:
    frames, out = tmp_path / "frames", tmp_path / "out"
    write_video(frames)
    package.main([str(frames), str(out), "a", "b"])
    own = [out / "0" / "mine.png", out / "1" / "notes.txt", out / "2" / "00020.png", out / "00020.png"]
    for file in own:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    for number in range(3, FRAMES):
        (frames / f"{number:05d}.png").unlink()
    package.main([str(frames), str(out), "a"])
    masks = [f"0/{number:05d}.png" for number in range(3)]
    assert files_below(out) == sorted([*masks, "masks.json", *(str(file.relative_to(out)) for file in own)])


def test_masks_that_are_read_as_frames_are_not_removed(
    refused: Refused, package: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "frames")
    package.main([str(tmp_path / "frames"), str(tmp_path / "out"), "a", "b"])
    capsys.readouterr()
    before = files_below(tmp_path)
    assert "1: masks would replace the frames there" in refused(tmp_path / "out" / "1", tmp_path / "out", "a")
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("names", [["../../precious", "..", 3], 5, {"a": 1}])
def test_a_record_of_strangers_removes_nothing_outside(package: ModuleType, tmp_path: Path, names: Any) -> None:
    write_video(tmp_path / "frames")
    (tmp_path / "out" / "0").mkdir(parents=True)
    (tmp_path / "precious.png").write_text("keep")
    (tmp_path / "out" / "masks.json").write_text(json.dumps({"frames": names, "sentences": ["a"]}))
    package.main([str(tmp_path / "frames"), str(tmp_path / "out"), "a"])
    assert (tmp_path / "precious.png").read_text() == "keep"


def test_frames_come_in_natural_order_and_upright(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, seen = tmp_path / "frames", list[np.ndarray]()
    frames.mkdir()
    for number in range(12):
        picture = Image.new("RGB", (40, 26), (20 * number, 0, 0))
        if number == 3:
            turned = Image.Exif()
            turned[0x0112] = 6
            picture.rotate(90, expand=True).save(frames / "3.png", exif=turned)
        else:
            picture.save(frames / f"{number}.png")
    segment = package.Exported.segment

    def spy(own: Any, sentences: list[str], given: Iterable[np.ndarray]) -> Iterator[torch.Tensor]:
        def watched() -> Iterator[np.ndarray]:
            for frame in given:
                seen.append(frame)
                yield frame

        return segment(own, sentences, watched())

    monkeypatch.setattr(package.Exported, "segment", spy)
    package.main([str(frames), str(tmp_path / "out"), "it"])
    assert [frame.shape for frame in seen] == [(26, 40, 3)] * 12
    assert [int(frame[5, 5, 0]) for frame in seen] == [20 * number for number in range(12)]
    with Image.open(tmp_path / "out" / "0" / "3.png") as mask:
        assert mask.size == (40, 26)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_images_of_any_kind_are_read_as_in_the_code_base(package: ModuleType, tmp_path: Path, mode: str) -> None:
    ramp = np.arange(40 * 26, dtype=np.uint16).reshape(26, 40) * 63
    grey = Image.fromarray(ramp) if mode == "I;16" else Image.fromarray((ramp >> 8).astype(np.uint8)).convert(mode)
    if mode in ("LA", "RGBA"):
        grey.putalpha(Image.fromarray((ramp >> 8).astype(np.uint8)))
    path = tmp_path / f"frame.{'jpg' if mode == 'CMYK' else 'png'}"
    grey.save(path, **({"transparency": 7} if mode == "P" else {}))
    np.testing.assert_array_equal(package.read_frame(path), read_image(path))


def test_frames_that_do_not_belong_together_are_one_line(refused: Refused, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    Image.new("RGB", (40, 26)).save(frames / "0.png")
    Image.new("RGB", (40, 26)).save(frames / "0.jpg")
    assert "0.jpg and 0.png would make masks of one name" in refused(frames, tmp_path / "out", "it")
    Image.new("RGB", (41, 26)).save(frames / "1.png")
    (frames / "0.jpg").unlink()
    assert "0.png has 40x26 pixels and 1.png 41x26" in refused(frames, tmp_path / "out", "it")
    assert not (tmp_path / "out").exists()


def test_a_mask_that_cannot_be_completed_leaves_the_older_one(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "masks" / "0.png"
    package.write_mask(path, np.ones((4, 4), dtype=bool))
    older = path.read_bytes()

    def fail(image: Image.Image, target: Path, **_: str) -> None:
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space"):
        package.write_mask(path, np.zeros((4, 4), dtype=bool))
    assert path.read_bytes() == older
    assert files_below(tmp_path / "masks") == ["0.png"]
