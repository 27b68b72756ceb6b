"""What lies in the padding is computed once for a video, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.padding import Padding
from models.samwise import SAMWISE, ClipFeatures
from models.tokenizer import TokenBatch, pad_tokens
from tests.conftest import build_micro

SIDE, LENGTH = 128, 2
TOKENS = pad_tokens([[0, 10, 11, 12, 2], [0, 20, 21, 2]])
FULL, LANDSCAPE, PORTRAIT, SMALL = (128, 128), (40, 128), (128, 40), (40, 56)


@pytest.fixture(scope="module")
def model() -> SAMWISE:
    """Windows of 8, 4, 6 (which does not divide the map of 8) and 4; two blocks of stage 2 before the global one."""
    return wide_model()


def wide_model(**values: object) -> SAMWISE:
    sizes = {"sam2__image_size": SIDE, "sam2__hiera__global_blocks": (5,), "sam2__hiera__windows": (8, 4, 6, 4)}
    return build_micro(**{**sizes, **values})


def clips(size: tuple[int, int], seed: int, count: int = 1) -> Tensor:
    """(V, T, 3, S, S) noise in the upper left corner, zero elsewhere."""
    frames = torch.zeros(count, LENGTH, 3, SIDE, SIDE)
    generator = torch.Generator().manual_seed(seed)
    frames[..., : size[0], : size[1]] = torch.randn(count, LENGTH, 3, *size, generator=generator)
    return frames


def assert_same(found: ClipFeatures, expected: ClipFeatures) -> None:
    """Equal up to the order of summation, which may depend on the number of rows of a product."""
    pairs = [
        (found.map, expected.map),
        (found.sentence, expected.sentence),
        *zip(found.fine, expected.fine, strict=True),
    ]
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))


@torch.inference_mode()
def check(model: SAMWISE, size: tuple[int, int], tokens: TokenBatch = TOKENS, count: int = 1) -> Padding:
    """Two clips, with what the first one left and without."""
    padding = Padding(size)
    clip_of = torch.arange(tokens.ids.shape[0]) % count
    for seed in range(2):
        frames = clips(size, seed, count)
        assert_same(model.encode(frames, tokens, clip_of, padding=padding), model.encode(frames, tokens, clip_of))
    return padding


@pytest.mark.parametrize(("size", "count"), [(FULL, 1), (LANDSCAPE, 1), (PORTRAIT, 2), (SMALL, 2)])
def test_later_clips_are_what_they_are_alone(model: SAMWISE, size: tuple[int, int], count: int) -> None:
    padding = check(model, size, count=count)
    assert (padding.nbytes == 0) == (size == FULL)


@settings(max_examples=4)
@given(height=st.integers(1, SIDE), width=st.integers(1, SIDE))
def test_any_size_of_frame(model: SAMWISE, height: int, width: int) -> None:
    check(model, (height, width), pad_tokens([[0, 10, 11, 12, 2]]))


@pytest.mark.parametrize(
    "values",
    [
        {"hsa": False},
        {"fusion_stages": (3,), "fusion_stages_txt": (3,), "hsa_patch_size": (2,)},
        {"fusion_stages": (2, 3), "fusion_stages_txt": (1, 3), "hsa_patch_size": (2, 1)},
        {"fusion_stages": (1,), "fusion_stages_txt": (2,), "hsa_patch_size": (4,), "sam2__hiera__global_blocks": (0,)},
        {"fusion_stages": (1,), "fusion_stages_txt": (2,), "hsa_patch_size": (4,), "sam2__hiera__global_blocks": (6,)},
        {"sam2__hiera__global_blocks": (6,)},
    ],
)
def test_other_places_of_text_and_global_blocks(values: dict[str, object]) -> None:
    """Among them: the padding ends at the first block, at the second adapter, and never before the last stage."""
    check(wide_model(**values), LANDSCAPE)


@torch.inference_mode()
def test_only_windows_that_the_picture_touches_run_again(model: SAMWISE) -> None:
    """40 rows of pixels reach 11 of 32 rows of patches: two windows of 8, then one of 6, up to the global block."""
    seen: list[int] = []
    trunk, padding = model.sam.image_encoder.trunk, Padding(LANDSCAPE)
    hooks = [
        block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[1]))
        for block in trunk.blocks
    ]
    try:
        for seed in range(2):
            model.encode(clips(LANDSCAPE, seed)[:, :1], pad_tokens([[0, 10, 11, 2]]), padding=padding)
    finally:
        for hook in hooks:
            hook.remove()
    whole, later = seen[:7], seen[7:]
    assert whole == [32, 32, 16, 16, 8, 8, 8]
    assert later == [16, 16, 8, 8, 6, 8, 8]
