"""The study of tools/miniature.py: its scores and baselines on true masks, its stages when killed, its tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.mevis import open_mevis
from datasets.video_index import VideoDataset
from engine.evaluate_masks import evaluate_expressions
from tools import miniature
from tools.data import make_refshapes
from tools.study import splits, summary, tables
from tools.study.ablations import CME_OFF, FULL, inference_name
from tools.study.baselines import own_entries, score_baselines
from tools.study.runner import ROOT, marker_path
from tools.study.scores import (
    ALL,
    KIND,
    LATE,
    WITH,
    WITHOUT,
    Facts,
    Groups,
    Mean,
    family_of,
    group_scores,
    mean_of,
    read_facts,
    read_scores,
)
from tools.study.tables import Table
from tools.study.video_baselines import CHOSEN, DISJOINT, EVERYTHING, GRID, LARGEST, OTHER
from util.errors import InputError
from util.metrics import video_scores
from util.paths import atomic_write_json

# ---- scores and baselines ----


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RefShapes with three short videos to evaluate on."""
    out = tmp_path_factory.mktemp("refshapes") / "data"
    small = ["--videos", "3", "--train_videos", "1", "--frames", "8", "--size", "160", "120", "--layouts", "mevis"]
    make_refshapes.main(["--out", str(out), "--seed", "3", "--workers", "1", *small])
    return out


@pytest.fixture(scope="module")
def dataset(data: Path) -> VideoDataset:
    return open_mevis(data / "MeViS_release", "valid_u", version=1)


def truths(dataset: VideoDataset) -> dict[tuple[str, str], np.ndarray]:
    """(video, expression id) -> (T, H, W)."""
    assert dataset.ground_truth is not None
    return {
        (video.name, own.id): np.array([dataset.ground_truth.mask(video, own, i) for i in range(len(video.frames))])
        for video in dataset.videos
        for own in video.expressions
    }


def write_masks(folder: Path, dataset: VideoDataset, masks: dict[tuple[str, str], np.ndarray]) -> Path:
    """Masks as inference_mevis.py writes them."""
    for video in dataset.videos:
        for own in video.expressions:
            place = folder / video.name / own.id
            place.mkdir(parents=True)
            for frame, mask in zip(video.frames, masks[video.name, own.id], strict=True):
                Image.fromarray(mask.astype(np.uint8) * 255).save(place / f"{frame}.png")
    return folder


