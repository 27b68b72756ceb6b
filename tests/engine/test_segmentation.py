"""The Python interface, and every example in its documentation."""

from __future__ import annotations

import doctest
import gc
import itertools
import json
import re
import signal
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine.segmentation
import util.locks
from datasets.media import open_media
from engine.demo import segment_media
from engine.infer import stream
from engine.segmentation import Segmentation, load, segment
from models.checkpoint import save_compact
from models.samwise import SAMWISE
from tests.conftest import build_micro
from tests.forked import holding
from tests.live_sources import mjpeg_server
from tests.media_files import cut, number_of, picture, write_video
from tests.weight_files import assert_same, save_published
from util.errors import InputError

SENTENCES = ["the red disc", "the blue square"]
DOCUMENT = Path(engine.segmentation.__file__).resolve().parents[1] / "docs" / "python.md"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "video.mp4", 6)


def masks_by_hand(model: SAMWISE, video: Path, **options: Any) -> np.ndarray:
    return np.stack([result.masks(0.4) for result in stream(model, SENTENCES, open_media(str(video)), **options)])


class Counting:
    """Frames that can be read as often as wanted, and how often they were."""

    def __init__(self, frames: list[np.ndarray]) -> None:
        self.frames = frames
        self.taken = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self.frames:
            self.taken += 1
            yield frame


@pytest.mark.parametrize("window", [2, 8])
def test_masks_are_those_of_the_streaming_api(micro_model: SAMWISE, video: Path, window: int) -> None:
    expected = masks_by_hand(micro_model, video, window=window)
    result = segment(micro_model, video, SENTENCES, window=window, threshold=0.4)
    assert result.masks.shape == (6, 2, 48, 64)
    assert result.masks.dtype == np.bool_
    np.testing.assert_array_equal(result.masks, expected)
    frames = list(result)
    assert [frame.index for frame in frames] == list(range(6))
    assert [frame.name for frame in frames] == [f"{number:05d}" for number in range(6)]
    assert [number_of(frame.frame) for frame in frames] == list(range(6))
    np.testing.assert_array_equal(np.stack([frame.masks for frame in frames]), expected)
    overlays = list(result.overlay())
    assert [overlay.shape for overlay in overlays] == [(48, 64, 3)] * 6
    assert not np.array_equal(overlays[0], frames[0].frame)


def test_a_string_is_one_sentence_and_space_is_folded(micro_model: SAMWISE, video: Path) -> None:
    result = segment(micro_model, str(video), "  the red \n disc ")
    assert result.sentences == ("the red disc",)
    np.testing.assert_array_equal(result.masks[:, 0], segment(micro_model, video, SENTENCES).masks[:, 0])


def test_frames_come_as_they_are_asked_for(micro_model: SAMWISE) -> None:
    """Nothing is computed before, and no more of the video is read than a few clips ahead."""
    source = Counting([picture(40, 60, number % 30) for number in range(200)])
    result = segment(micro_model, iter(source), SENTENCES, window=2)
    assert source.taken == 1  # its size is looked at
    first = next(iter(result))
    assert (first.index, first.masks.shape) == (0, (2, 40, 60))
    assert source.taken < 12
    result.close()


def test_iterators_in_any_order_see_the_same(micro_model: SAMWISE, video: Path) -> None:
    """The network runs once, whoever asks first for a frame."""
    expected = masks_by_hand(micro_model, video, window=2)
    result = segment(micro_model, video, SENTENCES, window=2, threshold=0.4)
    one, two, three = iter(result), iter(result), iter(result)
    order = [one, one, two, one, two, two, two, one, three, two, one, three, two, one, *[three] * 4]
    seen: dict[Iterator[Any], list[Any]] = {one: [], two: [], three: []}
    for iterator in order:
        seen[iterator].append(next(iterator))
    for frames in seen.values():
        assert [frame.index for frame in frames] == list(range(6))
        assert [number_of(frame.frame) for frame in frames] == list(range(6))
        np.testing.assert_array_equal(np.stack([frame.masks for frame in frames]), expected)
        assert len({frame.object_scores for frame in frames}) > 1
    scores = [[frame.object_scores for frame in frames] for frames in seen.values()]
    np.testing.assert_allclose(scores[0], scores[2], rtol=1e-6)
    for iterator in seen:
        assert next(iterator, None) is None


