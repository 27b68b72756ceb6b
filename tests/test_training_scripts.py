"""main.py and main_pretrain.py from their command line: the recipe in miniature, every way to die, bad input."""

from __future__ import annotations

import json
import logging
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch

import main
import main_pretrain
from configs import loading
from engine.train.checkpoints import CheckpointStore
from engine.train.loop import Training
from models.tokenizer import byte_tokenizer, tokenizer_text
from tests import miniature
from tests.forked import Forked, partners
from util.errors import InputError, run_script

SCRIPTS: dict[str, Callable[[list[str]], None]] = {"main": main.main, "main_pretrain": main_pretrain.main}
NETWORK = [argument for argument in miniature.ARGUMENTS if argument not in ("--untrained", "--disable_pred_obj_score")]
STEPS = 24  # of the two epochs of `clips`


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the training data and the configuration of the micro network."""
    root = tmp_path_factory.mktemp("data")
    videos = {name: miniature.VIDEOS[name] for name in ("one", "eight", "nine")}
    miniature.write_mevis(root / "mevis", "train", videos)
    miniature.write_mevis(root / "mevis", "valid_u", {name: videos[name] for name in ("one", "nine")})
    miniature.write_ytvos(root / "ytvos")
    miniature.write_davis(root / "davis")
    miniature.write_refcoco(root / "coco", [f"{name}/train" for name in ("refcoco", "refcoco+", "refcocog")])
    miniature.write_refcoco(root / "coco_val", ["refcoco/val"])
    shutil.copytree(root / "coco_val", root / "coco", dirs_exist_ok=True)
    miniature.write_configuration(root / "configs")
    return root


@pytest.fixture
def folder(data: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; the scripts build the micro network."""
    monkeypatch.setattr(loading, "CONFIG_DIR", data / "configs")
    return workplace


def command(data: Path, *more: str) -> list[str]:
    """The arguments of a training on the miniature."""
    sets = ("mevis", "ytvos", "davis")
    paths = [part for name in sets for part in (f"--{name}_path", str(data / name))]
    return [*NETWORK, *paths, "--allow_partial", "--name_exp", "X", "--num_workers", "0", *more]


def clips(data: Path, *more: str) -> list[str]:
    """The arguments of a short training on clips: two epochs of 12 steps of 2 clips, CME among what learns."""
    quick = ["--dataset_file", "mevis", "--num_frames", "6", "--epochs", "2", "--no_evaluation", "--lr", "1e-3"]
    return command(data, *quick, *more)


