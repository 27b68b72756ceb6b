"""Fixed position encodings: sine (2-D and 1-D), random Fourier features, and the 2-D rotary tables.

Tables depend on sizes alone and are kept once made, per device. Axes: H rows, W columns, C channels, N = H * W tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.sam2.layers import kept

TEMPERATURE = 10000.0


@kept
def sine_2d(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Normalised sine encoding of a grid (DETR, arXiv 2005.12872, section A.4).

    Rows fill the first half of the channels, columns the second; positions count from 1 and are scaled to 2 pi.

    Returns:
        (H * W, C) float32.
    """
    with torch.inference_mode(False):
        rows = _sine(_unit_positions(height, device), channels // 2)
        columns = _sine(_unit_positions(width, device), channels // 2)
        grid = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)
        return grid.flatten(0, 1)


@kept
def sine_1d(length: int, channels: int, device: torch.device) -> Tensor:
    """Normalised sine encoding of `length` positions, counted from 1 and scaled to 2 pi: (length, C) float32."""
    with torch.inference_mode(False):
        return _sine(_unit_positions(length, device), channels)


def _unit_positions(length: int, device: torch.device) -> Tensor:
    positions = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    return positions / (length + 1e-6) * (2 * math.pi)


def _sine(positions: Tensor, channels: int) -> Tensor:
    """Interleaved sines and cosines: (n,) -> (n, channels)."""
    index = torch.arange(channels, dtype=torch.float32, device=positions.device)
    angles = positions[:, None] / TEMPERATURE ** (2 * (index // 2) / channels)
    return torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=-1).flatten(1)


def sine_of_age(ages: Tensor, max_age: int, channels: int) -> Tensor:
    """Encoding of the age of object pointers in SAM 2.1: sines, then cosines, of age / max_age.

    Args:
        ages: (n,) ages in frames.
        max_age: the age that maps to 1.
        channels: C.

    Returns:
        (n, C) float32.
    """
    half = channels // 2
    index = torch.arange(half, dtype=torch.float32, device=ages.device)
    angles = (ages / max_age)[:, None] / TEMPERATURE ** (2 * (index // 2) / half)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


@kept
def rotary_table(height: int, width: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the axial rotary encoding (RoFormer, arXiv 2104.09864; two axes as in SAM 2).

    The first half of the frequencies turns with the column, the second with the row; every frequency rotates one
    pair of neighbouring channels.

    Returns:
        cosines and sines, each (H * W, C / 2) float32.
    """
    with torch.inference_mode(False):
        index = torch.arange(0, channels, 4, dtype=torch.float32, device=device)[: channels // 4]
        frequencies = 1.0 / TEMPERATURE ** (index / channels)
        token = torch.arange(height * width, dtype=torch.float32, device=device)
        columns, rows = token % width, torch.div(token, width, rounding_mode="floor")
        angles = torch.cat([torch.outer(columns, frequencies), torch.outer(rows, frequencies)], dim=-1)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Apply the rotary encoding, in float32; the table repeats for every further map of the sequence.

    Args:
        x: (..., R * N, C), R maps of N tokens one after the other.
        cosines, sines: (N, C / 2) from `rotary_table`.

    Returns:
        (..., R * N, C).
    """
    plain = not (torch.is_grad_enabled() or torch.compiler.is_compiling())  # compilers do not know complex numbers
    if plain and x.device.type in ("cpu", "cuda"):  # in one pass
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
        turned = pairs.unflatten(-2, (-1, cosines.shape[0])) * torch.complex(cosines, sines)
        return torch.view_as_real(turned).flatten(-2).flatten(-3, -2).to(x.dtype)
    pairs = x.float().unflatten(-1, (-1, 2)).unflatten(-3, (-1, cosines.shape[0]))
    even, odd = pairs.unbind(-1)
    turned = torch.stack([even * cosines - odd * sines, even * sines + odd * cosines], dim=-1)
    return turned.flatten(-2).flatten(-3, -2).to(x.dtype)


class RandomFourierEncoding(nn.Module):
    """Random Fourier features of the position in the image; parameter-free but for a stored Gaussian matrix.

    Args:
        channels: C, width of the encoding.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, channels // 2))

    def forward(self, height: int, width: int) -> Tensor:
        """Encode the centres of a grid's cells: (C, H, W)."""
        matrix = self.positional_encoding_gaussian_matrix
        rows = (torch.arange(height, device=matrix.device, dtype=matrix.dtype) + 0.5) / height
        columns = (torch.arange(width, device=matrix.device, dtype=matrix.dtype) + 0.5) / width
        grid = torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)], dim=-1)
        with torch.autocast(matrix.device.type, enabled=False):  # in bfloat16 the product would blur the places
            angles = 2 * math.pi * ((2 * grid - 1) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1).permute(2, 0, 1)
