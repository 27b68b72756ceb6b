"""Properties of the parts of SAM 2 for many sizes: shortcuts equal the plain way, encodings are what they should be.

Axes: B batch, H rows, W columns, N = H * W, C channels, w side of a window.
"""

from __future__ import annotations

import math
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from configs.schema import HieraConfig
from models.sam2 import layers
from models.sam2.fpn import FeaturePyramid
from models.sam2.hiera import Hiera, WindowAttention, join_windows, max_pool, split_windows
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
    RandomFourierEncoding,
    rotary_table,
    rotate,
    sine_1d,
    sine_2d,
    sine_of_age,
)
from tests.models.sam2.sam2_helpers import noise, random_weights, run_stages

CPU = torch.device("cpu")
CPU_INFO = Path("/proc/cpuinfo")
CPU_FLAGS = set(CPU_INFO.read_text().split()) if CPU_INFO.exists() else set()
few = settings(max_examples=20, deadline=None)
small = st.integers(1, 6)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Assert equal up to rounding."""
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


# Hiera


@few
@given(small, small, small, st.integers(1, 3))
def test_windows_split_and_join(rows: int, columns: int, window: int, batch: int) -> None:
    x = noise(batch, rows * window, columns * window, 3)
    windows = split_windows(x, window)
    last = x[-1, (rows - 1) * window :, (columns - 1) * window :]
    assert torch.equal(windows[-1], last.flatten(0, 1))
    assert torch.equal(join_windows(windows, window, rows * window, columns * window), x)


@few
@given(small, small, st.integers(1, 3))
def test_max_pool_equals_that_of_torch(rows: int, columns: int, batch: int) -> None:
    x = noise(batch, 2 * rows, 2 * columns, 5)
    assert torch.equal(max_pool(x), F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1))


def plain_window_attention(module: WindowAttention, x: Tensor) -> Tensor:
    """Pad with zeros, cut windows one by one, attend by explicit softmax, put back, crop: (B, H, W, C)."""
    height, width = x.shape[1:3]
    window = module.window or height
    columns = module.window or width
    x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % window))
    stride = 2 if module.pool else 1
    out = x.new_zeros(x.shape[0], x.shape[1] // stride, x.shape[2] // stride, module.proj.out_features)
    for top in range(0, x.shape[1], window):
        for left in range(0, x.shape[2], columns):
            part = module.qkv(x[:, top : top + window, left : left + columns])
            q, k, v = part.chunk(3, dim=-1)
            if module.pool:
                q = F.max_pool2d(q.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
            shape = q.shape[1:3]
            heads = [
                (a @ b.transpose(1, 2) / math.sqrt(a.shape[-1])).softmax(-1) @ c
                for a, b, c in zip(*(y.flatten(1, 2).chunk(module.heads, dim=-1) for y in (q, k, v)), strict=True)
            ]
            rows = slice(top // stride, (top + window) // stride)
            out[:, rows, left // stride : (left + columns) // stride] = torch.cat(heads, dim=-1).unflatten(1, shape)
    return module.proj(out)[:, : height // stride, : width // stride]


@few
@given(small, small, st.sampled_from([0, 2, 4, 6]), st.booleans(), st.booleans())
def test_window_attention_equals_the_plain_way(rows: int, columns: int, window: int, pool: bool, grad: bool) -> None:
    module = WindowAttention(8, 12, heads=2, window=window, pool=pool)
    random_weights(module)
    x, gradients = noise(2, 2 * rows, 2 * columns, 8).requires_grad_(grad), []
    with torch.set_grad_enabled(grad):
        found, expected = module(x), plain_window_attention(module, x)
        close(found, expected)
    if grad:
        for out in (found, expected):
            gradients.append(torch.autograd.grad((out * noise(*out.shape, seed=3)).sum(), [x, module.qkv.bias]))
        for ours, theirs in zip(*gradients, strict=True):
            close(ours, theirs)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([(8, 4, 14, 7), (8, 4, 16, 8)]))
@torch.inference_mode()
def test_hiera_for_every_multiple_of_32(rows: int, columns: int, windows: tuple[int, ...]) -> None:
    trunk = Hiera(HieraConfig(8, 1, (1, 2, 3, 1), (4,), windows, 7)).eval()
    random_weights(trunk)
    frames = noise(2, 3, 32 * rows, 32 * columns)
    stages = run_stages(trunk, frames)
    for stage, x in enumerate(stages):
        assert x.shape == (2, 8 * rows >> stage, 8 * columns >> stage, 8 << stage)
        assert x.isfinite().all()
    for x, alone in zip(stages, run_stages(trunk, frames[1:]), strict=True):
        close(x[1:], alone, 1e-4)


@torch.inference_mode()
def test_position_embedding_of_hiera_repeats_with_the_window() -> None:
    trunk = Hiera(HieraConfig(8, 1, (1, 1, 1, 1), (), (8, 4, 14, 7), 7))
    random_weights(trunk)
    with_background = trunk.position(16, 24)
    trunk.pos_embed.zero_()
    position = trunk.position(16, 24)
    assert torch.equal(position[:, 8:, 16:], trunk.pos_embed_window.permute(0, 2, 3, 1))
    assert (with_background - position).std() > 0.1


# Feature pyramid


def lateral(neck: FeaturePyramid, index: int, x: Tensor) -> Tensor:
    """The pyramid's convolution of a level, counted from the coarsest: (B, H, W, C) -> (B, dim, H, W)."""
    conv = neck.convs[index].conv
    assert isinstance(conv, nn.Conv2d)
    return conv(x.permute(0, 3, 1, 2))


