"""Random numbers go on where they stopped, and a training that cannot have that still runs."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.train.random_state import capture_random_state, restore_random_state
from engine.train.sealed import plain
from util.distributed import Processes

CPU = torch.device("cpu")


def draw() -> list[float]:
    """Numbers of every kind; an odd count of normal ones, so that the spare one of a pair is remembered."""
    numbers = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).sum().item()]
    return [*numbers, torch.randn(5).sum().item(), float(torch.randperm(1000)[0])]


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def test_numbers_go_on_after_a_file(tmp_path: Path) -> None:
    seed_all(3)
    draw()
    state = capture_random_state()
    expected = [draw(), draw()]
    torch.save(plain({"random": [state]}), tmp_path / "c.pth")
    seed_all(8)
    assert draw() != expected[0]
    stored = torch.load(tmp_path / "c.pth", weights_only=True)
    restore_random_state(stored["random"], Processes(), CPU)
    assert [draw(), draw()] == expected


def test_each_process_gets_its_own() -> None:
    states, expected = [], []
    for rank in range(3):
        seed_all(rank)
        states.append(capture_random_state())
        expected.append(draw())
    for rank in (2, 0, 1):
        restore_random_state(states, Processes(rank, 3), CPU)
        assert draw() == expected[rank]


def test_another_number_of_processes_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    seed_all(0)
    states = [capture_random_state(), capture_random_state()]
    drawn = []
    for rank in (0, 1, 2, 0):
        restore_random_state(states, Processes(rank, 3), CPU)
        drawn.append(draw())
    assert drawn[0] == drawn[3]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == 2  # rank 0, twice
    assert "is of 2 process(es), and now there are 3" in messages[0]


@pytest.mark.parametrize(("stored_on_gpu", "device"), [(True, "cpu"), (False, "cuda")])
def test_another_kind_of_device_is_reported(caplog: pytest.LogCaptureFixture, stored_on_gpu: bool, device: str) -> None:
    seed_all(0)
    state = capture_random_state()
    expected = draw()
    if stored_on_gpu:
        state |= {"cuda": [torch.zeros(16, dtype=torch.uint8)], "cuda_device": 0}
    restore_random_state([state], Processes(), torch.device(device))
    assert draw() == expected
    assert "random numbers will not be those of an uninterrupted training" in caplog.text
