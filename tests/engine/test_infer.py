"""The streaming API: any way of feeding a video gives the same masks, in constant memory, and can be interrupted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.infer import STATE_FORMAT, FrameResult, VideoSession, open_session, stream
from models.samwise import SAMWISE
from models.stream import compile_network
from tests.conftest import SMALLEST, build_micro
from util.errors import InputError

SENTENCES = ["the red disc", "a square that moves to the left", "it", "the third of four bars"]


def video(count: int, height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def stacked(results: list[FrameResult]) -> torch.Tensor:
    assert [result.index for result in results] == list(range(len(results)))
    return torch.stack([result.logits for result in results])


def test_expressions_together_equal_expressions_alone(micro_model: SAMWISE) -> None:
    frames = video(11)
    together = stacked(list(stream(micro_model, SENTENCES, frames)))
    for number, sentence in enumerate(SENTENCES):
        alone = stacked(list(stream(micro_model, [sentence], frames)))
        torch.testing.assert_close(together[:, number : number + 1], alone, rtol=1e-4, atol=1e-4)


@settings(max_examples=12, deadline=None)
@given(data=st.data(), count=st.integers(1, 13), window=st.integers(1, 5))
def test_portions_do_not_matter(micro_model: SAMWISE, data: st.DataObject, count: int, window: int) -> None:
    """However many frames are fed at once, clips are cut every `window` frames."""
    frames = video(count)
    expected = stacked(list(stream(micro_model, SENTENCES[:2], frames, window=window)))
    session, results, start = open_session(micro_model, SENTENCES[:2], window=window), [], 0
    while start < count:
        stop = data.draw(st.integers(start + 1, count))
        results += session.feed(frames[start:stop])
        start = stop
    results += session.flush()
    assert session.flush() == []
    torch.testing.assert_close(stacked(results), expected, rtol=0, atol=0)


def test_the_window_is_part_of_the_function(micro_model: SAMWISE) -> None:
    frames = video(8)
    wide, narrow = (stacked(list(stream(micro_model, SENTENCES[:1], frames, window=w))) for w in (8, 4))
    assert not torch.allclose(wide, narrow, atol=1e-3)


@pytest.fixture(scope="module")
def nineteen(micro_model: SAMWISE) -> tuple[np.ndarray, torch.Tensor]:
    """Frames, and what they give with two sentences in clips of 4."""
    frames = video(19)
    return frames, stacked(list(stream(micro_model, SENTENCES[:2], frames, window=4)))


@settings(max_examples=6, deadline=None)
@given(cut=st.integers(0, 19))
def test_save_and_restore_in_the_middle(
    micro_model: SAMWISE,
    nineteen: tuple[np.ndarray, torch.Tensor],
    tmp_path_factory: pytest.TempPathFactory,
    cut: int,
) -> None:
    """Frames that wait, memories, pointers and switches all survive."""
    (frames, expected), path = nineteen, tmp_path_factory.mktemp("session") / "state.pt"
    session = open_session(micro_model, SENTENCES[:2], window=4)
    results = session.feed(frames[:cut])
    session.save(path)
    del session
    restored = VideoSession.restore(micro_model, path)
    results += restored.feed(frames[cut:]) + restored.flush()
    torch.testing.assert_close(stacked(results), expected, rtol=0, atol=0)


def test_switches_survive_saving(tmp_path: Path) -> None:
    """A model whose CME switches at every turn: the turns go on as they would have."""
    model = build_micro()
    with torch.no_grad():
        model.conditional_memory_encoder.decision_class_head.bias.copy_(torch.tensor([-50.0, 50.0]))
    frames = video(16)
    expected = stacked(list(stream(model, SENTENCES[:2], frames, window=3)))
    session = open_session(model, SENTENCES[:2], window=3)
    results = session.feed(frames[:7])
    session.save(tmp_path / "state.pt")
    restored = VideoSession.restore(model, tmp_path / "state.pt")
    results += restored.feed(frames[7:]) + restored.flush()
    torch.testing.assert_close(stacked(results), expected, rtol=0, atol=0)


def test_compiled_networks_give_the_same_masks_and_go_on_with_saved_sessions(tmp_path: Path) -> None:
    """The steps of static shapes that they run, one by one as written: compilation itself is tested elsewhere."""
    model, compiled = (build_micro(seed=2, **SMALLEST) for _ in range(2))
    for network in (model, compiled):
        with torch.no_grad():
            network.conditional_memory_encoder.decision_class_head.bias.copy_(torch.tensor([-0.3, 0.3]))
    compile_network(compiled, disable=True)
    frames = video(22, 24, 32)  # the last clip is short
    expected = list(stream(model, SENTENCES, frames, window=4))
    found = {"compiled": list(stream(compiled, SENTENCES, frames, window=4))}
    for before, after in ((model, compiled), (compiled, model)):
        session = open_session(before, SENTENCES, window=4)
        results = session.feed(frames[:14])  # two frames wait
        session.save(tmp_path / "state.pt")
        restored = VideoSession.restore(after, tmp_path / "state.pt")
        results += restored.feed(frames[14:]) + restored.flush()
        found["saved as it is" if before is model else "saved compiled"] = results
        switches = restored.memory.state_dict()["last_switch"]
        assert switches is not None
        assert switches.any()
    for results in found.values():
        torch.testing.assert_close(stacked(results), stacked(expected), rtol=1e-5, atol=1e-5)
        for one, other in zip(results, expected, strict=True):
            np.testing.assert_array_equal(one.masks(), other.masks())


def test_two_sessions_at_once(micro_model: SAMWISE) -> None:
    first, second = video(9, seed=1), video(9, 50, 30, seed=2)
    expected = [
        stacked(list(stream(micro_model, SENTENCES[:1], first, window=4))),
        stacked(list(stream(micro_model, SENTENCES[1:3], second, window=4))),
    ]
    sessions = [open_session(micro_model, SENTENCES[:1], window=4), open_session(micro_model, SENTENCES[1:3], window=4)]
    found: list[list[FrameResult]] = [[], []]
    for pair in zip(first, second, strict=True):
        for number in range(2):
            found[number] += sessions[number].feed([pair[number]])
    for number in range(2):
        found[number] += sessions[number].flush()
        torch.testing.assert_close(stacked(found[number]), expected[number], rtol=0, atol=0)


def test_paper_protocol_treats_a_last_single_frame_as_an_image(micro_model: SAMWISE) -> None:
    frames = video(9)
    paper = list(stream(micro_model, SENTENCES[:1], frames, protocol="paper"))
    fixed = list(stream(micro_model, SENTENCES[:1], frames, protocol="fixed"))
    image = next(iter(stream(micro_model, SENTENCES[:1], frames[8:])))
    torch.testing.assert_close(paper[8].logits, image.logits, rtol=0, atol=0)
    assert not torch.allclose(paper[8].logits, fixed[8].logits)
    torch.testing.assert_close(stacked(paper)[:8], stacked(fixed)[:8], rtol=0, atol=0)
    two = list(stream(micro_model, SENTENCES[:1], video(10), protocol="paper"))
    torch.testing.assert_close(stacked(two), stacked(list(stream(micro_model, SENTENCES[:1], video(10)))))


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90))
def test_masks_have_the_size_of_the_frame(micro_model: SAMWISE, height: int, width: int) -> None:
    result = next(iter(stream(micro_model, SENTENCES[:2], video(1, height, width))))
    masks = result.masks()
    assert masks.shape == (2, height, width)
    assert masks.dtype == np.bool_
    np.testing.assert_array_equal(masks, (result.probabilities() > 0.5).numpy())
    assert not result.masks(threshold=1.0).any()
    for wrong in (float("nan"), -0.1, 50, "0.5"):
        with pytest.raises(InputError, match="expected a number from 0 to 1"):
            result.masks(threshold=cast(float, wrong))


@pytest.mark.parametrize(
    ("expressions", "words"),
    [
        ([], "at least one sentence"),
        ([""], "sentence 1 is empty"),
        (["a dog", "  \n"], "sentence 2 is empty"),
        (["word " * 600], "at most 512"),
        ("a dog", "list of sentences"),
        ([1, 2], "list of sentences"),
    ],
)
def test_expressions_that_cannot_be_read(micro_model: SAMWISE, expressions: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_session(micro_model, expressions)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (np.zeros((4, 4), np.uint8), "height, width, 3"),
        (np.zeros((4, 4, 4), np.uint8), "height, width, 3"),
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        ("frame.jpg", "found str"),
        (np.zeros((5, 6, 3), np.uint8), "frame 2 is 6x5, the frames before it are 60x40"),
    ],
)
def test_frames_that_cannot_be_used(micro_model: SAMWISE, frame: np.ndarray, words: str) -> None:
    session = open_session(micro_model, SENTENCES[:1])
    session.feed(video(2))
    with pytest.raises(InputError, match=words):
        session.feed([frame])
    assert len(session.flush()) == 2


def test_wrong_settings(micro_model: SAMWISE, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 1 frame"):
        open_session(micro_model, SENTENCES, window=0)
    with pytest.raises(InputError, match=r"found 2\.5"):
        open_session(micro_model, SENTENCES, window=2.5)
    with pytest.raises(InputError, match="fp32, tf32, bf16"):
        open_session(micro_model, SENTENCES, precision="half")
    with pytest.raises(InputError, match="paper, fixed"):
        open_session(micro_model, SENTENCES, protocol="other")
    with pytest.raises(FileNotFoundError, match="no saved session"):
        VideoSession.restore(micro_model, tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("not a session")
    with pytest.raises(InputError, match="not a saved session") as caught:
        VideoSession.restore(micro_model, tmp_path / "text.pt")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 200
    open_session(micro_model, SENTENCES).save(tmp_path / "state.pt")
    for other in (build_micro(hsa=False), build_micro(seed=5)):
        with pytest.raises(InputError, match="another model configuration or other weights"):
            VideoSession.restore(other, tmp_path / "state.pt")
    torch.save({"format": STATE_FORMAT}, tmp_path / "empty.pt")
    with pytest.raises(InputError, match="not a saved session"):
        VideoSession.restore(micro_model, tmp_path / "empty.pt")


@pytest.mark.parametrize("expressions", [np.array(["a cat", "a dog"]), iter(["a cat", "a dog"])])
def test_sentences_of_any_origin_are_saved_as_plain_text(
    micro_model: SAMWISE, tmp_path: Path, expressions: Sequence[str]
) -> None:
    session = open_session(micro_model, expressions)
    session.save(tmp_path / "session")
    restored = VideoSession.restore(micro_model, tmp_path / "session").expressions
    assert restored == session.expressions == ("a cat", "a dog")
    assert {type(text) for text in session.expressions} == {str}


def test_arguments_of_another_kind(micro_model: SAMWISE, tmp_path: Path) -> None:
    wrong: Any = 5
    session = open_session(micro_model, ["a cat"])
    session.save(tmp_path / "session")
    with pytest.raises(InputError, match="a list of frames, or any iterator of them, found int"):
        session.feed(wrong)
    with pytest.raises(InputError, match="a list of frames, or any iterator of them, found int"):
        next(stream(micro_model, ["a cat"], wrong))
    with pytest.raises(InputError, match="a list of sentences, found 5"):
        open_session(micro_model, wrong)
    with pytest.raises(InputError, match="expected a network, found int: `load` gives one"):
        open_session(wrong, ["a cat"])
    with pytest.raises(InputError, match="expected a network, found int: `load` gives one"):
        VideoSession.restore(wrong, tmp_path / "session")


def test_a_buffer_may_be_used_again(micro_model: SAMWISE) -> None:
    """A capture loop that refills one array gives what separate arrays give, also at the network's own size."""
    frames = video(6, 63, 63)
    expected = stacked(list(stream(micro_model, SENTENCES[:1], frames, window=3)))
    session, buffer, results = open_session(micro_model, SENTENCES[:1], window=3), np.empty((63, 63, 3), np.uint8), []
    for frame in frames:
        buffer[:] = frame
        results += session.feed([buffer])
    torch.testing.assert_close(stacked(results), expected, rtol=0, atol=0)


