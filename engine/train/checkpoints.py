"""The checkpoints of a training: the last few, the best one and the final one, each whole or not there.

    FOLDER/checkpoint_00001000.pth   where the training stood after iteration 1000; only the last few are kept
    FOLDER/best.pth, best.json       the weights with the highest score so far
    FOLDER/last.pth                  the weights at the end
    FOLDER/training.lock             keeps a second training out

All are files that `torch.load` reads, with a seal (`engine.train.sealed`) that shows any damage.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.train.sealed import load_content, plain, read_sealed, stored_bytes, write_sealed
from util.errors import InputError
from util.locks import PATIENCE_SECONDS, exclusive
from util.paths import atomic_write_json, local_path, read_json_object, remove_temporary_files
from util.seal import DamagedFileError, read_seal, verify

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"  # the folder of `CheckpointStore` in a folder of results
BEST_FILE, BEST_RECORD, LAST_FILE, LOCK_FILE = "best.pth", "best.json", "last.pth", "training.lock"
_NAME = re.compile(r"checkpoint_(\d{8,})\.pth")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MOST_SHOWN = 3


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint that was read, and is as it was written.

    Attributes:
        path: the file.
        state: its content, tensors on the CPU.
        epoch, iteration: where the training stood.
    """

    path: Path
    state: dict[str, Any]
    epoch: int
    iteration: int


@dataclass(frozen=True)
class Best:
    """The highest score so far, and where the training stood."""

    score: float
    epoch: int
    iteration: int


