"""The torch.hub entry points."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import hubconf
from util.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def test_every_size_has_an_entry_point() -> None:
    for size in ("tiny", "small", "base", "large"):
        assert f"SAM 2 {size}" in getattr(hubconf, f"samwise_{size}").__doc__


def test_an_entry_point_builds_the_network() -> None:
    model = torch.hub.load(str(ROOT), "samwise_tiny", source="local", untrained=True, use_cme_head=False)
    assert (model.config.sam2.name, model.config.hsa, model.conditional_memory_encoder) == ("tiny", True, None)
    assert model.tokenizer is not None
    assert not model.training


def test_missing_weights_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"tools/download_weights\.py"):
        torch.hub.load(str(ROOT), "samwise_tiny", source="local")