@few
@given(small, small, st.sampled_from([0, 1]))
def test_high_resolution_features_equal_one_convolution_after_the_other(rows: int, columns: int, level: int) -> None:
    neck = FeaturePyramid((4, 8, 16, 32), 24)
    reduction = nn.Conv2d(24, 6, kernel_size=1)
    random_weights(neck)
    random_weights(reduction, seed=1)
    x = noise(2, rows, columns, (4, 8)[level])
    expected = reduction(lateral(neck, 3 - level, x))
    close(neck.high_resolution(level, x, reduction).permute(0, 3, 1, 2), expected)


@few
@given(small, small)
def test_feature_map_adds_the_coarse_level_enlarged(rows: int, columns: int) -> None:
    neck = FeaturePyramid((4, 8, 16, 32), 24)
    random_weights(neck)
    fine, coarse = noise(2, 2 * rows, 2 * columns, 16), noise(2, rows, columns, 32)
    enlarged = lateral(neck, 0, coarse).repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = lateral(neck, 1, fine) + enlarged
    close(neck.feature_map(fine, coarse), expected.flatten(2).transpose(1, 2))


# Position encodings


@few
@given(small, small, st.integers(1, 4), st.sampled_from([4, 8, 12]))
def test_rotation_keeps_norms_and_repeats_for_every_map(rows: int, columns: int, maps: int, channels: int) -> None:
    table = rotary_table(rows, columns, channels, CPU)
    x = noise(2, maps, rows * columns, channels)
    turned = rotate(x.flatten(1, 2), *table)
    close(turned.norm(dim=-1), x.flatten(1, 2).norm(dim=-1))
    close(turned.unflatten(1, (maps, -1)), torch.stack([rotate(part, *table) for part in x.unbind(1)], dim=1))
    assert torch.equal(turned[:, 0], x[:, 0, 0])  # the first token stays


@few
@given(st.integers(2, 6), st.integers(2, 6))
def test_rotated_products_depend_on_the_offset_alone(rows: int, columns: int) -> None:
    query, key = noise(8, seed=1), noise(8, seed=2)
    table = rotary_table(rows, columns, 8, CPU)
    products = rotate(query.expand(rows * columns, -1), *table) @ rotate(key.expand(rows * columns, -1), *table).T
    products = products.reshape(rows, columns, rows, columns)
    close(products[1:, 1:, 1:, 1:], products[:-1, :-1, :-1, :-1])
    assert (products[0, 0, 0, 1] - products[0, 0, 1, 0]).abs() > 1e-3  # rows and columns are told apart


