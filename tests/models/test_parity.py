"""The network against figures recorded from the original system: features and decoding of real frames, training steps.

Whole videos (V1, V2) run through the benchmark scripts in tests/test_script_parity.py, with every figure on the way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datasets.media import open_media
from datasets.transforms import evaluation_size, resize_frame, to_network_input
from engine.train.network import TrainingNetwork
from engine.train.recompute import recompute_activations
from models.losses import memory_labels
from models.tokenizer import Tokenizer, load_tokenizer, pad_tokens
from tests.recipe import DATA, assert_close, disc, recipe_frames, recipe_model, square

KEYS = "keys_tiny_full.json"
HEIGHT, WIDTH, SIDE = 576, 1024, 1024
LOSSES = {"loss_mask": "mask", "loss_dice": "dice", "CME_loss": "memory"}


def clip_targets(clips: int, frames: int) -> Tensor:
    """The disc for clip 0, the square for clip 1; frames count over all clips: (clips, frames, H, W)."""
    grid = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    shapes = [disc, square]
    masks = [shapes[number // frames](number, *grid) for number in range(clips * frames)]
    return torch.from_numpy(np.stack(masks)).unflatten(0, (clips, frames))


@pytest.fixture
def two_threads() -> Iterator[None]:
    """The order of summation depends on them: with one, the worst of V3's 96 gradient norms is off by 1.35e-4."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow  # a quarter of the time of all other tests
@pytest.mark.parametrize(("name", "recompute"), [("V3_train_1x6.json", False), ("V4_train_2x2.json", True)])
def test_training_step(name: str, recompute: bool, two_threads: None) -> None:
    """V3 and V4: losses, CME label and logits, every gradient and the BatchNorm statistics of one training step."""
    case = json.loads((DATA / name).read_text())
    clips, length = case["clips"], case["frames_per_clip"]
    model = recipe_model(KEYS, case["salt"], case["score_bias"], hsa=True, use_cme_head=True).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if recompute:
        recompute_activations(model)
    network = TrainingNetwork(model)
    frames = to_network_input(list(recipe_frames(clips * length)), SIDE).unflatten(0, (clips, length))
    predictions = network.segment(frames, pad_tokens(case["ids"]))
    losses = network.losses(predictions, clip_targets(clips, length))
    for prediction in predictions:
        if (check := prediction.check) is not None:
            tracked, memoryless = (
                network.at_frame_size(logits.detach(), HEIGHT, WIDTH)
                for logits in (prediction.decoded.logits, check.memoryless.logits)
            )
            assert memory_labels(tracked, memoryless, check.memoryless.score).tolist() == case["cme_label"]
            np.testing.assert_allclose(check.logits.detach(), case["cme_logits"][0], rtol=1e-4)
    expected_losses = {"memory": 0.0} | {LOSSES[key]: value for key, value in case["losses"].items()}
    assert losses.keys() == expected_losses.keys()
    for key, loss in losses.items():
        assert loss.item() == pytest.approx(expected_losses[key], rel=1e-4), key
    sum(losses.values(), torch.zeros(())).backward()
    gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == case["gradients"].keys()
    # Two biases of V3 have 2e-6 of the whole gradient, sums that all but cancel. What is left of them depends in its
    # fourth digit on the processor's instructions; nothing else is small enough for this absolute bound to matter.
    rounding = 1e-9 * math.hypot(*(expected["norm"] for expected in case["gradients"].values()))
    for key, gradient in gradients.items():
        expected = case["gradients"][key]
        assert gradient.norm().item() == pytest.approx(expected["norm"], rel=1e-4, abs=rounding), key
        # Single values are sums over all pixels that nearly cancel: their rounding shows, the norm's does not.
        scale = float(gradient.abs().max())
        np.testing.assert_allclose(gradient.flatten()[:8], expected["first8"], atol=5e-3 * scale, err_msg=key)
    state = model.state_dict()
    for key, values in case["batchnorm_after_forward"].items():
        np.testing.assert_allclose(state[key].flatten()[: len(values)], values, rtol=1e-4, atol=1e-6, err_msg=key)


@torch.inference_mode()
def test_real_frames_and_a_real_sentence(shared: Path) -> None:
    """A: the second clip (3 frames) of a 960x540 video, from JPEGs and the sentence's text to memory-less masks."""
    case = np.load(shared / "fixtures" / "A_tiny_bedroom.npz")
    meta = json.loads(case["meta"].tobytes())
    model = recipe_model(KEYS, meta["salt"], meta["score_bias"], hsa=True, use_cme_head=True)
    tokens = Tokenizer(load_tokenizer(str(shared / "data" / "tokenizer" / "roberta-base")), 512)([meta["caption"]])
    assert tokens.ids.tolist() == [meta["ids"]]
    first = meta["window"]
    clip = list(open_media(str(shared / "data" / "video" / "bedroom")))[first:]
    resized = [resize_frame(frame, evaluation_size(*frame.shape[:2])) for frame in clip]
    assert resized[0].shape == (HEIGHT, WIDTH, 3)
    features = model.encode(to_network_input(resized, SIDE)[None], tokens)
    for t in range(len(clip)):
        assert_close(features.map[0, t, ::64, ::8], case[f"{first + t}/vis"])
        assert_close(features.sentence[0], case[f"{first + t}/state"])
    frame = features.frame(0)  # the only one of them whose decoding without memory was recorded, for CME
    decoded = model.sam.decode(model.sam.without_memory(frame.map), frame.prompts, frame.fine, (64, 64))
    assert_close(decoded.early_token, case[f"{first}/early"])
    assert_close(decoded.logits[0, ::4, ::4], case[f"{first}/low_nomem"])
