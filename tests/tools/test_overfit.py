"""A network with random adapters learns four clips by heart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models.checkpoint_keys import from_fairseq, is_trainable
from tools import overfit
from util.errors import InputError


@pytest.mark.slow
def test_random_adapters_fit_four_clips(tmp_path: Path) -> None:
    overfit.main(["--out", str(tmp_path)])
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["before"] < 50
    assert scores["after"] > 90
    trained = torch.load(tmp_path / "training" / "checkpoints" / "last.pth", weights_only=True)["model"]
    frozen = {from_fairseq(key): value for key, value in trained.items() if not is_trainable(key)}
    start = overfit.random_network(0).state_dict()
    assert all(torch.equal(frozen[key], value) for key, value in start.items() if not is_trainable(key))


def test_only_what_an_earlier_run_made_is_removed(tmp_path: Path) -> None:
    mine = tmp_path / "thesis" / "data" / "chapter.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("all of it")
    for folder in (tmp_path / "thesis", mine):
        with pytest.raises(InputError, match="expected a new or empty folder"):
            overfit.main(["--out", str(folder), "--steps", "1"])
    assert mine.read_text() == "all of it"

    again = tmp_path / "again"
    overfit.make_room(again)
    overfit.write_clips(again / "data")
    (again / "training" / "checkpoints").mkdir(parents=True)
    (again / "scores.json").touch()
    (again / "notes.txt").touch()
    (again / "after").symlink_to(mine.parent)
    overfit.make_room(again)
    assert [path.name for path in again.iterdir()] == ["notes.txt"]
    assert mine.exists()
