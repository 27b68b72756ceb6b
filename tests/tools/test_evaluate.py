"""tools/evaluate.py from the command line: every benchmark, its files, its table, its errors."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.mevis import open_mevis
from datasets.ref_ytvos import open_ref_ytvos
from datasets.refcoco import open_refcoco
from datasets.video_index import VideoDataset
from engine import evaluate_masks
from tests.benchmark_files import encode_rle, write_coco, write_davis, write_labels, write_mevis, write_ytvos
from tools.evaluate import main
from util.errors import InputError


def write_true_masks(folder: Path, dataset: VideoDataset) -> None:
    """The true masks of every expression, as a submission has them."""
    assert dataset.ground_truth is not None
    for video in dataset.videos:
        for expression in video.expressions:
            own = folder / video.name / expression.id
            own.mkdir(parents=True)
            for index, frame in enumerate(video.frames):
                mask = dataset.ground_truth.mask(video, expression, index)
                Image.fromarray(mask.astype(np.uint8) * 255).save(own / f"{frame}.png")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_mevis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mevis(tmp_path / "data")
    write_mevis(tmp_path / "data", meta="meta_expressions_v2.json")
    write_true_masks(tmp_path / "Annotations", open_mevis(tmp_path / "data", "valid_u"))
    out = tmp_path / "out"
    options = ["--mevis_path", str(tmp_path / "data"), "--output_dir", str(out), "--num_workers", "0"]
    first = [], ["mevis", "valid_u", "(%)", "ours", "published"], ["57.1"]
    second = ["--version", "2"], ["mevis", "valid_u", "(version", "2)", "(%)", "ours"], []  # nothing is published
    for version, title, published in (first, second):
        main(["mevis", str(tmp_path / "Annotations"), *options, *version])
        table = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert table[0] == title
        assert ["J&F", "100.00"] in table
        assert ["J&F", "by", "text", "100.00", *published] in table
        assert ["no_target_accuracy", "100.00"] in table
    scores = json.loads((out / "scores.json").read_text())
    assert scores["official"] == scores["by_text"] == {"J": 1.0, "F": 1.0, "J&F": 1.0}
    assert [(row["video"], row["expression_id"]) for row in rows(out / "expressions.csv")] == [
        (entry["video"], entry["expression_id"]) for entry in scores["expressions"]
    ]
    assert [(row["video"], row["frames"], row["expressions"], row["J&F"]) for row in rows(out / "videos.csv")] == [
        ("one", "3", "5", "1.0"),
        ("two", "1", "1", "1.0"),
    ]


def test_ytvos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ytvos(tmp_path / "data", "valid", ["a"], frames=2)
    write_true_masks(tmp_path / "masks", open_ref_ytvos(tmp_path / "data", allow_partial=True))
    options = ["--ytvos_path", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out"), "--num_workers", "0"]
    main(["ytvos", str(tmp_path / "masks"), *options, "--allow_partial"])
    assert ["J&F", "100.00", "69.2"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def davis_to_score(root: Path) -> list[str]:
    """The arguments to score the true masks of one sequence of Ref-DAVIS, which are written below `root`."""
    write_davis(root / "data")
    listing = root / "data" / "DAVIS" / "ImageSets" / "2017" / "val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("walk\n")
    for annotator in range(4):
        write_labels(root / "masks" / f"anno_{annotator}" / "walk", 2)
    return ["davis", str(root / "masks"), "--davis_path", str(root / "data"), "--num_workers", "0"]


def test_ref_davis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*davis_to_score(tmp_path), "--output_dir", str(tmp_path / "out")])
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[0] == ["davis", "val", "(%)", "anno_0", "anno_1", "anno_2", "anno_3", "average", "published"]
    assert ["J&F-Mean", *["100.00"] * 5, "70.6"] in table
    assert (tmp_path / "out" / "anno_3" / "per-sequence_results-val.csv").is_file()
    assert len(rows(tmp_path / "out" / "videos.csv")) == 4


def test_real_predictions_score_as_with_the_official_evaluation(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "metrics"
    golden = json.loads((root / "golden_metrics.json").read_text())
    for case in ("unsup_osvos_starter5", "semi_osvos_starter5"):
        expected = golden[case]
        options = ["--davis_path", str(root / "davis_root"), "--set", "val_starter5", "--task", expected["task"]]
        files = ["--output_dir", str(tmp_path), "--num_workers", "2"]
        main(["davis", str(root / expected["pred"]), *options, *files])
        assert json.loads((tmp_path / "scores.json").read_text())["global"] == pytest.approx(
            expected["global"], abs=1e-9
        )
        for row in rows(tmp_path / "objects.csv"):
            mine = {"J": float(row["J-Mean"]), "F": float(row["F-Mean"])}
            assert mine == pytest.approx(expected["per_object"][row["label"]], abs=1e-9)


def test_refcoco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coco(tmp_path / "data")
    dataset = open_refcoco(tmp_path / "data", "refcocog", "val")
    results = [
        {"image_id": item.id, "segmentation": encode_rle(dataset.mask(item)), "score": 1.0} for item in dataset.objects
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    options = [
        "--coco_path",
        str(tmp_path / "data"),
        "--dataset_file",
        "refcocog",
        "--output_dir",
        str(tmp_path / "out"),
    ]
    main(["refcoco", str(tmp_path / "results.json"), *options])
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["mean_iou", "100.00", "66.8"] in table
    assert ["mAP", "100.00"] in table
    assert list(json.loads((tmp_path / "out" / "scores.json").read_text())) == ["refcocog/val"]


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("score_expression", "score_sequence", "score_refcoco"):
        monkeypatch.setattr(evaluate_masks, name, lambda *_, **__: pytest.fail("scores would be lost"))
    write_mevis(tmp_path / "mevis")
    write_true_masks(tmp_path / "Annotations", open_mevis(tmp_path / "mevis", "valid_u"))
    write_coco(tmp_path / "coco")
    (tmp_path / "results.json").write_text("[]")
    (tmp_path / "file").write_text("")
    mevis = ["mevis", str(tmp_path / "Annotations"), "--mevis_path", str(tmp_path / "mevis"), "--num_workers", "0"]
    refcoco = ["refcoco", str(tmp_path / "results.json"), "--coco_path", str(tmp_path / "coco")]
    for command in (mevis, davis_to_score(tmp_path), [*refcoco, "--dataset_file", "refcocog"]):
        with pytest.raises(InputError, match=r"file cannot be written to .*: choose another folder \(--output_dir\)"):
            main([*command, "--output_dir", str(tmp_path / "file")])


def test_a_users_error_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    write_mevis(tmp_path / "data")
    script = Path(__file__).resolve().parents[2] / "tools" / "evaluate.py"
    command = [sys.executable, str(script), "mevis", str(tmp_path / "nowhere"), "--mevis_path", str(tmp_path / "data")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 2
    assert run.stderr.splitlines() == [
        f"error: {tmp_path / 'nowhere'} does not exist; give the folder or the zip file of the predicted PNGs"
    ]
    assert not (tmp_path / "output").exists()