class CheckpointStore:
    """The checkpoints in one folder. One process of a training writes them, within `locked`.

    Args:
        folder: theirs; it need not exist.
        keep: how many of the latest stay (`--keep_checkpoints`).

    Raises:
        InputError: `keep` is less than 1.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        if keep < 1:
            raise InputError(f"--keep_checkpoints: expected at least 1, found {keep}")
        self.folder = folder
        self.keep = keep
        self._damaged: set[Path] = set()
        self._best: Best | None = None
        self._best_is_known = False

    @contextlib.contextmanager
    def locked(self, patience: float = PATIENCE_SECONDS) -> Iterator[CheckpointStore]:
        """Keep other trainings out for the time of the block, and tidy up after a killed one first.

        Args:
            patience: seconds that the other training may take to end.

        Raises:
            InputError: another training writes to the folder.
        """
        refusal = f"another training writes to {self.folder}: wait for it, or choose another --name_exp"
        with exclusive(self.folder / LOCK_FILE, refusal, patience):
            remove_temporary_files(self.folder)
            yield self

    def clear(self) -> None:
        """Remove everything, within `locked`."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK_FILE:
                path.unlink()

    def begin(self, iteration: int) -> None:
        """Make sure that a training which stands after `iteration` (0 for a new one) may write here.

        Raises:
            InputError: the folder holds whole checkpoints of later iterations, or the best one of another training:
                the new ones would be lost among them. Damaged ones are no obstacle.
        """
        later = []
        for number, path in self._files():
            try:
                if number > iteration:
                    verify(path)
                    later.append(number)
            except DamagedFileError:
                self._damaged.add(path)  # `load_latest` has reported it; the next `save` removes it
        best = iteration == 0 and (self.folder / BEST_FILE).exists()
        if later or best:
            found = f"checkpoints up to iteration {later[0]}" if later else BEST_FILE
            raise InputError(
                f"{self.folder} holds {found} of an earlier training, and this one begins after iteration {iteration}: "
                "go on with --resume auto, choose another --name_exp, or move those files away"
            )

    def save(self, state: Mapping[str, Any], *, epoch: int, iteration: int) -> Path:
        """Write where the training stands, then remove the oldest checkpoints above `keep`.

        Args:
            state: numbers, strings, tensors, and containers of these ("model" holds published keys).
            epoch: of the next step.
            iteration: how many steps are done.

        Raises:
            InputError: the disk is full. The checkpoints that were there are still there, and nothing else is.
            TypeError: something in `state` would not be read back.
        """
        path = self.folder / f"checkpoint_{iteration:08d}.pth"
        self._write(path, state, {"epoch": epoch, "iteration": iteration})
        self._damaged.discard(path)
        whole = [file for _, file in self._files() if file not in self._damaged]
        for file in [*whole[self.keep :], *self._damaged]:
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s cannot be removed (%s)", file, error.strerror)
        self._damaged.clear()
        return path

    def save_last(self, state: Mapping[str, Any], *, epoch: int, iteration: int) -> Path:
        """Write `last.pth`, the result of a training that is through; raises as `save` does."""
        path = self.folder / LAST_FILE
        self._write(path, state, {"epoch": epoch, "iteration": iteration})
        return path

    def note_score(
        self, score: float, *, epoch: int, iteration: int, complete: Callable[[], Mapping[str, Any]]
    ) -> bool:
        """Write `best.pth` if no score so far was as high.

        Args:
            score: higher is better.
            epoch, iteration: as in `save`.
            complete: gives what to store; called only then.

        Returns:
            whether it is the best. Raises as `save` does.
        """
        best = self.best()
        if not math.isfinite(score):
            logger.warning("the score after iteration %d is %s: it does not count", iteration, score)
            return False
        if best is not None and score <= best.score:
            return False
        about = {"epoch": epoch, "iteration": iteration, "score": float(score)}
        self._write(self.folder / BEST_FILE, complete(), about)
        self._best = Best(float(score), epoch, iteration)
        atomic_write_json(self.folder / BEST_RECORD, about)
        return True

    def best(self) -> Best | None:
        """The best score so far, also of the runs before this one; None if there is none or its file is damaged."""
        path = self.folder / BEST_FILE
        if not self._best_is_known and path.exists():
            try:
                about = verify(path)
                self._best = Best(about["score"], about["epoch"], about["iteration"])
            except (DamagedFileError, KeyError) as error:
                logger.warning("%s is damaged (%s): the next score counts as the best", path, error)
            else:
                record = {name: about[name] for name in ("epoch", "iteration", "score")}
                if read_json_object(self.folder / BEST_RECORD) != record:  # a run was killed between the two files
                    atomic_write_json(self.folder / BEST_RECORD, record)
        self._best_is_known = True
        return self._best

    def load_latest(self) -> StoredCheckpoint | None:
        """The newest whole checkpoint; None if there is none at all. A damaged one is reported.

        Raises:
            InputError: there are checkpoints, and all are damaged.
        """
        faults: dict[Path, str] = {}
        for number, path in self._files():
            try:
                state = read_sealed(path)
            except DamagedFileError as error:
                faults[path] = str(error)
                continue
            for damaged, fault in faults.items():
                logger.warning("%s is damaged: %s; going on from %s", damaged, fault, path.name)
            self._damaged = set(faults)
            return StoredCheckpoint(path, state, int(state.get("epoch", 0)), int(state.get("iteration", number)))
        if faults:
            raise InputError(self._all_damaged(faults))
        return None

    def require_latest(self) -> StoredCheckpoint:
        """The newest whole checkpoint.

        Raises:
            InputError: there is none.
        """
        checkpoint = self.load_latest()
        if checkpoint is None:
            raise InputError(
                f"--resume auto: no checkpoint in {self.folder}; drop --resume (or give it a file) to start a new "
                "training, or correct --output_dir and --name_exp"
            )
        return checkpoint

    def _files(self) -> list[tuple[int, Path]]:
        """Iterations and files of all checkpoints, latest first."""
        if not self.folder.is_dir():
            return []
        found = [(match, path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return sorted(((int(match[1]), path) for match, path in found), reverse=True)

    def _all_damaged(self, faults: Mapping[Path, str]) -> str:
        shown = [f"{path.name}: {fault}" for path, fault in list(faults.items())[:_MOST_SHOWN]]
        if len(faults) > _MOST_SHOWN:
            shown.append(f"and {len(faults) - _MOST_SHOWN} more")
        best = self.best()
        advice = "" if best is None else f"go on from the weights of {BEST_FILE} (iteration {best.iteration}), or "
        return (
            f"every checkpoint in {self.folder} is damaged ({'; '.join(shown)}): {advice}move them away and start anew"
        )

    def _write(self, path: Path, state: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        content = plain({**state, "epoch": about["epoch"], "iteration": about["iteration"]})
        needed = stored_bytes(content)
        self.folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.folder).free < needed:
            raise self._no_room(path, needed)
        try:
            write_sealed(path, content, about)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise self._no_room(path, needed, error) from error
            raise

    def _no_room(self, path: Path, needed: int, error: OSError | None = None) -> InputError:
        free = shutil.disk_usage(self.folder).free
        reason = "" if error is None else f" ({error.strerror})"
        latest = next((file.name for _, file in self._files()), None)
        kept = f"{latest} is intact: " if latest else ""
        return InputError(
            f"{path} cannot be written: it needs {needed} bytes, and {free} are free{reason}; {kept}make room, then go "
            f"on with --resume auto"
        )


def load_file(path: str | Path) -> StoredCheckpoint:
    """One checkpoint with all it holds: ours, or one that another program wrote with `torch.save`.

    Args:
        path: the file or its URL.

    Returns:
        `epoch` and `iteration` are 0 if the file does not say them; "args" is a dict in any case.

    Raises:
        InputError: no such file, or a damaged one, or one that is no checkpoint.
    """
    file = local_path(path)
    if not file.is_file():
        raise InputError(f"{file}: expected a checkpoint, but there is no such file; check --resume")
    try:
        state = read_sealed(file) if read_seal(file) else load_content(file)
    except DamagedFileError as error:
        raise InputError(f"{file} is damaged: {error}; copy it again, or give an older one") from error
    if isinstance(state.get("args"), argparse.Namespace):
        state["args"] = vars(state["args"])
    epoch, iteration = (value if isinstance(value := state.get(name), int) else 0 for name in ("epoch", "iteration"))
    return StoredCheckpoint(file, state, epoch, iteration)
