"""The truth of a demo's video: scores that are known, and files that are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.media import LiveSource, Media, open_media
from datasets.media_stream import Address
from engine.demo_truth import VideoTruth, read_truth, report
from engine.results import ResultFolder
from tests.benchmark_files import encode_rle
from tests.media_files import picture
from util.errors import InputError

SIZE = (30, 40)
FRAMES = 3


def square(left: int, side: int = 12) -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    mask[8 : 8 + side, left : left + side] = True
    return mask


MOVING = [square(2 + 3 * index) for index in range(FRAMES)]  # sides of 12 pixels, 3 to the right in every frame
STANDING = square(26)
TRUTH: dict[str, Any] = {
    "objects": {"a": [*map(encode_rle, MOVING)], "b": [encode_rle(STANDING), None, encode_rle(STANDING)]},
    "sentences": {"The  one that moves": ["a"], "both": ["a", "b"], "an elephant": []},
}


@pytest.fixture
def truth(tmp_path: Path) -> VideoTruth:
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    return read_truth(tmp_path / "truth.json")


@pytest.fixture
def media(tmp_path: Path) -> Media:
    (tmp_path / "in").mkdir()
    for number in range(FRAMES):
        Image.fromarray(picture(*SIZE, number)).save(tmp_path / "in" / f"{number}.png")
    return open_media(str(tmp_path / "in"))


def finished_run(root: Path, media: Media, masks: dict[str, Sequence[np.ndarray]]) -> Path:
    """The folder of a run that has found `masks`: prompt -> one per frame."""
    folder = ResultFolder(root, list(masks), Fraction(5), depth=2)
    for index, frame in enumerate(media):
        found = np.stack([own[index] for own in masks.values()])
        folder.add(media.frame_name(index), frame, found, [1.0] * len(masks), media.time_of(index))
    folder.finish()
    return folder.write_record({"complete": True})


def test_scores(tmp_path: Path, truth: VideoTruth, media: Media) -> None:
    """Perfect, still where it should move, empty where one is meant, and where nothing is."""
    empty = [np.zeros(SIZE, np.bool_)] * FRAMES
    masks = {"the one that MOVES": [MOVING[0]] * FRAMES, "both": empty, "an elephant": empty, "unknown": empty}
    file = finished_run(tmp_path / "out", media, masks)
    text = report(file, media, truth)
    record = json.loads(file.read_text())
    scores = [(prompt.get("J"), prompt.get("F"), prompt.get("J&F")) for prompt in record["prompts"]]
    j = (1 + 9 / 15 + 6 / 18) / 3  # frames 1 and 2: an overlap of 9 and 6 of 12 columns
    assert scores[0][0] == pytest.approx(j)
    assert scores[0][2] == pytest.approx((j + scores[0][1]) / 2)
    assert scores[1:] == [(0, 0, 0), (1, 1, 1), (None, None, None)]
    assert record["truth"]["J"] == pytest.approx((j + 1) / 3)
    assert record["complete"] is True
    lines = text.splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]] == ["the one that MOVES", "both", "an elephant", "mean"]
    assert f"{100 * j:.1f}" in lines[2]
    assert lines[-2:] == [f"results: {file}", f"look at: {tmp_path / 'out' / 'contact_sheet.jpg'}"]
    with Image.open(tmp_path / "out" / record["contact_sheet"]) as sheet:
        assert sheet.size == (2 * FRAMES * 204, 3 * (150 + 22))
        left, right = (np.asarray(sheet)[22:172, place : place + 200].astype(int) for place in (2 * 204, 3 * 204))
    assert np.abs(left - right).mean() > 3  # frame 1: the result and the truth differ
    finished_run(tmp_path / "out", media, {"both": empty})
    assert not (tmp_path / "out" / "contact_sheet.jpg").exists()


def test_without_a_truth_the_results_are_named(media: Media) -> None:
    assert report(Path("out/result.json"), media, None) == f"results: {Path('out/result.json')}"


def test_truth_of_both(truth: VideoTruth) -> None:
    assert (truth.length, truth.frame_size, list(truth.sentences)) == (
        3,
        SIZE,
        ["the one that moves", "both", "an elephant"],
    )
    np.testing.assert_array_equal(truth.mask("BOTH", 1), MOVING[1])
    np.testing.assert_array_equal(truth.mask("both", 2), MOVING[2] | STANDING)
    assert not truth.mask("an elephant", 0).any()


def test_what_cannot_be_compared(tmp_path: Path, truth: VideoTruth, media: Media) -> None:
    truth.check(media, ["unknown", "Both"])
    with pytest.raises(InputError, match="none of these sentences; it has: the one that moves; both; an elephant"):
        truth.check(media, ["unknown"])
    (tmp_path / "in" / "2.png").unlink()
    with pytest.raises(InputError, match=r"3 frames of 40x30, .*in has 2 frames of 40x30"):
        truth.check(open_media(str(tmp_path / "in")), ["both"])
    Image.fromarray(picture(20, 40)).save(tmp_path / "image.png")
    with pytest.raises(InputError, match="1 frames of 40x20"):
        truth.check(open_media(str(tmp_path / "image.png")), ["both"])
    with pytest.raises(InputError, match="- is a live source"):
        truth.check(LiveSource(Address("-", None, None, {}, None, ""), None, SIZE, None), ["both"])


FAULTS: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "expected JSON with 'objects'"),
    "a list": ("[]", "expected JSON with 'objects'"),
    "no sentences": (json.dumps({"objects": TRUTH["objects"]}), "KeyError: 'sentences'"),
    "no object": (json.dumps({**TRUTH, "objects": {}}), "sizes \\[\\], lengths \\[\\]"),
    "unknown object": (json.dumps({**TRUTH, "sentences": {"both": ["c"]}}), "and \\['c'\\] unknown"),
    "a mask too many": (
        json.dumps({**TRUTH, "objects": {**TRUTH["objects"], "b": [None] * 4}}),
        "lengths \\[3, 4\\]",
    ),
    "damaged mask": (
        json.dumps({**TRUTH, "objects": {"a": [{"size": [30, 40], "counts": "1"}] * 3}}),
        "do not fill 30x40",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_files_that_are_refused(tmp_path: Path, case: str) -> None:
    content, message = FAULTS[case]
    (tmp_path / "truth.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_truth(tmp_path / "truth.json")
    assert str(caught.value).startswith(f"--truth {tmp_path / 'truth.json'}: ")
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.json does not exist"):
        read_truth(tmp_path / "nothing.json")
