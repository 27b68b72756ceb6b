"""Opens small training sets in the true layouts, for tests."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from datasets.training import ClipSet, TrainingClip, open_training_set


def opened(name: str, root: Path, **values: Any) -> ClipSet:
    """`open_training_set` with `root` as the folder of every data set."""
    paths = {f"{each}_path": root for each in ("ytvos", "mevis", "davis", "coco")}
    return open_training_set(name, **{**paths, "num_frames": 2, "side": 64, "augment": False, "seed": 0, **values})


def content(clip: TrainingClip) -> tuple[Any, ...]:
    """All of a clip, comparable."""
    return (clip.frames.tolist(), clip.masks.tolist(), clip.caption, clip.files, clip.faults)


def cut_jpeg() -> bytes:
    """The first half of a JPEG."""
    data = io.BytesIO()
    Image.effect_noise((32, 24), 90).convert("RGB").save(data, "jpeg")
    return data.getvalue()[: len(data.getvalue()) // 2]
