"""A stream that never ends: nothing grows with its length."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import torch

from engine.infer import open_session
from tests.conftest import build_micro

SMALLEST = {
    "hsa_patch_size": (4, 2, 1),
    "sam2__image_size": 32,
    "sam2__hiera__stages": (1, 1, 1, 1),
    "sam2__hiera__global_blocks": (2,),
    "sam2__memory_attention_layers": 1,
}


def resident_bytes() -> int:
    """Memory of this process now; where the system does not tell, its peak."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_a_long_stream_needs_no_more_than_a_short_one() -> None:
    """2,000 frames: a session's bytes never grow after frame 20, the process's memory stays within 2%.

    CME switches whenever it looks, which is in every third frame.
    """
    model = build_micro(**SMALLEST)
    model.conditional_memory_encoder.decision_class_head.bias.data = torch.tensor([-50.0, 50.0])
    session = open_session(model, ["the red disc"], window=8)
    frames = np.random.default_rng(0).integers(0, 256, (16, 24, 32, 3), dtype=np.uint8)
    sizes, resident, done = [], [], 0
    for number in range(2000):
        done += len(session.feed([frames[number % 16]]))
        if number >= 20 and not session._waiting:
            sizes.append(session.nbytes)
        if number % 500 == 499:
            resident.append(resident_bytes())
    assert done == 2000
    assert max(sizes) == sizes[0] == session.memory.nbytes
    assert max(resident) <= 1.02 * resident[0]
