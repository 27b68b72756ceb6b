"""The evaluation resize and the network input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from datasets.transforms import MEAN, STD, evaluation_size, resize_frame, to_network_input


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (540, 960, (576, 1024)),
        (480, 854, (575, 1024)),
        (960, 540, (1024, 576)),
        (576, 1024, (576, 1024)),
        (500, 500, (1020, 1020)),
        (1, 4000, (1, 1024)),
    ],
)
def test_known_sizes(height: int, width: int, expected: tuple[int, int]) -> None:
    assert evaluation_size(height, width) == expected


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), side=st.sampled_from([64, 256, 1024]))
def test_size_fits_and_keeps_orientation(height: int, width: int, side: int) -> None:
    new = evaluation_size(height, width, side)
    assert 1 <= min(new) <= max(new) <= side
    assert (new[0] - new[1]) * (height - width) >= 0
    assert evaluation_size(width, height, side) == new[::-1]


@given(height=st.integers(20, 90), width=st.integers(20, 90), seed=st.integers(0, 9))
def test_resize_equals_torchvision_on_pil_images(height: int, width: int, seed: int) -> None:
    """The published evaluation used torchvision's resize with a short side of 1020 and a longest side of 1024."""
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = v2.Resize(1020, max_size=1024)(Image.fromarray(frame))
    found = resize_frame(frame, evaluation_size(height, width))
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_network_input_is_normalised_and_padded_with_zeros() -> None:
    frames = [np.full((3, 5, 3), value, np.uint8) for value in (0, 255)]
    made = to_network_input(frames, 8)
    assert made.shape == (2, 3, 8, 8)
    for channel in range(3):
        torch.testing.assert_close(made[1, channel, 0, 0].item(), (1 - MEAN[channel]) / STD[channel])
        torch.testing.assert_close(made[0, channel, 2, 4].item(), -MEAN[channel] / STD[channel])
    assert not made[:, :, 3:].any()
    assert not made[:, :, :, 5:].any()
