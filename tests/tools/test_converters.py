"""The converters reproduce their golden outputs byte for byte, leave originals alone, and refuse what is malformed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datasets.ref_davis import open_ref_davis
from datasets.refcoco import open_refcoco
from tests.benchmark_files import reference, write_json, write_original_coco, write_original_davis, write_refs
from tools.data.convert_davis_to_ytvos import TEXT_FILES
from tools.data.convert_davis_to_ytvos import main as convert_davis
from tools.data.convert_refexp_to_coco import load_refs
from tools.data.convert_refexp_to_coco import main as convert_refexp
from util.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]


def tree(root: Path) -> dict[str, bytes]:
    """Every file below `root`, links followed, with its content."""
    return {
        str(Path(parent, name).relative_to(root)): Path(parent, name).read_bytes()
        for parent, _, names in os.walk(root, followlinks=True)
        for name in names
    }


def run_tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of tools/data as a user does, from another folder."""
    command = [sys.executable, str(REPOSITORY / "tools/data" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)


# ---------------------------------------------------------------- Ref-DAVIS17


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    return write_original_davis(tmp_path / "ref-davis")


def test_davis_is_converted_in_place_of_nothing(davis: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(davis)
    convert_davis(["--davis_path", str(davis)])
    after = tree(davis)
    assert {name: after[name] for name in before} == before
    dataset = open_ref_davis(davis)
    assert [expression.text for expression in dataset.videos[0].expressions] == [
        *["a walker"] * 4,
        *[f"a box by {name} \xe9" for name, _ in TEXT_FILES],
    ]
    assert [expression.obj_ids for expression in dataset.videos[0].expressions] == [(1,)] * 4 + [(2,)] * 4
    assert [video.name for video in open_ref_davis(davis, "train").videos] == ["classic-car", "motorbike"]
    meta = json.loads((davis / "valid/meta.json").read_text())
    assert meta["videos"]["walk"]["objects"]["2"] == {"category": "box", "frames": ["00000", "00001"]}
    assert "2 videos, 8 expressions" in capsys.readouterr().out
    convert_davis(["--davis_path", str(davis)])
    assert tree(davis) == after


def test_davis_can_be_copied_and_moved(davis: Path) -> None:
    convert_davis(["--davis_path", str(davis), "--copy"])
    assert not (davis / "valid/JPEGImages/walk").is_symlink()
    shutil.rmtree(davis / "DAVIS/JPEGImages")
    shutil.rmtree(davis / "DAVIS/Annotations_unsupervised")
    expected = tree(davis)
    convert_davis(["--davis_path", str(davis)])  # images that another converter moved into place are used
    assert tree(davis) == expected
    assert len(open_ref_davis(davis).videos) == 1


def test_davis_conversion_that_was_cut_off_is_finished(davis: Path) -> None:
    (davis / "valid/JPEGImages/.walk.tmp").mkdir(parents=True)
    (davis / "valid/JPEGImages/.walk.tmp/half").write_text("")
    (davis / "valid/Annotations").mkdir()
    (davis / "valid/Annotations/.walk.tmp").symlink_to("nowhere")
    convert_davis(["--davis_path", str(davis)])
    assert [path.name for path in (davis / "valid/JPEGImages").iterdir()] == ["walk"]
    assert len(open_ref_davis(davis).videos) == 1


def test_davis_without_masks_is_converted_with_a_notice(davis: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(davis / "DAVIS/Annotations_unsupervised")
    convert_davis(["--davis_path", str(davis)])
    assert "Annotations_unsupervised" in capsys.readouterr().out
    assert (davis / "meta_expressions/valid/meta_expressions.json").is_file()


def append(name: str, line: bytes) -> Callable[[Path], object]:
    def spoil(root: Path) -> None:
        path = root / "davis_text_annotations" / name
        path.write_bytes(path.read_bytes() + line)

    return spoil


def replace_text(name: str, old: bytes, new: bytes) -> Callable[[Path], object]:
    def spoil(root: Path) -> None:
        path = root / "davis_text_annotations" / name
        path.write_bytes(path.read_bytes().replace(old, new))

    return spoil


FIRST, LAST = TEXT_FILES[0][0], TEXT_FILES[3][0]
DAVIS_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no text": (lambda r: (r / "davis_text_annotations" / LAST).unlink(), rf"{LAST} is missing"),
    "no list": (lambda r: (r / "DAVIS/ImageSets/2017/val.txt").unlink(), r"val\.txt is missing"),
    "no images": (lambda r: shutil.rmtree(r / "DAVIS/JPEGImages/480p/walk"), r"480p/walk is missing; unzip"),
    "no frames": (lambda r: [p.unlink() for p in (r / "DAVIS/JPEGImages/480p/walk").iterdir()], r"walk has no \.jpg"),
    "no masks": (lambda r: shutil.rmtree(r / "DAVIS/Annotations_unsupervised/480p/walk"), r"480p/walk is missing"),
    "latin-1": (append(FIRST, b'walk 3 "caf\xe9"'), rf"{FIRST}: line 6 is not utf-8"),
    "utf-16": (append(LAST, 'walk 3 "x"'.encode("utf-16")), rf"{LAST}: line 6 holds zero bytes"),
    "no object": (append(FIRST, b'walk "a third"'), rf"{FIRST}: line 6 is 'walk \"a third\"', expected"),
    "no sentence": (append(FIRST, b'walk 3 ""'), rf"{FIRST}: line 6"),
    "two fields": (append(FIRST, b"walk 3"), rf"{FIRST}: line 6"),
    "second sentence": (append(FIRST, b'walk 1 "other"'), r"line 6 is a second sentence for object 1 of walk"),
    "another object": (append(LAST, b'walk 3 "x"'), rf"{LAST}: walk: sentences about objects \[1, 2, 3\], in {FIRST}"),
    "misspelt": (replace_text(FIRST, b"motor-bike", b"moter-bike"), r"no sentence about 'motorbike'; is 'moter-bike'"),
    "odd list": (lambda r: (r / "DAVIS/ImageSets/2017/val.txt").write_text("../x"), r"val\.txt holds something"),
    "semantics": (lambda r: (r / "DAVIS/davis_semantics.json").write_text("{"), r"semantics\.json is not readable"),
}


@pytest.mark.parametrize("case", DAVIS_FAULTS)
def test_davis_faults_are_named_before_anything_is_written(davis: Path, case: str) -> None:
    spoil, words = DAVIS_FAULTS[case]
    spoil(davis)
    before = tree(davis)
    with pytest.raises(InputError, match=words):
        convert_davis(["--davis_path", str(davis)])
    assert tree(davis) == before


def test_davis_folder_that_lacks_frames_is_not_taken_for_finished(davis: Path) -> None:
    (davis / "valid/JPEGImages/walk").mkdir(parents=True)
    with pytest.raises(InputError, match=r"walk lacks 2 files of .*; remove it"):
        convert_davis(["--davis_path", str(davis)])


def test_davis_golden(shared: Path, tmp_path: Path) -> None:
    golden = shared / "data/ref-davis/golden_converter"
    root = tmp_path / "ref-davis"
    for folder in ("DAVIS/ImageSets/2017", "davis_text_annotations"):
        (root / folder).mkdir(parents=True)
        for path in (golden / folder).iterdir():
            (root / folder / path.name).write_bytes(path.read_bytes())
    for source, target in (("JPEGImages", "JPEGImages"), ("Annotations", "Annotations_unsupervised")):
        (root / "DAVIS" / target).mkdir()
        (root / "DAVIS" / target / "480p").symlink_to(shared / "data/ref-davis/valid" / source)
    result = run_tool("convert_davis_to_ytvos.py", "--davis_path", str(root))
    assert result.returncode == 0, result.stderr
    for split in ("train", "valid"):
        path = Path(split, "meta_expressions.json")
        expected = (golden / "expected_meta_expressions" / path).read_bytes()
        assert (root / "meta_expressions" / path).read_bytes() == expected
        assert open_ref_davis(root, split).expression_count() == {"train": 8, "valid": 28}[split]


# ---------------------------------------------------------------- RefCOCO


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_original_coco(tmp_path / "coco")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_every_sentence_becomes_an_image_entry(coco: Path, protocol: int) -> None:
    write_refs(coco, [reference(0, "val", "a box", "the caf\xe9"), reference(1, "val", "other")], protocol)
    before = tree(coco)
    convert_refexp(["--coco_path", str(coco)])
    after = tree(coco)
    assert {name: after[name] for name in before} == before
    assert sorted(after.keys() - before.keys()) == [
        f"refcocog/instances_refcocog_{split}.json" for split in ("test", "train", "val")
    ]
    value = json.loads(after["refcocog/instances_refcocog_val.json"])
    assert [image["caption"] for image in value["images"]] == ["a box", "the caf\xe9", "other"]
    assert [image["id"] for image in value["images"]] == [1, 2, 3]
    assert [annotation["original_id"] for annotation in value["annotations"]] == [70, 70, 71]
    assert len(open_refcoco(coco, "refcocog", "val").objects) == 3
    convert_refexp(["--coco_path", str(coco), "--dataset_file", "refcocog"])
    assert tree(coco) == after


def test_refexp_pickle_of_python_2(coco: Path) -> None:
    # A list with one dict, whose byte strings (opcode U) hold UTF-8.
    text = b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xc3\\xa9'\np3\nsa."
    (coco / "refcocog/refs(umd).p").write_bytes(text)
    assert load_refs(coco / "refcocog/refs(umd).p") == [{"sent": "caf\xe9"}]


class Command:
    """Unpickles to the result of a shell command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_refexp_pickle_that_would_run_something(coco: Path, tmp_path: Path) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        write_refs(coco, [Command(f"touch {tmp_path / 'ran'}")], protocol)
        with pytest.raises(InputError, match=r"refs\(umd\)\.p is refused: it names \w+\.system"):
            convert_refexp(["--coco_path", str(coco)])
    write_refs(coco, [Path("x")])
    with pytest.raises(InputError, match=r"is refused: it names pathlib"):
        convert_refexp(["--coco_path", str(coco)])
    assert not (tmp_path / "ran").exists()
    assert not list((coco / "refcocog").glob("instances_*"))


def change_instances(mutate: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def spoil(root: Path) -> None:
        path = root / "refcocog/instances.json"
        value = json.loads(path.read_text())
        mutate(value)
        write_json(path, value)

    return spoil


def cut_pickle(root: Path) -> None:
    path = root / "refcocog/refs(umd).p"
    path.write_bytes(path.read_bytes()[:-40])


REFEXP_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda r: (r / "refcocog").rename(r / "x"), r"has none of the folders refcoco, refcoco\+, refcocog"),
    "no pickle": (lambda r: (r / "refcocog/refs(umd).p").unlink(), r"refs\(umd\)\.p is missing"),
    "no instances": (lambda r: (r / "refcocog/instances.json").unlink(), r"instances\.json is missing"),
    "cut pickle": (cut_pickle, r"refs\(umd\)\.p is refused"),
    "empty pickle": (lambda r: (r / "refcocog/refs(umd).p").write_bytes(b""), r"refs\(umd\)\.p is refused"),
    "text": (lambda r: (r / "refcocog/refs(umd).p").write_text("hello"), r"refs\(umd\)\.p is refused"),
    "a dict": (lambda r: write_refs(r, {}), r"expected a list of references, found a dict"),
    "no dict": (lambda r: write_refs(r, [3]), r"reference 0: "),
    "a split": (lambda r: write_refs(r, [reference(0, "testC", "x")]), r"reference 0: 'testC' is missing or no split"),
    "no split": (lambda r: write_refs(r, [{"ref_id": 1}]), r"reference 0: 'split' is missing"),
    "no object": (lambda r: write_refs(r, [reference(3, "val", "x")]), r"reference 0: .*annotation 73"),
    "odd sentence": (lambda r: write_refs(r, [reference(0, "val", "x") | {"sentences": [{"sent": 3}]}]), "no text"),
    "cut json": (lambda r: (r / "refcocog/instances.json").write_text("{"), r"instances\.json is not readable as JSON"),
    "no coco": (lambda r: (r / "refcocog/instances.json").write_text("[]"), r"instances\.json: images: expected"),
    "no images": (change_instances(lambda v: v.pop("images")), r"instances\.json: images: expected"),
    "no area": (change_instances(lambda v: v["annotations"][0].pop("area")), r"'area' is missing"),
}


@pytest.mark.parametrize("case", REFEXP_FAULTS)
def test_refexp_faults_are_named_and_nothing_is_written(coco: Path, case: str) -> None:
    spoil, words = REFEXP_FAULTS[case]
    spoil(coco)
    before = tree(coco)
    with pytest.raises(InputError, match=words):
        convert_refexp(["--coco_path", str(coco)])
    assert tree(coco) == before


def test_refexp_golden(shared: Path, tmp_path: Path) -> None:
    golden = shared / "data/coco/golden_converter"
    for name in ("refcoco", "refcocog"):
        (tmp_path / name).mkdir()
        for path in (shared / "data/coco" / name).iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    result = run_tool("convert_refexp_to_coco.py", "--coco_path", str(tmp_path))
    assert result.returncode == 0, result.stderr
    expected = tree(golden)
    assert len(expected) == 7
    assert {name: content for name, content in tree(tmp_path).items() if "instances_" in name} == expected


def test_a_users_error_is_one_line_and_status_2(tmp_path: Path) -> None:
    for name, flag in (("convert_davis_to_ytvos.py", "--davis_path"), ("convert_refexp_to_coco.py", "--coco_path")):
        result = run_tool(name, flag, str(tmp_path / "nowhere"))
        assert result.returncode == 2
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
