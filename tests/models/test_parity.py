"""The network against figures recorded from the original system: activations, masks, losses and gradients."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from configs.loading import load_model_config
from datasets.media import open_media
from datasets.transforms import evaluation_size, resize_frame, to_network_input
from models.build import build_model
from models.checkpoint import load_weights
from models.losses import dice_loss, fit_to_targets, focal_loss, memory_labels, memory_loss
from models.samwise import SAMWISE
from models.tokenizer import Tokenizer, load_tokenizer, pad_tokens
from tests.recipe import DATA, disc, recipe_frames, recipe_state, square

HEIGHT, WIDTH, SIDE = 576, 1024, 1024


def recipe_model(tmp_path: Any, keys: str, salt: int, score_bias: float | None, **values: Any) -> SAMWISE:
    """A network that loaded a published checkpoint file made by the recipe, strictly."""
    path = tmp_path / "published.pth"
    torch.save({"model": recipe_state(keys, salt, score_bias)}, path)
    model = build_model(load_model_config("tiny", **values))
    report = load_weights(model, resume=str(path))
    assert not report.fresh
    assert not report.from_base
    path.unlink()
    return model


def close(found: Tensor, expected: np.ndarray, tolerance: float = 5e-5) -> None:
    """Assert that values differ by at most `tolerance` of the expected values' range."""
    found_array = found.detach().float().numpy()
    assert found_array.shape == expected.shape
    span = float(expected.max() - expected.min()) or 1.0
    assert np.abs(found_array - expected).max() <= tolerance * span


def equal_pixels(logits: Tensor, bits: np.ndarray, shape: np.ndarray) -> float:
    """Share of pixels whose thresholded value equals the packed reference."""
    expected = np.unpackbits(bits)[: int(np.prod(shape))].reshape(shape).astype(bool)
    return float((logits.numpy() > 0).__eq__(expected).mean())


@torch.inference_mode()
def test_video_of_two_clips(tmp_path: Any) -> None:
    """V1: 11 frames in clips of 8 and 3 with HSA and CME; every intermediate figure, and the decisions."""
    case = np.load(DATA / "V1_tiny_recipe.npz")
    meta = json.loads(case["meta"].tobytes())
    keys = "keys_tiny_full.json"
    model = recipe_model(tmp_path, keys, meta["salt"], meta["score_bias"], hsa=True, use_cme_head=True)
    frames = to_network_input(list(recipe_frames(meta["count"])), SIDE)
    tokens, session, masks = pad_tokens([meta["ids"]]), model.new_session(), []
    for clip in frames.split(meta["window"]):
        features = model.encode(clip[None], tokens)
        for t in range(len(clip)):
            number = session.frame_index
            prediction = model.step(features.frame(t), session)
            decoded = prediction.decoded
            close(features.map[0, t, ::64, ::8], case[f"{number}/vis"])
            close(features.sentence[0], case[f"{number}/state"])
            close(decoded.logits[0, ::2, ::2], case[f"{number}/low"])
            close(prediction.pointer, case[f"{number}/ptr"])
            close(session.memories[-1][0].T.unflatten(1, (64, 64))[::8, ::8, ::8], case[f"{number}/mem"])
            assert decoded.score.item() == pytest.approx(case[f"{number}/score"].item(), abs=1e-4)
            assert decoded.iou.item() == pytest.approx(case[f"{number}/iou"].item(), abs=1e-4)
            assert (prediction.check is not None) == (f"{number}/cme" in case.files)
            if prediction.check is not None:
                np.testing.assert_allclose(prediction.check.logits.flatten(), case[f"{number}/cme"], atol=1e-4)
                close(prediction.check.memoryless.early_token, case[f"{number}/early"])
                close(prediction.check.memoryless.logits[0, ::4, ::4], case[f"{number}/low_nomem"])
            masks.append(model.sam.enlarge(decoded.logits, SIDE)[0, :HEIGHT, :WIDTH])
    logits = torch.stack(masks)
    close(logits[:, ::16, ::16], case["pred_strided"])
    assert equal_pixels(logits, case["mask_bits"], case["mask_shape"]) >= 0.9999


@torch.inference_mode()
def test_images_in_one_batch(tmp_path: Any) -> None:
    """V2: two images with a sentence each, without HSA, CME and object scores."""
    case = np.load(DATA / "V2_tiny_image.npz")
    meta = json.loads(case["meta"].tobytes())
    model = recipe_model(tmp_path, "keys_tiny_ris.json", meta["salt"], None, pred_obj_score=False)
    frames = to_network_input(list(recipe_frames(2)), SIDE)
    features = model.encode(frames[:, None], pad_tokens(meta["ids"]))
    decoded = model.step(features.frame(0), model.new_session()).decoded
    logits = model.sam.enlarge(decoded.logits, SIDE)[:, :HEIGHT, :WIDTH]
    close(logits[:, ::4, ::4], case["pred"])
    assert equal_pixels(logits, case["bits"], case["shape"]) >= 0.9999


