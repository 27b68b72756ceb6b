"""A network with random adapters learns four clips by heart."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from models.checkpoint_keys import from_fairseq, is_trainable
from tools import overfit


def test_random_adapters_fit_four_clips(tmp_path: Path) -> None:
    overfit.main(["--out", str(tmp_path)])
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["before"] < 50
    assert scores["after"] > 90
    trained = torch.load(tmp_path / "training" / "checkpoints" / "last.pth", weights_only=True)["model"]
    frozen = {from_fairseq(key): value for key, value in trained.items() if not is_trainable(key)}
    start = overfit.random_network(0).state_dict()
    assert all(torch.equal(frozen[key], value) for key, value in start.items() if not is_trainable(key))
