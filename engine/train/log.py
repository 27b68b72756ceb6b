"""What a training writes down as it goes: log.jsonl, a progress bar, TensorBoard."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from util.errors import InputError
from util.paths import atomic_write

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

LOG_NAME = "log.jsonl"
TENSORBOARD_NAME = "tensorboard"
MEAN_OVER = 100  # iterations in the averages that the bar shows
_FILE_BAR_SECONDS = 30.0  # between two drawings of the bar where standard error is a file


@dataclass(frozen=True)
class IterationRecord:
    """One optimizer step.

    Attributes:
        epoch: counts from 0.
        iteration: over all epochs; the first step is 1.
        losses: weighted means over the clips of the step: "mask", "dice", "memory" (if there is one), and "total".
        learning_rate: that the step was made with.
        gradient_norm: L2, before clipping.
        data_seconds: waiting for the clips.
        compute_seconds: all the rest of the step.
        clips_per_second: of all processes together.
        memory_bytes: peak so far of the GPU, or of the process on a CPU.
    """

    epoch: int
    iteration: int
    losses: Mapping[str, float]
    learning_rate: float
    gradient_norm: float
    data_seconds: float
    compute_seconds: float
    clips_per_second: float
    memory_bytes: int


class TrainingLog:
    """log.jsonl (one JSON object per line), a progress bar and TensorBoard's scalars of one run.

    A line has an iteration (the fields of `IterationRecord`), {"evaluation": scores, "epoch", "iteration"}, or
    {"note": text, "iteration", "time"}. Numbers that are not finite are written as null. A line is in the file when the
    call returns. A resumed run goes on in the same files: lines of iterations after `start` and a torn last line are
    removed first, so that every iteration is there once. Notes stay. If an evaluation is made again because the run was
    killed after it, the last one counts.

    Args:
        folder: of the run; gets log.jsonl and tensorboard/.
        total: iterations of the whole training.
        start: iterations that are done.
        name: of the run, for the bar.
        enabled: False (every process but the first) makes all methods do nothing.

    Raises:
        InputError: log.jsonl exists and cannot be read.
        OSError: it cannot be written; also from the methods.
    """

    def __init__(self, folder: Path, *, total: int, start: int, name: str, enabled: bool = True) -> None:
        self._iteration = start
        self._recent: deque[IterationRecord] = deque(maxlen=MEAN_OVER)
        self._writer: SummaryWriter | None = None
        self._bar: tqdm | None = None
        self._file = None
        if not enabled:
            return
        path = folder / LOG_NAME
        folder.mkdir(parents=True, exist_ok=True)
        drop_after(path, start)
        self._file = path.open("ab", buffering=0)  # unbuffered: nothing waits in the process that a kill could lose
        self._writer = _open_tensorboard(folder / TENSORBOARD_NAME, start)
        self._bar = tqdm(
            total=total,
            initial=start,
            desc=name,
            unit="it",
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else _FILE_BAR_SECONDS,
        )

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def iteration(self, record: IterationRecord) -> None:
        """Write down one step and move the bar."""
        self._iteration = record.iteration
        if self._bar is None:
            return
        self._write(dataclasses.asdict(record))
        self._scalars({f"loss/{name}": value for name, value in record.losses.items()})
        self._scalars(
            {
                "optimizer/learning_rate": record.learning_rate,
                "optimizer/gradient_norm": record.gradient_norm,
                "time/data_seconds": record.data_seconds,
                "time/compute_seconds": record.compute_seconds,
                "time/clips_per_second": record.clips_per_second,
                "memory_GB": record.memory_bytes / 1e9,
            }
        )
        self._recent.append(record)
        self._bar.set_postfix(self._averages(), refresh=False)
        self._bar.update(record.iteration - self._bar.n)

    def evaluation(self, epoch: int, iteration: int, scores: Mapping[str, float]) -> None:
        """Write down the scores (fractions from 0 to 1) of the network as it was after `iteration` steps."""
        self._write({"evaluation": dict(scores), "epoch": epoch, "iteration": iteration})
        self._scalars({f"score/{name}": value for name, value in scores.items()}, iteration)

    def note(self, text: str) -> None:
        """Write down an event (a start, a signal, a skipped sample) with the iteration and the time of the day."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._write({"note": text, "iteration": self._iteration, "time": now})

    def close(self) -> None:
        """End the bar and close the files; may be called again."""
        for part in (self._bar, self._writer, self._file):
            if part is not None:
                part.close()
        self._bar = self._writer = self._file = None

    def _averages(self) -> dict[str, str]:
        """Of the last `MEAN_OVER` steps: the loss, and the share of the time that went into waiting for data."""
        total = math.fsum(record.losses["total"] for record in self._recent) / len(self._recent)
        data = math.fsum(record.data_seconds for record in self._recent)
        whole = data + math.fsum(record.compute_seconds for record in self._recent)
        share = data / whole if whole > 0 else 0.0
        return {"loss": f"{total:.4g}", "lr": f"{self._recent[-1].learning_rate:.3g}", "data": f"{share:.0%}"}

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        rest = json.dumps(_finite(line), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        while rest:
            rest = rest[self._file.write(rest) :]

    def _scalars(self, values: Mapping[str, float], step: int | None = None) -> None:
        if self._writer is None:
            return
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, self._iteration if step is None else step)


def drop_after(path: Path, start: int) -> None:
    """Remove from a log the iterations and evaluations after iteration `start`, and lines that are not whole.

    The file is replaced as a whole or left as it is; a log that needs no change, or does not exist, is not touched.

    Raises:
        InputError: it is not a readable file.
    """
    if not path.exists():
        return
    kept = list(_kept(path, start))
    if sum(map(len, kept)) == path.stat().st_size:
        return
    with atomic_write(path) as handle:
        handle.writelines(kept)


def _kept(path: Path, start: int) -> Iterator[bytes]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); move it away, or give another --name_exp"
        ) from error
    for number, line in enumerate(lines, start=1):
        try:
            content = json.loads(line)
            keep = line.endswith(b"\n") and _belongs(content, start)
        except (ValueError, KeyError, TypeError):
            if line.endswith(b"\n"):
                logger.warning("%s: line %d is damaged and is removed", path, number)
            keep = False
        if keep:
            yield line


def _belongs(content: Any, start: int) -> bool:
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return "note" in content or content["iteration"] <= start


def _open_tensorboard(folder: Path, start: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only the first process needs it

    return SummaryWriter(str(folder), purge_step=start + 1)


def _finite(value: Any) -> Any:
    """The same with None for every number that JSON cannot say."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return value if not isinstance(value, float) or math.isfinite(value) else None