def weights(run: Path, name: str = "last.pth") -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / name, weights_only=True)["model"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def iterations(run: Path) -> list[int]:
    return [line["iteration"] for line in lines(run) if "losses" in line]


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a training that nothing disturbed."""
    root = tmp_path_factory.mktemp("uninterrupted")

    def run() -> None:
        loading.CONFIG_DIR = data / "configs"
        main.main([*clips(data, "--untrained"), "--output_dir", str(root)])

    assert Forked(run).wait() == 0
    assert iterations(root / "X") == list(range(1, STEPS + 1))
    return root / "X"


def test_the_recipe(data: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pre-train on images, evaluate, fine-tune with HSA and CME from that, go on from the result of it."""
    coco = ["--coco_path", str(data / "coco"), "--name_exp", "ris", "--num_workers", "0"]
    arguments = [argument for argument in miniature.ARGUMENTS if argument not in ("--HSA", "--use_cme_head")]
    images = [*arguments, *coco, "--batch_size", "10", "--num_frames", "1", "--epochs", "2"]
    main_pretrain.main([*images, "--lr", "1e-4", "--clip_max_norm", "0.1", "--dataset_file", "all"])
    ris = folder / "output" / "ris"
    found = lines(ris)
    assert [line["iteration"] for line in found if "losses" in line] == list(range(1, 7))
    scores = [line["evaluation"] for line in found if "evaluation" in line]
    assert len(scores) == 2
    assert all({"overall_iou", "mean_iou", "mAP"} <= set(score) for score in scores)
    assert all(line["losses"]["memory"] == 0 for line in found if "losses" in line)

    trained = [argument for argument in arguments if argument != "--untrained"]
    resumed = ["--resume", str(ris / "checkpoints" / "last.pth"), "--roberta", str(byte_tokenizer_folder(folder))]
    evaluation = [*trained, *resumed, "--coco_path", str(data / "coco_val"), "--name_exp", "eval", "--num_workers", "0"]
    main_pretrain.main([*evaluation, "--eval"])
    measures = json.loads((folder / "output" / "eval" / "scores.json").read_text())["refcoco/val"]
    assert measures["overall_iou"] == pytest.approx(scores[-1]["overall_iou"], abs=1e-9)
    assert "75.6" in capsys.readouterr().out

    best = torch.load(ris / "checkpoints" / "best.pth", weights_only=True)
    assert best["iteration"] == 3 * (1 + (scores[1]["overall_iou"] > scores[0]["overall_iou"]))

    clip_run = command(data, "--dataset_file", "mevis", "--num_frames", "6", "--epochs", "1", "--batch_size", "6")
    main.main([*clip_run, *resumed, "--disable_pred_obj_score"])
    run = json.loads((folder / "output" / "X" / "run.json").read_text())
    assert run["weights"]["tensors"]["fresh"] > 0  # HSA and CME
    evaluated = [line["evaluation"] for line in lines(folder / "output" / "X") if "evaluation" in line]
    assert len(evaluated) == 1
    assert {"J&F", "J", "F"} <= set(evaluated[0])
    after, before = weights(folder / "output" / "X"), weights(ris)
    for key, value in before.items():
        frozen = not key.startswith(("cmt_adapters", "conditional")) and "project_text" not in key
        assert not frozen or torch.equal(after[key], value), key

    last = str(folder / "output" / "X" / "checkpoints" / "last.pth")
    main.main([*command(data, "--eval", "--dataset_file", "mevis"), "--resume", last, *resumed[2:], "--overwrite"])
    assert json.loads((folder / "output" / "X" / "run-training.json").read_text()) == run
    again = json.loads((folder / "output" / "X" / "scores.json").read_text())
    assert again["official"]["J&F"] == pytest.approx(evaluated[0]["J&F"], abs=1e-9)


def byte_tokenizer_folder(folder: Path) -> Path:
    """What `--untrained` reads sentences with, as files for `--roberta`."""
    target = folder / "tokenizer"
    target.mkdir(exist_ok=True)
    (target / "tokenizer.json").write_text(tokenizer_text(byte_tokenizer()))
    return target


@pytest.mark.parametrize("dataset", ["ytvos", "davis"])
def test_other_clips(data: Path, folder: Path, dataset: str) -> None:
    """One frame long videos give clips of 8, too."""
    if dataset == "davis":
        with pytest.raises(InputError, match="train"):
            main.main([*command(data, "--dataset_file", dataset, "--untrained"), "--max_iterations", "1"])
        return
    main.main([*command(data, "--dataset_file", dataset, "--untrained", "--max_iterations", "2"), "--no_evaluation"])
    assert iterations(folder / "output" / "X") == [1, 2]


def test_killed_again_and_again(data: Path, folder: Path, uninterrupted: Path) -> None:
    """kill -9 at 8 random moments, then SIGTERM and SIGUSR1: the weights of an undisturbed training, bit for bit."""
    run, moments = folder / "output" / "X", random.Random(5)
    arguments = clips(data, "--untrained", "--checkpoint_iterations", "1")
    ends = []
    for attempt in range(10):
        more = ["--resume", "auto"] if list(run.glob("checkpoints/checkpoint_*.pth")) else ["--overwrite"]
        process = Forked(partial(main.main, [*arguments, *more]))
        done = len(iterations(run)) if (run / "log.jsonl").exists() else 0
        wait_for_steps(process, run, done + (attempt != 0))
        if attempt < 8:
            time.sleep(moments.uniform(0, 0.1))
            process.send(signal.SIGKILL)
            ends.append(process.wait())
        else:
            process.send(signal.SIGTERM if attempt == 8 else signal.SIGUSR1)
            assert process.wait() == 0
    assert ends == [-9] * 8
    assert Forked(partial(main.main, [*arguments, "--resume", "auto"])).wait() == 0
    assert iterations(run) == list(range(1, STEPS + 1))
    assert same(weights(run), weights(uninterrupted))


def wait_for_steps(process: Forked, run: Path, count: int) -> None:
    """Wait until the log shows `count` steps."""
    log = run / "log.jsonl"
    process.wait_until(lambda: log.exists() and log.read_bytes().count(b'"losses"') >= count)


def test_a_damaged_checkpoint_is_passed_over(
    data: Path, folder: Path, uninterrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(uninterrupted, folder / "output" / "X")
    run = folder / "output" / "X"
    arguments = clips(data, "--untrained", "--checkpoint_iterations", "3", "--overwrite", "--max_iterations", "7")
    assert Forked(partial(main.main, arguments)).wait() == 0
    stored = sorted(run.glob("checkpoints/checkpoint_*.pth"))
    assert [path.name for path in stored] == [f"checkpoint_{number:08d}.pth" for number in (3, 6, 7)]
    stored[-1].write_bytes(stored[-1].read_bytes()[:-1000])
    with caplog.at_level(logging.WARNING):
        main.main([*clips(data, "--untrained"), "--resume", "auto"])
    assert "checkpoint_00000007.pth is damaged" in caplog.text
    assert same(weights(run), weights(uninterrupted))


def test_neither_workers_nor_recomputing_change_a_bit(data: Path, folder: Path, uninterrupted: Path) -> None:
    main.main([*clips(data, "--untrained", "--num_workers", "2"), "--output_dir", "workers"])
    assert same(weights(folder / "workers" / "X"), weights(uninterrupted))
    again = ["--activation_checkpointing", "--max_iterations", str(STEPS // 2), "--output_dir", "again"]
    main.main(clips(data, "--untrained", *again))
    half = f"checkpoint_{STEPS // 2:08d}.pth"
    assert same(weights(folder / "again" / "X", half), weights(uninterrupted, half))


def test_parts_processes_and_bf16_train_too(data: Path, folder: Path) -> None:
    quick = clips(data, "--untrained", "--max_iterations", "3")
    main.main([*quick, "--accumulate", "2", "--output_dir", "parts"])
    main.main([*quick, "--precision", "bf16", "--output_dir", "bf16", "--max_iterations", "1"])
    two = [*quick, "--output_dir", "two"]
    assert [p.wait() for p in partners(partial(main.main, two), 2)] == [0, 0]
    assert iterations(folder / "two" / "X") == iterations(folder / "parts" / "X") == [1, 2, 3]
    assert len(list((folder / "two" / "X" / "checkpoints").glob("checkpoint_*.pth"))) == 1
    more = [*clips(data, "--untrained", "--max_iterations", "5"), "--output_dir", "two", "--resume", "auto"]
    assert [p.wait() for p in partners(partial(main.main, more), 2)] == [0, 0]
    assert iterations(folder / "two" / "X") == [1, 2, 3, 4, 5]


def test_a_stop_in_the_evaluation_loses_nothing(data: Path, folder: Path) -> None:
    run = folder / "output" / "X"
    arguments = [*command(data, "--dataset_file", "mevis", "--num_frames", "6", "--epochs", "1"), "--untrained"]
    process = Forked(partial(main.main, [*arguments, "--batch_size", "6"]))
    process.wait_until((run / "evaluation").exists)
    process.send(signal.SIGUSR1)
    assert process.wait() == 0
    assert Forked(partial(main.main, [*arguments, "--batch_size", "6", "--resume", "auto"])).wait() == 0
    assert sum("evaluation" in line for line in lines(run)) == 1
    assert (run / "checkpoints" / "best.pth").is_file()


def test_a_loss_that_is_not_finite(data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch's files are named, the state is saved, and the checkpoints are as before."""
    arguments = clips(data, "--untrained", "--checkpoint_iterations", "1", "--max_iterations", "2")
    main.main(arguments)
    before = {path: path.read_bytes() for path in (folder / "output" / "X" / "checkpoints").glob("checkpoint_*")}
    prepare = Training._prepare

    def poisoned(self: Training) -> None:
        prepare(self)
        next(iter(self.model.cmt_adapters.parameters())).data.fill_(float("nan"))

    monkeypatch.setattr(Training, "_prepare", poisoned)
    with pytest.raises(InputError, match=r"step 3 is not finite.*\.jpg"):
        main.main([*clips(data, "--untrained"), "--resume", "auto"])
    report = json.loads(next((folder / "output" / "X").glob("failure-*.json")).read_text())
    assert all(Path(file).is_file() for clip in report["clips"] for file in clip["files"])
    assert torch.load(next((folder / "output" / "X").glob("failure-*.pth")), weights_only=True)["iteration"] == 2
    assert {path: path.read_bytes() for path in before} == before


def test_unreadable_samples_are_counted(data: Path, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(data / "mevis", folder / "mevis")
    damaged = folder / "mevis" / "train" / "JPEGImages" / "nine" / "00004.jpg"
    damaged.write_bytes(damaged.read_bytes()[:300])
    arguments = clips(data, "--untrained", "--mevis_path", str(folder / "mevis"))
    with pytest.raises(InputError, match=r"--max_bad_samples is 0: .*00004\.jpg"):
        main.main(arguments)
    with caplog.at_level(logging.WARNING):
        main.main([*arguments, "--max_bad_samples", "99", "--overwrite", "--epochs", "1"])
    assert "00004.jpg" in caplog.text
    assert iterations(folder / "output" / "X") == list(range(1, STEPS // 2 + 1))


def test_the_optimizer_of_another_training(data: Path, folder: Path, uninterrupted: Path) -> None:
    source = str(uninterrupted / "checkpoints" / f"checkpoint_{STEPS:08d}.pth")
    tokenizer = str(byte_tokenizer_folder(folder))
    last = str(uninterrupted / "checkpoints" / "last.pth")
    with pytest.raises(InputError, match=r"last\.pth holds no optimizer"):
        main.main([*clips(data), "--resume", last, "--roberta", tokenizer, "--resume_optimizer"])
    whole = torch.load(last, weights_only=True) | {"model": weights(uninterrupted)}
    stored = torch.load(source, weights_only=True)
    both = folder / "both.pth"
    torch.save({**whole, "optimizer": stored["optimizer"], "lr_scheduler": stored["lr_scheduler"]}, both)
    more = ["--resume", str(both), "--roberta", tokenizer, "--resume_optimizer", "--max_iterations", "4"]
    main.main([*clips(data), *more])
    with pytest.raises(InputError, match="--start_epoch 2: epochs count from 0"):
        main.main([*clips(data, "--overwrite"), "--resume", last, "--roberta", tokenizer, "--start_epoch", "2"])
    after = torch.load(folder / "output" / "X" / "checkpoints" / "checkpoint_00000004.pth", weights_only=True)
    assert after["optimizer"]["state"][0]["step"] == STEPS + 4
    later = [*clips(data), "--resume", last, "--roberta", tokenizer, "--start_epoch", "1", "--output_dir", "later"]
    main.main([*later, "--max_iterations", str(STEPS // 2 + 3)])
    assert iterations(folder / "later" / "X") == list(range(STEPS // 2 + 1, STEPS // 2 + 4))


def test_a_training_that_runs_is_not_removed(data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder / "output" / "X"
    arguments = clips(data, "--untrained", "--checkpoint_iterations", "1", "--keep_checkpoints", "999")
    first = Forked(partial(main.main, [*arguments, "--epochs", "99"]))
    first.wait_until((run / "checkpoints" / "checkpoint_00000002.pth").exists)
    record = (run / "run.json").read_bytes()
    monkeypatch.setattr(CheckpointStore, "locked", partialmethod(CheckpointStore.locked, patience=0.1))
    with pytest.raises(InputError, match="another training writes to"):
        main.main([*arguments, "--overwrite", "--lr", "1e-4"])
    first.send(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert (run / "run.json").read_bytes() == record
    assert (run / "checkpoints" / "checkpoint_00000002.pth").exists()
    main.main([*arguments, "--overwrite", "--max_iterations", "1"])
    assert [path.name for path in (run / "checkpoints").glob("checkpoint_*")] == ["checkpoint_00000001.pth"]


def wrong_size(data: Path, folder: Path) -> list[str]:
    """A checkpoint of a network with narrower adapters."""
    main.main([*clips(data, "--untrained", "--max_iterations", "1", "--adapter_dim", "16"), "--output_dir", "other"])
    last = str(folder / "other" / "X" / "checkpoints" / "last.pth")
    return [*clips(data), "--resume", last, "--roberta", str(byte_tokenizer_folder(folder))]


def earlier_training(data: Path, folder: Path) -> list[str]:
    """A folder with checkpoints, and no word of what to do with them."""
    main.main(clips(data, "--untrained", "--max_iterations", "1"))
    return clips(data, "--untrained")


def removed_weights(data: Path, folder: Path) -> list[str]:
    """Weights that a new start would remove."""
    main.main(clips(data, "--untrained", "--max_iterations", "1"))
    return clips(data, "--overwrite", "--resume", "output/X/checkpoints/last.pth")


def another_batch(data: Path, folder: Path) -> list[str]:
    """`--resume auto` with another batch size than before."""
    main.main(clips(data, "--untrained", "--max_iterations", "1"))
    return [*clips(data, "--untrained"), "--resume", "auto", "--batch_size", "3"]


def without_masks(data: Path, folder: Path) -> list[str]:
    """A training split without its masks."""
    shutil.copytree(data / "mevis", folder / "mevis")
    (folder / "mevis" / "train" / "mask_dict.json").unlink()
    return clips(data, "--untrained", "--mevis_path", str(folder / "mevis"))


def no_room(data: Path, folder: Path) -> list[str]:
    """An output folder that cannot be made."""
    (folder / "output").write_text("a file")
    return clips(data, "--untrained")


BAD_INPUT: dict[str, tuple[str, Callable[[Path, Path], list[str]], str]] = {
    "batch does not divide": ("main", lambda d, f: clips(d, "--untrained", "--accumulate", "3"), "multiple of 3"),
    "no data": ("main", lambda d, f: clips(d, "--untrained", "--mevis_path", "nowhere"), "nowhere"),
    "no masks": ("main", without_masks, "mask_dict.json"),
    "another size": ("main", wrong_size, "does not fit this network"),
    "another version": ("main", lambda d, f: [*clips(d, "--untrained"), "--sam2_version", "huge"], "huge"),
    "nothing to continue": ("main", lambda d, f: clips(d, "--untrained", "--resume", "auto"), "no checkpoint in"),
    "unknown data set": ("main", lambda d, f: clips(d, "--untrained", "--dataset_file", "coco"), "--dataset_file"),
    "images in main.py": ("main", lambda d, f: clips(d, "--dataset_file", "refcoco"), "main_pretrain.py"),
    "clips in main_pretrain.py": ("main_pretrain", lambda d, f: ["--dataset_file", "mevis"], "main.py"),
    "clips of images": (
        "main_pretrain",
        lambda d, f: [*miniature.ARGUMENTS, "--coco_path", str(d / "coco"), "--num_frames", "8"],
        "--num_frames 1",
    ),
    "no weights": ("main", lambda d, f: clips(d), "--resume"),
    "missing checkpoint": ("main", lambda d, f: clips(d, "--resume", "missing.pth"), "missing.pth"),
    "folder in use": ("main", earlier_training, "--resume auto"),
    "weights that go": ("main", removed_weights, "--overwrite would remove output/X/checkpoints/last.pth"),
    "evaluation of auto": ("main", lambda d, f: clips(d, "--eval", "--resume", "auto"), "the file of a checkpoint"),
    "empty resume": ("main", lambda d, f: clips(d, "--resume", ""), "--resume: expected some text, found nothing"),
    "empty name": ("main", lambda d, f: clips(d, "--untrained", "--name_exp", ""), "--name_exp: expected some text"),
    "huge seed": ("main", lambda d, f: clips(d, "--untrained", "--seed", "9" * 20), "below 9223372036854775808"),
    "another batch size": ("main", another_batch, "--batch_size 2"),
    "no optimizer": ("main", lambda d, f: clips(d, "--untrained", "--resume_optimizer"), "--resume_optimizer"),
    "negative rate": ("main", lambda d, f: clips(d, "--untrained", "--lr", "-1"), "--lr"),
    "no epoch": ("main", lambda d, f: clips(d, "--untrained", "--epochs", "0"), "--epochs"),
    "no images": ("main_pretrain", lambda d, f: [*miniature.ARGUMENTS, "--coco_path", "none"], "convert_refexp"),
    "no set to evaluate": (
        "main_pretrain",
        lambda d, f: [*miniature.ARGUMENTS, "--eval", "--coco_path", str(d / "coco"), "--eval_sets", "refcoco/best"],
        "refcoco/best",
    ),
    "output is a file": ("main", no_room, "output"),
    "misspelt": ("main", lambda d, f: clips(d, "--untrained", "--bacth_size", "4"), "--batch_size"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(data: Path, folder: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One clear line, and exit status 2."""
    script, arrange, expected = BAD_INPUT[case]
    arguments = arrange(data, folder)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run_script(partial(SCRIPTS[script], arguments))
    assert end.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert expected in errors[0]
