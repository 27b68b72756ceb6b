"""Deterministic stand-in weights and frames, so that figures recorded elsewhere can be reproduced without a download.

A tensor's values depend on its published key, its shape and a salt alone: a PCG64 generator seeded with the CRC-32 of
"SALT:KEY" draws normals, which are scaled by the kind of tensor. Frames are moving shapes from a closed formula.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.loading import load_model_config
from models.build import build_model
from models.checkpoint import Checkpoint, load_checkpoint
from models.samwise import SAMWISE

DATA = Path(__file__).resolve().parent / "data"
SCORE_BIAS = "sam.sam_mask_decoder.pred_obj_score_head.layers.2.bias"
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
    state = dict(_drawn_state(keys, salt))
    if score_bias is not None:
        state[SCORE_BIAS] = torch.full_like(state[SCORE_BIAS], score_bias)
    return state


@functools.lru_cache(maxsize=1)  # tests with the same weights follow each other
def _drawn_state(keys: str, salt: int) -> dict[str, Tensor]:
    shapes = json.loads((DATA / keys).read_text())
    return {key: recipe_tensor(key, tuple(shape), salt) for key, shape in shapes.items()}


def recipe_model(keys: str, salt: int, score_bias: float | None, **values: Any) -> SAMWISE:
    """The tiny network that `values` describe, strictly loaded from a published state made by the recipe."""
    state = recipe_state(keys, salt, score_bias)
    model = build_model(load_model_config("tiny", **values))
    report = load_checkpoint(model, Checkpoint(Path("recipe.pth"), "samwise", state))
    assert not report.fresh
    assert not report.from_base
    return model


def write_tokenizer(folder: Path, sentences: Mapping[str, Sequence[int]]) -> None:
    """RoBERTa's `vocab.json` and `merges.txt`, cut down to the words of `sentences`, each of which is one token.

    Args:
        folder: is made.
        sentences: sentence -> its recorded ids, those of `<s>` and `</s>` included.
    """
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    for sentence, ids in sentences.items():
        words = sentence.replace(" ", " \u0120").split(" ")
        vocabulary.update(zip(words, ids[1:-1], strict=True))
    # Words that follow a blank are joined from left to right before any other; a first word has its own merges.
    words = sorted((word for word in vocabulary if word not in ("<s>", "<pad>", "</s>", "<unk>")), reverse=True)
    merges = dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, len(word)))
    unused = iter(range(50000, 51000))
    for piece in (piece for first, second in merges for piece in (first, second, first + second)):
        if piece not in vocabulary:
            vocabulary[piece] = next(unused)
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text(
        "".join(f"{first} {second}\n" for first, second in [("#version:", "0.2"), *merges])
    )


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


def assert_close(found: Tensor, expected: np.ndarray, tolerance: float = 5e-5) -> None:
    """Assert that values differ by at most `tolerance` of the expected values' range."""
    found_array = found.detach().float().numpy()
    assert found_array.shape == expected.shape
    span = float(expected.max() - expected.min()) or 1.0
    assert np.abs(found_array - expected).max() <= tolerance * span


def unpack(bits: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Recorded masks (T, H, W) bool; where more of them were recorded, the first T."""
    return np.unpackbits(bits)[: int(np.prod(shape))].reshape(shape).astype(bool)


def disc(t: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Mask of the disc in frame t, on a grid of pixel coordinates."""
    height, width = rows.shape
    return (columns - (0.2 + 0.04 * t) * width) ** 2 + (rows - 0.45 * height) ** 2 < (0.13 * height) ** 2


def square(t: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Mask of the square in frame t, on a grid of pixel coordinates."""
    height, width = rows.shape
    return (np.abs(columns - 0.7 * width) < 0.08 * width) & (np.abs(rows - (0.3 + 0.03 * t) * height) < 0.1 * height)
