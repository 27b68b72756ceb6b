"""Freed memory that a process keeps for later: counted in page faults, which do not depend on the machine's load."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource
import torch
from util.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16 << 20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
kept = keep_freed_memory()
for _ in range(8):  # until the heap has found its form
    faults()
print(kept, given_back, faults())
"""


def test_large_tensors_meet_no_new_pages() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    kept, given_back, after = done.stdout.split()
    assert kept == "True"
    assert int(given_back) > 100  # even with pages of 2 MiB
    assert int(after) < 10
