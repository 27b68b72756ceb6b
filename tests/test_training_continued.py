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
from engine.segmentation import load
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


def test_the_scores_of_an_epoch_stay_when_the_next_one_is_cut_off(arguments: list[str], run: Path) -> None:
    main.main([*arguments, "--untrained", "--epochs", "2", "--batch_size", "6", "--max_iterations", "5"])
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    evaluated = [(line["epoch"], line["iteration"]) for line in log if "evaluation" in line]
    assert evaluated == [(1, 4), (2, 5)]
    assert all((run / "evaluation" / f"epoch_{epoch}" / "scores.json").is_file() for epoch in (1, 2))


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
    ignored = ["--overwrite", "--start_epoch", "0", "--resume_optimizer", "--cuda_graphs", "--split", "valid"]
    with caplog.at_level(logging.WARNING):
        main.main([*arguments, *steps(2), "--resume", "auto", *ignored])
    for flag in ("--overwrite", "--start_epoch", "--resume_optimizer", "--cuda_graphs", "--split"):
        assert f"{flag} is not used" in caplog.text
    assert state(run, 1)
    assert state(run, 2)


def test_the_rate_of_the_optimizer_is_the_one_that_is_written_down(
    arguments: list[str], run: Path, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    main.main([*arguments, "--untrained", *steps(1), "--lr", "1e-3"])
    for count in (2, 3):  # also when it goes on for a second time
        caplog.clear()
        main.main([*arguments, *steps(count), "--lr", "1e-4", "--resume", "auto"])
        assert "--lr 0.0001 is not used: the training that goes on has 0.001" in caplog.text
        assert state(run, count)["args"]["lr"] == json.loads((run / "run.json").read_text())["flags"]["lr"] == 1e-3
    whole = torch.load(run / "checkpoints" / "last.pth", weights_only=True)
    optimizer = {name: state(run, 3)[name] for name in ("optimizer", "lr_scheduler")}
    torch.save({**whole, **optimizer}, workplace / "both.pth")
    both = ["--resume", str(workplace / "both.pth"), "--roberta", str(tokenizer_folder(workplace / "words"))]
    main.main([*arguments, *both, *steps(1), "--name_exp", "Y", "--resume_optimizer", "--lr", "1e-4"])
    assert "--lr is not used: --resume_optimizer takes that of" in caplog.text
    assert state(run.with_name("Y"), 1)["args"]["lr"] == 1e-3


def test_flags_that_do_not_fit_are_refused(arguments: list[str]) -> None:
    with pytest.raises(InputError, match=r"meta_expressions_v2\.json"):
        main.main([*arguments, "--untrained", *steps(1), "--mevis_version", "2"])
    main.main([*arguments, "--untrained", *steps(1)])
    with pytest.raises(InputError, match="the checkpoint does not fit --sam2_version nano: it was trained with tiny"):
        main.main([*arguments, "--sam2_version", "nano", *steps(2), "--resume", "auto"])
    for change in (["--disable_pred_obj_score"], ["--cme_decision_window", "2"], ["--HSA_patch_size", "4", "2", "1"]):
        with pytest.raises(InputError, match=rf"checkpoint_00000001\.pth was written with {change[0]} .*same flags"):
            main.main([*arguments, *change, *steps(2), "--resume", "auto"])
    with pytest.raises(InputError, match=r"--start_epoch 1 begins after 12 steps, .* \(--max_iterations 12\)"):
        main.main([*arguments, "--untrained", "--epochs", "2", "--start_epoch", "1", *steps(12), "--name_exp", "Y"])


@pytest.mark.parametrize("split", ["train", "valid_u"])
def test_a_sentence_that_is_too_long_is_refused_before_the_first_step(
    arguments: list[str], run: Path, workplace: Path, split: str
) -> None:
    meta = workplace / "mevis" / split / "meta_expressions.json"
    meta.write_text(meta.read_text().replace("the square at the bottom", "very " * 600 + "long"))
    with pytest.raises(InputError, match=rf"{split}/meta_expressions\.json: videos/one/expressions/1: .* tokens"):
        main.main([*arguments, "--untrained", "--max_iterations", "1"])
    assert not (run / "log.jsonl").exists()


def test_the_rate_drops_where_it_would_have_without_a_later_start(arguments: list[str], run: Path) -> None:
    """An epoch has 12 steps; the log counts those that are left out, and so does the schedule."""
    later = ["--epochs", "2", "--start_epoch", "1", "--lr", "1e-3", "--lr_drop", "5", "13"]
    main.main([*arguments, "--untrained", *later, *steps(14)])
    rates = {line["iteration"]: line["learning_rate"] for line in map(json.loads, (run / "log.jsonl").open())}
    assert rates == {13: pytest.approx(1e-4), 14: pytest.approx(1e-5)}
    main.main([*arguments, *later, "--epochs", "2", *steps(15), "--resume", "auto"])
    assert state(run, 15)["lr_scheduler"]["last_epoch"] == 15


@pytest.mark.parametrize("use", [steps(1), ["--eval"]], ids=["training", "evaluation"])
def test_weights_that_have_changed_on_the_disk_are_refused(
    arguments: list[str], run: Path, workplace: Path, use: list[str]
) -> None:
    main.main([*arguments, "--untrained", *steps(1)])
    last = run / "checkpoints" / "last.pth"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    with pytest.raises(InputError, match=r"last\.pth is damaged .*some of its bytes have changed"):
        main.main([*arguments, "--resume", str(last), "--name_exp", "Y", *use])
    with pytest.raises(InputError, match=r"last\.pth is damaged"):
        load(last)
