"""Weights, frames and prompts that `tools/make_sam2_reference.py` and the tests make alike, so that none is stored."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

SALT = "sam2 reference"


def _normal(name: str, shape: Sequence[int]) -> np.ndarray:
    """Standard normal float32 values that depend on the name and the shape alone."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"{SALT}/{name}".encode())))
    return generator.standard_normal(tuple(shape)).astype(np.float32)


def recipe_weight(key: str, shape: Sequence[int]) -> Tensor:
    """The tensor stored under `key`.

    Matrices and kernels keep the variance of what passes through them, norms stay near the identity, and learned
    embeddings and layer scales are large enough that leaving one out shows.
    """
    values = _normal(key, shape)
    stem, _, leaf = key.rpartition(".")
    if leaf == "bias":
        values *= 0.1
    elif leaf == "weight" and len(shape) == 1:
        values = 1 + 0.1 * values
    elif leaf == "weight" and not stem.endswith(("embed", "token", "tokens")):
        values /= np.sqrt(np.prod(shape[1:], dtype=np.float32))
    elif leaf != "positional_encoding_gaussian_matrix":
        values *= 0.3
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def recipe_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """A whole state: {key: shape} -> {key: tensor}."""
    return {key: recipe_weight(key, shape) for key, shape in shapes.items()}


def recipe_frames(name: str, samples: int, count: int, side: int) -> Tensor:
    """Normalised frames (samples, count, 3, side, side): waves, and one bright disc per sample that moves."""
    rows, columns = np.mgrid[:side, :side].astype(np.float32) / side
    waves = _normal(f"{name}/waves", (samples, 3, 4))[..., None, None]
    frames = []
    for t in range(count):
        phase = 9 * waves[:, :, 0] * rows + 9 * waves[:, :, 1] * columns + 6 * waves[:, :, 2] + 0.3 * t
        ground = np.sin(phase) + 0.3 * np.sin(40 * rows - 25 * columns + waves[:, :, 3])
        centre = 0.3 + 0.4 * np.arange(samples, dtype=np.float32)[:, None, None, None] / max(samples - 1, 1)
        distance = np.hypot(rows - centre, columns - 0.2 - 0.03 * t)
        frames.append(np.where(distance < 0.15, np.float32(2.0), ground))
    return torch.from_numpy(np.stack(frames, axis=1).astype(np.float32))


def recipe_prompts(name: str, samples: int, dim: int) -> Tensor:
    """One prompt token (samples, dim) each, as the projected sentence would be."""
    return torch.from_numpy(_normal(f"{name}/prompts", (samples, dim)))
