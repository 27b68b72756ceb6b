"""Properties of the parts of SAM 2 for many sizes: shortcuts equal the plain way, encodings are what they should be.

Axes: B batch, H rows, W columns, N = H * W, C channels, w side of a window.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from configs.schema import HieraConfig
from models.sam2.fpn import FeaturePyramid
from models.sam2.hiera import Hiera, WindowAttention, join_windows, max_pool, split_windows
from models.sam2.position_encoding import (
    RandomFourierEncoding,
    rotary_table,
    rotate,
    sine_1d,
    sine_2d,
    sine_of_age,
)
from tests.models.sam2.sam2_helpers import close, noise, random_weights, run_stages

CPU = torch.device("cpu")
few = settings(max_examples=20, deadline=None)
small = st.integers(1, 6)


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