def test_masks_beyond_memory_go_to_disk(micro_model: SAMWISE, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = segment(micro_model, video, SENTENCES).masks
    monkeypatch.setattr(engine.segmentation, "_BYTES_IN_MEMORY", 100)
    with segment(micro_model, video, SENTENCES) as result:
        np.testing.assert_array_equal(result.masks, expected)
        assert result._kept._file._rolled  # type: ignore[attr-defined]


def test_kinds_of_frames(micro_model: SAMWISE, tmp_path: Path) -> None:
    frames = np.stack([picture(40, 60, number) for number in range(5)])
    expected = segment(micro_model, frames, SENTENCES).masks
    assert expected.shape == (5, 2, 40, 60)
    for source in (list(frames), iter(frames), tuple(frames)):
        np.testing.assert_array_equal(segment(micro_model, source, SENTENCES).masks, expected)
    image = segment(micro_model, frames[0], SENTENCES)
    assert image.masks.shape == (1, 2, 40, 60)
    assert image.save(tmp_path).parent == tmp_path
    assert (tmp_path / "all_prompts.jpg").is_file()
    media = open_media(str(write_video(tmp_path / "video.mp4", 3)))
    assert segment(micro_model, media, SENTENCES).masks.shape == (3, 2, 48, 64)


def test_iterator_is_read_once_but_its_masks_stay(micro_model: SAMWISE) -> None:
    result = segment(micro_model, (picture(40, 60, number) for number in range(3)), SENTENCES)
    assert [number_of(frame.frame) for frame in result] == [0, 1, 2]
    assert result.masks.shape == (3, 2, 40, 60)
    with pytest.raises(InputError, match="read only once"):
        next(iter(result))


def test_an_iterator_may_use_its_buffer_again(micro_model: SAMWISE) -> None:
    def frames() -> Iterator[np.ndarray]:
        buffer = np.zeros((48, 64, 3), np.uint8)
        for number in range(9):
            buffer[:] = picture(48, 64, number)
            yield buffer

    result = segment(micro_model, frames(), SENTENCES, window=4)
    assert [number_of(frame.frame) for frame in result] == list(range(9))
    apart = [picture(48, 64, number) for number in range(9)]
    np.testing.assert_array_equal(result.masks, segment(micro_model, apart, SENTENCES, window=4).masks)


def test_what_nobody_looks_at_any_more_is_freed(micro_model: SAMWISE, video: Path) -> None:
    before = threading.active_count()
    gc.disable()
    try:
        for _ in segment(micro_model, video, SENTENCES, window=1):
            break
        assert threading.active_count() == before
    finally:
        gc.enable()


def test_live_source(micro_model: SAMWISE) -> None:
    with mjpeg_server(10_000) as address, segment(micro_model, address, SENTENCES, window=1) as result:
        frames = list(itertools.islice(result, 4))
    assert [number_of(frame.frame) for frame in frames] == [0, 1, 2, 3]


def test_saving_gives_what_the_demo_gives(micro_model: SAMWISE, video: Path, tmp_path: Path) -> None:
    segment_media(micro_model, open_media(str(video)), SENTENCES, tmp_path / "demo", progress=False)
    result = segment(micro_model, video, SENTENCES)
    next(iter(result))  # that something was looked at before changes nothing
    assert result.save(tmp_path / "api") == tmp_path / "api" / "result.json"
    records = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("demo", "api")]
    assert records[0].pop("times")
    for prompts in zip(*(record["prompts"] for record in records), strict=True):
        np.testing.assert_allclose(*(prompt.pop("object_scores") for prompt in prompts), rtol=1e-5)
    assert records[0] == records[1]
    assert len(list(open_media(str(tmp_path / "api" / "all_prompts.mp4")))) == 6
    files = {path.relative_to(tmp_path / "demo") for path in (tmp_path / "demo").rglob("*.*")}
    assert files == {path.relative_to(tmp_path / "api") for path in (tmp_path / "api").rglob("*.*")}
    for file in (file for file in files if file.suffix in (".png", ".jpg")):
        assert (tmp_path / "demo" / file).read_bytes() == (tmp_path / "api" / file).read_bytes()