def clip_targets(clips: int, frames: int) -> Tensor:
    """The disc for clip 0, the square for clip 1; frames count over all clips: (clips, frames, H, W)."""
    grid = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    shapes = [disc, square]
    masks = [shapes[number // frames](number, *grid) for number in range(clips * frames)]
    return torch.from_numpy(np.stack(masks)).unflatten(0, (clips, frames))


@pytest.mark.parametrize("name", ["V3_train_1x6.json", "V4_train_2x2.json"])
def test_training_step(tmp_path: Any, name: str) -> None:
    """V3 and V4: losses, CME label and logits, every gradient and the BatchNorm statistics of one training step."""
    case = json.loads((DATA / name).read_text())
    clips, length = case["clips"], case["frames_per_clip"]
    keys = "keys_tiny_full.json"
    model = recipe_model(tmp_path, keys, case["salt"], case["score_bias"], hsa=True, use_cme_head=True).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    frames = to_network_input(list(recipe_frames(clips * length)), SIDE).unflatten(0, (clips, length))
    features, session = model.encode(frames, pad_tokens(case["ids"])), model.new_session()
    predictions = [model.step(features.frame(t), session) for t in range(length)]
    masks = [model.sam.enlarge(p.decoded.logits, SIDE)[:, :HEIGHT, :WIDTH] for p in predictions]
    logits, targets = fit_to_targets(torch.stack(masks, 1), clip_targets(clips, length).float())
    losses = {"loss_mask": focal_loss(logits, targets), "loss_dice": dice_loss(logits, targets)}
    for mask, prediction in zip(masks, predictions, strict=True):
        if (check := prediction.check) is not None:
            memoryless = model.sam.enlarge(check.memoryless.logits, SIDE)[:, :HEIGHT, :WIDTH]
            labels = memory_labels(mask[check.samples], memoryless, check.memoryless.score)
            assert labels.tolist() == case["cme_label"]
            np.testing.assert_allclose(check.logits.detach(), case["cme_logits"][0], rtol=1e-4)
            losses["CME_loss"] = memory_loss(check.logits, labels)
    assert losses.keys() == case["losses"].keys()
    for key, loss in losses.items():
        assert loss.item() == pytest.approx(case["losses"][key], rel=1e-4), key
    sum(losses.values(), torch.zeros(())).backward()
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == case["gradients"].keys()
    for key, gradient in gradients.items():
        expected = case["gradients"][key]
        assert gradient.norm().item() == pytest.approx(expected["norm"], rel=1e-4), key
        # Single values are sums over all pixels that nearly cancel: their rounding shows, the norm's does not.
        scale = float(gradient.abs().max())
        np.testing.assert_allclose(gradient.flatten()[:8], expected["first8"], atol=5e-3 * scale, err_msg=key)
    state = model.state_dict()
    for key, values in case["batchnorm_after_forward"].items():
        np.testing.assert_allclose(state[key].flatten()[: len(values)], values, rtol=1e-4, atol=1e-6, err_msg=key)


@torch.inference_mode()
def test_real_frames_and_a_real_sentence(tmp_path: Path, shared: Path) -> None:
    """A: a clip of a 960x540 video, from JPEG files and the sentence's text to masks; its first three frames."""
    case = np.load(shared / "fixtures" / "A_tiny_bedroom.npz")
    meta = json.loads(case["meta"].tobytes())
    keys, count = "keys_tiny_full.json", 3
    model = recipe_model(tmp_path, keys, meta["salt"], meta["score_bias"], hsa=True, use_cme_head=True)
    tokens = Tokenizer(load_tokenizer(str(shared / "data" / "tokenizer" / "roberta-base")), 512)([meta["caption"]])
    assert tokens.ids.tolist() == [meta["ids"]]
    clip = itertools.islice(open_media(str(shared / "data" / "video" / "bedroom")), meta["window"])
    resized = [resize_frame(frame, evaluation_size(*frame.shape[:2])) for frame in clip]
    features, session = model.encode(to_network_input(resized, SIDE)[None], tokens), model.new_session()
    decoded = [model.step(features.frame(t), session).decoded.logits for t in range(count)]
    logits = model.sam.enlarge(torch.cat(decoded), SIDE)[:, :HEIGHT, :WIDTH]
    close(logits[:, ::16, ::16], case["pred_strided"][:count])
    assert equal_pixels(logits, case["mask_bits"], np.array((count, *case["mask_shape"][1:]))) >= 0.9999
