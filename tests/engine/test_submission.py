"""Submissions: what passes the check, what does not, and that a zip of equal masks is always the same bytes."""

from __future__ import annotations

import io
import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from datasets.mevis import open_mevis
from datasets.ref_davis import open_ref_davis
from datasets.ref_ytvos import open_ref_ytvos
from datasets.video_index import VideoDataset
from engine.submission import expected_files, folder_faults, make_submission, mask_fault, zip_faults
from tests.benchmark_files import write_davis, write_mevis, write_ytvos
from tools.submission import main
from util.errors import InputError


def png(values: np.ndarray) -> bytes:
    """Greyscale PNG bytes of (H, W) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def write_masks(folder: Path, dataset: VideoDataset, order: int = 0) -> list[str]:
    """A right mask for every expected file, written in an order that `order` shuffles; returns the names."""
    sizes = expected_files(dataset)
    names = sorted(sizes)
    random.Random(order).shuffle(names)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(sum(name.encode()))
        (folder / name).write_bytes(png(rng.integers(0, 2, sizes[name], np.uint8) * np.uint8(255)))
    return sorted(names)


@pytest.fixture
def mevis(tmp_path: Path) -> VideoDataset:
    write_mevis(tmp_path / "data", "valid")
    return open_mevis(tmp_path / "data", "valid")


@pytest.fixture
def masks(tmp_path: Path, mevis: VideoDataset) -> Path:
    write_masks(tmp_path / "Annotations", mevis)
    return tmp_path / "Annotations"


def test_every_frame_of_every_expression_is_expected(mevis: VideoDataset) -> None:
    sizes = expected_files(mevis)
    assert len(sizes) == 5 * 3 + 1
    assert sizes["one/4/00002.png"] == (24, 32)
    assert sizes["two/0/00000.png"] == (32, 20)


def test_zip_holds_exactly_the_masks_at_its_top(masks: Path, mevis: VideoDataset) -> None:
    make_submission(masks, masks.with_suffix(".zip"), mevis)
    with zipfile.ZipFile(masks.with_suffix(".zip")) as archive:
        assert archive.namelist() == sorted(expected_files(mevis))
        assert all(archive.read(name) == (masks / name).read_bytes() for name in archive.namelist())
    assert zip_faults(masks.with_suffix(".zip"), expected_files(mevis), "") == []


def test_ref_youtube_vos_zips_lie_under_annotations(tmp_path: Path) -> None:
    write_ytvos(tmp_path / "data", "valid", ["a", "b"], objects=False, frames=2)
    dataset = open_ref_ytvos(tmp_path / "data", allow_partial=True)
    names = write_masks(tmp_path / "masks", dataset)
    make_submission(tmp_path / "masks", tmp_path / "a.zip", dataset)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [f"Annotations/{name}" for name in names]


def test_equal_masks_give_equal_zips(tmp_path: Path, mevis: VideoDataset) -> None:
    zips = []
    for order in range(2):
        folder = tmp_path / f"run{order}"
        names = write_masks(folder, mevis, order)
        os.utime(folder / names[0], (order * 1e9, order * 1e9))
        (folder / names[1]).chmod(0o600 + order * 0o44)
        make_submission(folder, tmp_path / f"{order}.zip", mevis)
        zips.append((tmp_path / f"{order}.zip").read_bytes())
    assert zips[0] == zips[1]
    make_submission(tmp_path / "run0", tmp_path / "0.zip", mevis)
    assert (tmp_path / "0.zip").read_bytes() == zips[0]


def colour(folder: Path) -> None:
    Image.new("RGB", (32, 24)).save(folder / "one/0/00000.png")


def palette(folder: Path) -> None:
    Image.new("P", (32, 24)).save(folder / "one/0/00000.png")


def bits(mode: str) -> Callable[[Path], None]:
    return lambda folder: Image.new(mode, (32, 24)).save(folder / "one/0/00000.png")


def values(*numbers: int) -> Callable[[Path], object]:
    image = np.resize(np.array(numbers, np.uint8), (24, 32))
    return lambda folder: (folder / "one/0/00000.png").write_bytes(png(image))


def cut(folder: Path) -> None:
    data = (folder / "one/0/00000.png").read_bytes()
    (folder / "one/0/00000.png").write_bytes(data[: len(data) // 2])


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: (f / "one/0/00000.png").unlink(), "one/0/00000.png is missing"),
    "too many": (lambda f: (f / "one/0/00003.png").write_bytes(b""), "one/0/00003.png is not expected"),
    "stray": (lambda f: (f / ".DS_Store").write_bytes(b""), ".DS_Store is not expected"),
    "other video": (lambda f: (f / "one/0").rename(f / "one/9"), "one/0/00000.png is missing"),
    "empty": (lambda f: (f / "one/0/00000.png").write_bytes(b""), "one/0/00000.png is not a PNG file"),
    "jpeg": (lambda f: Image.new("L", (32, 24)).save(f / "one/0/00000.png", "JPEG"), "is not a PNG file"),
    "cut": (cut, "one/0/00000.png does not decode"),
    "colour": (colour, "one/0/00000.png has 8 bits and PNG colour type 2"),
    "palette": (palette, "one/0/00000.png has"),
    "1 bit": (bits("1"), "one/0/00000.png has 1 bits"),
    "16 bits": (bits("I;16"), "one/0/00000.png has 16 bits"),
    "size": (
        lambda f: (f / "one/0/00000.png").write_bytes(png(np.zeros((32, 24), np.uint8))),
        "one/0/00000.png is 24x32, its frame 32x24",
    ),
    "0 and 1": (values(0, 1), "one/0/00000.png holds values other than 0 and 255: 1"),
    "254": (values(0, 255, 254), "holds values other than 0 and 255: 254"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_fault_is_named_and_no_zip_is_written(masks: Path, mevis: VideoDataset, case: str) -> None:
    spoil, words = SPOILED[case]
    make_submission(masks, masks.with_name("old.zip"), mevis)
    before = masks.with_name("old.zip").read_bytes()
    spoil(masks)
    for name in ("new.zip", "old.zip"):
        with pytest.raises(InputError, match=words):
            make_submission(masks, masks.with_name(name), mevis)
    assert not masks.with_name("new.zip").exists()
    assert masks.with_name("old.zip").read_bytes() == before


def test_the_first_ten_faults_are_named(masks: Path, mevis: VideoDataset) -> None:
    for path in masks.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"16 faults") as caught:
        make_submission(masks, masks.with_name("a.zip"), mevis)
    assert str(caught.value).count("is not a PNG file") == 10


@given(arrays(np.uint8, (3, 5), elements=st.sampled_from([0, 0, 255, 255, 1, 128, 254])))
def test_only_0_and_255_pass(mask: np.ndarray) -> None:
    fault = mask_fault(png(mask), (3, 5))
    assert (fault is None) == bool(np.isin(mask, (0, 255)).all())


def test_faults_of_zips(masks: Path, mevis: VideoDataset, tmp_path: Path) -> None:
    sizes = expected_files(mevis)
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as handle:
        for path in sorted(masks.rglob("*.png")):
            handle.write(path, f"Annotations/{path.relative_to(masks).as_posix()}")
        handle.writestr("Annotations/empty/", b"")  # a folder
    assert zip_faults(archive, sizes, "Annotations/") == []
    elsewhere = "all masks lie in another folder than expected: Annotations/one/0/00000.png instead of one/0/00000.png"
    assert zip_faults(archive, sizes, "") == [elsewhere]
    assert folder_faults(masks.parent, sizes) == [elsewhere]
    assert folder_faults(masks / "one", sizes) == [elsewhere.replace("Annotations/one/", "")]
    with zipfile.ZipFile(archive, "a") as handle, pytest.warns(UserWarning, match="Duplicate"):
        handle.writestr("Annotations/one/0/00000.png", b"")
    faults = zip_faults(archive, sizes, "Annotations/")
    assert faults[0] == "Annotations/one/0/00000.png is there 2 times"
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(InputError, match="not a readable zip"):
        zip_faults(archive, sizes, "Annotations/")
    with pytest.raises(InputError, match="the zip file is missing"):
        zip_faults(tmp_path / "b.zip", sizes, "")
    with pytest.raises(InputError, match="the folder of masks is missing"):
        folder_faults(tmp_path / "b", sizes)


def test_a_benchmark_without_a_server(tmp_path: Path) -> None:
    write_davis(tmp_path)
    with pytest.raises(InputError, match="davis has no submission server"):
        make_submission(tmp_path, tmp_path / "a.zip", open_ref_davis(tmp_path))


def test_tool_checks_folders_and_zips(masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--dataset_file", "mevis", "--mevis_path", str(tmp_path / "data")]
    main(["check", str(masks), *flags])
    assert not masks.with_name("Annotations.zip").exists()
    main(["zip", str(masks), *flags])
    main(["check", str(masks.with_name("Annotations.zip")), *flags])
    assert capsys.readouterr().out.count("16 masks, no faults") == 3
    main(["zip", str(masks), *flags, "--output", str(tmp_path / "out/b.zip")])
    assert (tmp_path / "out/b.zip").read_bytes() == masks.with_name("Annotations.zip").read_bytes()
    (masks / "one/0/00000.png").unlink()
    for command in ("check", "zip"):
        with pytest.raises(InputError, match=r"one/0/00000\.png is missing"):
            main([command, str(masks), *flags, "--output", str(tmp_path / "c.zip")])
    assert not (tmp_path / "c.zip").exists()
    with pytest.raises(InputError, match="expected the folder"):
        main(["zip", str(masks.with_name("Annotations.zip")), *flags])
    with pytest.raises(InputError, match=r"b\.zip is in the folder of the masks, which holds nothing else"):
        main(["zip", str(masks), *flags, "--output", str(masks / "one" / "b.zip")])
    assert not list(masks.rglob("*.zip"))


def test_tool_takes_either_version_of_mevis(masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mevis(tmp_path / "two", "valid")
    (tmp_path / "two/valid/meta_expressions.json").rename(tmp_path / "data/valid/meta_expressions_v2.json")
    meta = tmp_path / "data/valid/meta_expressions.json"
    first = json.loads(meta.read_text())
    del first["videos"]["two"]
    meta.write_text(json.dumps(first))
    flags = ["--dataset_file", "mevis", "--mevis_path", str(tmp_path / "data")]
    main(["zip", str(masks), *flags, "--version", "2"])
    assert "16 masks, no faults" in capsys.readouterr().out
    for version in ([], ["--version", "1"]):
        with pytest.raises(InputError, match=r"two/0/00000\.png is not expected"):
            main(["check", str(masks), *flags, *version])


def test_published_predictions(shared: Path, tmp_path: Path) -> None:
    dataset = open_mevis(shared / "data/mevis", "valid")
    make_submission(shared / "data/metrics/mevis_pred_osvos", tmp_path / "a.zip", dataset)
    assert zip_faults(tmp_path / "a.zip", expected_files(dataset), "") == []