@pytest.fixture(scope="module")
def perfect(dataset: VideoDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions that are the truth."""
    return write_masks(tmp_path_factory.mktemp("perfect"), dataset, truths(dataset))


def test_perfect_masks_score_one_in_every_group(
    data: Path, dataset: VideoDataset, perfect: Path, tmp_path: Path
) -> None:
    evaluate_expressions(dataset, perfect, tmp_path, num_workers=0)
    facts = read_facts(data / "refshapes.json")
    groups = group_scores(read_scores(tmp_path / "scores.json"), facts)
    assert all(mean.j == mean.f == 1.0 for own in groups.values() for mean in own.values())
    count = dataset.expression_count()
    for grouping in groups:
        assert sum(mean.expressions for mean in groups[grouping].values()) == count
    for video in dataset.videos:  # the facts are those of the sentences
        assert [facts[video.name, own.id].text for own in video.expressions] == [own.text for own in video.expressions]
    kinds = [facts[video.name, own.id].kind for video in dataset.videos for own in video.expressions]
    assert {kind: mean.expressions for kind, mean in groups[KIND].items()} == {
        kind: kinds.count(kind) for kind in kinds
    }


def test_groups_are_means_over_their_own_expressions() -> None:
    values = {"0": ("motion", False, 0.2), "1": ("motion", True, 0.4), "2": ("appearance", False, 0.9)}
    facts = {("v", key): Facts("", kind, "moves", late) for key, (kind, late, _) in values.items()}
    entries = [
        {"video": "v", "expression_id": key, "J": value, "F": value + 0.1} for key, (*_, value) in values.items()
    ]
    groups = group_scores(entries, facts)
    assert groups[KIND]["motion"].j == pytest.approx(0.3)
    assert groups[KIND]["motion"].j_and_f == pytest.approx(0.35)
    assert groups[LATE][WITH] == Mean(0.4, 0.5, 1)
    assert groups[LATE][WITHOUT].expressions == 2
    assert groups[ALL][ALL].j == pytest.approx(0.5)
    with pytest.raises(InputError, match="other data"):
        group_scores([{**entries[0], "video": "w"}], facts)


@pytest.mark.parametrize(
    ("clause", "family"),
    [
        ("", "looks alone"),
        ("keeps_moving up-left", "keeps moving"),
        ("starts", "starts"),
        ("starts left", "place in the picture"),
        ("starts leftmost", "outermost place"),
        ("ends left of 3", "place beside another object"),
        ("above 0", "place beside another object"),
        ("fastest", "fastest"),
    ],
)
def test_families(clause: str, family: str) -> None:
    assert family_of(clause) == family


def test_baselines_of_a_perfect_model(data: Path, dataset: VideoDataset, perfect: Path) -> None:
    """Its other sentences score what the truth of one sentence scores against that of another."""
    found = score_baselines(data, perfect, "valid_u", num_workers=0)
    true = truths(dataset)
    meant = {(video.name, own.id): set(own.obj_ids) for video in dataset.videos for own in video.expressions}
    for name, fits in ((OTHER, lambda own, other: own != other), (DISJOINT, lambda own, other: not own & other)):
        assert mean_of(own_entries(found[name])).j_and_f == 1.0
        expected = {}
        for key, objects in meant.items():
            others = [other for other in meant if other[0] == key[0] and other != key and fits(objects, meant[other])]
            if others:
                pairs = [np.mean(video_scores(true[other], true[key]), axis=1) for other in others]
                expected[key] = tuple(np.mean(pairs, axis=0))
        assert {(e["video"], e["expression_id"]): pytest.approx((e["J"], e["F"])) for e in found[name]} == expected
    assert mean_of(found[OTHER]).j_and_f < 0.3  # perfect masks lose 70 points and more
    record = json.loads((data / "refshapes.json").read_bytes())
    counts = {video["name"]: len(video["objects"]) for video in record["videos"]}
    for key, objects in meant.items():
        if len(objects) == counts[key[0]]:
            entry = next(e for e in found[EVERYTHING] if (e["video"], e["expression_id"]) == key)
            assert entry["J"] == 1.0
    assert {entry["J"] == 1.0 for entry in found[LARGEST]} == {True, False}  # some mean the largest object, some do not
    assert len(found[LARGEST]) == len(found[EVERYTHING]) == len(meant)
    assert {entry["J"] for entry in found[CHOSEN]} == {1.0}
    assert 0.8 < mean_of(found[GRID]).j_and_f < 1


def test_a_deaf_model_loses_nothing(data: Path, dataset: VideoDataset, tmp_path: Path) -> None:
    """One that segments the same for every sentence of a video scores the same for the wrong sentence."""
    true = truths(dataset)
    same = {key: true[key[0], "0"] for key in true}
    found = score_baselines(data, write_masks(tmp_path / "masks", dataset, same), "valid_u", num_workers=0)
    assert 0 < mean_of(found[CHOSEN]).j_and_f < 1
    assert mean_of(found[OTHER]).j_and_f == pytest.approx(mean_of(own_entries(found[OTHER])).j_and_f)


def test_exchanged_sentences_come_from_other_videos(data: Path, dataset: VideoDataset, tmp_path: Path) -> None:
    arguments = [str(data / "MeViS_release"), "--out", str(tmp_path / "shuffled"), "--seed", "1"]
    splits.main(["shuffle", *arguments])
    changed = open_mevis(tmp_path / "shuffled", "valid_u")
    owner = {own.text: video.name for video in dataset.videos for own in video.expressions}
    true, others = truths(dataset), truths(changed)
    assert true.keys() == others.keys()
    assert all(np.array_equal(true[key], others[key]) for key in true)
    for video in changed.videos:
        (donor,) = {owner[own.text] for own in video.expressions}
        assert donor != video.name
    splits.main(["first", str(data / "MeViS_release"), "--videos", "1", "--out", str(tmp_path / "one")])
    assert [video.name for video in open_mevis(tmp_path / "one", "valid_u").videos] == [dataset.videos[0].name]
    splits.main(["first", str(tmp_path / "one"), "--out", str(tmp_path / "again")])  # of what shares its frames already
    with pytest.raises(InputError, match="late needs --refshapes"):
        splits.main(["late", str(data / "MeViS_release"), "--out", str(tmp_path / "late")])
    with pytest.raises(InputError, match="two or more videos"):
        splits.main(["shuffle", str(tmp_path / "one"), "--out", str(tmp_path / "none")])


def test_videos_with_late_distractors_come_first() -> None:
    videos = {name: {"expressions": {}} for name in "abcd"}
    facts = {(name, "0"): Facts("", "motion", "moves", name in "bd") for name in "abcd"}
    assert list(splits.misleading_first(videos, facts)) == ["b", "d", "a", "c"]


# ---- tables ----


def groups(value: float) -> Groups:
    """Every group with J = F = `value`."""
    mean = Mean(value, value, 4)
    return {
        ALL: {ALL: mean},
        KIND: {"appearance": mean, "motion": mean},
        LATE: {WITH: mean, WITHOUT: mean},
        "clause": {},
    }


def test_tables_of_the_ablation() -> None:
    runs = {inference_name("hsa", seed): groups(value) for seed, value in enumerate((0.5, 0.6, 0.7))}
    runs |= {inference_name(FULL, 0): groups(0.8), inference_name(FULL, 0, CME_OFF): groups(0.4)}
    found = {table.name: table for table in tables.ablation_tables(runs, (0, 1, 2))}
    assert list(found) == ["ablation", "cme_window", "clip_window", "late"]
    assert found["ablation"].rows[0] == ["+ HSA", "3", *["60.0 ± 10.0"] * 3]
    assert found["ablation"].rows[1] == ["+ HSA + CME", "1", *["80.0"] * 3]
    assert [row[2:4] for row in found["late"].rows] == [["60.0 ± 10.0"] * 2, ["40.0"] * 2, ["80.0"] * 2]
    assert [row[0] for row in found["cme_window"].rows] == ["CME never decides", "CME window 4, as trained"]
    assert tables.ablation_tables({}, ()) == []


def test_the_table_of_baselines_shows_the_loss() -> None:
    own = {"video": "v", "expression_id": "0", "J": 0.1, "F": 0.3, "own_J": 0.8, "own_F": 0.9}
    entries = {OTHER: [own], DISJOINT: [], LARGEST: [{**own, "J": 0.2}], EVERYTHING: [own]}
    table = tables.baseline_table(Mean(0.7, 0.7, 3), entries, Mean(0.3, 0.3, 3))
    assert [row[1:] for row in table.rows] == [["70.0", ""], ["20.0", "65.0"], ["30.0", "40.0"], ["25.0", "45.0"],
                                               ["20.0", "50.0"]]  # fmt: skip


def test_precision_without_a_gpu() -> None:
    table = tables.precision_table({"fp32": groups(0.5), "bf16": groups(0.4990)})
    assert table is not None
    assert [row[1:3] for row in table.rows] == [["50.00", ""], ["needs a GPU", ""], ["49.90", "-0.10"]]


def test_documents_get_their_tables(tmp_path: Path) -> None:
    document = tmp_path / "text.md"
    place = "<!-- table: {} -->\n{}<!-- end of table -->\n"
    document.write_text(f"before\n{place.format('one', 'old')}between\n{place.format('two', 'kept')}after\n")
    one = Table("one", "One", ("a", "b"), [["x", "1"]], "A note.")
    for _ in range(2):
        assert summary.fill_in(document, [one]) == ["two"]
    text = "| a | b |\n| --- | ---: |\n| x | 1 |\n\nA note.\n"
    assert document.read_text() == f"before\n{place.format('one', text)}between\n{place.format('two', 'kept')}after\n"
    document.write_text("nothing")
    with pytest.raises(InputError, match="no place for tables"):
        summary.fill_in(document, [one])


def test_the_document_has_a_place_for_every_table(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "miniature.md").read_text("utf-8")
    for name in ("valid_u", "fresh", "clauses", "baselines", "ablation", "cme_window", "clip_window", "late",
                 "precision", "time"):  # fmt: skip
        assert f"<!-- table: {name} -->\n" in text
    assert text.count("<!-- table: ") == text.count("<!-- end of table -->") == 10


LOG = (
    {"stage": "images", "step": 50, "dice": 0.9, "iou": 0.1},
    {"stage": "images", "step": 100, "dice": 0.8, "iou": 0.2},
    {"stage": "clips", "step": 50, "dice": 0.5, "iou": 0.6},
)


def test_a_summary_of_what_is_there(
    data: Path, dataset: VideoDataset, perfect: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One inference and its baselines: their tables, curves of the stand-in, pictures; nothing of what is not done."""
    run, training = tmp_path / "runs" / "valid_u", tmp_path / "stand_in" / "training"
    evaluate_expressions(dataset, perfect, run, num_workers=0)
    evaluate_expressions(dataset, perfect, tmp_path / "runs" / "text-blind", num_workers=0)  # without a marker
    (run / "Annotations").symlink_to(perfect)
    (tmp_path / "data").symlink_to(data)
    atomic_write_json(tmp_path / "baselines.json", score_baselines(data, perfect, "valid_u", num_workers=0))
    note = {"stage": "valid_u", "group": "evaluate", "command": "python x", "seconds": 90.0, "done": True}
    atomic_write_json(marker_path(tmp_path, "valid_u"), note)
    training.mkdir(parents=True)
    (training / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in LOG))
    summary.main([str(tmp_path)])
    text = (tmp_path / "tables.md").read_text()
    assert text in capsys.readouterr().out
    assert f"| all | 100.0 | 100.0 | 100.0 | {dataset.expression_count()} |" in text
    assert "text-blind" not in text
    assert "| evaluate | 1.5 |" in text
    found = json.loads((tmp_path / "summary.json").read_text())
    assert list(found["tables"]) == ["valid_u", "clauses", "baselines", "time"]
    assert (tmp_path / "tables" / "baselines.csv").read_text().startswith("valid_u,J&F,loss\nthe model,100.0,\n")
    assert (tmp_path / "curves-stand-in.png").stat().st_size > 0
    sheets = {path.parent.name: path.stem for path in (tmp_path / "pictures").glob("*/*.jpg")}
    assert sheets.keys() == {"worst", "middle", "best"}
    assert set(sheets.values()) == {video.name for video in dataset.videos}


