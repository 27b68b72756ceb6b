"""RefShapes and nano from nothing to scores and zips: every script by its own `main`, with few videos and steps."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inference_davis
import inference_mevis
import inference_ytvos
import main
import main_pretrain
from configs import schema
from configs.loading import load_model_config
from models.build import load_model
from models.checkpoint_keys import is_trainable, to_fairseq
from models.model_folder import WEIGHTS_FILE, read_folder_config
from tools import evaluate, submission, train_tokenizer
from tools.data import make_refshapes

NANO = ("--sam2_version", "nano", "--device", "cpu", "--num_workers", "0")
SMALL = ("--videos", "2", "--train_videos", "2", "--images", "4", "--frames", "8", "--size", "160", "120")
STEPS = ("--max_iterations", "4", "--lr", "1e-3", "--no_evaluation")
COCO = ("--coco_path", "data/coco")
MEVIS = ("--mevis_path", "data/MeViS_release")
YTVOS = ("--ytvos_path", "data/ref-youtube-vos", "--allow_partial")
DAVIS = ("--davis_path", "data/ref-davis", "--allow_partial")


def content(path: str) -> Any:
    return json.loads(Path(path).read_text("utf-8"))


def make_data() -> None:
    """All four layouts, and a vocabulary from the training sentences."""
    make_refshapes.main(["--out", "data", "--seed", "17", *SMALL, "--workers", "1"])
    train_tokenizer.main(["--from", "data/MeViS_release/train/meta_expressions.json", "--out", "tokenizer"])


def make_stand_in(folder: Path) -> dict[str, torch.Tensor]:
    """A network with random weights as the shipped one; its tensors."""
    model, _ = load_model(load_model_config("nano"), untrained=True, roberta="tokenizer", seed=1)
    model.save_pretrained(folder)
    return load_file(folder / WEIGHTS_FILE)


def pre_train_and_fine_tune() -> dict[str, torch.Tensor]:
    """Images without HSA and CME, then clips with them; the tensors of the last checkpoint."""
    main_pretrain.main(
        [*NANO, *COCO, *STEPS, "--dataset_file", "refcoco", "--name_exp", "ris", "--disable_pred_obj_score"]
    )
    resumed = ("--resume", "output/ris/checkpoints/last.pth", "--HSA", "--use_cme_head")
    main.main([*NANO, *MEVIS, *STEPS, *resumed, "--dataset_file", "mevis", "--num_frames", "6", "--name_exp", "tuned"])
    losses = [json.loads(line)["losses"] for line in Path("output/tuned/log.jsonl").read_text().splitlines()]
    assert len(losses) == 4
    assert any(loss["memory"] > 0 for loss in losses)  # CME has decided something, and learned from it
    return torch.load("output/tuned/checkpoints/last.pth", weights_only=True)["model"]


def ship(folder: Path) -> None:
    """The result as the shipped network, with its flags in its configuration."""
    config = load_model_config("nano", hsa=True, use_cme_head=True)
    model, report = load_model(config, resume="output/tuned/checkpoints/last.pth")
    assert not report.fresh
    model.save_pretrained(folder)
    assert read_folder_config(folder).model == config


def expected_masks(meta: str, but: str = "") -> set[str]:
    """VIDEO/EXPRESSION/FRAME.png of a metadata file; without the videos of the file `but`."""
    others = content(but)["videos"] if but else {}
    return {
        f"{name}/{expression}/{frame}.png"
        for name, video in content(meta)["videos"].items()
        if name not in others
        for expression in video["expressions"]
        for frame in video["frames"]
    }


def names_in(path: str) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def check_mevis() -> None:
    """A split with scores, a split with a zip; without --resume both use the shipped weights and their flags."""
    inference_mevis.main([*NANO, *MEVIS, "--split", "valid_u", "--name_exp", "valid_u"])
    evaluate.main(["mevis", "output/valid_u/Annotations", *MEVIS, "--num_workers", "0", "--output_dir", "again"])
    scores = content("output/valid_u/scores.json")
    assert scores == content("again/scores.json")
    wanted = content("data/MeViS_release/valid_u/meta_expressions.json")["videos"]
    assert len(scores["expressions"]) == sum(len(video["expressions"]) for video in wanted.values())
    run = content("output/valid_u/run.json")
    assert run["weights"]["tensors"]["fresh"] == 0
    assert (run["flags"]["HSA"], run["flags"]["use_cme_head"]) == (True, True)
    inference_mevis.main([*NANO, *MEVIS, "--name_exp", "valid"])
    names = names_in("output/valid/Annotations.zip")
    assert len(names) == len(set(names))
    assert set(names) == expected_masks("data/MeViS_release/valid/meta_expressions.json")
    submission.main(["check", "output/valid/Annotations.zip", "--dataset_file", "mevis", *MEVIS])


def check_ytvos() -> None:
    """A zip, whose files lie in Annotations, and scores from the published truth."""
    inference_ytvos.main([*NANO, *YTVOS, "--name_exp", "ytvos"])
    meta = "data/ref-youtube-vos/meta_expressions/{}/meta_expressions.json"
    names = names_in("output/ytvos/Annotations.zip")
    assert len(names) == len(set(names))
    assert set(names) == {f"Annotations/{name}" for name in expected_masks(meta.format("valid"), meta.format("test"))}
    submission.main(["check", "output/ytvos/Annotations.zip", "--dataset_file", "ytvos", *YTVOS])
    evaluate.main(["ytvos", "output/ytvos/Annotations.zip", *YTVOS, "--num_workers", "0", "--output_dir", "again"])
    assert content("output/ytvos/scores.json") == content("again/scores.json")


def check_davis() -> None:
    """Scores of four annotators."""
    inference_davis.main([*NANO, *DAVIS, "--name_exp", "davis"])
    evaluate.main(["davis", "output/davis/eval_davis/valid", *DAVIS, "--num_workers", "0", "--output_dir", "again"])
    scores = content("output/davis/scores.json")
    assert list(scores) == ["anno_0", "anno_1", "anno_2", "anno_3", "average"]
    assert scores == content("again/scores.json")


def test_from_nothing_to_scores_and_zips(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training leaves the stand-in's tensors as they were, bit for bit."""
    monkeypatch.setattr(schema, "PRETRAINED", workplace / "pretrained")
    folder = workplace / "pretrained" / "nano"
    make_data()
    stand_in = make_stand_in(folder)
    trained = pre_train_and_fine_tune()
    ship(folder)
    shipped = load_file(folder / WEIGHTS_FILE)
    frozen = {key for key in stand_in if not is_trainable(key)}
    assert len(frozen) > 100
    for key in frozen:
        assert torch.equal(shipped[key], stand_in[key]), key
        assert torch.equal(trained[to_fairseq(key)], stand_in[key]), key
    assert any(not torch.equal(shipped[key], stand_in[key]) for key in stand_in.keys() - frozen)
    check_mevis()
    check_ytvos()
    check_davis()
