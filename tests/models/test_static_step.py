"""The step with static shapes gives what the session gives, from the first frame to well after the memory is full."""

from __future__ import annotations

import pytest
import torch

from models.samwise import SAMWISE
from models.static_step import StaticStep
from tests.conftest import build_micro

FRAMES, CLIP = 24, 8
SENTENCES = ("the red disc", "a square that moves to the left", "it")


def inclined(model: SAMWISE, bias: float) -> SAMWISE:
    """A network whose CME is inclined to switch."""
    with torch.no_grad():
        assert model.conditional_memory_encoder is not None
        model.conditional_memory_encoder.decision_class_head.bias.copy_(torch.tensor([-bias, bias]))
    return model


@pytest.mark.parametrize(
    ("version", "values", "bias", "switches"),
    [
        ("tiny", {}, 0.0, True),
        ("tiny_2.1", {}, 50.0, True),
        ("tiny", {"switch_mem": "avg", "cme_decision_window": 3}, 0.6, True),
        ("tiny", {"switch_mem": "all_mask"}, 50.0, True),
        ("tiny", {"use_cme_head": False, "pred_obj_score": False}, None, False),
    ],
    ids=str,
)
def test_every_frame_equals_the_sessions(
    version: str, values: dict[str, object], bias: float | None, switches: bool
) -> None:
    model = build_micro(version, seed=2, **values)
    if bias is not None:
        inclined(model, bias)
    assert model.tokenizer is not None
    tokens, session, step = model.tokenizer(SENTENCES), model.new_session(), StaticStep(model)
    state = step.empty(len(SENTENCES))
    shapes = [value.shape for value in state]
    torch.manual_seed(0)
    with torch.inference_mode():
        for _ in range(FRAMES // CLIP):
            features = model.encode(torch.randn(1, CLIP, 3, 64, 64), tokens)
            for t in range(CLIP):
                frame = features.frame(t)
                expected = model.step(frame, session).decoded
                found, state = step(frame.map, *frame.fine, frame.prompts[0], state)
                torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(found.ious, expected.iou, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(found.scores, expected.score, rtol=1e-4, atol=1e-4)
                last = session.state_dict()["last_switch"]
                assert state.last_switch.tolist() == ([0, 0, 0] if last is None else last.tolist())
    assert [value.shape for value in state] == shapes
    assert bool(state.last_switch.any()) is switches
    assert int(state.frame_index) == FRAMES
    torch.testing.assert_close(state.memories, torch.stack(session.memories, dim=1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(state.pointers, torch.stack(session.pointers, dim=1), rtol=1e-4, atol=1e-4)


def test_parts_are_shared_and_the_image_encoder_is_left_out(micro_model: SAMWISE) -> None:
    step = StaticStep(micro_model)
    own = {id(parameter) for parameter in step.parameters()}
    assert own < {id(parameter) for parameter in micro_model.parameters()}
    assert not [name for name, _ in step.named_parameters() if "image_encoder" in name]
    assert micro_model.sam.image_encoder is not None
