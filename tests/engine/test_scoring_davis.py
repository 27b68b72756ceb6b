"""The DAVIS-2017 evaluation: what the official one prints for real predictions, and its rules one by one."""

from __future__ import annotations

import csv
import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from datasets.ref_davis import open_ref_davis
from engine.evaluate_masks import evaluate_davis
from engine.inference.benchmarks import DavisBenchmark
from engine.scoring.assignment import best_assignment
from engine.scoring.davis import (
    MEASURES,
    DavisSequence,
    annotator_stores,
    average,
    davis_sequences,
    global_results,
    score_sequence,
    write_davis_csv,
)
from engine.scoring.mask_store import MaskStore
from tests import benchmark_files
from util.errors import InputError
from util.metrics import frame_scores, sequence_statistics

SIZE = (30, 40)


def write_labels(folder: Path, frames: list[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, labels in enumerate(frames):
        image = Image.fromarray(labels.astype(np.uint8)).convert("P")
        image.putpalette([value for index in range(256) for value in (index, 255 - index, index // 2)])
        image.save(folder / f"{index:05d}.png")


def two_objects(index: int, first: int = 1, second: int = 2) -> np.ndarray:
    labels = np.zeros(SIZE, np.uint8)
    labels[4:16, 3 + index : 15 + index] = first
    labels[18:28, 20:36] = second
    return labels


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """A DAVIS folder of one sequence "walk": two objects, six frames."""
    root = tmp_path / "DAVIS"
    write_labels(root / "Annotations" / "480p" / "walk", [two_objects(index) for index in range(6)])
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("walk\n")
    (root / "Annotations_unsupervised").write_text("Annotations")  # a symbolic link in a checkout without links
    return root


def test_frames_of_a_real_sequence(shared: Path) -> None:
    root = shared / "data" / "metrics"
    golden = json.loads((root / "golden_metrics.json").read_text())["per_frame_osvos_foreground"]["dog"]
    sequences = davis_sequences(root / "davis_root", "semi-supervised", "val_single13")
    dog = next(sequence for sequence in sequences if sequence.name == "dog")
    item = score_sequence(dog, MaskStore(root / "pred_osvos")).objects[0]
    assert item.j_frames == pytest.approx(golden["J_per_frame"][1:-1], abs=1e-6)
    assert item.f_frames == pytest.approx(golden["F_per_frame"][1:-1], abs=1e-6)
    for statistics, expected in ((item.j, golden["J"]), (item.f, golden["F"])):
        assert vars(statistics) == pytest.approx(expected, abs=1e-9)


def test_unsupervised_objects_may_have_any_number(davis: Path, tmp_path: Path) -> None:
    write_labels(tmp_path / "p" / "walk", [two_objects(index, first=7, second=3) for index in range(6)])
    (sequence,) = davis_sequences(davis, "unsupervised")
    score = score_sequence(sequence, MaskStore(tmp_path / "p"))
    # as DAVIS does, labels count the matched predictions
    assert [(o.label, o.true_object, o.predicted_object) for o in score.objects] == [("walk_1", 2, 3), ("walk_2", 1, 7)]
    assert all(set(item.j_frames + item.f_frames) == {1.0} and len(item.j_frames) == 6 for item in score.objects)


def test_unsupervised_leaves_void_pixels_out(davis: Path, tmp_path: Path) -> None:
    frames = [two_objects(index) for index in range(6)]
    write_labels(tmp_path / "p" / "walk", frames)
    for labels in frames:
        labels[:, 20:] = np.where(labels[:, 20:] == 2, 2, 255)
    wrong = [np.where(labels == 255, 1, labels) for labels in frames]  # whatever is predicted there
    write_labels(davis / "Annotations" / "480p" / "walk", frames)
    write_labels(tmp_path / "q" / "walk", wrong)
    (sequence,) = davis_sequences(davis, "unsupervised")
    for name in ("p", "q"):
        assert global_results([score_sequence(sequence, MaskStore(tmp_path / name))])["J&F-Mean"] == 1
    (sequence,) = davis_sequences(davis, "semi-supervised")
    assert global_results([score_sequence(sequence, MaskStore(tmp_path / "q"))])["J-Mean"] < 1


def test_semi_supervised_keeps_identities_and_leaves_the_ends_out(davis: Path, tmp_path: Path) -> None:
    frames = [two_objects(index) if 0 < index < 5 else np.zeros(SIZE) for index in range(6)]
    write_labels(tmp_path / "p" / "walk", frames)
    (sequence,) = davis_sequences(davis, "semi-supervised")
    assert global_results([score_sequence(sequence, MaskStore(tmp_path / "p"))])["J&F-Mean"] == 1
    write_labels(tmp_path / "q" / "walk", [two_objects(index, first=2, second=1) for index in range(6)])
    assert global_results([score_sequence(sequence, MaskStore(tmp_path / "q"))])["J-Mean"] == 0
    for path in (tmp_path / "p" / "walk").glob("0000[05].png"):
        path.unlink()
    assert annotator_stores(tmp_path / "p", [sequence])  # only the four frames between are read


def test_an_object_of_the_first_frame_counts_though_that_frame_does_not(davis: Path, tmp_path: Path) -> None:
    """As in the official evaluation: objects are counted before the semi-supervised task drops the ends."""
    truth = [two_objects(0), *(two_objects(index, second=0) for index in range(1, 6))]
    write_labels(davis / "Annotations" / "480p" / "walk", truth)
    (sequence,) = davis_sequences(davis, "semi-supervised")
    write_labels(tmp_path / "p" / "walk", [two_objects(index) for index in range(6)])
    score = score_sequence(sequence, MaskStore(tmp_path / "p"))
    assert [item.j.mean for item in score.objects] == [1, 0]


def test_values_are_those_of_the_matched_pairs(davis: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    predicted = [np.roll(two_objects(index), rng.integers(-4, 5, 2), axis=(0, 1)) for index in range(6)]
    write_labels(tmp_path / "p" / "walk", predicted)
    (sequence,) = davis_sequences(davis, "unsupervised")
    score = score_sequence(sequence, MaskStore(tmp_path / "p"))
    for item in score.objects:
        pairs = [
            frame_scores(labels == item.predicted_object, two_objects(index) == item.true_object)
            for index, labels in enumerate(predicted)
        ]
        assert list(zip(item.j_frames, item.f_frames, strict=True)) == pairs
    results = global_results([score])
    assert tuple(results) == MEASURES
    assert results["F-Decay"] == np.mean([sequence_statistics(item.f_frames).decay for item in score.objects])
    assert results["J-Recall"] == np.mean([sequence_statistics(item.j_frames).recall for item in score.objects])
    assert results["J&F-Mean"] == (results["J-Mean"] + results["F-Mean"]) / 2


def test_missing_predictions_of_an_object_score_zero(davis: Path, tmp_path: Path) -> None:
    write_labels(tmp_path / "p" / "walk", [two_objects(index, second=0) for index in range(6)])
    for task in ("unsupervised", "semi-supervised"):
        (sequence,) = davis_sequences(davis, task)
        assert global_results([score_sequence(sequence, MaskStore(tmp_path / "p"))])["J-Mean"] == 0.5


@pytest.mark.parametrize(
    ("task", "frame", "message"),
    [
        (
            "unsupervised",
            two_objects(0, second=21),
            "holds the palette index 21; the unsupervised task accepts up to 20",
        ),
        (
            "semi-supervised",
            two_objects(0, second=3),
            "holds the palette index 3; the semi-supervised task accepts up to 2",
        ),
        ("unsupervised", two_objects(0)[:20], "is 40x20, the true mask is 40x30"),
    ],
)
def test_predictions_that_are_refused(davis: Path, tmp_path: Path, task: str, frame: np.ndarray, message: str) -> None:
    write_labels(tmp_path / "p" / "walk", [two_objects(0), frame, *(two_objects(index) for index in range(2, 6))])
    (sequence,) = davis_sequences(davis, task)
    with pytest.raises(InputError, match=rf"walk/00001\.png {message}"):
        score_sequence(sequence, MaskStore(tmp_path / "p"))


def test_ground_truth_that_is_refused(davis: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.txt is missing"):
        davis_sequences(davis, "unsupervised", "nothing")
    with pytest.raises(InputError, match="--task is one of"):
        davis_sequences(davis, "interactive")
    short = DavisSequence("walk", "semi-supervised", davis_sequences(davis, "unsupervised")[0].files[:2])
    with pytest.raises(InputError, match="needs 3 or more"):
        score_sequence(short, MaskStore(tmp_path))
    write_labels(davis / "Annotations" / "480p" / "walk", [np.zeros(SIZE)])
    with pytest.raises(InputError, match="shows no object"):
        score_sequence(davis_sequences(davis, "unsupervised")[0], MaskStore(tmp_path))
    (davis / "ImageSets" / "2017" / "val.txt").write_text("walk\nrun\n")
    with pytest.raises(InputError, match=r"no masks of 1 of the 2 sequences .* the first is run"):
        davis_sequences(davis, "unsupervised")
    (davis / "ImageSets" / "2017" / "latin.txt").write_bytes(b"\xef\xbb\xbfwalk\nr\xfcn\n")
    with pytest.raises(InputError, match=r"no masks of 1 of the 2 sequences"):
        davis_sequences(davis, "unsupervised", "latin")
    assert [sequence.name for sequence in davis_sequences(davis, "unsupervised", allow_partial=True)] == ["walk"]


@pytest.mark.parametrize(
    ("task", "frames", "message"),
    [
        ("semi-supervised", [two_objects(0)[:24, :32]] * 2, "walk has 2 frames; the semi-supervised task needs 3"),
        ("unsupervised", [np.zeros((24, 32))] * 2, r"walk/00000\.png shows no object"),
        ("unsupervised", [two_objects(0)] * 2, r"00000\.png: the true mask is 40x30 .* the source frame 32x24"),
    ],
)
def test_ground_truth_that_cannot_be_scored_is_refused_before_anything_is_segmented(
    tmp_path: Path, task: str, frames: list[np.ndarray], message: str
) -> None:
    benchmark_files.write_davis(tmp_path)
    write_labels(tmp_path / "DAVIS" / "Annotations" / "480p" / "walk", frames)
    (tmp_path / "DAVIS" / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "DAVIS" / "ImageSets" / "2017" / "val.txt").write_text("walk\n")
    (tmp_path / "DAVIS" / "Annotations_unsupervised").symlink_to("Annotations")
    sequences = davis_sequences(tmp_path, task)
    with pytest.raises(InputError, match=message):
        DavisBenchmark(open_ref_davis(tmp_path), sequences, "val", tmp_path / "out")


def test_where_ground_truth_is_looked_for(davis: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def folder(task: str) -> str:
        caplog.clear()
        (sequence,) = davis_sequences(tmp_path, task)  # the folder that holds DAVIS/
        return sequence.files[0].parents[1].relative_to(tmp_path).as_posix()

    with caplog.at_level(logging.WARNING):
        assert folder("unsupervised") == folder("semi-supervised") == "DAVIS/Annotations/480p"  # through the link file
        assert not caplog.records
        (davis / "Annotations_unsupervised").unlink()
        assert folder("unsupervised") == "DAVIS/Annotations/480p"
        assert "Annotations_unsupervised" in caplog.text
        write_labels(tmp_path / "valid" / "Annotations" / "walk", [two_objects(0)])
        assert folder("unsupervised") == "valid/Annotations"
        write_labels(davis / "Annotations_unsupervised" / "480p" / "walk", [two_objects(0)])
        assert folder("unsupervised") == "DAVIS/Annotations_unsupervised/480p"
        assert folder("semi-supervised") == "DAVIS/Annotations/480p"
        assert not caplog.records


@pytest.mark.parametrize("place", ["", "valid/", "eval_davis/valid/"])
def test_four_annotators_and_their_average(davis: Path, tmp_path: Path, place: str) -> None:
    for annotator in range(4):
        frames = [np.roll(two_objects(index), annotator, axis=0) for index in range(6)]
        write_labels(tmp_path / "p" / f"{place}anno_{annotator}" / "walk", frames)
    sequences = davis_sequences(davis, "unsupervised")
    stores = annotator_stores(tmp_path / "p", sequences)
    folders = {name: tmp_path / "out" / name for name in stores}
    results = evaluate_davis(sequences, stores, "val", folders, tmp_path / "out", num_workers=0)
    names = [f"anno_{annotator}" for annotator in range(4)]
    assert list(results) == [*names, "average"]
    assert results["anno_0"]["J&F-Mean"] == 1 > results["anno_1"]["J&F-Mean"]
    assert results["average"] == average([results[name] for name in names])
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == results
    assert results["average"]["F-Mean"] == pytest.approx(np.mean([results[name]["F-Mean"] for name in names]))
    with (tmp_path / "out" / "objects.csv").open() as handle:
        assert [row["annotator"] for row in csv.DictReader(handle)] == [name for name in names for _ in range(2)]
    assert all((folder / "global_results-val.csv").is_file() for folder in folders.values())

    (tmp_path / "p" / f"{place}anno_2" / "walk" / "00003.png").unlink()
    with pytest.raises(InputError, match=r"1 of 6 expected PNGs are missing in .*anno_2.*walk/00003\.png"):
        annotator_stores(tmp_path / "p", sequences)


def test_csv_files_are_as_davis_writes_them(davis: Path, tmp_path: Path) -> None:
    write_labels(tmp_path / "p" / "walk", [two_objects(index, second=0) for index in range(6)])
    (sequence,) = davis_sequences(davis, "semi-supervised")
    write_davis_csv(tmp_path, "val", [score_sequence(sequence, MaskStore(tmp_path / "p"))])
    assert (tmp_path / "global_results-val.csv").read_bytes() == (
        b"J&F-Mean,J-Mean,J-Recall,J-Decay,F-Mean,F-Recall,F-Decay\n0.500,0.500,0.500,0.000,0.500,0.500,0.000\n"
    )
    assert (tmp_path / "per-sequence_results-val.csv").read_bytes() == (
        b"Sequence,J-Mean,F-Mean\nwalk_1,1.000,1.000\nwalk_2,0.000,0.000\n"
    )


@settings(deadline=None)
@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.integers(0, 6).map(float)))
def test_assignment_has_the_best_sum(scores: np.ndarray) -> None:
    rows, columns = best_assignment(scores)
    assert list(rows) == sorted(set(rows.tolist()))
    assert len(set(columns.tolist())) == len(rows) == min(scores.shape)
    wide = scores if scores.shape[0] <= scores.shape[1] else scores.T
    orders = itertools.permutations(range(wide.shape[1]), wide.shape[0])
    best = max(sum(wide[row, column] for row, column in enumerate(order)) for order in orders)
    assert scores[rows, columns].sum() == best


@pytest.mark.parametrize(
    ("scores", "columns"),
    [
        ([[0, 0, 1], [1, 0, 2], [0, 3, 3]], [0, 2, 1]),
        ([[1, 1, 1, 0, 0], [1, 1, 1, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 0, 0], [0, 1, 1, 0, 0]], [2, 1, 4, 0, 3]),
    ],
)
def test_among_equal_assignments_it_takes_that_of_scipy(scores: list[list[int]], columns: list[int]) -> None:
    # recorded from scipy.optimize.linear_sum_assignment, which the DAVIS evaluation calls
    assert best_assignment(np.array(scores, dtype=np.float64))[1].tolist() == columns