def test_saving_keeps_out_of_the_folder_of_another_run(
    micro_model: SAMWISE, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(util.locks, "_SOON_SECONDS", 0.0)
    child = holding(tmp_path / "out")
    with pytest.raises(InputError, match="another run is writing to"):
        segment(micro_model, video, SENTENCES).save(tmp_path / "out")
    child.send(signal.SIGKILL)
    child.wait()
    assert segment(micro_model, video, SENTENCES).save(tmp_path / "out").is_file()
    assert not list((tmp_path / "out").glob(".*"))


def test_error_in_the_middle_is_raised_every_time(micro_model: SAMWISE, tmp_path: Path) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield from (picture(40, 60, number) for number in range(3))
        raise InputError("frame 3 is damaged")

    result = segment(micro_model, frames(), SENTENCES, window=1)
    for _ in range(2):
        with pytest.raises(InputError, match="frame 3 is damaged"):
            result.masks  # noqa: B018 (a property that computes)
    result = segment(micro_model, frames(), SENTENCES, window=1)
    with pytest.raises(InputError, match="frame 3 is damaged"):
        result.save(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (record["complete"], record["frames"]) == (False, ["00000", "00001", "00002"])


def test_interruption_is_not_taken_for_the_end(micro_model: SAMWISE) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield from (picture(40, 60, number) for number in range(3))
        raise KeyboardInterrupt

    result = segment(micro_model, frames(), SENTENCES, window=1)
    with pytest.raises(KeyboardInterrupt):
        list(result)
    with pytest.raises(InputError, match="stopped after 3 frames"):
        result.masks  # noqa: B018 (a property that computes)


def test_nothing_can_be_asked_of_a_closed_result(micro_model: SAMWISE, video: Path, tmp_path: Path) -> None:
    for frames in range(3):  # seen before
        with segment(micro_model, video, SENTENCES, window=1) as result:
            running = iter(result)
            for _ in range(frames):
                next(running)
        for ask in (
            lambda result=result: result.masks,
            lambda result=result: list(result),
            lambda result=result: list(result.overlay()),
            lambda result=result: result.save(tmp_path / "out"),
            lambda running=running: next(running),
        ):
            with pytest.raises(InputError, match="this result is closed: call segment again"):
                ask()
        result.close()
        assert result.sentences == tuple(SENTENCES)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("video", "sentences", "message"),
    [
        ("missing.mp4", SENTENCES, "missing.mp4 does not exist"),
        (picture(8, 8), [], "at least one sentence"),
        (picture(8, 8), ["x", " "], "empty"),
        (picture(8, 8), "word " * 600, "512"),
        (picture(8, 8), [3], "expected a list of sentences"),
        (picture(8, 8), None, "expected a sentence or a list of them"),
        (picture(8, 8), "half \ud800 a character", "valid Unicode"),
        ([], "x", "at least one frame, found none"),
        (iter([]), "x", "at least one frame, found none"),
        (["a.png"], "x", "a.png: expected an image, found no file"),
        (iter([np.zeros((8, 8), np.uint8)]), "x", r"expected frames as uint8 arrays .*found uint8 of shape \(8, 8\)"),
        (
            np.zeros((3, 8, 8, 3), np.float32),
            "x",
            r"expected frames as uint8 arrays .*found float32 of shape \(8, 8, 3\)",
        ),
        (np.zeros((3, 8, 8, 4), np.uint8), "x", r"expected frames as uint8 .*found uint8 of shape \(8, 8, 4\)"),
        (np.zeros((3, 8, 10), np.uint8), "x", r"expected frames as uint8 .*found uint8 of shape \(3, 8, 10\)"),
        (np.zeros((2, 3, 8, 8, 3), np.uint8), "x", r"expected frames as uint8 .*of shape \(2, 3, 8, 8, 3\)"),
        (np.zeros((3, 0, 8, 3), np.uint8), "x", "the frame is empty: 8x0"),
        (np.array(5), "x", r"expected frames as uint8 .*of shape \(\)"),
        ([picture(8, 8), picture(8, 8).astype(float)], "x", "expected frames as uint8 .*found float64"),
        ([picture(8, 8), picture(8, 10)], "x", "frame 1 is 10x8, the first one 8x8"),
        (iter([picture(8, 8).astype(float)]), "x", "expected frames as uint8 .*found float64"),
        (deque(["a.png"]), "x", "a.png: expected an image, found no file"),
        ({"a": 5}.values(), "x", "expected frames as uint8 .*found int"),
        (5, "x", "expected a path, a URL or frames of a video, found 5"),
        (None, "x", "expected a path, a URL or frames of a video, found None"),
        ("", "x", "expected the path or URL of an image.*found an empty text"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(micro_model: SAMWISE, video: Any, sentences: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        segment(micro_model, video, sentences)


@pytest.mark.parametrize(
    "value",
    [
        *({"fps": fps} for fps in (-1, float("nan"), "5", True)),
        *({"threshold": threshold} for threshold in (2, 0, "0.5")),
    ],
)
def test_numbers_out_of_range(micro_model: SAMWISE, value: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(value))}=.*expected (a number|0.001 to 1000 frames)"):
        segment(micro_model, picture(8, 8), SENTENCES, **value)


def test_a_video_that_is_cut_off_is_refused_at_once(micro_model: SAMWISE, video: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="damaged, cut off"):
        segment(micro_model, cut(video, tmp_path / "cut.mp4", 0.8), SENTENCES)


def test_frames_per_second_of_a_video_that_is_open(micro_model: SAMWISE, video: Path) -> None:
    media = open_media(str(video), 5)
    assert len(segment(micro_model, media, SENTENCES).masks) == 3
    with pytest.raises(InputError, match="fps=5: the video is open already: give the number to open_media"):
        segment(micro_model, media, SENTENCES, fps=5)


def test_load(micro_model: SAMWISE, tmp_path: Path) -> None:
    assert load(micro_model) is micro_model
    micro_model.save_pretrained(tmp_path / "folder")
    for source in (tmp_path / "folder", str(tmp_path / "folder")):
        model = load(source, device="cpu")
        assert_same(model, micro_model)
        assert not model.training
    with pytest.raises(InputError, match="device 'foo': expected cpu, cuda, cuda:N or mps"):
        load(micro_model, device="foo")
    with pytest.raises(InputError, match="nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("source", [None, 5, ""])
def test_load_says_what_it_takes(source: Any) -> None:
    with pytest.raises(InputError, match=r"expected a model folder, .* found"):
        load(source)


def test_a_name_is_no_network() -> None:
    model: Any = "pretrained/nano"
    with pytest.raises(InputError, match=r"expected a network .* 'pretrained/nano': `load` gives one"):
        segment(model, np.zeros((48, 64, 3), np.uint8), "it")


def test_load_published_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_micro(seed=3)
    path = save_published(tmp_path / "published.pth", model)
    with pytest.raises(InputError, match="give it as `config`"):
        load(path)
    assert model.tokenizer is not None
    monkeypatch.chdir(tmp_path)
    model.tokenizer.tokenizer.save_pretrained("pretrain/roberta-base")
    assert_same(load(path, config=model.config), model)
    assert_same(load(path.rename(tmp_path / "published.ckpt"), config=model.config), model)
    (tmp_path / "clip.mp4").write_bytes(b"no weights at all")
    with pytest.raises(InputError, match=r"clip\.mp4 holds no weights"):
        load(tmp_path / "clip.mp4")
    save_compact(tmp_path / "compact.safetensors", model)
    with pytest.raises(InputError, match="sam2"):  # it knows its architecture; SAM 2's weights are missing here
        load(tmp_path / "compact.safetensors")


@pytest.fixture
def example_folder(micro_model: SAMWISE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the examples name."""
    micro_model.save_pretrained(tmp_path / "pretrained" / "nano")
    write_video(tmp_path / "video.mp4", 6)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_examples(text: str, name: str) -> int:
    """Run the examples of a text in one name space; the number of them."""
    test = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
    lines: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=lines.append)
    assert result.failed == 0, "".join(lines)
    return result.attempted


def test_examples_of_the_module(example_folder: Path) -> None:
    assert run_examples(engine.segmentation.__doc__ or "", "engine.segmentation") == 4


def test_examples_of_the_document(example_folder: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert run_examples("\n".join(blocks), "docs/python.md") > 10
    assert (example_folder / "output" / "dog" / "all_prompts.mp4").is_file()


def test_public_names_are_documented() -> None:
    for documented in (load, segment, Segmentation, Segmentation.save, Segmentation.overlay, Segmentation.close):
        assert documented.__doc__
