"""How pytest-xdist spreads the suite over workers: whole files, so that what a file's tests share is made once.

Marks of xdist_group would say the same, but have no effect with pytest 9.2 (pytest-xdist 3.8 puts them into node ids).
"""

from __future__ import annotations

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

# Networks that see 1024 pixels: minutes of one worker, one after the other, because they take up to 14 GB.
FULL_SIZE = ("tests/models/test_parity.py", "tests/test_script_parity.py")
LONG = (
    "tests/test_training_scripts.py",
    "tests/engine/test_inference_resume.py",
    "tests/engine/test_long_stream.py",
    "tests/tools/test_overfit.py",
    "tests/engine/test_inference_run.py",
    "tests/test_inference_scripts.py",
)


def file_of(nodeid: str) -> str:
    return nodeid.split("::", 1)[0]


def sort_by_length(items: list[pytest.Item]) -> None:
    """What takes longest starts first, so that the workers end together."""
    ranks = {file: rank for rank, file in enumerate([*FULL_SIZE, *LONG])}
    items.sort(key=lambda item: ranks.get(file_of(item.nodeid), len(ranks)))


class FileScheduling(LoadScopeScheduling):
    """Files in the order of the collection; those of `FULL_SIZE` count as one."""

    def _split_scope(self, nodeid: str) -> str:
        file = file_of(nodeid)
        return FULL_SIZE[0] if file in FULL_SIZE else file
