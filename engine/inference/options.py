"""How a benchmark is run."""

from __future__ import annotations

from dataclasses import dataclass

from configs.schema import PROTOCOLS
from util.errors import InputError


@dataclass(frozen=True)
class InferenceOptions:
    """The values of the flags of the same names.

    Attributes:
        eval_clip_window: frames per clip.
        threshold: probability from which on a pixel belongs to an object.
        protocol: `paper` or `fixed`, see `engine.infer.open_session`.
        precision: `fp32`, `tf32` or `bf16`.
        expressions_per_batch: expressions of a video that run together at most; None chooses by memory.
        videos_per_batch: videos that run together at most, see `group_videos`; None chooses by the device.
        batch_size_val: above 1 the same as `expressions_per_batch`, which comes first.
        num_workers: processes that score, threads that read and threads that write; 0 scores in the main process.
        overwrite: start anew instead of going on.
        visualize: draw pictures, too.
        shard: (i, n), i from 0: segment only the i-th of n parts of the split, and leave the rest to `merge_shards`.
    """

    eval_clip_window: int = 8
    threshold: float = 0.5
    protocol: str = "paper"
    precision: str = "fp32"
    expressions_per_batch: int | None = None
    videos_per_batch: int | None = None
    batch_size_val: int = 1
    num_workers: int = 4
    overwrite: bool = False
    visualize: bool = False
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise InputError(f"--protocol is one of {', '.join(PROTOCOLS)}; found {self.protocol}")
        if self.shard is not None and not 0 <= self.shard[0] < self.shard[1]:
            raise InputError(f"--shard counts from 1/n to n/n; found {self.shard[0] + 1}/{self.shard[1]}")
        if self.num_workers < 0:
            raise InputError(f"--num_workers is 0 or more; found {self.num_workers}")

    @property
    def batch(self) -> int | None:
        """Expressions that run together at most; None chooses by memory."""
        return self.expressions_per_batch or (self.batch_size_val if self.batch_size_val > 1 else None)

    @property
    def shard_name(self) -> str:
        """For file names: empty, or "-shard-2-of-8"."""
        return "" if self.shard is None else f"-shard-{self.shard[0] + 1}-of-{self.shard[1]}"
