"""The benchmark counts what runs and attributes it to the right parts; no test looks at how long anything takes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from models.samwise import SAMWISE
from tools import benchmark
from util.errors import InputError


def options(**values: object) -> argparse.Namespace:
    return argparse.Namespace(**{"frames": 6, "window": 3, "precision": "fp32", "device": "cpu", **values})


def test_linear_layers_are_counted_alike_fused_or_not() -> None:
    x, weight, bias = torch.randn(100, 24), torch.randn(10, 24), torch.randn(10)
    counts = []
    for function in (benchmark.own_linear, lambda *a: benchmark.linear(*a, "gelu")):
        with torch.inference_mode(), benchmark.flop_counter() as counter:
            function(x, weight, bias)
        counts.append(counter.get_total_flops())
    assert counts == [2 * 100 * 24 * 10] * 2


def test_attention_is_counted() -> None:
    q, k = torch.randn(1, 2, 30, 8), torch.randn(1, 2, 50, 8)
    with torch.inference_mode(), benchmark.flop_counter() as counter:
        torch.nn.functional.scaled_dot_product_attention(q, k, k)
    assert counter.get_total_flops() == 2 * 2 * 30 * 50 * 8 * 2


def test_parts_add_up_and_all_do_something(micro_model: SAMWISE) -> None:
    run = benchmark.run_video(micro_model, options(), benchmark.SENTENCES[:2], count=True)
    assert run.frames == 6
    assert sum(part.seconds for part in run.parts.values()) == pytest.approx(run.seconds)
    assert all(part.flops > 0 for part in run.parts.values())


def test_more_sentences_add_work_but_not_to_the_shared_stages(micro_model: SAMWISE) -> None:
    one, four = (
        benchmark.run_video(micro_model, options(), benchmark.SENTENCES[:count], count=True).parts for count in (1, 4)
    )
    for name in ("patch embedding", "Hiera stage 0", "Hiera stage 1"):
        assert four[name].flops == one[name].flops
    for name in ("Hiera stage 2", "memory encoder"):
        assert four[name].flops == 4 * one[name].flops


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["linear", "--repeats", "1", "--json", str(tmp_path / "figures.json")])
    written = json.loads((tmp_path / "figures.json").read_text())
    assert set(written) == {"machine", "options", "results"}
    assert all(set(figures) == {"own", "fused"} for figures in written["results"].values())
    assert "ratio" in capsys.readouterr().out
    with pytest.raises(InputError, match="at least 1"):
        benchmark.main(["linear", "--repeats", "0"])