@few
@given(small, small, st.sampled_from([4, 8, 16]))
def test_sine_encoding_of_a_grid(rows: int, columns: int, channels: int) -> None:
    table = sine_2d(rows, columns, channels, CPU).unflatten(0, (rows, columns))
    close(table[:, 0, : channels // 2], sine_1d(rows, channels // 2, CPU))
    close(table[0, :, channels // 2 :], sine_1d(columns, channels // 2, CPU))
    assert torch.equal(table[..., : channels // 2], table[:, :1, : channels // 2].expand(-1, columns, -1))
    assert torch.equal(table[..., channels // 2 :], table[:1, :, channels // 2 :].expand(rows, -1, -1))


@few
@given(st.integers(1, 40), st.sampled_from([2, 8, 64]))
def test_sine_encodings_are_points_on_circles(length: int, channels: int) -> None:
    table = sine_1d(length, channels, CPU)
    close(table[:, 0::2] ** 2 + table[:, 1::2] ** 2, torch.ones(length, channels // 2))
    close(table[-1, :2], torch.tensor([0.0, 1.0]))  # the last position is a full turn
    ages = sine_of_age(torch.arange(length), 15, 2 * channels)
    close(ages[:, :channels] ** 2 + ages[:, channels:] ** 2, torch.ones(length, channels))
    close(ages[:, 0], (torch.arange(length) / 15).sin())


@few
@given(small, small)
def test_random_fourier_encoding_is_that_of_the_cell_centres(rows: int, columns: int) -> None:
    encoding = RandomFourierEncoding(8)
    matrix = encoding.positional_encoding_gaussian_matrix
    table = encoding(rows, columns)
    row, column = rows - 1, columns // 2
    centre = torch.tensor([2 * (column + 0.5) / columns - 1, 2 * (row + 0.5) / rows - 1])
    angles = 2 * math.pi * centre @ matrix
    close(table[:, row, column], torch.cat([angles.sin(), angles.cos()]))


def test_places_are_as_exact_in_bfloat16() -> None:
    """A product in bfloat16 is off by a tenth of a radian."""
    encoding = RandomFourierEncoding(32)
    with torch.inference_mode():
        expected = encoding(16, 16)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(encoding(16, 16), expected)


# Attention and layers


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


@pytest.mark.skipif("avx" not in CPU_FLAGS, reason="Linux on x86 names what a CPU can do")
def test_instructions_for_bfloat16_are_found() -> None:
    assert has_bfloat16_products() == bool(CPU_FLAGS & {"avx512_bf16", "amx_tile"})


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
    """Fused or not, with GELU inside the product or behind it, also for input that is not contiguous."""
    x, weight, bias = noise(batch, 7, rows).transpose(1, 2), noise(5, 7, seed=2), noise(5, seed=3) if biased else None
    expected = F.linear(x, weight, bias)
    expected = {"none": expected, "relu": expected.relu(), "gelu": F.gelu(expected)}[activation]
    close(linear(x, weight, bias, activation), expected)
    for inside in (True, False):
        with torch.inference_mode(), patch("models.sam2.layers.fuses_gelu", lambda inside=inside: inside):
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
    decoder = MaskDecoder(32, 48, object_score).eval()
    random_weights(decoder)
    grid = (3, 4)
    image, position, prompts = noise(2, 12, 32), noise(1, 12, 32, seed=2), noise(2, 6, 32, seed=3)
    fine = (noise(2, 4, 12, 16, seed=4), noise(2, 8, 6, 8, seed=5))
    keep = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    together = decoder(image, position, (prompts, keep), fine, grid)
    for sample, count in ((0, 6), (1, 4)):
        one = slice(sample, sample + 1)
        alone = decoder(image[one], position, (prompts[one, :count], None), (fine[0][one], fine[1][one]), grid)
        for field in ("logits", "mask_token", "early_token", "iou", "score"):
            close(getattr(together, field)[one], getattr(alone, field))


def test_attention_in_parts_has_the_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large attentions that drop weights are cut on a CPU; without randomness the result shows no cut."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator, requires_grad=True) for n in (10, 7, 7))
    keep = torch.rand(2, 1, 1, 7, generator=generator) > 0.3
    whole = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
    expected = torch.autograd.grad(whole.square().sum(), (q, k, v))
    monkeypatch.setattr(layers, "MOST_WEIGHTS", 100)
    parts = layers.attend(q, k, v, keep, dropout=1e-12)
    found = torch.autograd.grad(parts.square().sum(), (q, k, v))
    torch.testing.assert_close(parts, whole)
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("fewest", [2, 8])
def test_windows_in_parts_equal_all_at_once(monkeypatch: pytest.MonkeyPatch, fewest: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(10, 3, n, 8, generator=generator) for n in (4, 16, 16))
    monkeypatch.setattr(layers, "WINDOWS_AT_ONCE", 4)
    monkeypatch.setattr(layers, "FEWEST_PARTS", fewest)
    torch.testing.assert_close(layers.attend_in_parts(q, k, v, 0.0), attend(q, k, v))


def test_attention_in_parts_drops_the_same_weights_in_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "MOST_WEIGHTS", 100)
    torch.manual_seed(1)
    q, k = torch.randn(2, 1, 20, 4), torch.randn(2, 1, 30, 4)
    value = torch.randn(2, 1, 30, 4, requires_grad=True)
    out = layers.attend(q, k, value, dropout=0.5)
    (gradient,) = torch.autograd.grad(out.sum(), value)
    # The result is linear in the values: their gradient gives the result back, if the same weights were dropped.
    torch.testing.assert_close((gradient * value).sum(), out.sum())
