"""Frames with static shapes: what they give, what they leave behind, and that they decide on the device.

One test holds both ways of segmenting a frame equal, from the first frame to well after the memory is full.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from models.samwise import SAMWISE, FrameFeatures
from models.static_step import StaticStep
from models.stream import CompiledStep, GrowingStream, StaticStream
from models.tokenizer import TokenBatch
from tests.conftest import SMALLEST, build_micro
from tests.graphs import ReplayedGraphs

FRAMES, CLIP = 24, 8
EXCHANGES = (3, 8, 19)  # frames before which each stream goes on where the other one stopped
SENTENCES = ("the red disc", "a square that moves to the left", "it")


def inclined(model: SAMWISE, bias: float) -> SAMWISE:
    """A network whose CME is inclined to switch."""
    with torch.no_grad():
        assert model.conditional_memory_encoder is not None
        model.conditional_memory_encoder.decision_class_head.bias.copy_(torch.tensor([-bias, bias]))
    return model


def tokens_of(model: SAMWISE) -> TokenBatch:
    """`SENTENCES`; with motion prompts the first has two verbs, the second one, and the last none."""
    assert model.tokenizer is not None
    tokens = model.tokenizer(SENTENCES)
    if not model.config.motion_prompt:
        return tokens
    verbs = torch.zeros_like(tokens.words)
    verbs[0, 2:4] = verbs[1, 5] = True
    return TokenBatch(tokens.ids, tokens.words, verbs)


def random_frames(model: SAMWISE, count: int) -> Iterator[FrameFeatures]:
    """Frames of noise, encoded in clips."""
    torch.manual_seed(0)
    tokens, side = tokens_of(model), model.config.sam2.image_size
    for _ in range(0, count, CLIP):
        features = model.encode(torch.randn(1, CLIP, 3, side, side), tokens)
        yield from (features.frame(t) for t in range(CLIP))


@pytest.mark.parametrize(
    ("version", "values", "bias", "switches"),
    [
        ("tiny", {}, 0.0, True),
        ("tiny_2.1", SMALLEST, 50.0, True),
        ("tiny", {**SMALLEST, "switch_mem": "avg", "cme_decision_window": 3}, 0.6, True),
        ("tiny", {**SMALLEST, "switch_mem": "all_mask", "motion_prompt": True}, 50.0, True),
        ("tiny", {**SMALLEST, "use_cme_head": False, "pred_obj_score": False}, None, False),
    ],
    ids=["reweight", "version 2.1", "avg", "all_mask and verbs", "no CME"],
)
@torch.inference_mode()
def test_both_streams_give_the_same_masks(
    version: str, values: dict[str, object], bias: float | None, switches: bool
) -> None:
    model = build_micro(version, seed=2, **values)
    if bias is not None:
        inclined(model, bias)
    growing, static = GrowingStream(model), StaticStream(StaticStep(model), len(SENTENCES))
    size, masked = static.nbytes, 0.0
    for number, frame in enumerate(random_frames(model, FRAMES)):
        if number in EXCHANGES:
            left = growing.state_dict()
            growing.load_state_dict(static.state_dict())
            static.load_state_dict(left)
        expected, found = growing.step(frame), static.step(frame)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert torch.equal(found.logits > 0, expected.logits > 0)
        masked += float((found.logits > 0).float().mean()) / FRAMES
        one, other = static.state_dict(), growing.state_dict()
        assert one["frame_index"] == other["frame_index"] == number + 1
        none_yet = other["last_switch"] is None
        assert one["last_switch"].tolist() == ([0, 0, 0] if none_yet else other["last_switch"].tolist())
        for name in ("memories", "pointers"):
            assert len(one[name]) == len(other[name])
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-4)
    assert static.nbytes == size
    assert bool(one["last_switch"].any()) is switches
    assert 0.01 < masked < 0.99


@torch.inference_mode()
def test_a_full_memory_is_read_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_micro(seed=2, **SMALLEST)
    stream, attention, masked = StaticStream(StaticStep(model), len(SENTENCES)), F.scaled_dot_product_attention, []

    def count(*args: torch.Tensor, **keywords: object) -> torch.Tensor:
        masked[-1] += (args[3] if len(args) > 3 else keywords.get("attn_mask")) is not None
        return attention(*args, **keywords)

    frames = list(random_frames(model, FRAMES))
    monkeypatch.setattr(F, "scaled_dot_product_attention", count)
    for frame in frames:
        masked.append(0)
        stream.step(frame)
    layers, full = model.config.sam2.memory_attention_layers, model.config.sam2.max_pointers
    assert masked == [layers] * full + [0] * (FRAMES - full)


def test_a_frame_is_one_graph_while_the_memory_fills_and_one_afterwards() -> None:
    """No decision leaves the device: the graph would break, which is an error here.

    Results of earlier frames, and the state, outlive the graph's next run in the same memory.
    """
    model = inclined(build_micro(seed=2, **SMALLEST), 0.3)
    step, backend, results = CompiledStep(model), ReplayedGraphs(), []
    torch._dynamo.reset()
    step.compile(backend=backend, fullgraph=True)
    with torch.inference_mode():
        compiled, plain = StaticStream(step, len(SENTENCES)), StaticStream(StaticStep(model), len(SENTENCES))
        for number, frame in enumerate(random_frames(model, FRAMES)):
            if number in EXCHANGES:
                compiled.load_state_dict(plain.state_dict())
            masks = compiled.step(frame), plain.step(frame)
            results.append(
                [
                    (*found, stream.state_dict()["last_switch"])
                    for found, stream in zip(masks, (compiled, plain), strict=True)
                ]
            )
            assert backend.graphs == (1 if number < model.config.sam2.max_pointers else 2)
    for found, expected in results:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert compiled.state_dict()["last_switch"].any()
    torch._dynamo.reset()


@torch.inference_mode()
def test_strides_do_not_tell_the_length_of_the_clip(micro_model: SAMWISE) -> None:
    """Code is compiled once more for other strides: also for those of a single sentence, whose axis has length 1."""
    tokens, side = tokens_of(micro_model), micro_model.config.sam2.image_size
    for sentences in (1, len(SENTENCES)):
        some = TokenBatch(tokens.ids[:sentences], tokens.words[:sentences])
        strides = []
        for length in (1, 2, 3):
            packed = micro_model.encode(torch.zeros(1, length, 3, side, side), some).frame(0).packed()
            strides.append([x.stride() for x in (packed.map, *packed.fine, packed.prompts[0])])
        assert strides[0] == strides[1] == strides[2]


def test_parts_are_shared_and_the_image_encoder_is_left_out(micro_model: SAMWISE) -> None:
    step = StaticStep(micro_model)
    own = {id(parameter) for parameter in step.parameters()}
    assert own < {id(parameter) for parameter in micro_model.parameters()}
    assert not [name for name, _ in step.named_parameters() if "image_encoder" in name]
    assert micro_model.sam.image_encoder is not None
