"""Scoring processes: order, errors, and what happens when one dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.scoring.pool import ScorePool, collect
from util.errors import InputError


def halve_slowly(value: int) -> float:
    """Earlier tasks take longer, so that they finish in the opposite order."""
    time.sleep(0.02 * (4 - value))
    return value / 2


def refuse(value: int) -> int:
    raise InputError(f"{value} is refused")


def die(value: int) -> None:
    os._exit(value)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_keep_the_order_of_the_tasks(num_workers: int) -> None:
    with ScorePool(num_workers) as pool:
        assert pool.map(halve_slowly, range(4), [1] * 4, "test", "task") == [0.0, 0.5, 1.0, 1.5]
        futures = [pool.submit(halve_slowly, value) for value in range(4)]
        assert collect(futures, [1] * 4, "test", "task") == [0.0, 0.5, 1.0, 1.5]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_arrive_as_they_were_raised(num_workers: int) -> None:
    with ScorePool(num_workers) as pool:
        with pytest.raises(InputError, match=r"^7 is refused$"):
            pool.map(refuse, [7], [1], "test", "task")
        with pytest.raises(InputError, match=r"^8 is refused$"):
            pool.submit(refuse, 8).result()


def test_a_killed_worker_is_an_error_of_one_line() -> None:
    with ScorePool(1) as pool:
        with pytest.raises(InputError, match=r"fewer \(--num_workers"):
            pool.map(die, [3], [1], "test", "task")
        with pytest.raises(InputError, match=r"fewer \(--num_workers"):
            pool.submit(halve_slowly, 1)


def test_processes_do_not_load_the_script(tmp_path: Path) -> None:
    """It imports PyTorch, which they do without."""
    script = tmp_path / "script.py"
    script.write_text(
        "import math, sys\n"
        "from engine.scoring.pool import ScorePool\n"
        "print('loaded', flush=True)\n"
        "if __name__ == '__main__':\n"
        "    with ScorePool(2) as pool:\n"
        "        print(pool.map(math.sqrt, [4, 9], [1, 1], 'roots', 'root'))\n"
        "    print(__file__, sys.modules['__main__'].__spec__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for command in ([str(script)], ["-m", "script"]):
        found = subprocess.run(
            [sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        loaded, roots, place = found.stdout.splitlines()
        assert (loaded, roots) == ("loaded", "[2.0, 3.0]")
        assert place.startswith(str(script))
        assert place.endswith("None") == (command[0] != "-m")  # what it says is back in its place


def test_what_scores_and_draws_does_without_pytorch() -> None:
    modules = "engine.scoring.expressions", "engine.scoring.davis", "engine.inference.pictures"
    code = f"import sys, {', '.join(modules)}; print(sorted(set(sys.modules) & {{'torch', 'transformers', 'numpy'}}))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert found.stdout == "['numpy']\n"


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(InputError, match="--num_workers"):
        ScorePool(-1)