# ---- all of it ----


@pytest.mark.slow
@pytest.mark.study
def test_the_quick_study(tmp_path: Path) -> None:
    """From nothing to tables by the project's own commands; a second run has nothing to do."""
    out = tmp_path / "study"
    miniature.main(["--quick", "--out", str(out)])
    found = json.loads((out / "summary.json").read_text())
    assert {"valid_u", "fresh", "baselines", "ablation", "cme_window", "late", "precision"} <= found["tables"].keys()
    assert found["frozen"]["identical"]
    official = json.loads((out / "evaluation" / "scores.json").read_text())["official"]
    assert official == pytest.approx({name: found["scores"]["valid_u"][ALL][ALL][name] for name in ("J", "F", "J&F")})
    for name in ("tables.md", "tables/ablation.csv", "curves.png", "report.html", "runs/valid/Annotations.zip"):
        assert (out / name).stat().st_size > 0
    assert len(list((out / "pictures").glob("*/*.jpg"))) == 2
    seconds = {marker["stage"]: marker["seconds"] for marker in found["stages"]}
    miniature.main(["--quick", "--out", str(out)])
    again = {marker["stage"]: marker["seconds"] for marker in json.loads((out / "summary.json").read_text())["stages"]}
    assert {name: value for name, value in again.items() if name != "summary"} == {
        name: value for name, value in seconds.items() if name != "summary"
    }
