"""Properties of attention and layers for many sizes: shortcuts and parts equal the plain way, padding is not read.

Axes: B batch, H rows, W columns, N = H * W, C channels.
"""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.sam2 import layers
from models.sam2.layers import (
    Activation,
    Attention,
    LayerNorm2d,
    attend,
    attend_in_blocks,
    has_bfloat16_products,
    linear,
)
from models.sam2.mask_decoder import MaskDecoder
from models.sam2.memory_attention import RotaryAttention
from models.sam2.position_encoding import (
    rotary_table,
    rotate,
)
from tests.models.sam2.sam2_helpers import close, noise, random_weights

CPU = torch.device("cpu")
CPU_INFO = Path("/proc/cpuinfo")
CPU_FLAGS = set(CPU_INFO.read_text().split()) if CPU_INFO.exists() else set()
few = settings(max_examples=20, deadline=None)
small = st.integers(1, 6)


@few
@given(small, small, st.integers(0, 3), st.integers(0, 5))
def test_narrow_values_are_exact(rows: int, columns: int, maps: int, pointers: int) -> None:
    """With gradients the values are projected before attention, without them after it."""
    attention = RotaryAttention(16, 8).eval()
    random_weights(attention)
    count = rows * columns
    query, key = noise(2, count, 16), noise(2, (maps + 1) * count + pointers, 8, seed=2)
    args = (query, key, noise(*key.shape, seed=3), (rows, columns), pointers)
    expected = attention(*args)
    with torch.no_grad():
        close(attention(*args), expected)


@pytest.mark.parametrize("queries", [1, 255, 513, 1100])
def test_narrow_attention_in_blocks_of_queries(queries: int) -> None:
    query, key, value = noise(2, queries, 16), noise(2, 90, 16, seed=2), noise(2, 90, 8, seed=3)
    expected = F.scaled_dot_product_attention(query, key, value)
    with torch.no_grad():
        close(attend_in_blocks(query, key, value), expected)


@torch.no_grad()
def test_attention_can_be_exported_for_any_number_of_tokens() -> None:
    """No decision of `attend` depends on how many there are, unless what it decides is there at all."""

    class Attention(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return attend(x, x, x)

    tokens = torch.export.Dim("tokens", min=2, max=4096)
    program = torch.export.export(Attention(), (noise(1, 2, 600, 8),), dynamic_shapes={"x": {2: tokens}})
    for count in (3, 511, 512):
        x = noise(1, 2, count, 8)
        close(program.module()(x), F.scaled_dot_product_attention(x, x, x))


@pytest.mark.parametrize("narrow", [True, False])
def test_attention_in_bfloat16_is_close(narrow: bool) -> None:
    """Whether or not the CPU has instructions for it; two heads with views that are not contiguous."""
    query, key, value = (noise(1, 600, 2, 32, seed=seed).transpose(1, 2) for seed in range(3))
    value = value[..., :8] if narrow else value
    expected = F.scaled_dot_product_attention(query, key, value)
    halves = [x.bfloat16() for x in (query, key, value)]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        if narrow:
            found = attend_in_blocks(*(x.flatten(0, 1) for x in halves)).unflatten(0, (1, 2))
        else:
            found = attend(*halves)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.0, atol=0.01)


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_linear_in_bfloat16_is_close(activation: Activation) -> None:
    x, weight, bias = noise(2, 24, 90).transpose(1, 2), noise(5, 24, seed=2) / 5, noise(5, seed=3)
    expected = linear(x, weight, bias, activation)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for given in (x, x.bfloat16()):
            found = linear(given, weight, bias, activation)
            assert found.dtype == torch.bfloat16
            torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.skipif("avx" not in CPU_FLAGS, reason="only Linux on x86, as in CI, says what a CPU can do")
def test_instructions_for_bfloat16_are_found() -> None:
    tests = {"_is_avx512_bf16_supported": "avx512_bf16", "_is_amx_tile_supported": "amx_tile"}
    known = {flag for test, flag in tests.items() if hasattr(torch.cpu, test)}  # not in every version of PyTorch
    assert has_bfloat16_products() == bool(CPU_FLAGS & known)


