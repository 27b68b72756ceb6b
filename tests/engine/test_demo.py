"""From media and sentences to files, with a small real network."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from datasets.media import Frame, Media, open_media
from engine.demo import clean_prompts, segment_media
from engine.infer import stream
from engine.segmentation import segment
from models.samwise import SAMWISE
from tests.conftest import build_micro
from tests.media_files import picture, times_in, write_video
from util.errors import InputError
from util.paths import writable_folder

PROMPTS = ["the red disc", "das größte Quadrat", "../../x"]


def run(model: SAMWISE, media: Media, folder: Path, **options: Any) -> dict[str, Any]:
    path = segment_media(model, media, options.pop("prompts", PROMPTS), folder, progress=False, **options)
    assert path == folder / "result.json"
    return json.loads(path.read_text())


def mask(folder: Path, record: dict[str, Any], prompt: int, frame: int) -> np.ndarray:
    return np.asarray(Image.open(folder / record["prompts"][prompt]["masks"][frame])) == 255


@pytest.mark.parametrize("window", [1, 4, 8])
def test_video_gives_the_masks_of_the_streaming_api(micro_model: SAMWISE, tmp_path: Path, window: int) -> None:
    media = open_media(str(write_video(tmp_path / "video.mp4", 6, (47, 64), pix_fmt="yuv444p")))
    record = run(micro_model, media, tmp_path / "out", window=window, threshold=0.4)
    assert record["input"] == {"path": media.path, "kind": "video", "height": 47, "width": 64, "fps": 10}
    assert record["complete"] is True
    assert record["frames"] == [f"{number:05d}" for number in range(6)]
    assert [prompt["folder"] for prompt in record["prompts"]] == ["the_red_disc", "das_größte_Quadrat", "x"]
    expected = list(stream(micro_model, PROMPTS, media, window=window))
    for number, result in enumerate(expected):
        for index, true in enumerate(result.masks(0.4)):
            np.testing.assert_array_equal(mask(tmp_path / "out", record, index, number), true)
            assert record["prompts"][index]["areas"][number] == true.sum()
    scores = [prompt["object_scores"] for prompt in record["prompts"]]
    np.testing.assert_allclose(scores, [[float(r.object_scores[i]) for r in expected] for i in range(3)], rtol=1e-5)
    for name in [prompt["video"] for prompt in record["prompts"]] + [record["all_prompts"]]:
        video = open_media(str(tmp_path / "out" / name))
        assert (video.length, video.fps, video.frame_size) == (6, 10, (48, 64))
    assert set(record["times"]) == {"decode", "model", "write", "total", "fps"}
    assert all(value > 0 for value in record["times"].values())


VARIABLE = [0, 100, 150, 400, 450, 500, 900, 950, 1000, 1500, 2000, 3000]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(("fps", "shown"), [(None, VARIABLE), (2, [0, 500, 1000, 1500, 2000, 3000])])
def test_frames_of_a_variable_rate_keep_their_times(
    micro_model: SAMWISE, tmp_path: Path, suffix: str, fps: float | None, shown: list[int]
) -> None:
    path = write_video(tmp_path / f"variable.{suffix}", len(VARIABLE), times_ms=VARIABLE)
    seconds = pytest.approx([number / 1000 for number in shown], abs=0.0011)
    record = run(micro_model, open_media(str(path), fps), tmp_path / "out", prompts=["one"])
    saved = segment(micro_model, path, "one", fps=fps).save(tmp_path / "saved")
    for folder, own in ((tmp_path / "out", record), (saved.parent, json.loads(saved.read_text()))):
        assert own["frame_times"] == seconds
        for name in ("one.mp4", "all_prompts.mp4"):
            assert times_in(folder / name) == seconds
            with av.open(str(folder / name)) as container:
                assert container.duration / av.time_base == pytest.approx(
                    3 + 1 / open_media(str(path), fps).fps, abs=0.01
                )


@pytest.mark.parametrize(("fps", "times", "rate"), [(None, [0, 1, 2, 3, 4, 5, 6, 7], 30), (10, [0, 3, 6], 10)])
def test_a_constant_rate_is_written_as_such(
    micro_model: SAMWISE, tmp_path: Path, fps: float | None, times: list[int], rate: int
) -> None:
    """Also where the container rounds times, here to milliseconds."""
    path = write_video(tmp_path / "constant.mkv", 8, rate=Fraction(30))
    record = run(micro_model, open_media(str(path), fps), tmp_path / "out", prompts=["one"])
    assert record["frame_times"] == pytest.approx([number / 30 for number in times], abs=0.001)
    expected = [pytest.approx(number / rate, abs=1e-6) for number in range(len(times))]
    assert times_in(tmp_path / "out" / "one.mp4") == expected


def test_image_and_facts(micro_model: SAMWISE, tmp_path: Path) -> None:
    Image.fromarray(picture(30, 40)).save(tmp_path / "image.png")
    facts = {"untrained": True, "flags": {"seed": 0}}
    record = run(micro_model, open_media(str(tmp_path / "image.png")), tmp_path / "out", facts=facts)
    assert (record["untrained"], record["flags"], record["input"]["fps"]) == (True, {"seed": 0}, None)
    assert record["frames"] == ["00000"]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "all_prompts.jpg", "result.json", "the_red_disc", "das_größte_Quadrat", "x"
    }  # fmt: skip
    assert mask(tmp_path / "out", record, 0, 0).shape == (30, 40)


def test_folder_keeps_the_names_of_its_frames(micro_model: SAMWISE, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in (1, 2, 10):
        Image.fromarray(picture(30, 40, number)).save(tmp_path / "in" / f"f{number}.jpg")
    record = run(micro_model, open_media(str(tmp_path / "in"), fps=4), tmp_path / "out", prompts=["one"])
    assert record["frames"] == ["f1", "f2", "f10"]
    assert record["prompts"][0]["masks"][2] == "one/masks/f10.png"
    assert open_media(str(tmp_path / "out" / "one.mp4")).fps == 4


@pytest.mark.parametrize("size", [(1, 1), (5, 5), (1, 90), (2160, 3840)])
def test_any_size_of_image(micro_model: SAMWISE, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.fromarray(picture(*size)).save(tmp_path / "image.png")
    record = run(micro_model, open_media(str(tmp_path / "image.png")), tmp_path / "out", prompts=["one"])
    assert mask(tmp_path / "out", record, 0, 0).shape == size


def test_no_object_scores_are_null(tmp_path: Path) -> None:
    Image.fromarray(picture(30, 40)).save(tmp_path / "image.png")
    model = build_micro(pred_obj_score=False)
    record = run(model, open_media(str(tmp_path / "image.png")), tmp_path / "out", prompts=["one"])
    assert record["prompts"][0]["object_scores"] == [None]


class UnexpectedError(Exception):
    pass


def failing_media(frames: int, error: BaseException) -> Media:
    def make() -> Iterator[Frame]:
        for number in range(frames):
            yield picture(30, 40, number)
        raise error

    return Media("camera", "video", (30, 40), Fraction(10), None, None, make)


@pytest.mark.parametrize(
    ("error", "done"),
    [
        (InputError("frame 6 is damaged"), 6),
        (OSError("disk gone"), 6),
        (KeyboardInterrupt(), 4),
        (UnexpectedError(), 4),
    ],
)
def test_what_was_done_before_an_error_is_complete(
    micro_model: SAMWISE, tmp_path: Path, error: BaseException, done: int
) -> None:
    """All frames before one that cannot be had; whole clips before Ctrl-C and defects."""
    with pytest.raises(type(error)) as caught:
        segment_media(micro_model, failing_media(6, error), ["one", "two"], tmp_path, window=4, progress=False)
    assert caught.value is error
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["complete"] is False
    assert record["frames"] == [f"{number:05d}" for number in range(done)]
    for name in ("one.mp4", "two.mp4", "all_prompts.mp4"):
        assert len(list(open_media(str(tmp_path / name)))) == done
    assert not list(tmp_path.rglob(".*"))


def test_a_video_is_not_replaced_by_its_results(micro_model: SAMWISE, tmp_path: Path) -> None:
    media = open_media(str(write_video(tmp_path / "one.mp4", 2)))
    before = (tmp_path / "one.mp4").read_bytes()
    with pytest.raises(InputError, match=r"one\.mp4: results would replace it"):
        segment_media(micro_model, media, ["one"], tmp_path, progress=False)
    with pytest.raises(InputError, match=r"one\.mp4: results would replace it"):
        segment(micro_model, media.path, "one").save(tmp_path)
    assert (tmp_path / "one.mp4").read_bytes() == before


def test_sigterm_completes_what_is_done(micro_model: SAMWISE, tmp_path: Path) -> None:
    def frames() -> Iterator[Frame]:
        for number in range(6):
            yield picture(30, 40, number)
        while len(list((tmp_path / "out" / "one" / "masks").glob("*.png"))) < 4:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        yield picture(30, 40, 6)

    media = Media("camera", "video", (30, 40), Fraction(10), None, None, frames)
    with pytest.raises(KeyboardInterrupt):
        segment_media(micro_model, media, ["one"], tmp_path / "out", window=4, progress=False)
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["complete"] is False
    assert len(record["frames"]) >= 4
    assert open_media(str(tmp_path / "out" / "one.mp4")).length == len(record["frames"])


def test_a_window_longer_than_any_video(micro_model: SAMWISE, tmp_path: Path) -> None:
    media = open_media(str(write_video(tmp_path / "video.mp4", 3)))
    assert run(micro_model, media, tmp_path / "out", window=10**15)["complete"] is True


def test_names_that_are_no_text(micro_model: SAMWISE, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/out\xff"))
    video = folder.with_name(os.fsdecode(b"video\xff.mp4"))
    write_video(tmp_path / "video.mp4", 2).rename(video)
    record = run(micro_model, open_media(str(video)), folder)
    assert record["input"]["path"] == str(video)


def test_error_before_the_first_result_leaves_nothing(micro_model: SAMWISE, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="damaged"):
        segment_media(micro_model, failing_media(0, InputError("damaged")), ["one"], tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_file_that_cannot_be_written_ends_the_run(micro_model: SAMWISE, tmp_path: Path) -> None:
    (tmp_path / "one" / "masks" / "00003.png").mkdir(parents=True)
    media = open_media(str(write_video(tmp_path / "video.mp4", 30)))
    with pytest.raises(InputError, match=r"00003\.png cannot be written"):
        segment_media(micro_model, media, ["one", "two"], tmp_path, window=2, progress=False)
    record = json.loads((tmp_path / "result.json").read_text())
    assert (record["complete"], record["frames"]) == (False, ["00000", "00001", "00002"])


def test_too_long_prompt_is_refused_before_anything_is_written(micro_model: SAMWISE, tmp_path: Path) -> None:
    Image.fromarray(picture(30, 40)).save(tmp_path / "image.png")
    media = open_media(str(tmp_path / "image.png"))
    with pytest.raises(InputError, match="512"):
        segment_media(micro_model, media, ["fine", "word " * 600], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_prompts_are_cleaned(caplog: pytest.LogCaptureFixture) -> None:
    assert clean_prompts(["  the\tred \n disc ", "x"]) == ["the red disc", "x"]
    with caplog.at_level(logging.WARNING):
        assert clean_prompts(["a b", "x", " a  b"]) == ["a b", "x"]
    assert "'a b' is given twice" in caplog.text


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "at least one"),
        ([""], "number 1 is empty"),
        (["a", " \t\n"], "number 2 is empty"),
        (["\udcff"], "no valid Unicode"),
    ],
)
def test_prompts_that_are_refused(prompts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        clean_prompts(prompts)


def test_output_folder_is_made_or_refused(tmp_path: Path) -> None:
    assert writable_folder(tmp_path / "a" / "b").is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(InputError, match=r"cannot be written to .*--output_dir"):
            writable_folder(path)
        with pytest.raises(InputError, match=r"cannot be written to .*choose another folder \(--out\)"):
            writable_folder(path, "--out")
