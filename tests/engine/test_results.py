"""The files of a demo run."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from datasets.media import open_media
from engine.results import ResultFolder, VideoFile
from tests.media_files import number_of, picture, quadrants, times_in
from util.errors import InputError


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (5, 5), (1, 1)])
@pytest.mark.parametrize("fps", [Fraction(10), Fraction(30000, 1001), Fraction(1, 2)])
def test_video_file(tmp_path: Path, size: tuple[int, int], fps: Fraction) -> None:
    path = tmp_path / "video.mp4"
    video = VideoFile(path, fps)
    for number in range(4):
        video.add(picture(*size, 8 * number))
        assert not path.exists()
    video.finish()
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]
    with av.open(str(path)) as container:
        (stream,) = container.streams
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
    media = open_media(str(path))
    assert (media.length, media.fps) == (4, fps)
    assert media.frame_size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    if size[0] > 40:
        frames = list(media)
        assert quadrants(frames[0])[:3] == ["red", "green", "blue"]
        assert [round(number_of(frame) / 8) for frame in frames] == [0, 1, 2, 3]


@pytest.mark.parametrize(("size", "written"), [((20, 16384), (20, 16384)), ((20, 16900), (20, 16384)),
                                               ((40000, 3), (16384, 2))])  # fmt: skip
def test_frames_that_h264_does_not_take_are_reduced(
    tmp_path: Path, size: tuple[int, int], written: tuple[int, int]
) -> None:
    video = VideoFile(tmp_path / "video.mp4", Fraction(10))
    for _ in range(2):
        video.add(np.full((*size, 3), 200, np.uint8))
    video.finish()
    frames = list(open_media(str(tmp_path / "video.mp4")))
    assert [frame.shape for frame in frames] == [(*written, 3)] * 2
    assert all(abs(int(frame.mean()) - 200) < 4 for frame in frames)


def test_colours_survive_the_video(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "video.mp4", Fraction(10))
    video.add(picture(64, 64, 16))
    video.finish()
    (frame,) = open_media(str(tmp_path / "video.mp4"))
    corners = np.s_[8:56:32, 8:56:32]
    assert np.abs(frame[corners].astype(int) - picture(64, 64, 16)[corners]).max() < 8


def test_frames_with_their_own_times(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "video.mp4", Fraction(10), timed=True)
    for number, seconds in enumerate([0, 0.5, 0.5, 7, 7.25]):
        video.add(picture(48, 64, number), seconds)
    video.finish()
    assert times_in(tmp_path / "video.mp4") == pytest.approx([0, 0.5, 0.5 + 1 / 90000, 7, 7.25])
    assert [number_of(frame) for frame in open_media(str(tmp_path / "video.mp4"))] == list(range(5))


@pytest.mark.parametrize("growing", [False, True])
def test_a_folder_whose_name_looks_like_a_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, growing: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    video = VideoFile(Path("09:30/video.mp4"), Fraction(10), growing=growing)
    video.add(picture(48, 64))
    video.finish()
    assert len(list(open_media("09:30/video.mp4"))) == 1


def test_video_without_frames_is_no_file(tmp_path: Path) -> None:
    VideoFile(tmp_path / "video.mp4", Fraction(10)).finish()
    assert not list(tmp_path.iterdir())


def test_video_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").mkdir()
    with pytest.raises(InputError, match=r"video\.mp4"):
        VideoFile(tmp_path / "video.mp4", Fraction(10)).add(picture(8, 8))
    assert [file.name for file in tmp_path.iterdir()] == ["video.mp4"]


def fill(folder: ResultFolder, names: list[str], prompts: int = 2) -> None:
    for number, name in enumerate(names):
        masks = np.zeros((prompts, 32, 48), bool)
        for index in range(prompts):
            masks[index, index : index + number + 1, :10] = True
        folder.add(name, picture(32, 48, number), masks, [1.5, float("inf"), -2.0][:prompts], number / 5)


def test_result_folder_of_a_video(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path, ["the disc", "a/b"], Fraction(5), depth=2)
    fill(folder, ["00000", "00001", "00002"])
    folder.finish()
    record = json.loads(folder.write_record({"complete": True}).read_text())
    assert record["complete"] is True
    assert record["frames"] == ["00000", "00001", "00002"]
    assert record["frame_times"] == [0, 0.2, 0.4]
    assert record["all_prompts"] == "all_prompts.mp4"
    first, second = record["prompts"]
    assert (first["text"], first["folder"], first["video"]) == ("the disc", "the_disc", "the_disc.mp4")
    assert (second["text"], second["folder"]) == ("a/b", "a_b")
    assert first["areas"] == [10, 20, 30]
    assert (first["object_scores"], second["object_scores"]) == ([1.5] * 3, [None] * 3)
    assert first["colour"] != second["colour"]
    listed = {"result.json", "all_prompts.mp4"}
    for prompt in record["prompts"]:
        listed |= {prompt["video"], *prompt["masks"], *prompt["overlays"]}
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()} == listed
    for index, area in enumerate(first["areas"]):
        assert np.count_nonzero(np.asarray(Image.open(tmp_path / first["masks"][index])) == 255) == area
    for name in ("the_disc.mp4", "a_b.mp4", "all_prompts.mp4"):
        assert (open_media(str(tmp_path / name)).length, open_media(str(tmp_path / name)).fps) == (3, 5)


def test_result_folder_of_an_image(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path, ["the disc", "all_prompts"], None, depth=2)
    fill(folder, ["00000"])
    folder.finish()
    record = json.loads(folder.write_record({}).read_text())
    assert record["all_prompts"] == "all_prompts.jpg"
    assert [prompt["video"] for prompt in record["prompts"]] == [None, None]
    assert record["prompts"][1]["folder"] == "all_prompts-2"
    assert not list(tmp_path.rglob("*.mp4"))
    with Image.open(tmp_path / "all_prompts.jpg") as image:
        assert image.size == (48, 32)


def test_second_run_replaces_what_the_first_wrote(tmp_path: Path) -> None:
    for names, prompts in ((["0", "1", "2"], ["disc", "square"]), (["0", "1"], ["disc", "triangle"])):
        folder = ResultFolder(tmp_path, prompts, Fraction(5), depth=2)
        (tmp_path / "disc" / "masks").mkdir(parents=True, exist_ok=True)
        (tmp_path / "disc" / "masks" / "mine.png").write_text("not from here")
        fill(folder, names)
        folder.finish()
        folder.write_record({})
    assert sorted(file.name for file in (tmp_path / "disc" / "masks").iterdir()) == ["0.png", "1.png", "mine.png"]
    assert sorted(file.name for file in (tmp_path / "square" / "masks").iterdir()) == ["0.png", "1.png", "2.png"]


def test_numbered_masks_of_runs_before_the_last_one_are_removed(tmp_path: Path) -> None:
    """The record between them lists other prompts."""
    for count, prompts in ((4, ["disc", "square"]), (3, ["triangle", "star"]), (2, ["disc", "square"])):
        folder = ResultFolder(tmp_path, prompts, Fraction(5), depth=2)
        fill(folder, [f"{number:05d}" for number in range(count)])
        folder.finish()
        folder.write_record({})
    for kind in ("masks", "overlays"):
        assert sorted(file.stem for file in (tmp_path / "disc" / kind).iterdir()) == ["00000", "00001"]
        assert len(list((tmp_path / "star" / kind).iterdir())) == 3


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    killed = ResultFolder(tmp_path, ["disc", "square"], Fraction(5), depth=2)
    fill(killed, [f"{number:05d}" for number in range(4)])
    assert json.loads((tmp_path / "result.json").read_text())["complete"] is False
    for writer in killed._writers:
        writer.end()
        writer.join()
    unfinished = [tmp_path / f".{'0' * 32}.tmp.mp4", tmp_path / "square" / "overlays" / f".{'0' * 32}.tmp.jpg"]
    for file in unfinished:
        file.touch()
    folder = ResultFolder(tmp_path, ["disc", "square"], Fraction(5), depth=2)
    fill(folder, ["00000"])
    folder.finish()
    assert [file.name for file in (tmp_path / "disc" / "masks").iterdir()] == ["00000.png"]
    assert not any(file.exists() for file in unfinished)


@pytest.mark.parametrize(
    "source", ["disc.mp4", "all_prompts.mp4", "disc/masks", "disc/overlays/00000.jpg", "link.mp4", "contact_sheet.jpg"]
)
def test_results_do_not_replace_what_is_segmented(tmp_path: Path, source: str) -> None:
    (tmp_path / "disc" / "masks").mkdir(parents=True)
    (tmp_path / "disc" / "overlays").mkdir()
    path = tmp_path / source
    if source == "link.mp4":
        (tmp_path / "disc.mp4").write_bytes(b"precious")
        path.symlink_to(tmp_path / "disc.mp4")
    elif not path.exists():
        path.write_bytes(b"precious")
    with pytest.raises(InputError, match="results would replace it"):
        ResultFolder(tmp_path, ["disc", "square"], Fraction(5), 2, str(path))


@pytest.mark.parametrize("source", ["triangle.mp4", "disc/other.png", "", "array", "https://host/disc.mp4"])
def test_other_sources_may_lie_beside_the_results(tmp_path: Path, source: str) -> None:
    (tmp_path / "disc").mkdir()
    if "." in source and "//" not in source:
        (tmp_path / source).write_bytes(b"x")
        source = str(tmp_path / source)
    ResultFolder(tmp_path, ["disc", "square"], Fraction(5), 2, source)


def test_record_of_strangers_deletes_nothing_outside(tmp_path: Path) -> None:
    root = tmp_path / "results"
    root.mkdir()
    (tmp_path / "precious.png").write_text("keep")
    (root / "result.json").write_text(
        json.dumps({"frames": ["../../../precious", "..", 3], "prompts": [{"folder": "disc"}, {"folder": "../.."}]})
    )
    folder = ResultFolder(root, ["disc", "square"], None, depth=1)
    fill(folder, ["00000"])
    folder.finish()
    assert (tmp_path / "precious.png").read_text() == "keep"


@pytest.mark.parametrize("fails_at", [2, 90])  # the encoder has given nothing yet, or filled a part of the file
def test_failing_writer_stops_the_run_and_keeps_what_is_done(tmp_path: Path, fails_at: int) -> None:
    (tmp_path / "disc" / "masks" / f"{fails_at}.png").mkdir(parents=True)  # this frame cannot be written
    folder = ResultFolder(tmp_path, ["disc", "square"], Fraction(5), depth=1)
    with pytest.raises(InputError, match=rf"/{fails_at}\.png"):
        fill(folder, [str(number) for number in range(100)])
    with pytest.raises(InputError, match=rf"/{fails_at}\.png"):
        folder.finish()
    record = json.loads(folder.write_record({}).read_text())
    assert record["frames"] == [str(number) for number in range(fails_at)]
    assert len(record["prompts"][1]["areas"]) == fails_at
    assert open_media(str(tmp_path / record["prompts"][0]["video"])).length == fails_at
    assert open_media(str(tmp_path / record["prompts"][1]["video"])).length >= fails_at
    for prompt in record["prompts"]:
        for name in [*prompt["masks"], *prompt["overlays"]]:
            Image.open(tmp_path / name).load()
    assert not list(tmp_path.rglob(".*"))