@few
@given(small, small, st.integers(1, 3))
def test_rotation_of_bfloat16_is_that_of_float32(rows: int, columns: int, maps: int) -> None:
    table, x = rotary_table(rows, columns, 8, CPU), noise(2, maps * rows * columns, 8).bfloat16()
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            assert torch.equal(rotate(x, *table), rotate(x.float(), *table).bfloat16())


@few
@given(small, small, st.integers(1, 3))
def test_rotation_is_the_same_with_gradients_and_without(rows: int, columns: int, maps: int) -> None:
    table, x = rotary_table(rows, columns, 8, CPU), noise(2, maps * rows * columns, 8)
    expected = rotate(x, *table)
    with torch.no_grad():
        close(rotate(x, *table), expected)


@few
@given(st.integers(1, 4), st.integers(1, 90), st.sampled_from(["none", "relu", "gelu"]), st.booleans())
def test_linear_equals_that_of_torch(batch: int, rows: int, activation: Activation, biased: bool) -> None:
    """Fused or not, by oneDNN or MKL, with the activation inside or behind it, also for gaps in the input."""
    x, weight, bias = noise(batch, 7, rows).transpose(1, 2), noise(5, 7, seed=2), noise(5, seed=3) if biased else None
    expected = F.linear(x, weight, bias)
    expected = {"none": expected, "relu": expected.relu(), "gelu": F.gelu(expected)}[activation]
    close(linear(x, weight, bias, activation), expected)
    layers = "models.sam2.layers"
    for inside, mkl in ((True, False), (False, False), (False, True)):
        with (
            torch.inference_mode(),
            patch(f"{layers}.fuses_gelu", lambda inside=inside: inside),
            patch(f"{layers}.prefers_mkl", lambda mkl=mkl: mkl),
            patch(f"{layers}.WIDE", 5),
        ):
            close(linear(x, weight, bias, activation), expected)


@few
@given(small, small, st.integers(1, 9))
def test_layer_norm_of_images(rows: int, columns: int, channels: int) -> None:
    norm = LayerNorm2d(channels)
    random_weights(norm)
    x = 3 * noise(2, channels, rows, columns) + 1
    spread = (x.var(dim=1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    expected = (x - x.mean(dim=1, keepdim=True)) / spread * norm.weight[:, None, None] + norm.bias[:, None, None]
    close(norm(x), expected)


@few
@given(st.integers(1, 4), st.integers(0, 4))
def test_attention_does_not_read_padding(kept: int, padding: int) -> None:
    attention = Attention(16, 8, heads=2)
    random_weights(attention)
    query, key = noise(2, 3, 16), noise(2, kept + padding, 16, seed=2)
    keep = torch.arange(kept + padding).expand(2, -1) < kept
    close(attention(query, key, key, keep), attention(query, key[:, :kept], key[:, :kept]))


@pytest.mark.parametrize("object_score", [True, False])
@torch.inference_mode()
def test_mask_decoder_does_not_read_padding_prompts(object_score: bool) -> None:
    """In float64: how float32 is rounded may depend on the number of samples."""
    decoder = MaskDecoder(32, 48, object_score).eval().double()
    random_weights(decoder)
    grid = (3, 4)
    shapes = ((2, 12, 32), (1, 12, 32), (2, 6, 32), (2, 4, 12, 16), (2, 8, 6, 8))
    image, position, prompts, *fine = (noise(*shape, seed=seed).double() for seed, shape in enumerate(shapes, start=1))
    keep = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    together = decoder(image, position, (prompts, keep), (fine[0], fine[1]), grid)
    for sample, count in ((0, 6), (1, 4)):
        one = slice(sample, sample + 1)
        alone = decoder(image[one], position, (prompts[one, :count], None), (fine[0][one], fine[1][one]), grid)
        for field in ("logits", "mask_token", "early_token", "iou", "score"):
            close(getattr(together, field)[one], getattr(alone, field))


@pytest.mark.parametrize("fewest", [2, 8])
def test_windows_in_parts_equal_all_at_once(monkeypatch: pytest.MonkeyPatch, fewest: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(10, 3, n, 8, generator=generator) for n in (4, 16, 16))
    monkeypatch.setattr(layers, "WINDOWS_AT_ONCE", 4)
    monkeypatch.setattr(layers, "FEWEST_PARTS", fewest)
    torch.testing.assert_close(layers.attend_in_parts(q, k, v, 0.0), attend(q, k, v))
