"""Evaluation on RefCOCO in miniature and on real files: masks, measures, batches, processes, kills, bad input."""

from __future__ import annotations

import csv
import json
import logging
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.masks import decode_rle
from datasets.refcoco import RefCocoDataset, open_refcoco
from engine.evaluate_masks import evaluate_refcoco as score_results
from engine.infer import stream
from engine.inference.images import cut_into_units
from engine.inference.options import InferenceOptions
from engine.inference.refcoco import evaluate_refcoco, open_eval_sets, set_name
from models.samwise import SAMWISE
from models.tokenizer import Tokenizer, byte_level_tokenizer
from tests import miniature
from tests.benchmark_files import encode_rle
from tests.conftest import build_micro
from tests.forked import Forked, partners
from util.distributed import joined_processes
from util.errors import InputError, run_script

pytestmark = pytest.mark.usefixtures("one_thread")

SETS = ["refcoco/train", "refcoco/val", "refcoco+/val", "refcoco+/testA", "refcocog/val", "refcocog/test"]
QUICK = InferenceOptions(num_workers=0, expressions_per_batch=4)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three data sets in miniature."""
    root = tmp_path_factory.mktemp("coco")
    miniature.write_refcoco(root, SETS)
    return root


@pytest.fixture(scope="module")
def val(coco: Path) -> RefCocoDataset:
    return open_refcoco(coco, "refcoco", "val")


@pytest.fixture(scope="module")
def image_model() -> SAMWISE:
    """As after pre-training: no HSA, no CME, no object scores."""
    return build_micro(hsa=False, use_cme_head=False, pred_obj_score=False)


@pytest.fixture(scope="module")
def reference(val: RefCocoDataset, image_model: SAMWISE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("reference")
    evaluate_refcoco(image_model, [val], folder, QUICK)
    return folder


def masks_of(folder: Path, name: str = "refcoco/val") -> dict[int, np.ndarray]:
    results = json.loads((folder / "results" / name / "results.json").read_text())
    assert {(result["score"], result["category_id"]) for result in results} == {(1.0, 1)}
    return {result["image_id"]: decode_rle(result["segmentation"]) for result in results}


def result_bytes(folder: Path) -> list[bytes]:
    """What must be the same in every run."""
    names = ("scores.json", *(f"results/refcoco/val/{name}" for name in ("results.json", "expressions.csv")))
    return [(folder / name).read_bytes() for name in names]


def records(folder: Path) -> list[Path]:
    return sorted((folder / "manifest").rglob("*.jsonl"))


def recorded(folder: Path) -> int:
    """How many batches are recorded."""
    return sum(len(path.read_bytes().splitlines()) - 1 for path in records(folder))


def masks_made(folder: Path) -> list[int]:
    """How many masks every attempt made."""
    return [attempt["masks"] for attempt in json.loads((folder / "run.json").read_text())["attempts"]]


def test_masks_are_those_of_the_streaming_interface_for_the_caption(
    reference: Path, val: RefCocoDataset, image_model: SAMWISE
) -> None:
    found = masks_of(reference)
    assert len(found) == 10
    differing = 0
    for item in val.objects:
        with Image.open(val.image_path(item)) as image:
            frame = np.asarray(image)
        (result,) = stream(image_model, [item.caption], [frame], window=1)
        assert found[item.id].shape == item.size
        differing += int((found[item.id] != result.masks()[0]).sum())
    assert differing <= 2, "more than rounding"
    assert 0.05 < np.mean([mask.mean() for mask in found.values()]) < 0.95
    assert val.objects[0].text != val.objects[0].caption == "the disc"


def test_measures_are_those_counted_by_hand(reference: Path, val: RefCocoDataset) -> None:
    scores = json.loads((reference / "scores.json").read_text())
    assert list(scores) == ["refcoco/val"]
    found = masks_of(reference)
    pairs = [(found[item.id], val.mask(item)) for item in val.objects]
    intersections = [int((mask & truth).sum()) for mask, truth in pairs]
    unions = [int((mask | truth).sum()) for mask, truth in pairs]
    ious = np.array(intersections) / np.array(unions)
    assert scores["refcoco/val"]["mean_iou"] == pytest.approx(ious.mean())
    assert scores["refcoco/val"]["overall_iou"] == pytest.approx(sum(intersections) / sum(unions))
    assert scores["refcoco/val"]["P@0.5"] == (ious > 0.5).mean()
    with (reference / "results" / "refcoco" / "val" / "expressions.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [float(row["iou"]) for row in rows] == pytest.approx(ious, abs=1e-6)


def test_the_results_can_be_scored_without_the_network(reference: Path, val: RefCocoDataset, tmp_path: Path) -> None:
    again = score_results(val, reference / "results" / "refcoco" / "val" / "results.json", tmp_path)
    assert {"refcoco/val": again} == json.loads((reference / "scores.json").read_text())


def test_the_published_figure_stands_beside_and_the_run_is_described(
    coco: Path, image_model: SAMWISE, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sets = open_eval_sets(coco, "all", ["refcoco+/val", "refcocog/test", "refcoco+/val"])
    assert list(map(set_name, sets)) == ["refcoco+/val", "refcocog/test"]
    with caplog.at_level(logging.INFO):
        scores = evaluate_refcoco(image_model, sets, tmp_path, QUICK, facts={"flags": {"seed": 7}})
    assert list(scores) == ["refcoco+/val", "refcocog/test"]
    assert scores == json.loads((tmp_path / "scores.json").read_text())
    assert "65.8" in caplog.text
    run = json.loads((tmp_path / "run.json").read_text())
    assert (run["complete"], run["flags"], run["expressions_per_batch"]) == (True, {"seed": 7}, 4)
    assert (run["attempts"][0]["masks"], run["attempts"][0]["frames"]) == (20, 8)


def test_sets_that_are_evaluated_one_by_one_have_one_file_of_scores(
    coco: Path, image_model: SAMWISE, tmp_path: Path
) -> None:
    first, second = open_eval_sets(coco, "all", ["refcoco+/val", "refcocog/test"])
    scores = evaluate_refcoco(image_model, [second], tmp_path, QUICK)
    scores |= evaluate_refcoco(image_model, [first], tmp_path, QUICK)
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    evaluate_refcoco(image_model, [first], tmp_path, InferenceOptions(expressions_per_batch=4, overwrite=True))
    assert list(json.loads((tmp_path / "scores.json").read_text())) == ["refcoco+/val"]


def test_invisible_objects_have_empty_masks(val: RefCocoDataset, tmp_path: Path) -> None:
    model = build_micro()
    with torch.no_grad():
        model.sam.sam_mask_decoder.pred_obj_score_head.layers[2].bias.fill_(-1e3)
    scores = evaluate_refcoco(model, [val], tmp_path, QUICK)
    assert set(scores["refcoco/val"].values()) == {0.0}


def test_masks_of_an_earlier_run_are_not_made_again(
    reference: Path, val: RefCocoDataset, image_model: SAMWISE, tmp_path: Path
) -> None:
    """The record of a finished run is replaced by the true masks: all measures are 1."""
    subprocess.run(["cp", "-r", f"{reference}/manifest", str(tmp_path)], check=True)
    (record,) = records(tmp_path)
    truth = [
        {
            "image_id": item.id,
            "file_name": item.file_name,
            "caption": item.caption,
            "segmentation": encode_rle(val.mask(item)),
        }
        for item in val.objects
    ]
    record.write_text("\n" + json.dumps(truth))
    scores = evaluate_refcoco(image_model, [val], tmp_path, QUICK)
    assert scores["refcoco/val"] == pytest.approx(dict.fromkeys(scores["refcoco/val"], 1.0))
    assert masks_made(tmp_path) == [0]
    evaluate_refcoco(image_model, [val], tmp_path, InferenceOptions(expressions_per_batch=4, overwrite=True))
    assert result_bytes(tmp_path) == result_bytes(reference)


@pytest.mark.parametrize("batch", [1, 3, 10])
def test_batches_of_any_size_give_the_same_masks(
    batch: int, reference: Path, val: RefCocoDataset, image_model: SAMWISE, tmp_path: Path
) -> None:
    assert sum(map(len, cut_into_units(val, batch))) == 10
    assert max(map(len, cut_into_units(val, batch))) == batch
    evaluate_refcoco(image_model, [val], tmp_path, InferenceOptions(batch_size_val=batch, expressions_per_batch=batch))
    together, apart = masks_of(reference), masks_of(tmp_path)
    assert sum(int((together[key] != apart[key]).sum()) for key in together) <= 2, "more than rounding"


def test_a_batch_holds_whole_images_where_it_can(val: RefCocoDataset) -> None:
    units = [[item.id for item in unit] for unit in cut_into_units(val, 4)]
    assert units == [[1, 2, 3], [4, 5, 6], [7, 8, 9, 10]]
    assert [len(unit) for unit in cut_into_units(val, 3)] == [3, 3, 2, 2]


def test_scarce_memory_halves_the_batch(
    reference: Path, val: RefCocoDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_micro(hsa=False, use_cme_head=False, pred_obj_score=False)
    limit = 2

    def refuse(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if len(arguments[0]) > limit:
            raise MemoryError

    handle = model.sam.sam_mask_decoder.register_forward_pre_hook(refuse)
    evaluate_refcoco(model, [val], tmp_path, QUICK)
    assert "going on with" in caplog.text
    together, apart = masks_of(reference), masks_of(tmp_path)
    assert sum(int((together[key] != apart[key]).sum()) for key in together) <= 2
    limit = 0
    with pytest.raises(InputError, match="memory does not suffice for one sentence"):
        evaluate_refcoco(model, [val], tmp_path, InferenceOptions(overwrite=True))
    handle.remove()


def test_kill_nine_and_a_torn_record(
    val: RefCocoDataset, image_model: SAMWISE, tmp_path: Path, reference: Path
) -> None:
    child = Forked(lambda: evaluate_refcoco(image_model, [val], tmp_path, QUICK))
    child.wait_until(lambda: recorded(tmp_path) >= 1)
    child.send(signal.SIGKILL)
    assert child.wait() in (-signal.SIGKILL, 0)
    done = recorded(tmp_path)
    for path in records(tmp_path):
        with path.open("ab") as handle:
            handle.write(b'\n[{"image_id": 1, "segm')
    evaluate_refcoco(image_model, [val], tmp_path, QUICK)
    assert result_bytes(tmp_path) == result_bytes(reference)
    assert masks_made(tmp_path)[-1] == sum(map(len, cut_into_units(val, 4)[done:]))
    assert not list(tmp_path.rglob(".*.tmp*"))


def test_records_of_changed_sentences_and_damaged_ones_are_made_again(
    reference: Path, val: RefCocoDataset, image_model: SAMWISE, tmp_path: Path
) -> None:
    subprocess.run(["cp", "-r", f"{reference}/manifest", str(tmp_path)], check=True)
    (record,) = records(tmp_path)
    first, second, third = map(json.loads, record.read_text().splitlines()[1:])
    first[0]["caption"] = "another sentence"
    first[1]["segmentation"]["size"] = [3, 3]
    second[0]["image_id"] = 99
    record.write_text("\n".join(["", json.dumps(first), json.dumps(second), json.dumps(third)[:-20], "7", "[null]"]))
    evaluate_refcoco(image_model, [val], tmp_path, QUICK)
    assert masks_made(tmp_path) == [2 + 1 + 4]


def together(model: SAMWISE, dataset: RefCocoDataset, folder: Path) -> Callable[[], None]:
    """What each of several processes does."""

    def work() -> None:
        with joined_processes() as processes:
            scores = evaluate_refcoco(model, [dataset], folder, QUICK, processes)
            assert set(scores) == {"refcoco/val"}

    return lambda: run_script(work)


def test_two_processes_give_the_results_of_one(
    val: RefCocoDataset, image_model: SAMWISE, tmp_path: Path, reference: Path
) -> None:
    assert [child.wait() for child in partners(together(image_model, val, tmp_path), 2)] == [0, 0]
    assert result_bytes(tmp_path) == result_bytes(reference)
    assert json.loads((tmp_path / "run.json").read_text())["processes"] == 2
    assert len(records(tmp_path)) == 2
    evaluate_refcoco(image_model, [val], tmp_path, QUICK)  # one process goes on with what two have made
    assert masks_made(tmp_path) == [10, 0]


def test_results_of_other_weights_are_refused(reference: Path, val: RefCocoDataset, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", f"{reference}/manifest", str(tmp_path)], check=True)
    with pytest.raises(InputError, match=r"weights \(sha256\).*--overwrite"):
        evaluate_refcoco(build_micro(hsa=False, use_cme_head=False, seed=1), [val], tmp_path, QUICK)


def test_results_of_another_vocabulary_are_refused(reference: Path, val: RefCocoDataset, tmp_path: Path) -> None:
    """The same weights read other sentences with it."""
    subprocess.run(["cp", "-r", f"{reference}/manifest", str(tmp_path)], check=True)
    model = build_micro(hsa=False, use_cme_head=False, pred_obj_score=False)
    assert model.tokenizer is not None
    vocabulary = model.tokenizer.tokenizer.get_vocab()
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    model.tokenizer = Tokenizer(byte_level_tokenizer(vocabulary, []), model.tokenizer.max_tokens)
    with pytest.raises(InputError, match=r"other settings: vocabulary \(sha256\) \S+ \(now \S+\); choose another"):
        evaluate_refcoco(model, [val], tmp_path, QUICK)


def test_which_sets_are_evaluated(coco: Path, tmp_path: Path) -> None:
    assert list(map(set_name, open_eval_sets(coco, "all"))) == ["refcoco/val", "refcoco+/val", "refcocog/val"]
    assert list(map(set_name, open_eval_sets(coco, "refcocog"))) == ["refcocog/val"]
    (tmp_path / "train2014").symlink_to(coco / "train2014")
    (tmp_path / "refcoco").mkdir()
    name = "refcoco/instances_refcoco_val.json"
    (tmp_path / name).write_bytes((coco / name).read_bytes())
    assert list(map(set_name, open_eval_sets(tmp_path, "all"))) == ["refcoco/val"]


BAD_SETS = {
    "unknown data set": ("all", ["coco/val"], "'coco/val' is unknown"),
    "unknown split": ("all", ["refcocog/testA"], "'refcocog/testA' is unknown"),
    "no split": ("all", ["refcoco"], "'refcoco' is unknown"),
    "not converted": ("all", ["refcoco/testB"], "convert_refexp_to_coco.py"),
    "videos": ("ytvos", None, "--dataset_file ytvos has no images"),
}


@pytest.mark.parametrize("case", BAD_SETS)
def test_sets_that_are_refused(case: str, coco: Path) -> None:
    dataset_file, sets, message = BAD_SETS[case]
    with pytest.raises(InputError, match=message):
        open_eval_sets(coco, dataset_file, sets)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"convert_refexp_to_coco\.py makes them; --coco_path"):
        open_eval_sets(tmp_path, "all")


def test_broken_data_is_found_before_the_network_runs(coco: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", f"{coco}/.", str(tmp_path)], check=True)
    last = open_refcoco(tmp_path, "refcoco", "val").objects[-1]
    image = tmp_path / "train2014" / last.file_name
    Image.new("RGB", (5, 5)).save(image)
    with pytest.raises(InputError, match=f"{last.file_name} is 5x5"):
        open_eval_sets(tmp_path, "refcoco")


def test_an_image_that_does_not_decode_is_named(
    val: RefCocoDataset, coco: Path, image_model: SAMWISE, tmp_path: Path
) -> None:
    subprocess.run(["cp", "-r", f"{coco}/.", str(tmp_path / "coco")], check=True)
    (dataset,) = open_eval_sets(tmp_path / "coco", "refcoco")
    image = dataset.image_path(dataset.objects[-1])
    image.write_bytes(image.read_bytes()[:-200])
    with pytest.raises(InputError, match=f"{image.name}: the image does not decode"):
        evaluate_refcoco(image_model, [dataset], tmp_path / "out", QUICK)
    assert recorded(tmp_path / "out") == 2


def test_a_sentence_that_is_too_long_is_named(coco: Path, image_model: SAMWISE, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", f"{coco}/.", str(tmp_path)], check=True)
    path = tmp_path / "refcoco" / "instances_refcoco_val.json"
    path.write_text(path.read_text().replace("blue box", "blue box " * 80))
    with pytest.raises(InputError, match=r"image 10: sentence .* tokens"):
        evaluate_refcoco(image_model, open_eval_sets(tmp_path, "refcoco"), tmp_path / "out", QUICK)


def test_real_images_and_sentences(shared: Path, tmp_path: Path, image_model: SAMWISE) -> None:
    """True sentences of RefCOCOg with true polygons, and others, as the converter leaves them."""
    source = shared / "data" / "coco"
    (tmp_path / "train2014").symlink_to(source / "train2014")
    for name in ("refcoco", "refcocog"):
        (tmp_path / name).symlink_to(source / "golden_converter" / name)
    with pytest.raises(InputError, match="holds no sentences"):
        open_eval_sets(tmp_path, "all", ["refcocog/test"])
    sets = open_eval_sets(tmp_path, "all", ["refcocog/val", "refcoco/val", "refcoco/testA"])
    scores = evaluate_refcoco(image_model, sets, tmp_path / "out", QUICK)
    assert masks_made(tmp_path / "out") == [sum(len(dataset.objects) for dataset in sets)]
    assert all(0 < own["mean_iou"] < 1 for own in scores.values())