def test_results_survive_a_bad_frame_that_follows_them(micro_model: SAMWISE) -> None:
    frames = list(video(7))
    expected = stacked(list(stream(micro_model, SENTENCES[:1], frames, window=4)))
    session = open_session(micro_model, SENTENCES[:1], window=4)
    with pytest.raises(InputError):
        session.feed([*frames[:5], np.zeros((2, 2, 3), np.uint8)])
    results = session.feed(frames[5:])
    torch.testing.assert_close(stacked(results + session.flush()), expected, rtol=0, atol=0)


def test_results_that_nobody_has_taken_are_saved(micro_model: SAMWISE, tmp_path: Path) -> None:
    session = open_session(micro_model, SENTENCES[:1], window=4)
    with pytest.raises(InputError, match="frame 4 is"):
        session.feed([*video(4), np.zeros((3, 3, 3), dtype=np.uint8)])
    session.save(tmp_path / "state.pt")
    restored = VideoSession.restore(micro_model, tmp_path / "state.pt")
    expected, found = session.flush(), restored.flush()
    assert [result.index for result in found] == [0, 1, 2, 3]
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.logits, theirs.logits)
        assert np.array_equal(ours.masks(), theirs.masks())


@pytest.mark.parametrize("error", [InputError("it does not decode"), OSError("it is gone")])
def test_what_comes_before_a_broken_frame_is_segmented(micro_model: SAMWISE, error: Exception) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from video(6)
        raise error

    found: list[FrameResult] = []
    with pytest.raises(type(error), match="it "):
        found.extend(stream(micro_model, SENTENCES[:1], broken(), window=4))
    expected = stream(micro_model, SENTENCES[:1], video(6), window=4)
    assert len(found) == 6
    assert all(torch.equal(ours.logits, theirs.logits) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("further", [0, 3])
def test_a_clip_that_failed_can_be_tried_again(
    micro_model: SAMWISE, monkeypatch: pytest.MonkeyPatch, further: int
) -> None:
    frames = video(8 + further)
    expected = stacked(list(stream(micro_model, SENTENCES[:1], frames, window=4)))
    session = open_session(micro_model, SENTENCES[:1], window=4)
    results = session.feed(frames[:7])
    with monkeypatch.context() as patch:
        memorize, calls = micro_model.sam.memorize, []

        def out_of_memory(*arguments: object) -> torch.Tensor:
            calls.append(arguments)
            if len(calls) == 2:
                raise MemoryError
            return memorize(*arguments)

        patch.setattr(micro_model.sam, "memorize", out_of_memory)
        with pytest.raises(MemoryError):
            session.feed(frames[7:8])
    for frame in frames[8:]:
        results += session.feed([frame])
    results += session.flush()
    torch.testing.assert_close(stacked(results), expected, rtol=0, atol=0)


def test_other_dtypes(micro_model: SAMWISE) -> None:
    frames = video(3)
    exact = stacked(list(stream(build_micro().double(), SENTENCES[:1], frames)))
    torch.testing.assert_close(exact, stacked(list(stream(micro_model, SENTENCES[:1], frames))), rtol=1e-3, atol=1e-3)
    rough = stacked(list(stream(build_micro().bfloat16(), SENTENCES[:1], frames)))
    assert (rough - exact).abs().mean() < 0.1 * (exact.max() - exact.min())


def test_a_model_without_a_tokenizer_is_refused() -> None:
    model = build_micro()
    model.tokenizer = None
    with pytest.raises(InputError, match="the model has no tokenizer"):
        open_session(model, SENTENCES)
