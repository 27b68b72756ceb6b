"""Our SAM 2 and 2.1 against values of the PyPI package `sam2`, stored by tools/make_sam2_reference.py."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.loading import load_model_config, sam2_versions
from configs.schema import Sam2Config
from models.checkpoint_keys import is_ignored
from models.sam2.sam2 import SAM2
from models.session import Session
from tests.conftest import DATA
from tests.models.sam2.sam2_helpers import difference, run_encoder
from tests.models.sam2.sam2_recipe import recipe_frames, recipe_prompts, recipe_weight

ENCODED = ("tiny", "base_2.1", "large_2.1")
TRACKED = ("tiny", "base_2.1")
TEXT_DIM = 8
SCORE_HEAD = "sam_mask_decoder.pred_obj_score_head.layers.2."
# Largest difference over the largest magnitude. Seen: 1e-6, and 1e-5 for object scores, which are small differences of
# large numbers.
ENCODER_TOLERANCE = 1e-5
TRACKER_TOLERANCE = 1e-4


@functools.cache
def reference() -> dict[str, Tensor]:
    """The arrays of the reference file."""
    with np.load(DATA / "sam2_reference.npz") as file:
        return {name: torch.from_numpy(values) for name, values in file.items()}


@functools.cache
def meta() -> dict[str, Any]:
    """How the reference file was made, and the keys of the package's networks."""
    return json.loads(reference()["meta"].numpy().tobytes())


def reduced_config(name: str) -> Sam2Config:
    """The configuration of a case."""
    sizes = meta()["sizes"]
    return load_model_config(
        name,
        sam2__image_size=sizes["image_size"],
        sam2__memory_attention_layers=sizes["memory_attention_layers"],
        sam2__memory_attention_hidden=sizes["memory_attention_hidden"],
        sam2__hiera__embed_dim=sizes["embed_dim"],
        sam2__hiera__stages=tuple(sizes["stages"]),
        sam2__hiera__global_blocks=tuple(sizes["global_blocks"]),
    ).sam2


@functools.cache
def reduced_model(name: str) -> SAM2:
    """Our network of a case with the recipe's weights."""
    model = SAM2(reduced_config(name), TEXT_DIM, object_score=True, motion_prompt=False).eval()
    state = {key: recipe_weight(key, value.shape) for key, value in model.state_dict().items()}
    state[SCORE_HEAD + "weight"] *= meta()["score_gain"]
    state[SCORE_HEAD + "bias"].fill_(meta()["score_biases"].get(name, 0.0))
    model.load_state_dict(state)
    return model


def test_every_version_is_covered() -> None:
    assert set(meta()["keys"]) == set(sam2_versions())


@pytest.mark.parametrize("name", sam2_versions())
def test_keys_and_shapes_are_those_of_the_package(name: str) -> None:
    with torch.device("meta"):
        model = SAM2(load_model_config(name).sam2, TEXT_DIM, object_score=True, motion_prompt=False)
    ours = {key: list(value.shape) for key, value in model.state_dict().items() if "project_text" not in key}
    read = {key: shape for key, shape in meta()["keys"][name].items() if not is_ignored(f"sam.{key}")}
    assert ours == read


@pytest.mark.parametrize("name", ENCODED)
@torch.inference_mode()
def test_image_encoder(name: str) -> None:
    model, stored = reduced_model(name), reference()
    frames = recipe_frames(name, meta()["samples"], 1, model.config.image_size)
    stages, fine, feature_map = run_encoder(model, frames[:, 0])
    for stage, x in enumerate(stages):
        assert difference(x.permute(0, 3, 1, 2)[:, ::5, ::5, ::5], stored[f"{name}/stage{stage}"]) < ENCODER_TOLERANCE
    levels = (fine[0].flatten(2), fine[1].flatten(2), feature_map.transpose(1, 2))
    for level, x in enumerate(levels):
        assert difference(x[:, ::7, ::61], stored[f"{name}/level{level}"]) < ENCODER_TOLERANCE


@pytest.mark.parametrize("name", TRACKED)
@torch.inference_mode()
def test_tracking(name: str) -> None:
    """18 frames: no memory, the first memories, six of them, and from frame 15 on all fifteen pointers."""
    model, stored, samples = reduced_model(name), reference(), meta()["samples"]
    side = model.config.image_size
    grid = (side // 16, side // 16)
    frames = recipe_frames(name, samples, meta()["frames"], side)
    prompts = model.sam_prompt_encoder(torch.zeros(samples, TEXT_DIM))
    prompts[:, 2] = recipe_prompts(name, samples, model.config.model_dim)
    session = Session(model.config.max_memories, model.config.max_pointers)
    for t in range(meta()["frames"]):
        _, fine, features = run_encoder(model, frames[:, t])
        conditioned = model.read_memory(features, session.memories, session.pointers, grid)
        decoded = model.decode(conditioned, (prompts, None), fine, grid)
        pointer = model.object_pointer(decoded)
        memory = model.memorize(features, model.enlarge(decoded.logits, side), decoded.visible, grid)
        session.remember(memory, pointer)
        seen = {
            "conditioned": conditioned.transpose(1, 2).unflatten(2, grid)[:, ::11, ::6, ::6],
            "early": decoded.early_token[:, ::4],
            "iou": decoded.iou,
            "score": decoded.score,
            "logits": decoded.logits[:, ::6, ::6],
            "pointer": pointer[:, ::4],
            "memory": memory.transpose(1, 2).unflatten(2, grid)[:, ::5, ::5, ::5],
        }
        for sample in range(samples):  # alone, because the logits of a hidden object are very large
            for what, x in seen.items():
                one, theirs = slice(sample, sample + 1), stored[f"{name}/{t}/{what}"]
                assert difference(x[one], theirs[one]) < TRACKER_TOLERANCE, (name, t, what, sample)
