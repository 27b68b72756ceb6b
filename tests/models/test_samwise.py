"""The network: batches equal single runs, shared parts are shared, padding is never read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.loading import sam2_versions
from models.build import build_model
from models.checkpoint_keys import is_trainable
from models.sam2 import layers
from models.samwise import SAMWISE
from models.tokenizer import TokenBatch, pad_tokens
from tests.conftest import build_micro

SENTENCES = [[0, 10, 11, 12, 13, 14, 15, 2], [0, 20, 2], [0, 30, 31, 32, 2], [0, 40, 41, 42, 43, 2]]


def random_clips(clips: int, length: int, side: int = 64) -> Tensor:
    return torch.randn(clips, length, 3, side, side, generator=torch.Generator().manual_seed(clips + length))


@torch.inference_mode()
def logits_of(model: SAMWISE, clips: Tensor, tokens: TokenBatch, clip_of: Tensor | None = None) -> Tensor:
    """(T, B, h, w)."""
    features, session = model.encode(clips, tokens, clip_of), model.new_session()
    return torch.stack([model.step(features.frame(t), session).decoded.logits for t in range(clips.shape[1])])


@pytest.mark.parametrize("values", [{}, {"hsa": False}, {"use_cme_head": False}, {"pred_obj_score": False}])
def test_expressions_of_one_clip_equal_single_runs(values: dict[str, bool]) -> None:
    """Sentences of different length in one batch, over enough frames for CME to look."""
    model = build_micro(**values)
    clips = random_clips(1, 9)
    together = logits_of(model, clips, pad_tokens(SENTENCES))
    for number, sentence in enumerate(SENTENCES):
        alone = logits_of(model, clips, pad_tokens([sentence]))
        torch.testing.assert_close(together[:, number : number + 1], alone, rtol=1e-4, atol=1e-4)


def test_several_clips_with_several_expressions_equal_single_runs(micro_model: SAMWISE) -> None:
    clips, clip_of = random_clips(2, 7), torch.tensor([1, 0, 1, 1])
    together = logits_of(micro_model, clips, pad_tokens(SENTENCES), clip_of)
    for number, sentence in enumerate(SENTENCES):
        clip = clips[clip_of[number] : clip_of[number] + 1]
        alone = logits_of(micro_model, clip, pad_tokens([sentence]))
        torch.testing.assert_close(together[:, number : number + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("clip_of", [[1, 0], [0, 0], [1, 1]])
def test_as_many_clips_as_sentences_in_any_order(micro_model: SAMWISE, clip_of: list[int]) -> None:
    clips = random_clips(2, 3)
    together = logits_of(micro_model, clips, pad_tokens(SENTENCES[:2]), torch.tensor(clip_of))
    for number in range(2):
        alone = logits_of(micro_model, clips[clip_of[number], None], pad_tokens(SENTENCES[number : number + 1]))
        torch.testing.assert_close(together[:, number : number + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("stages", "layers", "patches"), [((3,), (3,), (2,)), ((1,), (2,), (4,)), ((2, 3), (1, 3), (2, 1))]
)
def test_other_fusion_stages(stages: tuple[int, ...], layers: tuple[int, ...], patches: tuple[int, ...]) -> None:
    model = build_micro(fusion_stages=stages, fusion_stages_txt=layers, hsa_patch_size=patches)
    clips = random_clips(1, 3)
    together = logits_of(model, clips, pad_tokens(SENTENCES[:3]))
    for number in range(3):
        alone = logits_of(model, clips, pad_tokens(SENTENCES[number : number + 1]))
        torch.testing.assert_close(together[:, number : number + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["all_mask", "avg", "reweight"])
def test_each_sentence_has_its_own_switches(mode: str) -> None:
    """CME decides differently for the sentences of a batch; each still gets what it gets alone."""
    model = build_micro(switch_mem=mode)
    cme, clips, batch = model.conditional_memory_encoder, random_clips(1, 10), pad_tokens(SENTENCES)

    def decisions(tokens: TokenBatch) -> list[tuple[list[int], Tensor]]:
        with torch.inference_mode():
            features, session = model.encode(clips, tokens), model.new_session()
            checks = [model.step(features.frame(t), session).check for t in range(10)]
        return [(check.samples, check.logits) for check in checks if check is not None]

    first = decisions(batch)[0][1]
    with torch.no_grad():  # put the border between the sentences of the first decision
        cme.decision_class_head.bias[1] -= (first[:, 1] - first[:, 0]).sort().values[1:3].mean()
    looked = decisions(batch)
    assert any(len(samples) < len(SENTENCES) for samples, _ in looked)
    together = logits_of(model, clips, batch)
    for number, sentence in enumerate(SENTENCES):
        alone = logits_of(model, clips, pad_tokens([sentence]))
        # `reweight` has a step where the memory-less logit is zero, so rounding can show there.
        torch.testing.assert_close(together[:, number : number + 1], alone, rtol=1e-3, atol=1e-3)


def test_what_does_not_depend_on_text_runs_once_per_clip(micro_model: SAMWISE) -> None:
    """Patches, the stages before the first adapter and its HSA see each clip once, whatever the number of sentences."""
    trunk, seen = micro_model.sam.image_encoder.trunk, {"patches": 0, "shared": 0, "fused": 0, "hsa": 0}

    def counter(name: str) -> object:
        def count(module: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] += output.shape[0]

        return count

    hooks = [
        trunk.patch_embed.register_forward_hook(counter("patches")),
        trunk.blocks[trunk.stage_ends[1] - 1].register_forward_hook(counter("shared")),
        trunk.blocks[trunk.stage_ends[1]].register_forward_hook(counter("fused")),
        micro_model.cmt_adapters[0].hsa.register_forward_hook(counter("hsa")),
    ]
    try:
        logits_of(micro_model, random_clips(1, 3), pad_tokens(SENTENCES))
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == {"patches": 3, "shared": 3, "fused": 12, "hsa": 1}


def test_bands_of_rows_equal_whole_frames(micro_model: SAMWISE, monkeypatch: pytest.MonkeyPatch) -> None:
    clips, tokens = random_clips(1, 3, 128), pad_tokens(SENTENCES[:2])
    with torch.inference_mode():
        whole = micro_model.encode(clips, tokens)
        monkeypatch.setattr(layers, "BAND_TOKENS", 1)
        banded = micro_model.encode(clips, tokens)
    torch.testing.assert_close(banded.map, whole.map, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(banded.sentence, whole.sentence, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(banded.fine, whole.fine, rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(extra=st.integers(1, 20), seed=st.integers(0, 1000))
def test_padding_is_never_read(micro_model: SAMWISE, extra: int, seed: int) -> None:
    """Whatever ids stand where the mask says padding, nothing changes."""
    tokens = pad_tokens(SENTENCES[1:2])
    rubbish = torch.randint(3, 300, (1, extra), generator=torch.Generator().manual_seed(seed))
    padded = TokenBatch(
        torch.cat([tokens.ids, rubbish], 1), torch.cat([tokens.words, torch.zeros(1, extra, dtype=torch.bool)], 1)
    )
    clips = random_clips(1, 2)
    torch.testing.assert_close(
        logits_of(micro_model, clips, padded), logits_of(micro_model, clips, tokens), rtol=1e-4, atol=1e-4
    )


def test_verbs_are_further_prompts_and_their_padding_is_masked() -> None:
    model = build_micro(motion_prompt=True)
    tokens = pad_tokens(SENTENCES[:2])
    verbs = torch.zeros_like(tokens.words)
    verbs[0, [2, 4]] = True
    both = TokenBatch(tokens.ids, tokens.words, verbs)
    clips = random_clips(1, 2)
    together = logits_of(model, clips, both)
    for number, sentence in enumerate(SENTENCES[:2]):
        alone = pad_tokens([sentence])
        single = TokenBatch(alone.ids, alone.words, verbs[number : number + 1, : len(sentence)])
        torch.testing.assert_close(
            together[:, number : number + 1], logits_of(model, clips, single), rtol=1e-4, atol=1e-4
        )
    plain = logits_of(model, clips, TokenBatch(tokens.ids, tokens.words, torch.zeros_like(verbs)))
    assert not torch.allclose(together[:, 0], plain[:, 0])
    torch.testing.assert_close(together[:, 1], plain[:, 1], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_cme_looks_without_memory_and_without_verbs() -> None:
    model = build_micro(motion_prompt=True, cme_decision_window=1)
    tokens, frames, found = pad_tokens(SENTENCES[:1]), random_clips(1, 3), []
    for verbs in (torch.zeros_like(tokens.words), torch.ones_like(tokens.words)):
        features, session = model.encode(frames, TokenBatch(tokens.ids, tokens.words, verbs)), model.new_session()
        found.append([model.step(features.frame(t), session) for t in range(3)])
    without, with_verbs = (predictions[2] for predictions in found)
    assert without.check is not None
    assert with_verbs.check is not None
    torch.testing.assert_close(with_verbs.check.memoryless.logits, without.check.memoryless.logits)
    assert not torch.allclose(with_verbs.decoded.logits, without.decoded.logits)


@pytest.mark.parametrize("side", [64, 128, 192])
def test_other_image_sizes(side: int) -> None:
    model = build_micro(sam2__image_size=side)
    logits = logits_of(model, random_clips(1, 2, side), pad_tokens(SENTENCES[:1]))
    assert logits.shape == (2, 1, side // 4, side // 4)
    assert logits.isfinite().all()


@pytest.mark.parametrize("version", sam2_versions())
def test_trainable_parameters_are_the_published_ones(version: str) -> None:
    """4.9 M in adapters and CME, plus the text projection (0.33 M); everything else is frozen."""
    with torch.device("meta"):
        from configs.loading import load_model_config

        model = build_model(load_model_config(version, hsa=True, use_cme_head=True))
    trainable = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert all(is_trainable(name) for name in trainable)
    projection = sum(size for name, size in trainable.items() if "project_text" in name)
    assert projection == 328_448
    if version == "base":
        assert sum(trainable.values()) - projection == pytest.approx(4.91e6, rel=1e-2)


def test_sam21_differs_in_object_memory_and_pointer_time() -> None:
    """The two SAM 2.1 additions exist, are read, and change the result."""
    model = build_micro("tiny_2.1")
    assert {"no_obj_embed_spatial", "obj_ptr_tpos_proj.weight"} <= model.sam.state_dict().keys()
    clips, tokens = random_clips(1, 3), pad_tokens(SENTENCES[:1])
    before = logits_of(model, clips, tokens)
    with torch.no_grad():
        model.sam.obj_ptr_tpos_proj.weight.mul_(10)
    assert not torch.allclose(before[2], logits_of(model, clips, tokens)[2])
    torch.testing.assert_close(before[0], logits_of(model, clips, tokens)[0])


def test_bf16_autocast_stays_close_to_fp32(micro_model: SAMWISE) -> None:
    clips, tokens = random_clips(1, 6), pad_tokens(SENTENCES[:2])
    exact = logits_of(micro_model, clips, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        rough = logits_of(micro_model, clips, tokens)
    span = float(exact.max() - exact.min())
    assert float((rough.float() - exact).abs().mean()) < 0.05 * span


def test_gradients_reach_every_trainable_tensor_but_the_unused_norm() -> None:
    model = build_micro().train()
    features, session = model.encode(random_clips(1, 6), pad_tokens(SENTENCES[:1])), model.new_session()
    predictions = [model.step(features.frame(t), session) for t in range(6)]
    loss = sum(p.decoded.logits.square().mean() for p in predictions)
    network = torch.autograd.grad(loss, list(model.cmt_adapters.parameters()), retain_graph=True)
    loss = loss + predictions[-1].check.logits.square().sum()
    loss.backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert without == {f"conditional_memory_encoder.transformerBlock.norm2.{kind}" for kind in ("weight", "bias")}
    assert all(p.grad is None for name, p in model.named_parameters() if not is_trainable(name))
    for parameter, gradient in zip(model.cmt_adapters.parameters(), network, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)  # CME's own loss adds nothing to the adapters
