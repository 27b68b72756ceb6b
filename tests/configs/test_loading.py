"""Composing configurations, and refusing what no network can have."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from configs.loading import CONFIG_DIR, load_model_config, sam2_versions
from util.errors import InputError


@pytest.mark.parametrize("version", sam2_versions())
def test_every_version_composes(version: str) -> None:
    config = load_model_config(version)
    assert config.sam2.name == version
    assert config.sam2.checkpoint.startswith("sam2.1_" if version.endswith("2.1") else "sam2_")
    assert (config.sam2.no_object_memory, config.sam2.pointer_time) == (version.endswith("2.1"),) * 2


def test_inside_a_program_that_uses_hydra() -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        assert load_model_config("tiny", hsa=True).hsa
        assert compose("model").sam2.name == "base"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sam2_version": "huge"}, "--sam2_version 'huge' is unknown"),
        ({"text": "bert"}, "no text encoder 'bert'"),
        ({"nope": 1}, "no field 'nope'"),
        ({"nope__x": 1}, r"no field 'nope\.x'"),
        ({"adapter_dim__x": 1}, r"no field 'adapter_dim\.x'"),
        ({"adapter_dim": 100}, "multiple of 8"),
        ({"adapter_dim": 2.5}, "expected"),
        ({"switch_mem": "bogus"}, "all_mask, reweight, avg"),
        ({"fusion_stages": (), "fusion_stages_txt": (), "hsa_patch_size": ()}, "--fusion_stages must rise"),
        ({"fusion_stages": (0, 1, 2)}, "--fusion_stages must rise"),
        ({"fusion_stages_txt": (4, 8)}, "one value per adapter"),
        ({"fusion_stages_txt": (4, 8, 13)}, "at most 12"),
        ({"hsa": True, "hsa_patch_size": (7, 4, 2)}, "does not divide"),
        ({"sam2__image_size": 100}, "multiple of 32"),
        ({"cme_decision_window": 0}, "at least 1"),
    ],
)
def test_what_cannot_be(values: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_model_config(**values)
