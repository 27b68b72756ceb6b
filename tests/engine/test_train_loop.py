"""The steps of a training: the same for any number of processes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from torch import nn

from engine.train.loop import Training
from engine.train.options import TrainOptions
from tests import miniature
from tests.conftest import build_micro
from tests.forked import partners
from tests.training_sets import opened
from util.distributed import joined_processes

pytestmark = pytest.mark.usefixtures("one_thread")


def _train(data: Path, folder: Path, **values: int) -> None:
    model = build_micro().train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    options = TrainOptions("mevis", num_frames=2, max_iterations=4, num_workers=0, **values)
    with joined_processes() as processes:
        Training(model, opened("mevis", data), options, folder, processes).run()


def _losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["losses"][name] for line in lines for name in ("mask", "dice")]


def test_clips_of_different_sizes_cost_the_same_in_any_number_of_processes(tmp_path: Path) -> None:
    """Losses are means over the frames padded to the size that the clips of a step have in common."""
    miniature.write_mevis(tmp_path / "data", "train", {"tall": (4, (40, 10)), "wide": (4, (10, 40))})
    _train(tmp_path / "data", tmp_path / "one")
    two = partial(_train, tmp_path / "data", tmp_path / "two")
    assert [process.wait() for process in partners(two, 2)] == [0, 0]
    assert _losses(tmp_path / "two") == pytest.approx(_losses(tmp_path / "one"), rel=1e-3)
