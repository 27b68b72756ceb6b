"""How a training runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from util.errors import InputError

# What decides the sequence of samples and steps: a training cannot go on with other values.
SEQUENCE = ("dataset_file", "num_frames", "batch_size", "accumulate", "seed", "augm_resize")


@dataclass(frozen=True)
class TrainOptions:
    """The values of the flags of the same names.

    Attributes:
        dataset_file: training data.
        num_frames: frames of a clip.
        batch_size: clips of a step, over all processes.
        accumulate: parts of a process's share of a step that are computed one after the other.
        epochs: passes over the data.
        max_iterations: steps after which to stop, or None.
        lr: learning rate.
        lr_drop: steps after which it is divided by 10.
        weight_decay: of AdamW.
        clip_max_norm: largest norm of the gradient; 0 does not clip.
        augm_resize: random sizes and colours.
        precision: `fp32`, `tf32` or `bf16`.
        activation_checkpointing: recompute activations in the backward pass.
        compile: compile the heaviest parts.
        checkpoint_minutes, checkpoint_iterations: how far apart checkpoints may be.
        keep_checkpoints: how many of the latest stay.
        max_bad_samples: unreadable samples to pass over in the whole training.
        num_workers: processes that load data.
        seed: of everything random.
    """

    dataset_file: str = "ytvos"
    num_frames: int = 8
    batch_size: int = 2
    accumulate: int = 1
    epochs: int = 6
    max_iterations: int | None = None
    lr: float = 1e-5
    lr_drop: tuple[int, ...] = (60000,)
    weight_decay: float = 0.0
    clip_max_norm: float = 1.0
    augm_resize: bool = False
    precision: str = "fp32"
    activation_checkpointing: bool = False
    compile: bool = False
    checkpoint_minutes: float = 15.0
    checkpoint_iterations: int = 1000
    keep_checkpoints: int = 3
    max_bad_samples: int = 0
    num_workers: int = 4
    seed: int = 0

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> TrainOptions:
        """The options that values of flags stand for."""
        values = {field.name: flags[field.name] for field in fields(cls)}
        return cls(**{**values, "lr_drop": tuple(sorted(values["lr_drop"]))})

    def share(self, processes: int) -> int:
        """Clips of a step for each of the processes.

        Raises:
            InputError: the batch cannot be cut into equal parts.
        """
        parts = processes * self.accumulate
        if self.batch_size % parts:
            raise InputError(
                f"--batch_size {self.batch_size} is the total over {processes} process(es), each in --accumulate "
                f"{self.accumulate} part(s): it must be a multiple of {parts}"
            )
        return self.batch_size // processes

    @property
    def sequence(self) -> dict[str, Any]:
        """The values that a continued training must share."""
        values = asdict(self)
        return {name: values[name] for name in SEQUENCE}
