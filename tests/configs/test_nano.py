"""The nano network: its numbers, and that a version brings its own defaults."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from configs.loading import change_model_config, load_model_config, network_versions, sam2_versions
from configs.schema import SHIPPED_VERSIONS, shipped_folder
from engine.infer import stream
from models.build import build_model, load_model
from util.errors import InputError


def test_versions() -> None:
    assert set(network_versions()) == {*sam2_versions(), *SHIPPED_VERSIONS}
    assert len(sam2_versions()) == 8
    assert [shipped_folder(name) for name in sam2_versions()] == [None] * 8
    folder = shipped_folder("nano")
    assert folder is not None
    assert folder.parts[-2:] == ("pretrained", "nano")


def test_a_version_brings_its_own_defaults_and_given_values_are_honoured() -> None:
    config = load_model_config("nano")
    assert (config.sam2.name, config.sam2.model_dim, config.text.vocab_size) == ("nano", 96, 1024)
    assert (config.adapter_dim, config.fusion_stages_txt, config.hsa) == (96, (1, 2, 3), False)
    assert load_model_config("nano", adapter_dim=256, fusion_stages_txt=(2, 3, 4)).adapter_dim == 256
    assert load_model_config("nano", text="roberta_base").text == load_model_config("tiny").text
    assert load_model_config("tiny").adapter_dim == 256
    assert load_model_config("tiny").fusion_stages_txt == (4, 8, 12)
    with pytest.raises(InputError, match="--fusion_stages_txt must rise from at least 1 to at most 4"):
        load_model_config("nano", fusion_stages_txt=(4, 8, 12))


def test_it_fits_into_the_repository() -> None:
    """At most 16 MB with tokenizer, whatever is switched on."""
    with torch.device("meta"):
        model = build_model(load_model_config("nano", hsa=True, use_cme_head=True, motion_prompt=True))
    assert sum(parameter.numel() for parameter in model.parameters()) <= 3_900_000
    assert sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) <= 15_700_000


def test_it_segments() -> None:
    """Every map divides into windows and patches; nine frames need memory and a second clip."""
    model, _ = load_model(load_model_config("nano", hsa=True, use_cme_head=True), untrained=True)
    frames = np.random.default_rng(0).integers(0, 256, (9, 60, 96, 3), dtype=np.uint8)
    with torch.inference_mode():
        results = list(stream(model, ["the red disc"], frames))
    assert [result.index for result in results] == list(range(9))
    assert all(result.probabilities().shape == (1, 60, 96) for result in results)
    assert all(result.logits.isfinite().all() for result in results)


def test_values_of_a_network_are_changed() -> None:
    config = load_model_config("nano", sam2__image_size=320)
    assert change_model_config(config) == config
    changed = change_model_config(config, hsa=True, text__layers=5)
    assert (changed.sam2, changed.hsa, changed.text.layers) == (config.sam2, True, 5)
    assert config.hsa_patch_size == (8, 20, 10)  # 0: the whole map
    with pytest.raises(InputError, match=r"no field 'sam2\.nope'"):
        change_model_config(config, sam2__nope=1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sam2__model_dim": 40}, "model_dim must be a multiple of 16"),
        ({"sam2__memory_dim": 20}, r"model_dim \(by memory_dim\) must be a multiple of 20"),
        ({"sam2__hiera__num_heads": 3}, r"embed_dim \(by num_heads\) must be a multiple of 3"),
        ({"sam2__hiera__stages": (1, 1)}, "4 stages and 4 windows"),
        ({"sam2__hiera__windows": (8, 4, 6, 0)}, "4 stages and 4 windows"),
        ({"sam2__max_memories": 0}, "max_memories must be at least 1"),
        ({"text__heads": 3}, r"hidden_size \(by heads\) must be a multiple of 3"),
    ],
)
def test_sizes_that_fit_no_network(values: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_model_config("nano", **values)
