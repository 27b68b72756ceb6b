"""The benchmark of J and F compares ways that give the same values; no test looks at how long they take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tools import benchmark_scores as benchmark
from util.errors import InputError
from util.metrics import video_scores


def test_both_ways_agree(tmp_path: Path) -> None:
    result = tmp_path / "scores.json"
    benchmark.main(["--frames", "3", "--size", "60", "90", "--repeats", "1", "--json", str(result)])
    assert json.loads(result.read_text())["largest difference"] < 1e-12


def test_empty_masks_count_alike() -> None:
    masks = np.zeros((3, 20, 30), bool)
    other = masks.copy()
    other[1, 4:9, 5:9] = True
    for found, expected in zip(benchmark.straightforward(masks, other), video_scores(masks, other), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        benchmark.main(["--frames", "0"])
