"""The bounded session: what it keeps, and that nothing else is kept anywhere."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from torch import Tensor

from models.samwise import SAMWISE, FramePrediction
from models.session import Session
from models.tokenizer import TokenBatch, pad_tokens
from tests.conftest import build_micro

TOKENS = pad_tokens([[0, 10, 11, 12, 2], [0, 20, 21, 2]])


class FullHistory(Session):
    """A session that keeps everything and reads what the paper says: the last 6 memories and 15 pointers."""

    def __init__(self) -> None:
        super().__init__(6, 15)
        self._memories: deque[Tensor] = deque()
        self._pointers: deque[Tensor] = deque()

    @property
    def memories(self) -> tuple[Tensor, ...]:
        return tuple(self._memories)[-6:]

    @property
    def pointers(self) -> tuple[Tensor, ...]:
        return tuple(self._pointers)[:15]


def random_clip(length: int, seed: int) -> Tensor:
    return torch.randn(1, length, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def run(model: SAMWISE, session: Session, clip: Tensor, tokens: TokenBatch = TOKENS) -> list[FramePrediction]:
    features = model.encode(clip, tokens)
    return [model.step(features.frame(t), session) for t in range(clip.shape[1])]


def test_bounded_window_equals_full_history(micro_model: SAMWISE) -> None:
    bounded, full = micro_model.new_session(), FullHistory()
    for clip in range(3):
        for ours, reference in zip(
            run(micro_model, bounded, random_clip(8, clip)), run(micro_model, full, random_clip(8, clip)), strict=True
        ):
            torch.testing.assert_close(ours.decoded.logits, reference.decoded.logits, rtol=0, atol=0)
    assert len(full._memories) == 24
    assert (len(bounded.memories), len(bounded.pointers)) == (6, 15)


def test_interleaved_sessions_equal_sequential_ones(micro_model: SAMWISE) -> None:
    clips = [[random_clip(4, 10 * video + clip) for clip in range(4)] for video in range(2)]
    alone = []
    for video in clips:
        session = micro_model.new_session()
        alone.append([p.decoded.logits for clip in video for p in run(micro_model, session, clip)])
    sessions, together = [micro_model.new_session(), micro_model.new_session()], [[], []]
    for number in range(4):
        for video in range(2):
            predictions = run(micro_model, sessions[video], clips[video][number])
            together[video] += [p.decoded.logits for p in predictions]
    for video in range(2):
        torch.testing.assert_close(torch.stack(together[video]), torch.stack(alone[video]), rtol=0, atol=0)


def test_older_frames_do_not_matter_once_they_left_the_window(micro_model: SAMWISE) -> None:
    """After 15 frames both pasts are forgotten but for what memories carry on: the windows hold no older frame."""
    session = micro_model.new_session()
    for clip in range(4):
        run(micro_model, session, random_clip(8, clip))
    newest, _ = session.memories[-1], session.pointers[0]
    run(micro_model, session, random_clip(1, 99))
    assert session.memories[-2] is newest
    assert session.frame_index == 33


def test_memory_order_and_age(micro_model: SAMWISE) -> None:
    session = Session(max_memories=2, max_pointers=3)
    for number in range(5):
        session.remember(torch.full((1, 4, 2), float(number)), torch.full((1, 8), float(number)))
    assert [memory[0, 0, 0].item() for memory in session.memories] == [3, 4]
    assert [pointer[0, 0].item() for pointer in session.pointers] == [4, 3, 2]


@pytest.mark.parametrize("window", [1, 2, 4])
def test_turns_of_the_memory_encoder(window: int) -> None:
    """t > window and t - last switch >= window - 1, each expression with its own last switch."""
    session = Session(6, 15)
    looked = []
    for t in range(14):
        chosen = session.expressions_to_check(window)
        looked.append(chosen)
        if t == window + 2:
            session.note_switches(torch.tensor([1]))
        session.remember(torch.zeros(2, 1, 1), torch.zeros(2, 1))
    for t, chosen in enumerate(looked):
        last = [0, window + 2 if t > window + 2 else 0]
        assert chosen == [e for e in range(2) if t > window and t - last[e] >= window - 1]


def test_a_snapshot_stays_as_it_was() -> None:
    session = Session(6, 15)
    session.remember(torch.zeros(2, 1, 1), torch.zeros(2, 1))
    session.note_switches(torch.tensor([0]))
    snapshot = session.state_dict()
    copy = Session(6, 15)
    copy.load_state_dict(snapshot, "cpu")
    session.frame_index = 9
    session.note_switches(torch.tensor([1]))
    assert snapshot["last_switch"].tolist() == copy.state_dict()["last_switch"].tolist() == [1, 0]


@pytest.mark.parametrize("mode", ["reweight", "all_mask", "avg"])
def test_a_switch_changes_memory_and_not_the_mask(mode: str) -> None:
    always = build_micro(switch_mem=mode)
    never = build_micro(switch_mem=mode)
    head = always.conditional_memory_encoder.decision_class_head
    with torch.no_grad():
        head.bias.copy_(torch.tensor([-100.0, 100.0]))
        never.conditional_memory_encoder.decision_class_head.bias.copy_(torch.tensor([100.0, -100.0]))
    states, predictions = [], []
    for model in (always, never):
        session = model.new_session()
        predictions.append(run(model, session, random_clip(6, 0)))
        states.append(session)
    first, second = predictions
    torch.testing.assert_close(first[5].decoded.logits, second[5].decoded.logits, rtol=0, atol=0)
    assert first[5].check is not None
    assert first[4].check is None
    assert not torch.equal(states[0].memories[-1], states[1].memories[-1])
    torch.testing.assert_close(states[0].memories[-2], states[1].memories[-2], rtol=0, atol=0)


def test_without_object_scores_every_object_is_visible() -> None:
    model = build_micro(pred_obj_score=False)
    prediction = run(model, model.new_session(), random_clip(1, 0))[0]
    assert prediction.decoded.visible.all()
    assert prediction.decoded.logits.min() > -1024


def test_invisible_objects_have_no_mask_and_the_fixed_pointer() -> None:
    model = build_micro()
    with torch.no_grad():
        model.sam.sam_mask_decoder.pred_obj_score_head.layers[2].bias.fill_(-100.0)
    prediction = run(model, model.new_session(), random_clip(1, 0))[0]
    assert (prediction.decoded.logits == -1024).all()
    torch.testing.assert_close(prediction.pointer, model.sam.no_obj_ptr.expand(2, -1))
