"""What a stand-in is taught: motion, shares of cells, and what sentences ask for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tools.stand_in.lessons import known_loss, label_shares, object_motion, object_place, shrink_labels
from tools.stand_in.scenes import read_clause


def test_motion_is_that_of_the_drawn_object() -> None:
    labels = torch.zeros(1, 4, 32, 32, dtype=torch.uint8)
    for frame in range(4):
        labels[0, frame, 8:12, 2 + 4 * frame : 6 + 4 * frame] = 1
        labels[0, frame, 20 - frame : 24 + frame, 10 - frame : 14 + frame] = 2
    place = object_place(labels)
    assert place[0, 0, 1].tolist() == pytest.approx([3.5 / 32, 9.5 / 32, np.log(16 / 32**2)], abs=1e-5)
    motion = object_motion(place)
    assert motion[0, 1, 1].tolist() == pytest.approx([4 / 32 * 16, 0, 0], abs=1e-5)
    assert motion[0, 1, 2].tolist() == pytest.approx([0, 0, np.log(8**2 / 4**2) / 2 * 8], abs=1e-5)
    assert motion[:, [0, 3]].isnan().all()
    assert motion[:, :, 3:].isnan().all()


def test_labels_shrink_to_the_middle_of_cells() -> None:
    labels = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    assert shrink_labels(labels, 2).tolist() == [[[[5, 7], [13, 15]]]]


def test_shares_of_labels_are_those_of_cells() -> None:
    labels = torch.randint(0, 3, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    shares = label_shares(labels, 4)
    assert shares.sum(-1) == pytest.approx(torch.ones(2, 3, 4, 4))
    assert shares[1, 2, 3, 0, 2] == (labels[1, 2, 6:8, 0:2] == 2).float().mean()


@pytest.mark.parametrize(
    ("clause", "asked", "origin"),
    [
        ("is left", {"x": -1}, "fixed"),
        ("starts bottom", {"y0": 1}, "fixed"),
        ("ends topmost", {"y1": -1}, "candidates"),
        ("starts right of 3", {"x0": 1}, "other"),
        ("above 0", {"y": -1}, "other"),
        ("keeps_moving up-left", {"vx": -(0.5**0.5), "vy": -(0.5**0.5)}, "fixed"),
        ("goes_then_stops down", {"vy": 1}, "fixed"),
        ("moves", {"speed": 1}, "fixed"),
        ("slowest", {"speed": -1}, "candidates"),
        ("largest", {"area": 1}, "candidates"),
        ("shrinks", {"growth": -1}, "fixed"),
        ("appears_last", {"arrival": 1}, "candidates"),
        ("turns left up", {}, "fixed"),
        ("starts", {}, "fixed"),
        ("", {}, "fixed"),
    ],
)
def test_what_clauses_ask_for(clause: str, asked: dict[str, float], origin: str) -> None:
    weights, name = read_clause(clause)
    assert weights == pytest.approx(asked)
    assert name == origin


def test_only_known_values_of_objects_count() -> None:
    labels = torch.tensor([0, 1, 2, 1]).view(1, 1, 2, 2)
    table = torch.tensor([[5.0], [1.0], [torch.nan]]).view(1, 1, 3, 1)
    answers = torch.tensor([9.0, 1.0, 9.0, 3.0]).view(1, 1, 2, 2, 1).requires_grad_()
    loss = known_loss(answers, labels, table)
    assert loss.item() == pytest.approx((0 + (2 - 0.3 / 2)) / 2)
    (gradient,) = torch.autograd.grad(loss, answers)
    assert gradient.flatten().nonzero().flatten().tolist() == [3]
    nothing = known_loss(answers, torch.zeros_like(labels), table)
    assert nothing.item() == 0
    nothing.backward()
