"""A stream that never ends: nothing grows with its length, and once its memory is full nothing is compiled again."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.infer import VideoSession, open_session, stream
from models.samwise import SAMWISE
from models.stream import compile_network
from tests.conftest import SMALLEST, build_micro
from tests.graphs import ReplayedGraphs

SIDE, WINDOW = 32, 8
SENTENCES = ["the red disc", "it"]
LONG, MEASURED = 5000, 500  # frames, and after how many each there is a measurement


def resident_bytes() -> int:
    """Memory of this process now; where the system does not tell, its peak."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def live_tensors() -> int:
    """Tensors that the garbage collector knows."""
    gc.collect()
    return sum(issubclass(type(item), Tensor) for item in gc.get_objects())


def switching_model() -> SAMWISE:
    """The smallest network; CME switches whenever it looks, which is in every third frame."""
    model = build_micro(**SMALLEST)
    model.conditional_memory_encoder.decision_class_head.bias.data = torch.tensor([-50.0, 50.0])
    return model


def noise() -> np.ndarray:
    """(16, H, W, 3), to be repeated."""
    return np.random.default_rng(0).integers(0, 256, (16, 24, SIDE, 3), dtype=np.uint8)


def test_a_long_stream_needs_no_more_than_a_short_one() -> None:
    """1,000 frames: a session's bytes never grow after frame 20, the process's memory stays within 2%."""
    session = open_session(switching_model(), ["the red disc"], window=WINDOW)
    frames = noise()
    sizes, resident, done = [], [], 0
    for number in range(1000):
        done += len(session.feed([frames[number % 16]]))
        if number >= 20 and not session._waiting:
            sizes.append(session.nbytes)
        if number % MEASURED == MEASURED - 1:
            resident.append(resident_bytes())
    assert done == 1000
    assert max(sizes) == sizes[0] == session.memory.nbytes
    assert max(resident) <= 1.02 * resident[0]


def endless(session: VideoSession) -> Iterator[int]:
    """Segments without an end; after every clip the bytes of the state."""
    frames = noise()
    while True:
        for start in range(0, len(frames), WINDOW):
            assert len(session.feed(frames[start : start + WINDOW])) == WINDOW
            yield session.nbytes


def assert_flat(sizes_of_state: Iterator[int]) -> None:
    """Segment 5,000 frames: live tensors, the state's and the process's bytes are after frame 5,000 as after 500."""
    sizes, tensors, resident = [], [], []
    for number, size in zip(range(WINDOW, LONG + 1, WINDOW), sizes_of_state, strict=False):
        if number // MEASURED > (number - WINDOW) // MEASURED:
            sizes.append(size)
            tensors.append(live_tensors())
            resident.append(resident_bytes())
    assert len(sizes) == LONG // MEASURED
    assert set(sizes) == {sizes[0]}
    assert set(tensors) == {tensors[0]}
    assert max(resident) <= 1.01 * resident[0]


@pytest.mark.slow
def test_five_thousand_frames_of_a_session() -> None:
    assert_flat(endless(open_session(switching_model(), SENTENCES, window=WINDOW)))


@pytest.mark.slow
def test_five_thousand_frames_compile_three_graphs() -> None:
    """One graph of the encoder and two of the step, for the filling and for the full memory, none with a break.

    They serve CME's decisions and a second video. HSA depends on the length of a clip: a shorter last one has the
    encoder compiled once more, and the step not. What a graph returned outlives its next run in the same memory.
    """
    model, backend = switching_model(), ReplayedGraphs()
    torch._dynamo.reset()
    compile_network(model, backend=backend, fullgraph=True)
    found = list(stream(model, SENTENCES, noise(), window=WINDOW))
    for one, other in zip(found, stream(switching_model(), SENTENCES, noise(), window=WINDOW), strict=True):
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one.object_scores, other.object_scores, rtol=1e-4, atol=1e-4)
    session = open_session(model, SENTENCES, window=WINDOW)
    assert_flat(endless(session))
    assert backend.graphs == 3
    assert len(open_session(model, SENTENCES, window=WINDOW).feed(noise()[:, :, :20])) == len(noise())
    assert backend.graphs == 3
    assert len(session.feed(noise()[:3])) == 0
    assert len(session.flush()) == 3
    assert backend.graphs == 4
    torch._dynamo.reset()
