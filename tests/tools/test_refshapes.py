"""RefShapes on disk: every reader and converter takes it, and a seed decides every byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from datasets.mevis import open_mevis
from datasets.ref_davis import annotator_expressions, open_ref_davis
from datasets.ref_ytvos import open_ref_ytvos
from datasets.refcoco import open_refcoco
from tools.data import check_dataset, make_refshapes
from tools.data.convert_davis_to_ytvos import main as convert_davis
from tools.data.convert_refexp_to_coco import main as convert_refexp
from tools.data.refshapes import vocabulary
from tools.data.refshapes.sentences import KINDS
from tools.data.refshapes.video import build_image, build_video
from util.errors import InputError

SMALL = ["--videos", "2", "--train_videos", "2", "--images", "4", "--frames", "9", "--size", "160", "120"]


def make(out: Path, *arguments: str) -> Path:
    make_refshapes.main(["--out", str(out), "--seed", "5", "--workers", "1", *SMALL, *arguments])
    return out


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("refshapes") / "data")


def digests(root: Path) -> dict[str, str]:
    """Relative path -> hash of every regular file."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_no_reader_finds_a_fault(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"mevis": "MeViS_release", "ytvos": "ref-youtube-vos", "davis": "ref-davis", "coco": "coco"}
    paths = [argument for name, folder in places.items() for argument in (f"--{name}_path", str(root / folder))]
    check_dataset.main([*paths, "--allow_partial", "--workers", "1"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(rows) == 22
    assert all(row[-1] == "0" for row in rows)
    assert not list(root.rglob(".*"))  # nothing temporary is left


def test_neither_workers_nor_an_interruption_change_a_byte(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "half"
    frames = out / "MeViS_release/train/JPEGImages/.train-5-00000.tmp"
    frames.mkdir(parents=True)
    (frames / "00000.jpg").write_bytes(b"half")
    (out / make_refshapes.MARKER).touch()
    assert digests(make(out, "--workers", "2")) == digests(root)


def test_readers_ignore_the_kind(root: Path) -> None:
    meta = json.loads((root / "MeViS_release/valid_u/meta_expressions_v2.json").read_bytes())
    kinds = {entry["kind"] for video in meta["videos"].values() for entry in video["expressions"].values()}
    assert kinds <= set(KINDS)
    second = open_mevis(root / "MeViS_release", "valid_u", 2)
    assert second.ground_truth is not None
    for video in second.videos:
        for expression in video.expressions:
            entry = meta["videos"][video.name]["expressions"][expression.id]
            assert bool(expression.obj_ids) == (entry["kind"] != "none")
            shown = any(second.ground_truth.mask(video, expression, index).any() for index in range(len(video.frames)))
            assert shown == bool(expression.obj_ids)


def test_layouts_agree_about_the_same_scenes(root: Path) -> None:
    """What Ref-YouTube-VOS's PNGs, MeViS's run lengths and `build_video` say about a training video."""
    mevis = open_mevis(root / "MeViS_release", "train", 1)
    ytvos = open_ref_ytvos(root / "ref-youtube-vos", "train")
    assert mevis.ground_truth is not None
    assert ytvos.ground_truth is not None
    for number, (video, twin) in enumerate(zip(mevis.videos, ytvos.videos, strict=True)):
        assert video.name == twin.name
        clip = build_video(5, "train", number, frames=9, size=(120, 160))
        texts = {expression.text: expression for expression in video.expressions}
        for expression in twin.expressions:
            for index in (0, 5, 8):
                mask = ytvos.ground_truth.mask(twin, expression, index)
                assert np.array_equal(mask, mevis.ground_truth.mask(video, texts[expression.text], index))
                assert np.array_equal(mask, np.isin(clip.labels[index], expression.obj_ids))


def test_evaluation_splits_of_ref_ytvos_are_scored(root: Path) -> None:
    valid = open_ref_ytvos(root / "ref-youtube-vos", "valid", allow_partial=True)
    assert len(valid.videos) == 2  # the test videos are listed too, and left out
    assert valid.ground_truth is not None
    assert open_ref_ytvos(root / "ref-youtube-vos", "test").ground_truth is not None


def test_converters_can_be_run_again(root: Path) -> None:
    before = digests(root)
    convert_davis(["--davis_path", str(root / "ref-davis")])
    convert_refexp(["--coco_path", str(root / "coco")])
    assert digests(root) == before


def test_davis_describes_every_labelled_object_four_times(root: Path) -> None:
    dataset = open_ref_davis(root / "ref-davis", "valid")
    assert dataset.ground_truth is not None
    for video in dataset.videos:
        labels = dataset.ground_truth.labels(video, 0)  # type: ignore[attr-defined]
        described = [annotator_expressions(video, annotator) for annotator in range(4)]
        numbers = [tuple(expression.obj_ids[0] for expression in own) for own in described]
        assert numbers == [tuple(range(1, len(described[0]) + 1))] * 4
        assert set(np.unique(labels)) - {0} <= set(numbers[0])


def test_refcoco_masks_are_the_objects(root: Path) -> None:
    for name in ("refcoco", "refcoco+", "refcocog"):
        dataset = open_refcoco(root / "coco", name, "train")
        for item in dataset.objects[:4]:
            mask = dataset.mask(item)
            index = int(Path(item.file_name).stem.rsplit("_", 1)[1]) - 1
            clip = build_image(5, "image_train", index, size=(120, 160))
            assert any(np.array_equal(mask, own[0]) for own in clip.object_masks())


def test_held_out_combinations(root: Path) -> None:
    """Training shows none of them in any layout; most targets of the other splits are of them."""
    records = json.loads((root / "refshapes.json").read_bytes())["videos"]
    for record in records:
        pairs = [(item["colour"], item["shape"]) for item in record["objects"]]
        named = [
            (e["noun"]["colour"], e["noun"]["shape"])
            for e in record["expressions"] + record.get("no_target", [])
            if {"colour", "shape"} <= set(e["noun"])
        ]
        if record["split"] in ("train", "image_train"):
            assert not any(vocabulary.is_held_out(*pair) for pair in pairs + named)
    evaluated = [r for r in records if r["split"] not in ("train", "image_train")]
    targets = [r["objects"][t]["held_out"] for r in evaluated for e in r["expressions"] for t in e["targets"]]
    assert np.mean(targets) > 0.5
    assert len(vocabulary.pairs(True)) == 22
    for colour in vocabulary.COLOURS:
        assert 2 <= sum(pair[0] == colour for pair in vocabulary.pairs(True)) <= 3


def test_splits_and_seeds_have_scenes_of_their_own() -> None:
    clips = [build_video(*key, frames=8, size=(96, 96)) for key in ((0, "train", 0), (0, "valid", 0), (1, "train", 0))]
    digest = {hashlib.sha256(clip.frames.tobytes()).hexdigest() for clip in clips}
    assert len(digest) == 3


def test_a_finished_data_set_is_kept(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(root)
    make(root)
    assert "complete already" in capsys.readouterr().out
    assert digests(root) == before
    with pytest.raises(InputError, match="other settings"):
        make(root, "--seed", "6")


def test_another_folder_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match="not empty"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("arguments", [["--videos", "0"], ["--frames", "4"], ["--size", "20", "20"], ["--seed", "-1"]])
def test_bad_numbers_are_refused(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{arguments[0]} is .*expected"):
        make_refshapes.main(["--out", str(tmp_path / "new"), *arguments])
    assert not (tmp_path / "new").exists()
