"""Deterministic stand-in weights and frames, so that figures recorded elsewhere can be reproduced without a download.

A tensor's values depend on its published key, its shape and a salt alone: a PCG64 generator seeded with the CRC-32 of
"SALT:KEY" draws normals, which are scaled by the kind of tensor. Frames are moving shapes from a closed formula.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).resolve().parent / "data"
_SENTENCE_ENCODER = "text_encoder.model.encoder."
# The published language-model head and the token embedding are one tensor under two names.
_SAME_TENSOR = {
    f"{_SENTENCE_ENCODER}sentence_encoder.embed_tokens.weight": f"{_SENTENCE_ENCODER}lm_head.weight",
}


def recipe_tensor(key: str, shape: tuple[int, ...], salt: int) -> Tensor:
    """The float32 tensor of a published key, or int64 zeros for a BatchNorm counter."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    seed = zlib.crc32(f"{salt}:{_SAME_TENSOR.get(key, key)}".encode())
    draw = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)
    if key.endswith("running_var"):
        draw = 1 + 0.1 * np.abs(draw)
    elif key.endswith("running_mean"):
        draw = 0.1 * draw
    elif len(shape) >= 2:
        draw = draw / np.sqrt(max(int(np.prod(shape[1:])), 1))
    elif key.endswith("weight"):
        draw = 1 + 0.1 * draw
    else:
        draw = (0.05 if key.endswith("bias") else 0.1) * draw
    return torch.from_numpy(np.ascontiguousarray(draw, dtype=np.float32)).reshape(shape)


def recipe_state(keys: str, salt: int, score_bias: float | None = None) -> dict[str, Tensor]:
    """A published checkpoint's state.

    Args:
        keys: name of a `keys_*.json` file in tests/data.
        salt: selects one draw.
        score_bias: last bias of the object-score head; a positive one makes objects visible.
    """
    shapes = json.loads((DATA / keys).read_text())
    state = {key: recipe_tensor(key, tuple(shape), salt) for key, shape in shapes.items()}
    if score_bias is not None:
        state["sam.sam_mask_decoder.pred_obj_score_head.layers.2.bias"].fill_(score_bias)
    return state


def recipe_frames(count: int, height: int = 576, width: int = 1024) -> np.ndarray:
    """(count, height, width, 3) uint8: a disc, a square and a bar that move over a textured ground."""
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    frames = []
    for t in range(count):
        ground = 110 + 40 * np.sin(columns / 23.0 + 0.1 * t) * np.cos(rows / 31.0)
        ground += 20 * np.sin((columns + 2 * rows) / 7.0)
        frame = np.stack([ground, ground * 0.9 + 10, 255 - ground], axis=-1)
        frame[disc(t, rows, columns)] = (210, 60 + 15 * np.sin(t), 50)
        frame[square(t, rows, columns)] = (40, 160, 220)
        bar = np.abs(rows - 0.85 * height) < 0.05 * height
        bar &= np.abs(columns - (0.9 - 0.05 * t) * width) < 0.15 * width
        frame[bar] = (230, 210, 70)
        frames.append(np.clip(np.rint(frame), 0, 255).astype(np.uint8))
    return np.stack(frames)


def disc(t: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Mask of the disc in frame t, on a grid of pixel coordinates."""
    height, width = rows.shape
    return (columns - (0.2 + 0.04 * t) * width) ** 2 + (rows - 0.45 * height) ** 2 < (0.13 * height) ** 2


def square(t: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Mask of the square in frame t, on a grid of pixel coordinates."""
    height, width = rows.shape
    return (np.abs(columns - 0.7 * width) < 0.08 * width) & (np.abs(rows - (0.3 + 0.03 * t) * height) < 0.1 * height)
