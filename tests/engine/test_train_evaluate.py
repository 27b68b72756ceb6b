"""Evaluation after epochs: which data, which figures, what stays on disk, and that training does not notice."""

from __future__ import annotations

import json
import logging
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.transforms import to_network_input
from engine.inference.options import InferenceOptions
from engine.inference.refcoco import evaluate_refcoco, open_eval_sets
from engine.train.evaluate import EpochEvaluation, check_evaluation_data, evaluate_checkpoint, evaluation_options
from models.samwise import SAMWISE
from tests import miniature
from tests.conftest import build_micro
from tests.forked import Forked, partners
from util.distributed import Processes, joined_processes
from util.errors import InputError, run_script

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS: dict[str, Any] = {"num_workers": 0, "expressions_per_batch": 8, "overwrite": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What trainings are evaluated on, in miniature."""
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(miniature, "VIDEOS", {"one": (1, (24, 32)), "three": (3, (24, 40))})
        miniature.write_davis(root / "davis")
        miniature.write_mevis(root / "mevis", "valid_u")
    miniature.write_refcoco(root / "coco", ["refcoco/val", "refcocog/val"])
    return root


@pytest.fixture(scope="module")
def image_model() -> SAMWISE:
    """As after pre-training: no HSA, no CME, no object scores."""
    return build_micro(hsa=False, use_cme_head=False, pred_obj_score=False)


def flags_for(data: Path, dataset_file: str, **more: Any) -> dict[str, Any]:
    paths = {f"{name}_path": str(data / name) for name in ("davis", "mevis", "coco")}
    return {**OPTIONS, **paths, "dataset_file": dataset_file, **more}


def opened(data: Path, dataset_file: str, folder: Path, **more: Any) -> EpochEvaluation:
    evaluation = EpochEvaluation.open(flags_for(data, dataset_file, **more), folder)
    assert evaluation is not None
    return evaluation


def content(folder: Path) -> set[str]:
    """The names of all files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def attempts(folder: Path) -> list[int]:
    return [attempt["masks"] for attempt in json.loads((folder / "run.json").read_text())["attempts"]]


def test_ytvos_is_evaluated_on_davis(data: Path, micro_model: SAMWISE, tmp_path: Path) -> None:
    deciding, figures = opened(data, "ytvos", tmp_path)(micro_model, 0)
    average = json.loads((tmp_path / "evaluation" / "epoch_0" / "scores.json").read_text())["average"]
    assert deciding == figures["J&F"] == average["J&F-Mean"]
    assert (figures["J"], figures["F"], figures["J-Recall"]) == tuple(
        average[name] for name in ("J-Mean", "F-Mean", "J-Recall")
    )


def test_mevis_is_evaluated_on_valid_u(data: Path, micro_model: SAMWISE, tmp_path: Path) -> None:
    deciding, figures = opened(data, "mevis", tmp_path)(micro_model, 0)
    scores = json.loads((tmp_path / "evaluation" / "epoch_0" / "scores.json").read_text())
    assert deciding == figures["J&F"] == scores["official"]["J&F"]
    assert figures["J&F by text"] == scores["by_text"]["J&F"]


def test_refcoco_is_evaluated_as_by_the_script(data: Path, image_model: SAMWISE, tmp_path: Path) -> None:
    deciding, figures = opened(data, "refcoco", tmp_path)(image_model, 0)
    options = InferenceOptions(num_workers=0, expressions_per_batch=8)
    scores = evaluate_refcoco(image_model, open_eval_sets(data / "coco", "refcoco"), tmp_path / "script", options)
    assert figures == scores["refcoco/val"]
    assert deciding == figures["overall_iou"]


def test_several_sets_are_averaged(data: Path, image_model: SAMWISE, tmp_path: Path) -> None:
    deciding, figures = opened(data, "all", tmp_path)(image_model, 0)
    own = [figures[f"{name}/val overall_iou"] for name in ("refcoco", "refcocog")]
    assert own[0] != own[1]
    assert deciding == figures["overall_iou"] == pytest.approx(np.mean(own))


def test_a_checkpoint_is_evaluated_into_its_own_folder(data: Path, image_model: SAMWISE, tmp_path: Path) -> None:
    flags = flags_for(data, "refcoco", output_dir=str(tmp_path), name_exp="X")
    figures = evaluate_checkpoint(image_model, flags, facts={"weights": "w"})
    assert json.loads((tmp_path / "X" / "scores.json").read_text()) == {"refcoco/val": figures}
    assert evaluate_checkpoint(image_model, {**flags, "overwrite": False}) == figures
    assert attempts(tmp_path / "X") == [10, 0]
    with pytest.raises(InputError, match="--overwrite"):
        evaluate_checkpoint(build_micro(), {**flags, "overwrite": False})
    assert evaluate_checkpoint(build_micro(seed=1), flags) != figures
    assert json.loads((tmp_path / "X" / "run.json").read_text())["complete"] is True


@pytest.mark.parametrize("dataset_file", ["ytvos", "mevis", "refcoco", "all"])
def test_a_checkpoint_needs_data(dataset_file: str, micro_model: SAMWISE, tmp_path: Path) -> None:
    flags = flags_for(tmp_path, dataset_file, output_dir=str(tmp_path), name_exp="X")
    with pytest.raises(InputError, match=r"missing|convert_refexp_to_coco\.py"):
        evaluate_checkpoint(micro_model, flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dataset_file", ["mevis", "refcoco"])
def test_training_does_not_notice(dataset_file: str, data: Path, tmp_path: Path) -> None:
    """Modes, random numbers, statistics of BatchNorm, and the gradients of the next step are as without."""

    def step(model: SAMWISE) -> dict[str, torch.Tensor]:
        assert model.tokenizer is not None
        model.zero_grad()
        frames = torch.stack([to_network_input(list(clip), 64) for clip in noise])
        features = model.encode(frames, model.tokenizer(["a disc", "the square there"]))
        session = model.new_session()
        for t in range(2):
            model.step(features.frame(t), session).decoded.logits.sum().backward(retain_graph=True)
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    noise = np.random.default_rng(0).integers(0, 255, (2, 2, 64, 64, 3), dtype=np.uint8)
    evaluation = opened(data, dataset_file, tmp_path)
    found = []
    for evaluated in (False, True):
        model = build_micro().train()
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        step(model)
        if evaluated:
            evaluation(model, 0)
            assert all(module.training for module in model.modules())
        gradients = step(model)
        found.append((gradients, model.state_dict(), torch.rand(3), np.random.rand(3), random.random()))
    (gradients, state, *numbers), (gradients_after, state_after, *numbers_after) = found
    assert gradients.keys() == gradients_after.keys()
    assert all(torch.equal(gradients[name], gradients_after[name]) for name in gradients)
    assert all(torch.equal(state[name], state_after[name]) for name in state)
    assert all(map(np.array_equal, numbers, numbers_after))


@pytest.mark.parametrize("dataset_file", ["davis", "mevis", "refcoco"])
def test_masks_of_earlier_epochs_are_removed(dataset_file: str, data: Path, tmp_path: Path) -> None:
    evaluation = opened(data, dataset_file, tmp_path)
    first, second = (tmp_path / "evaluation" / f"epoch_{epoch}" for epoch in (0, 1))
    scores = []
    for epoch in (0, 1):
        evaluation(build_micro(seed=epoch), epoch)
        scores.append((tmp_path / "evaluation" / f"epoch_{epoch}" / "scores.json").read_bytes())
    assert content(first) < content(second)
    assert {Path(name).suffix for name in content(first)} == {".json", ".csv", ".txt"}
    assert "scores.json" in content(first)
    assert (first / "scores.json").read_bytes() == scores[0] != scores[1]
    assert any(name.endswith((".png", "results.json")) for name in content(second))
    assert not [path for path in first.rglob("*") if path.is_dir() and not any(path.iterdir())]


def test_the_same_weights_go_on_and_others_start_anew(data: Path, micro_model: SAMWISE, tmp_path: Path) -> None:
    evaluation = opened(data, "refcoco", tmp_path)
    expected = evaluation(micro_model, 3)
    assert evaluation(micro_model, 3) == expected
    assert attempts(tmp_path / "evaluation" / "epoch_3") == [10, 0]
    assert evaluation(build_micro(seed=5), 3) != expected
    assert attempts(tmp_path / "evaluation" / "epoch_3") == [10]


def test_a_killed_evaluation_goes_on(data: Path, micro_model: SAMWISE, tmp_path: Path) -> None:
    evaluation = opened(data, "mevis", tmp_path)
    folder = tmp_path / "evaluation" / "epoch_0"
    videos = folder / "manifest" / "Annotations" / "videos"
    child = Forked(lambda: evaluation(micro_model, 0))
    child.wait_until(lambda: any(videos.glob("[!.]*.json")))
    child.send(signal.SIGKILL)
    assert child.wait() in (-signal.SIGKILL, 0)
    assert evaluation(micro_model, 0) == opened(data, "mevis", tmp_path / "other")(micro_model, 0)
    assert attempts(folder)[-1] < 20


def test_processes_evaluate_together(data: Path, micro_model: SAMWISE, tmp_path: Path) -> None:
    def work() -> None:
        with joined_processes() as processes:
            evaluation = EpochEvaluation.open(flags_for(data, "all"), tmp_path / "both", processes)
            assert evaluation is not None
            deciding, figures = evaluation(micro_model, 0)
            (tmp_path / f"{processes.rank}.json").write_text(json.dumps([deciding, figures]))

    assert [child.wait() for child in partners(lambda: run_script(work), 2)] == [0, 0]
    deciding, figures = opened(data, "all", tmp_path / "alone")(micro_model, 0)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [deciding, figures]


@pytest.mark.parametrize("dataset_file", ["ytvos", "davis", "mevis", "refcoco", "refcoco+", "all"])
def test_without_data_there_is_one_warning(dataset_file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flags = flags_for(tmp_path, dataset_file)
    assert check_evaluation_data(dataset_file, flags) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "epochs will not be evaluated" in caplog.text
    assert check_evaluation_data(dataset_file, flags, Processes(rank=1, size=2)) is None
    assert EpochEvaluation.open(flags, tmp_path, Processes(rank=1, size=2)) is None
    assert len(caplog.records) == 1


BROKEN = {
    "frames missing": ("mevis", "mevis/valid_u/JPEGImages/three", "3 of 3 frames are missing|folder is missing"),
    "masks missing": ("mevis", "mevis/valid_u/mask_dict.json", "mask_dict.json"),
    "sequence missing": ("ytvos", "davis/DAVIS/Annotations_unsupervised/480p/three", "no masks of 1 of the 2"),
    "listing missing": ("ytvos", "davis/DAVIS/ImageSets", "val.txt is missing"),
    "metadata missing": ("ytvos", "davis/meta_expressions/valid/meta_expressions.json", "meta_expressions.json"),
    "images missing": ("refcoco", "coco/train2014", "train2014"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_data_is_an_error_before_training(case: str, data: Path, tmp_path: Path) -> None:
    dataset_file, place, message = BROKEN[case]
    subprocess.run(["cp", "-r", f"{data}/.", str(tmp_path)], check=True)
    subprocess.run(["rm", "-r", str(tmp_path / place)], check=True)
    with pytest.raises(InputError, match=message):
        check_evaluation_data(dataset_file, flags_for(tmp_path, dataset_file))


def test_sets_asked_for_by_name_must_be_there(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match=r"convert_refexp_to_coco\.py"):
        check_evaluation_data("all", flags_for(data, "all", eval_sets=["refcoco/testA"]))
    assert not caplog.records


def test_flags_that_apply() -> None:
    flags = {"threshold": 0.4, "precision": "bf16", "overwrite": True, "shard": (0, 2), "protocol": "fixed", "lr": 1e-5}
    expected = InferenceOptions(threshold=0.4, precision="bf16", protocol="fixed")
    assert evaluation_options(flags) == expected


def test_broken_flags_are_refused() -> None:
    with pytest.raises(InputError, match="--num_workers"):
        evaluation_options({"num_workers": -1})


def test_the_log_names_the_epoch_and_flags(data: Path, micro_model: SAMWISE, tmp_path: Path) -> None:
    logging.getLogger().setLevel(logging.INFO)
    opened(data, "refcoco", tmp_path)(micro_model, 2)
    run = json.loads((tmp_path / "evaluation" / "epoch_2" / "run.json").read_text())
    assert (run["epoch"], run["flags"]["dataset_file"], run["complete"]) == (2, "refcoco", True)
    assert "75.6" in (tmp_path / "evaluation" / "epoch_2" / "log.txt").read_text()
