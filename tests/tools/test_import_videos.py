"""`import_videos.py`: every form of masks gives the same data set, runs can be repeated, bad input is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datasets.mevis import open_mevis
from datasets.validation import run_checks
from tests.own_videos import COUNT, SIZE, run_lengths, shapes, write_images, write_json, write_palette, write_table
from tests.own_videos import write_video as write
from tools.data import check_dataset
from tools.data.import_videos import main
from tools.data.importing.plan import _splits
from tools.data.importing.tables import NO_TARGET, Row, read_table
from util.errors import InputError, run_script

RowData = dict[str, Any]
TOOL = Path(__file__).resolve().parents[2] / "tools/data/import_videos.py"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two videos and masks of the first in every form."""
    folder, clip = tmp_path_factory.mktemp("media"), shapes()
    masks = clip.labels == 1
    write(folder / "videos/walk.mp4", clip.frames)
    write_images(folder / "videos/sub/Mein Film", shapes(1).frames, suffix=".jpg")
    write(folder / "masks/walk.mkv", masks)
    write_images(folder / "masks/walk", masks)
    write_palette(folder / "masks/palette", clip)
    write_json(folder / "masks/walk.json", run_lengths(masks))
    return folder


@pytest.fixture
def own(media: Path, tmp_path: Path) -> Path:
    """A copy of `media` to work in."""
    shutil.copytree(media, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run(own: Path, rows: list[RowData], *more: str, table: str = "table.csv") -> Path:
    """Import `rows`; returns the data set."""
    path = write_table(own / table, rows)
    main([*arguments(own, path), *more])
    return own / "out"


def arguments(own: Path, table: Path) -> list[str]:
    return ["--table", str(table), "--videos", str(own / "videos"), "--out", str(own / "out"), "--workers", "1"]


def masks_of(out: Path, split: str = "train", version: int = 1) -> dict[str, np.ndarray]:
    """Sentence -> masks (T, H, W), of a data set without faults."""
    data = open_mevis(out, split, version)
    assert run_checks(data.checks(full=True)) == []
    assert data.ground_truth is not None
    return {
        item.text: np.stack([data.ground_truth.mask(video, item, index) for index in range(len(video.frames))])
        for video in data.videos
        for item in video.expressions
    }


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a data set but the state of the import (and what atomic writing leaves when it is killed)."""
    found = [path for path in sorted(folder.rglob("[!.]*")) if path.is_file() and ".import" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def row(sentence: str = "the box", masks: Any = "masks/walk", video: str = "walk.mp4", **more: Any) -> RowData:
    return {"video": video, "sentence": sentence, "masks": masks, "split": "train", **more}


def test_every_form_of_masks(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = shapes()
    rgb = np.repeat((clip.labels == 1)[..., None], 3, axis=3).astype(np.uint8)
    write_images(own / "masks/colours", rgb * 255)
    listed = [r and {**r, "counts": runs_of(clip.labels[i] == 1)} for i, r in enumerate(run_lengths(clip.labels == 1))]
    rows = [
        row("a video", "masks/walk.mkv"),
        row("PNGs", "masks/walk"),
        row("coloured", "masks/colours"),
        row("object 1", "masks/palette", object=1),
        row("objects", "masks/palette", object=[1, 2]),
        row("all", "masks/palette"),
        row("JSON", "masks/walk.json"),
        row("lists", listed),
        row("the same", "masks/walk.json"),
        row("nothing", NO_TARGET),
    ]
    out = run(own, rows, table="table.json")
    found = masks_of(out)
    expected = dict.fromkeys(found, clip.labels == 1)
    expected |= {"objects": (clip.labels == 1) | (clip.labels == 2), "all": clip.labels > 0}
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    assert list(found) == [entry["sentence"] for entry in rows[:-1]]
    again = masks_of(out, version=2)
    assert not again.pop("nothing").any()
    assert again.keys() == found.keys()
    check_dataset.main(["--dataset_file", "mevis", "--mevis_path", str(out)])

    meta = json.loads((out / "train/meta_expressions.json").read_text())["videos"]["walk"]["expressions"]
    assert meta["6"]["anno_id"] == meta["8"]["anno_id"]  # one file, one annotation
    assert len({tuple(entry["anno_id"]) for entry in meta.values()}) == 8
    report = json.loads((out / "import.json").read_text())
    counts = {"split": "train", "videos": 1, "frames": COUNT, "expressions": 10, "warnings": 1}
    assert report["splits"] == [counts]
    printed = capsys.readouterr().out
    assert "has objects 1, 2" in printed
    assert "no video is in split valid_u" in printed


def runs_of(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths."""
    flat = np.concatenate(([0], mask.ravel(order="F").astype(int), [2]))
    ends = np.flatnonzero(np.diff(flat) != 0)
    return np.diff(np.concatenate(([0], ends))).tolist()


def test_parts_rates_and_sizes(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = shapes()
    truth = clip.labels == 1
    write_images(own / "masks/part", truth[2:7])
    write_images(own / "masks/chosen", truth[2:7:2])
    write_images(own / "masks/half", truth[:, ::2, ::2])
    part = {"start": 2, "end": 6}
    rows = [row("whole", **part), row("part", "masks/part", **part), row("chosen", "masks/chosen", **part)]
    rows += [row("half", "masks/half"), row("its own", "masks/walk", video="walk.mp4", split="valid_u", **part)]
    out = run(own, rows, "--fps", "4", "--max_side", "64")
    small = truth[:, 1::2, 1::2] | truth[:, ::2, 1::2] | truth[:, 1::2, ::2] | truth[:, ::2, ::2]
    found = masks_of(out)
    for name in ("whole", "part", "chosen"):
        assert found[name].shape == (3, 48, 64)
        assert not (found[name] & ~small[2:7:2]).any()
        assert np.array_equal(found[name], found["whole"])
    assert np.array_equal(found["half"], truth[::2, ::2, ::2])
    assert sorted(path.name for path in (out / "train/JPEGImages").iterdir()) == ["walk", "walk_2-6"]
    frame = np.asarray(Image.open(out / "train/JPEGImages/walk_2-6/00001.jpg")).astype(float)
    source = clip.frames[4].reshape(48, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(frame - source).mean() < 8
    printed = capsys.readouterr().out
    assert "the masks are 64x48 (width x height), the frames 128x96 (width x height): scaled to the nearest" in printed
    assert "walk.mp4 is in train and valid_u" in printed


def test_repeated_runs(own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is finished is not made again, faults change nothing, and the result is that of a new import."""
    other = row("the other", NO_TARGET, "sub/Mein Film")
    out = run(own, [row(), other])
    frame = out / "train/JPEGImages/walk/00000.jpg"
    before, made = files(out), frame.stat().st_ino
    assert (out / "train/JPEGImages/sub_Mein_Film/00007.jpg").is_file()
    os.utime(own / "videos/walk.mp4")
    capsys.readouterr()
    run(own, [row(), other])
    assert "2 of 2 videos are finished already" in capsys.readouterr().out
    assert files(out) == before

    image = own / "videos/sub/Mein Film/frame_3.jpg"
    sound = image.read_bytes()
    image.write_bytes(sound[: len(sound) // 2])  # shows when it is decoded, after the checks
    changed = [row("another sentence"), row("a second", "masks/walk.json"), other]
    with pytest.raises(InputError, match="1 faults in"):
        run(own, changed)
    assert "row 4: " in capsys.readouterr().out
    assert files(out) == before
    image.write_bytes(sound)
    run(own, changed)
    assert "2 of 2 videos are finished already" in capsys.readouterr().out  # one of them since the faulty run
    assert frame.stat().st_ino != made
    again = files(out)
    assert set(masks_of(out)) == {"another sentence", "a second"}

    (own / "out").rename(own / "old")
    main([*arguments(own, own / "table.csv")[:-1], "2"])
    assert files(out) == again
    run(own, [row()])
    assert [path.name for path in (out / "train/JPEGImages").iterdir()] == ["walk"]
    run(own, [row(split="valid_u")])
    assert "train is of an earlier import and stays" in capsys.readouterr().out
    assert masks_of(out).keys() == masks_of(out, "valid_u").keys()


def test_killed_at_any_moment(own: Path) -> None:
    """kill -9 as soon as files appear: afterwards the data set of an undisturbed run."""
    rows = [row(), row("the other", NO_TARGET, "sub/Mein Film"), row("a part", start=2), row("last", end=3)]
    before = files(run(own, rows))
    report = before.pop("import.json")
    table, out = own / "table.csv", own / "out"
    out.rename(own / "old")
    for moment in (".import/waiting/*/*/record.json", "*/JPEGImages/*"):
        with subprocess.Popen([sys.executable, str(TOOL), *arguments(own, table)], cwd=own) as process:
            while process.poll() is None and not any(out.glob(moment)):
                time.sleep(0.002)
            process.kill()
        assert not (out / "train/meta_expressions.json").exists() or files(out).items() >= before.items()
    assert files(run(own, rows)) == {**before, "import.json": report}


def test_without_masks_for_inference(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"video": "walk.mp4", "sentence": "the box, or the  disc", "id": "a"}, {**row("b"), "split": ""}]
    out = run(own, rows, "--split", "valid")
    data = open_mevis(out, "valid")
    assert [(item.id, item.text) for item in data.videos[0].expressions] == [("a", "the box, or the disc"), ("0", "b")]
    assert not (out / "valid/mask_dict.json").exists()
    assert "row 3: split valid has no masks, these are left alone" in capsys.readouterr().out
    check_dataset.main(["--dataset_file", "mevis", "--mevis_path", str(out)])


def test_an_object_that_never_shows(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(own, [row("the ghost", "masks/palette", object=99)])
    assert "row 2: walk.mp4: the target of 'the ghost' is visible in no frame" in capsys.readouterr().out
    assert not masks_of(out, version=2)["the ghost"].any()
    assert not (out / "train/meta_expressions.json").exists()


def damaged(own: Path) -> list[RowData]:
    data = (own / "videos/walk.mp4").read_bytes()
    (own / "videos/half.mp4").write_bytes(data[: len(data) // 2])
    return [row(video="half.mp4")]


def fewer_masks(own: Path) -> list[RowData]:
    (own / "masks/walk/frame_3.png").unlink()
    return [row()]


def other_proportions(own: Path) -> list[RowData]:
    write_images(own / "masks/square", np.ones((COUNT, 96, 96), bool))
    return [row(masks="masks/square")]


def two_sizes(own: Path) -> list[RowData]:
    write_images(own / "masks/walk", np.ones((1, 96, 96), bool), first=2)
    return [row()]


def broken_mask(own: Path) -> list[RowData]:
    path = own / "masks/walk/frame_5.png"
    path.write_bytes(path.read_bytes()[:-40])
    return [row()]


def several(own: Path) -> list[RowData]:
    return [row(""), *[row(f"sentence {number}", "masks/none") for number in range(3)], row(video="no.mp4")] + [
        row(str(number), id=f"../{number}") for number in range(10)
    ]


BAD_ROWS: dict[str, tuple[Callable[[Path], list[RowData]], str]] = {
    "missing video": (lambda own: [row(video="no.mp4")], "row 2: no.mp4: no such video in"),
    "missing masks": (lambda own: [row(masks="masks/no")], "row 2: masks/no: no such masks in"),
    "damaged video": (damaged, "half.mp4: expected an image, a video or a folder"),
    "no video": (lambda own: [row(video="../table.csv")], "expected a path inside of the folder of the videos"),
    "text as a video": (lambda own: [row(masks="table.csv")], "cannot be read as any of them"),
    "fewer masks": (fewer_masks, "masks/walk: 7 masks, expected 8"),
    "other proportions": (other_proportions, "these proportions differ"),
    "two sizes": (two_sizes, "the masks of a video have one size, but mask 0 is 128x96"),
    "broken mask": (broken_mask, "masks/walk/frame_5.png: the mask does not decode"),
    "empty folder": (lambda own: [row(masks="videos")], "expected a folder of PNGs"),
    "empty sentence": (lambda own: [row("  ")], "row 2: the sentence is empty"),
    "duplicate rows": (lambda own: [row("A box"), row("a  BOX")], "rows 2, 3: walk.mp4: duplicate rows, 'A box'"),
    "one id twice": (lambda own: [row("a", id="x"), row("b", id="X")], "rows 2, 3: walk.mp4: id 'X' twice"),
    "unsafe id": (lambda own: [row(id="a/b")], "row 2: id is 'a/b': it becomes the name of a folder"),
    "no masks": (lambda own: [row(masks="")], "row 2: no masks: only split valid goes without"),
    "unknown split": (lambda own: [row(split="test")], "split is 'test', expected one of train, valid_u, valid"),
    "part outside": (lambda own: [row(start=5, end=8)], "frames 5 to 8 are asked for, the video has 0 to 7"),
    "part reversed": (lambda own: [row(start=5, end=4)], "the last frame (end: 4) comes before the first (start: 5)"),
    "no frame number": (lambda own: [row(start="1s")], "start is '1s', expected the number of a frame"),
    "no object number": (lambda own: [row(object="dog")], "object is 'dog', expected the number of an object"),
    "object of a video": (lambda own: [row(masks="masks/walk.mkv", object=1)], "but this is another file"),
    "several": (several, "and 3 more"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(own: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The fault is listed, the exit status 2, and there is no data set."""
    arrange, expected = BAD_ROWS[case]
    table = write_table(own / "table.csv", arrange(own))
    with pytest.raises(SystemExit) as end:
        run_script(lambda: main(arguments(own, table)))
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert expected in printed.out
    assert printed.err.splitlines()[-1].startswith("error: ")
    assert files(own / "out") == {}
    assert json.loads((own / "out/.import/faults.json").read_text())


BAD_JSON: dict[str, tuple[Any, str]] = {
    "another row": (["a"], "row 1: expected an object with video, sentence"),
    "another type": ([row(3)], "row 1: sentence is 3, expected text"),
    "surrogate": ([row("\ud800")], "expected text"),
    "no run lengths": ([row(masks=[1] * COUNT)], "row 1: the list of masks: mask 0: no run-length mask"),
    "damaged run lengths": (
        [row(masks=[None] * 7 + [{"size": list(SIZE), "counts": "ab"}])],
        "row 1: the list of masks: mask 7: 'counts' is not COCO's text form",
    ),
    "too many": ([row(masks=[None] * 9)], "the list of masks: 9 masks, expected 8"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json(own: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows, expected = BAD_JSON[case]
    with pytest.raises(InputError, match="1 faults"):
        run(own, rows, table="table.json")
    assert expected in capsys.readouterr().out


BAD_TABLES: dict[str, tuple[str, bytes, str]] = {
    "missing": ("no.csv", b"", "is missing"),
    "spreadsheet": ("table.xlsx", b"PK", "called .csv or .json"),
    "not UTF-8": ("table.csv", "video,sentence\na,größer".encode("latin-1"), "save it as CSV UTF-8"),
    "no column": ("table.csv", b"file,sentence\na,b\n", "lacks video"),
    "empty": ("table.csv", b"", "lacks video, sentence"),
    "no row": ("table.csv", b"video,sentence\n", "has no row"),
    "no list": ("table.json", b"{}", "expected a list of rows"),
    "no JSON": ("table.json", b"[", "not readable as JSON"),
    "open quote": ("table.csv", b'video,sentence\na,"b\n', "not readable as CSV"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables(tmp_path: Path, case: str) -> None:
    name, content, expected = BAD_TABLES[case]
    path = tmp_path / name
    if content or case == "empty":
        path.write_bytes(content)
    with pytest.raises(InputError, match=expected):
        read_table(path)


def test_folders_that_will_not_do(own: Path) -> None:
    table = write_table(own / "table.csv", [row()])
    with pytest.raises(InputError, match=r"--videos .*found no folder"):
        main(["--table", str(table), "--videos", str(own / "no"), "--out", str(own / "out")])
    with pytest.raises(InputError, match="is not empty and was not made by this program"):
        main(["--table", str(table), "--videos", str(own / "videos"), "--out", str(own / "masks")])
    with pytest.raises(InputError, match=r"--valid_share is 1\.0, expected"):
        main([*arguments(own, table), "--valid_share", "1"])


def test_tables_of_spreadsheets(tmp_path: Path) -> None:
    """Byte order mark, semicolons, blank lines, capitals, unquoted commas, columns of no concern."""
    path = tmp_path / "table.csv"
    text = '\ufeffVideo;Sentence;Masks;remark\r\na.mp4;"a; b";NONE;x\r\n;;;\r\nb.mp4;c, d;m;\r\ne;f;g;h;i\r\n'
    path.write_bytes(text.encode())
    rows, faults, warnings = read_table(path)
    assert [(each.number, each.video, each.sentence, each.masks) for each in rows] == [
        (2, "a.mp4", "a; b", NO_TARGET),
        (4, "b.mp4", "c, d", "m"),
    ]
    assert [str(fault) for fault in faults] == [
        "row 5: 5 cells under 4 columns: a sentence with a comma belongs in quotes"
    ]
    assert "column 'remark' is not known" in str(warnings[0])


@given(st.integers(1, 40), st.floats(0, 0.99), st.randoms())
def test_shares(count: int, share: float, order: Any) -> None:
    """Whole videos are shared out, in the same way for any order; both splits get one if there are two."""
    rows = [Row(place, f"{place % count}.mp4", "s", None, (), "", "", None, None) for place in range(2 * count)]
    splits = _splits(rows, None, share, [])
    assert all(splits[place] == splits[place + count] for place in range(count))
    found = [splits[place] for place in range(count)]
    wanted = 0 if share == 0 or count == 1 else min(max(round(share * count), 1), count - 1)
    assert found.count("valid_u") == wanted
    order.shuffle(rows)
    assert _splits(rows, None, share, []) == splits
