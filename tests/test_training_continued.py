"""Trainings that go on: with the words they began with, without evaluation, without a partner, with other flags."""

from __future__ import annotations

import json
import logging
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import main
from configs import loading
from models.tokenizer import byte_tokenizer, tokenizer_text
from tests import miniature
from tests.forked import Forked, partners
from util.errors import InputError, run_script

NETWORK = [argument for argument in miniature.ARGUMENTS if argument not in ("--untrained", "--disable_pred_obj_score")]


@pytest.fixture
def arguments(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A training on the miniature, from an empty working folder, of one epoch of 12 steps and their evaluation."""
    videos = {name: miniature.VIDEOS[name] for name in ("one", "eight", "nine")}
    miniature.write_mevis(workplace / "mevis", "train", videos)
    miniature.write_mevis(workplace / "mevis", "valid_u", {"one": videos["one"]})
    monkeypatch.setattr(loading, "CONFIG_DIR", miniature.write_configuration(workplace / "configs"))
    data = ["--dataset_file", "mevis", "--mevis_path", str(workplace / "mevis"), "--num_frames", "6", "--epochs", "1"]
    return [*NETWORK, *data, "--name_exp", "X", "--num_workers", "0", "--checkpoint_iterations", "1"]


@pytest.fixture
def run(workplace: Path) -> Path:
    """The folder of its results."""
    return workplace / "output" / "X"


def tokenizer_folder(folder: Path, *swapped: str) -> Path:
    """The byte tokenizer as files, with the ids of two tokens exchanged."""
    content = json.loads(tokenizer_text(byte_tokenizer()))
    vocabulary = content["model"]["vocab"]
    if swapped:
        first, second = swapped
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def state(run: Path, step: int) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"checkpoint_{step:08d}.pth", weights_only=True)


def steps(count: int) -> list[str]:
    return ["--no_evaluation", "--max_iterations", str(count)]


def test_it_reads_the_same_words_however_often_it_goes_on(arguments: list[str], run: Path, workplace: Path) -> None:
    """`--roberta` and the weights are named once; a second `--resume auto` knew them no more."""
    main.main([*arguments, "--untrained", *steps(1), "--output_dir", "first"])
    weights = str(workplace / "first" / "X" / "checkpoints" / "last.pth")
    own, other = tokenizer_folder(workplace / "own", "a", "b"), tokenizer_folder(workplace / "other", "c", "d")
    main.main([*arguments, *steps(1), "--resume", weights, "--roberta", str(own)])
    for count in (2, 3):
        main.main([*arguments, *steps(count), "--resume", "auto"])
    states = [state(run, count) for count in (1, 2, 3)]
    assert {found["args"]["roberta"] for found in states} == {str(own)}
    assert {found["args"]["resume"] for found in states} == {weights}
    assert len({found["vocabulary"] for found in states}) == 1
    with pytest.raises(InputError, match="trained with another vocabulary than the one found"):
        main.main([*arguments, *steps(4), "--resume", "auto", "--roberta", str(other)])
    moved = own.rename(workplace / "moved")
    main.main([*arguments, *steps(4), "--resume", "auto", "--roberta", str(moved)])
    assert state(run, 4)["args"]["roberta"] == str(moved)


def test_an_untrained_beginning_is_remembered(arguments: list[str], run: Path) -> None:
    main.main([*arguments, "--untrained", *steps(1)])
    for count in (2, 3):
        main.main([*arguments, *steps(count), "--resume", "auto"])
    assert [state(run, count)["args"]["untrained"] for count in (1, 2, 3)] == [True] * 3


def test_an_evaluation_that_was_killed_can_be_left_out(
    arguments: list[str], run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = [*arguments, "--untrained", "--batch_size", "6"]
    process = Forked(partial(main.main, whole))
    process.wait_until((run / "evaluation").exists)
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    main.main([*whole, "--resume", "auto", "--no_evaluation", "--epochs", "2"])
    assert "the epoch before is not evaluated" in caplog.text
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in log if "losses" in line] == list(range(1, 9))
    assert not any("evaluation" in line for line in log)


def test_a_process_without_its_partner_ends_with_one_line(
    arguments: list[str], run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    endless = [*arguments, "--untrained", "--no_evaluation", "--epochs", "999"]
    first, second = partners(lambda: run_script(partial(main.main, endless)), 2)
    second.wait_until((run / "checkpoints" / "checkpoint_00000002.pth").exists)
    second.send(signal.SIGKILL)
    assert second.wait() == -signal.SIGKILL
    assert first.wait() == 2
    errors = capfd.readouterr().err
    assert "error: another process of this run failed or was killed" in errors
    assert "Traceback" not in errors


def test_flags_that_it_does_not_use_are_named(
    arguments: list[str], run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    main.main([*arguments, "--untrained", *steps(1)])
    ignored = ["--overwrite", "--start_epoch", "0", "--cuda_graphs"]
    with caplog.at_level(logging.WARNING):
        main.main([*arguments, *steps(2), "--resume", "auto", *ignored])
    for flag in ("--overwrite", "--start_epoch", "--cuda_graphs"):
        assert f"{flag} is not used" in caplog.text
    assert state(run, 1)
    assert state(run, 2)


def test_flags_that_do_not_fit_are_refused(arguments: list[str]) -> None:
    with pytest.raises(InputError, match=r"meta_expressions_v2\.json"):
        main.main([*arguments, "--untrained", *steps(1), "--mevis_version", "2"])
    main.main([*arguments, "--untrained", *steps(1)])
    with pytest.raises(InputError, match="the checkpoint does not fit --sam2_version nano: it was trained with tiny"):
        main.main([*arguments, "--sam2_version", "nano", *steps(2), "--resume", "auto"])
