"""Weights rounded once give the bits that autocast gives, which rounds them whenever a product runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.infer import open_session
from models.half_weights import forget_half_weights, with_half_weights
from models.samwise import SAMWISE
from models.stream import GrowingStream, compile_network, network_for
from tests.conftest import SMALLEST, build_micro
from util.errors import InputError

SENTENCES = ("the red disc", "a square that moves to the left")
CLIP = 4


def model_of(version: str = "tiny", **values: object) -> SAMWISE:
    """The smallest network, whose CME switches."""
    model = build_micro(version, seed=2, **{**SMALLEST, **values})
    with torch.no_grad():
        assert model.conditional_memory_encoder is not None
        model.conditional_memory_encoder.decision_class_head.bias.copy_(torch.tensor([-50.0, 50.0]))
    return model


@pytest.mark.parametrize(
    ("version", "values"), [("tiny", {}), ("tiny_2.1", {"motion_prompt": True})], ids=["plain", "2.1 and verbs"]
)
@torch.inference_mode()
def test_the_same_bits_as_autocast_alone(version: str, values: dict[str, object]) -> None:
    model = model_of(version, **values)
    assert model.tokenizer is not None
    tokens, side = model.tokenizer(SENTENCES), model.config.sam2.image_size
    torch.manual_seed(0)
    clips = torch.randn(2, 1, CLIP, 3, side, side)
    found: list[list[torch.Tensor]] = []
    for network in (model, with_half_weights(model)):
        stream, tensors = GrowingStream(network), []
        with torch.autocast("cpu", torch.bfloat16):
            for clip in clips:
                features = network.encode(clip, tokens)
                tensors += [features.map, *features.fine, features.sentence]
                for t in range(CLIP):
                    tensors += stream.step(features.frame(t))
        found.append([*tensors, *stream.state_dict()["memories"], stream.state_dict()["last_switch"]])
    assert bool(found[0][-1].any())
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_only_weights_of_products_are_there_twice() -> None:
    model = model_of()
    own, rounded = dict(model.named_parameters()), dict(with_half_weights(model).named_parameters())
    assert list(own) == list(rounded)
    assert all(x.dtype == torch.float32 for x in own.values())
    twice = {name for name, x in own.items() if rounded[name] is not x}
    assert {rounded[name].dtype for name in twice} == {torch.bfloat16}
    assert "sam.memory_attention.layers.0.cross_attn_image.k_proj.weight" in twice
    assert not any("norm" in name.lower() or "embeddings" in name or ".neck." in name for name in twice)
    matrices = sum(x.numel() for x in own.values() if x.ndim > 1)
    assert sum(own[name].numel() for name in twice) > 0.8 * (matrices - own[EMBEDDINGS].numel())


EMBEDDINGS = "text_encoder.embeddings.word_embeddings.weight"


def test_kept_until_the_network_changes() -> None:
    model = model_of()
    first = with_half_weights(model)
    assert with_half_weights(model) is first
    weight = model.sam.memory_attention.layers[0].linear1.weight
    with torch.no_grad():
        weight.add_(1.0)
    second = with_half_weights(model)
    assert second is not first
    torch.testing.assert_close(second.sam.memory_attention.layers[0].linear1.weight, weight.bfloat16(), rtol=0, atol=0)
    assert with_half_weights(model.train()).training
    assert not with_half_weights(model.eval()).training
    third = with_half_weights(model)
    forget_half_weights(model)
    assert with_half_weights(model) is not third


def test_sessions_and_compiled_networks_use_them() -> None:
    model, compiled = model_of(), model_of()
    assert network_for(model, "fp32") is network_for(model, "tf32") is model
    assert network_for(model, "bf16") is with_half_weights(model)
    compile_network(compiled, "bf16", disable=True)
    frames = np.random.default_rng(0).integers(0, 255, (2 * CLIP, 36, 64, 3), dtype=np.uint8)
    expected, found = (
        open_session(network, SENTENCES, window=CLIP, precision="bf16").feed(frames) for network in (model, compiled)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.logits.isfinite().all()
        assert (ours.masks() == theirs.masks()).mean() > 0.98
    with pytest.raises(InputError, match="compiled for the precision bf16, found fp32"):
        open_session(compiled, SENTENCES, window=CLIP)
