"""Scores of MeViS and Ref-YouTube-VOS: averages, targets that are absent or many, files that are missing or wrong."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.mevis import open_mevis
from datasets.ref_ytvos import open_ref_ytvos
from datasets.video_index import VideoDataset
from engine.evaluate_masks import evaluate_expressions
from engine.scoring.expressions import ExpressionTask, expression_tasks, score_expression, score_masks, summarise
from engine.scoring.mask_store import MaskStore, open_store
from tests.benchmark_files import write_frames, write_mevis, write_ytvos
from util.errors import InputError
from util.metrics import video_scores


@pytest.fixture
def mevis(tmp_path: Path) -> VideoDataset:
    """Its expressions: one/0 to one/4 (3 repeats a sentence of two, 4 has no target) and two/0."""
    write_mevis(tmp_path / "data")
    return open_mevis(tmp_path / "data", "valid_u")


def truth(task: ExpressionTask) -> list[np.ndarray]:
    return [task.ground_truth.mask(task.video, task.expression, index) for index in range(len(task.video.frames))]


def write_masks(folder: Path, task: ExpressionTask, masks: list[np.ndarray]) -> None:
    for name, mask in zip(task.names(), masks, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / name)


@pytest.fixture
def predictions(tmp_path: Path, mevis: VideoDataset) -> Path:
    """True masks shifted down by as many rows as the place of the expression."""
    for shift, task in enumerate(expression_tasks(mevis)):
        write_masks(tmp_path / "masks", task, [np.roll(mask, shift, axis=0) for mask in truth(task)])
    return tmp_path / "masks"


def test_an_expression_scores_the_mean_of_its_frames(mevis: VideoDataset, predictions: Path) -> None:
    for shift, task in enumerate(expression_tasks(mevis)):
        j, f = video_scores([np.roll(mask, shift, axis=0) for mask in truth(task)], truth(task))
        score = score_expression(task, MaskStore(predictions))
        assert score.j == pytest.approx(j.mean(), abs=1e-12)
        assert score.f == pytest.approx(f.mean(), abs=1e-12)
        assert (score.video, score.expression_id, score.frames) == (task.video.name, task.expression.id, len(j))
        assert score.target_area == pytest.approx(np.mean(truth(task)))
        assert score_masks(task, [np.roll(mask, shift, axis=0) for mask in truth(task)]) == score


def test_official_average_is_over_expressions_and_the_other_over_texts(mevis: VideoDataset, predictions: Path) -> None:
    scores = [score_expression(task, MaskStore(predictions)) for task in expression_tasks(mevis)]
    assert [score.text for score in scores].count("the walker") == 2
    summary = summarise(scores)
    j, f = np.mean([[score.j, score.f] for score in scores], axis=0)
    assert summary["official"] == pytest.approx({"J": j, "F": f, "J&F": (j + f) / 2})
    distinct = [score for score in scores if (score.video, score.expression_id) != ("one", "3")]  # the last one counts
    j, f = np.mean([[score.j, score.f] for score in distinct], axis=0)
    assert summary["by_text"] == pytest.approx({"J": j, "F": f, "J&F": (j + f) / 2})
    assert summary["by_text"]["J"] != pytest.approx(summary["official"]["J"])
    assert [entry["J&F"] for entry in summary["expressions"]] == [score.j_and_f for score in scores]


def test_expressions_without_a_target(mevis: VideoDataset) -> None:
    tasks = expression_tasks(mevis)
    nothing = [[np.zeros_like(mask) for mask in truth(task)] for task in tasks]
    scores = [score_masks(task, masks) for task, masks in zip(tasks, nothing, strict=True)]
    assert [(score.j, score.f) for score in scores if not score.has_target] == [(1.0, 1.0)]
    assert summarise(scores)["no_target"] == {"expressions": 1, "no_target_accuracy": 1.0, "target_accuracy": 0.0}

    speck = [[mask.copy() for mask in masks] for masks in nothing]
    for masks in speck:
        masks[-1][0, 0] = True
    scores = [score_masks(task, masks) for task, masks in zip(tasks, speck, strict=True)]
    assert summarise(scores)["no_target"] == {"expressions": 1, "no_target_accuracy": 0.0, "target_accuracy": 1.0}
    assert next(score.j for score in scores if not score.has_target) == pytest.approx(2 / 3)

    with_target = [score for score in scores if score.has_target]
    assert "no_target" not in summarise(with_target)
    only_without = summarise([score for score in scores if not score.has_target])
    assert only_without["no_target"]["target_accuracy"] is None


def test_several_targets_are_one_mask_and_an_absent_one_is_empty(mevis: VideoDataset) -> None:
    first, second, both = ([np.count_nonzero(mask) for mask in truth(task)] for task in expression_tasks(mevis)[:3])
    assert second[1] == 0
    assert both == [a + b for a, b in zip(first, second, strict=True)]


def test_zip_and_folder_with_and_without_top_folder_score_alike(
    tmp_path: Path, mevis: VideoDataset, predictions: Path
) -> None:
    expected = evaluate_expressions(mevis, predictions, tmp_path / "out", num_workers=0)
    for top in ("", "Annotations/"):
        archive = tmp_path / "masks.zip"
        with zipfile.ZipFile(archive, "w") as handle:
            for path in sorted(predictions.rglob("*.png")):
                handle.write(path, top + path.relative_to(predictions).as_posix())
        assert evaluate_expressions(mevis, archive, tmp_path / "out", num_workers=0) == expected
    shutil.copytree(predictions, tmp_path / "X" / "Annotations")
    assert evaluate_expressions(mevis, tmp_path / "X", tmp_path / "out", num_workers=0) == expected
    (tmp_path / "linked").mkdir()
    for folder in predictions.iterdir():
        (tmp_path / "linked" / folder.name).symlink_to(folder, target_is_directory=True)
    assert evaluate_expressions(mevis, tmp_path / "linked", tmp_path / "out", num_workers=0) == expected


def test_workers_give_the_same_scores(tmp_path: Path, mevis: VideoDataset, predictions: Path) -> None:
    expected = evaluate_expressions(mevis, predictions, tmp_path / "out", num_workers=0)
    assert evaluate_expressions(mevis, predictions, tmp_path / "out", num_workers=2) == expected


def test_ytvos_is_scored_with_palette_annotations(tmp_path: Path) -> None:
    write_ytvos(tmp_path / "data", "valid", ["a", "b"], frames=2)
    dataset = open_ref_ytvos(tmp_path / "data", allow_partial=True)
    for task in expression_tasks(dataset):
        write_masks(tmp_path / "masks", task, truth(task))
    summary = evaluate_expressions(dataset, tmp_path / "masks", tmp_path / "out", num_workers=0)
    assert summary["official"] == {"J": 1.0, "F": 1.0, "J&F": 1.0}
    assert len(summary["expressions"]) == 4


def test_a_split_with_hidden_masks_is_refused(tmp_path: Path) -> None:
    write_mevis(tmp_path, "valid")
    with pytest.raises(InputError, match="no ground truth"):
        expression_tasks(open_mevis(tmp_path, "valid"))


def test_missing_files_are_counted_before_anything_is_scored(
    tmp_path: Path, mevis: VideoDataset, predictions: Path
) -> None:
    (predictions / "one" / "2" / "00001.png").unlink()
    shutil.rmtree(predictions / "two")
    with pytest.raises(InputError, match=r"2 of 16 expected PNGs are missing.*one/2/00001\.png, two/0/00000\.png"):
        evaluate_expressions(mevis, predictions, tmp_path / "out", num_workers=0)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="none of the 2 videos"):
        open_store(tmp_path / "data", ["one", "two"])
    with pytest.raises(InputError, match="does not exist"):
        open_store(tmp_path / "nowhere", ["one"])
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(InputError, match="not a zip file"):
        open_store(tmp_path / "text.zip", ["one"])


def test_wrong_files_are_named(mevis: VideoDataset, predictions: Path) -> None:
    task = expression_tasks(mevis)[0]
    path = predictions / "one" / "0" / "00001.png"

    def message() -> str:
        with pytest.raises(InputError) as caught:
            score_expression(task, MaskStore(predictions))
        assert "one/0/00001.png" in str(caught.value)
        return str(caught.value)

    Image.new("L", (16, 8)).save(path)
    assert "is 16x8, the true mask is 32x24" in message()
    Image.new("RGB", (32, 24)).save(path)
    assert "mode RGB" in message()
    content = (predictions / "one" / "0" / "00000.png").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "cannot be decoded" in message()
    path.unlink()
    assert "missing" in message()
    with pytest.raises(InputError, match="2 predicted masks; expected one per frame: 3"):
        score_masks(task, truth(task)[:2])


def test_a_damaged_zip_names_the_file(tmp_path: Path, mevis: VideoDataset, predictions: Path) -> None:
    archive = tmp_path / "masks.zip"
    with zipfile.ZipFile(archive, "w") as handle:
        handle.write(predictions / "one" / "0" / "00000.png", "one/0/00000.png")
    content = bytearray(archive.read_bytes())
    content[60] ^= 255
    archive.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"one/0/00000\.png is not readable"):
        open_store(archive, ["one"]).read("one/0/00000.png")
    with pytest.raises(InputError, match=r"holds no one/0/00009\.png"):
        open_store(archive, ["one"]).read("one/0/00009.png")


def test_true_masks_that_do_not_fit_the_frames_are_what_is_wrong(tmp_path: Path) -> None:
    write_ytvos(tmp_path, "valid", ["a"])
    dataset = open_ref_ytvos(tmp_path, allow_partial=True)
    write_frames(tmp_path / "valid" / "JPEGImages" / "a", 1, (12, 16))  # after the check of all videos
    task = expression_tasks(dataset)[0]
    with pytest.raises(InputError, match=r"is 16x12, the true mask is 32x24 .*; the true masks must have the size"):
        score_masks(task, [np.zeros((12, 16), np.uint8)])
