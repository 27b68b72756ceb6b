"""How large the study is: every number that decides how long it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def _number(default: int, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """Numbers of a study; those with a help text are also flags of tools/miniature.py.

    Attributes:
        pretrain_lr, finetune_lr: learning rates of AdamW; both fall to a tenth after four fifths of the steps.
        seeds: of the trainings of the ablation.
        frames: of every video; None for mixed lengths.
        size: (width, height) of every video and image; None for mixed sizes.
    """

    videos: int = _number(50, "videos of each evaluation split")
    train_videos: int = _number(1600, "training videos")
    images: int = _number(6000, "training images")
    stand_in_sentence_steps: int = _number(0, "steps of the stand-in on sentences; 0: the number of its tool")
    stand_in_image_steps: int = _number(0, "steps of the stand-in on images; 0 0 0: the numbers of its tool")
    stand_in_glance_steps: int = _number(0, "on glances at clips")
    stand_in_clip_steps: int = _number(0, "and on clips")
    pretrain_steps: int = _number(2000, "steps of main_pretrain.py")
    pretrain_batch: int = _number(32, "images of a step")
    finetune_steps: int = _number(3000, "steps of main.py")
    finetune_batch: int = _number(4, "clips of a step, also in the ablation")
    clip_frames: int = _number(8, "frames of a training clip")
    ablation_steps: int = _number(800, "steps of each training of the ablation")
    ablation_videos: int = _number(50, "videos that the ablation is scored on, those with late distractors first")
    precision_videos: int = _number(10, "videos that kinds of arithmetic are compared on")
    num_workers: int = _number(2, "processes that read, score and draw data")
    pretrain_lr: float = 1e-4
    finetune_lr: float = 1e-4
    seeds: tuple[int, ...] = (0, 1, 2)
    frames: int | None = None
    size: tuple[int, int] | None = None


QUICK = Settings(
    videos=2,
    train_videos=6,
    images=8,
    stand_in_sentence_steps=1,
    stand_in_image_steps=2,
    stand_in_glance_steps=1,
    stand_in_clip_steps=2,
    pretrain_steps=2,
    pretrain_batch=4,
    finetune_steps=2,
    finetune_batch=2,
    clip_frames=6,
    ablation_steps=1,
    ablation_videos=2,
    precision_videos=1,
    num_workers=0,
    seeds=(0,),
    frames=8,
    size=(160, 120),
)


def flags() -> Mapping[str, str]:
    """Name of a field -> help text, of the fields that are flags."""
    return {item.name: item.metadata["help"] for item in dataclasses.fields(Settings) if "help" in item.metadata}
