"""The training loop: it never loses work, and goes on exactly where it stopped."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets.training import BatchSampler, ClipBatch, ClipLoader, ClipSet, make_loader
from engine.runtime import autocast, float32_arithmetic
from engine.train.checkpoints import CHECKPOINTS, CheckpointStore, StoredCheckpoint
from engine.train.compilation import compile_parts, uncompiled
from engine.train.evaluate import FOLDER as EVALUATIONS
from engine.train.log import TENSORBOARD_NAME, IterationRecord, TrainingLog
from engine.train.optimization import Optimization, build_optimization
from engine.train.options import TrainOptions
from engine.train.parallel import Parallel, parallelise
from engine.train.random_state import capture_random_state, restore_random_state
from engine.train.recompute import recompute_activations
from engine.train.sealed import plain
from engine.train.weights import FROZEN, VOCABULARY, complete_state, frozen_record, trained_state
from models.samwise import SAMWISE
from util.distributed import Processes, expecting_partners
from util.errors import InputError
from util.interrupts import StopRequest
from util.memory import peak_memory
from util.paths import atomic_write, atomic_write_json
from util.torch_files import save_torch

logger = logging.getLogger(__name__)

ALONE = Processes()
Evaluate = Callable[[SAMWISE, int], tuple[float, Mapping[str, float]]]


@dataclass(frozen=True)
class Position:
    """How far a training is.

    Attributes:
        epoch: passes over the data that are finished.
        done: steps of the current one that are.
        iteration: steps in all.
        unevaluated: the last finished epoch has still to be evaluated.
        bad_samples: unreadable samples met so far.
    """

    epoch: int = 0
    done: int = 0
    iteration: int = 0
    unevaluated: bool = False
    bad_samples: int = 0


class Training:
    """One training, from its first or any later step to the end.

    Args:
        model: on its device, with its tokenizer.
        clips: the training data.
        options: how to train.
        folder: of the results; gets log.jsonl, tensorboard, checkpoints.
        processes: those that train together; all of them make the same calls.
        flags: values of all flags, which checkpoints hold.
        weight_files: where the network's weights came from (`LoadReport.files`).
        evaluate: called with the network and the number of the epoch, from 1, that ended or that `--max_iterations` cut
            off; returns the figure that decides which checkpoint is the best, and all figures. None does not evaluate.
    """

    def __init__(
        self,
        model: SAMWISE,
        clips: ClipSet,
        options: TrainOptions,
        folder: Path,
        processes: Processes = ALONE,
        flags: Mapping[str, Any] | None = None,
        weight_files: Sequence[Path] = (),
        evaluate: Evaluate | None = None,
    ) -> None:
        self.model = model
        self.clips = clips
        self.options = options
        self.folder = folder
        self.processes = processes
        self.flags = dict(flags or {})
        self.evaluate = evaluate
        self.share = options.share(processes.size)
        self.position = Position()
        self.sampler = BatchSampler(
            len(clips), options.batch_size, seed=options.seed, rank=processes.rank, world_size=processes.size
        )
        self.optimization: Optimization = build_optimization(model, options)
        self.store = CheckpointStore(folder / CHECKPOINTS, options.keep_checkpoints)
        self.parallel: Parallel | None = None
        self._saved = (0, time.monotonic())
        self._files = tuple(weight_files)
        self._frozen = frozen_record(model, self._files) if processes.is_main else None
        torch.manual_seed(options.seed + processes.rank)

    def restore(self, checkpoint: StoredCheckpoint) -> None:
        """Go on where `checkpoint` was written; the network has its weights already.

        Raises:
            InputError: it is of a training with other data or another order of it.
        """
        state = checkpoint.state
        stored = state["sequence"]
        if differing := [name for name, value in self.options.sequence.items() if stored.get(name) != value]:
            name = differing[0]
            raise InputError(
                f"--resume auto: {checkpoint.path} was written with --{name} {stored.get(name)}, found "
                f"{self.options.sequence[name]}: give the same flags, or another --name_exp"
            )
        if state["clips"] != len(self.clips):
            raise InputError(
                f"--resume auto: {checkpoint.path} belongs to {state['clips']} training clips, found {len(self.clips)}"
                ": the data has changed; give another --name_exp"
            )
        self.optimization.load(state, str(checkpoint.path))
        self.position = Position(**state["position"])
        if self.position.unevaluated and self.evaluate is None:
            logger.warning("the epoch before is not evaluated: there is no evaluation now")
            self.position = replace(self.position, unevaluated=False)
        restore_random_state(state["random"], self.processes, self.model.device)
        self._saved = (self.position.iteration, time.monotonic())
        logger.info("goes on after %d steps from %s", self.position.iteration, checkpoint.path)

    def skip_epochs(self, epochs: int) -> None:
        """Begin a new training at a later epoch (`--start_epoch`)."""
        self.position = Position(epoch=epochs, iteration=epochs * self.steps_per_epoch)
        self.optimization.skip(self.position.iteration)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the data."""
        return len(self.sampler)

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        steps = self.options.epochs * self.steps_per_epoch
        return min(steps, self.options.max_iterations or steps)

    def run(self, anew: bool = False, announce: Callable[[], None] | None = None) -> bool:
        """Train to the end.

        Args:
            anew: remove what an earlier training left in the folder, if no other one is writing to it.
            announce: called by the main process when nothing stands in the way any more.

        Returns:
            whether the end was reached; False after a request to stop (SIGTERM, SIGUSR1, Ctrl-C).

        Raises:
            InputError: a loss is not finite, too many samples are unreadable, or no checkpoint can be written.
        """
        with contextlib.ExitStack() as stack:
            if self.processes.is_main:
                stack.enter_context(self.store.locked())
                if anew:
                    self._clear()
                self.store.begin(self.position.iteration)
                if announce is not None:
                    announce()
            self._prepare()
            stack.enter_context(float32_arithmetic(self.options.precision))
            stack.enter_context(expecting_partners(self.processes))
            stop = stack.enter_context(StopRequest())
            start, main = self.position.iteration, self.processes.is_main
            name = self.options.dataset_file
            log = stack.enter_context(TrainingLog(self.folder, total=self.total, start=start, name=name, enabled=main))
            on_gpu = self.model.device.type == "cuda"
            loader = make_loader(self.clips, self.sampler, self.options.num_workers, pin_memory=on_gpu)
            stack.callback(loader.close)
            reason = self._epochs(loader, log, stop)
            if reason is not None:
                log.note(f"stopped by {reason} after {self.position.iteration} steps")
                logger.warning("stopped by %s: the same command with --resume auto goes on", reason)
                return False
            if main:
                self.store.save_last(self._state(None), epoch=self.position.epoch, iteration=self.position.iteration)
            return True

    def _clear(self) -> None:
        self.store.clear()
        for name in (EVALUATIONS, TENSORBOARD_NAME):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _epochs(self, loader: ClipLoader, log: TrainingLog, stop: StopRequest) -> str | None:
        """All that is left to do; returns who asked to stop, None at the end."""
        while True:
            if self.position.unevaluated:
                reason = self._evaluate(log, stop)
                if reason is not None:
                    return reason
            if self.position.epoch >= self.options.epochs or self.position.iteration >= self.total:
                return None
            reason = self._epoch(loader, log, stop)
            if reason is not None:
                return reason

    def _prepare(self) -> None:
        """Bring the network into the form in which it learns."""
        if self.options.compile:
            compile_parts(self.model)
        if self.options.activation_checkpointing:
            recompute_activations(self.model)
        self.model.train()
        self.parallel = parallelise(self.model, self.processes)

    def _epoch(self, loader: ClipLoader, log: TrainingLog, stop: StopRequest) -> str | None:
        """Run what is left of the current epoch; returns who asked to stop, None at its end."""
        self.sampler.set_epoch(self.position.epoch, self.position.done)
        for batch, waited in _timed(loader):
            record = self._step(batch, waited)
            ended = self.position.done + 1 >= self.steps_per_epoch or self.position.iteration + 1 >= self.total
            self.position = replace(self.position, done=self.position.done + 1, iteration=self.position.iteration + 1)
            log.iteration(record)
            if ended:
                finished = self.position.done >= self.steps_per_epoch
                self.position = replace(
                    self.position, epoch=self.position.epoch + finished, done=0 if finished else self.position.done,
                    unevaluated=self.evaluate is not None,
                )  # fmt: skip
            reason = stop.agreed(self.processes)
            if self._is_due() or ended or reason:
                self.save()
            if reason or ended:
                return reason
        raise AssertionError("the loader gave fewer batches than the sampler has")

    def _is_due(self) -> bool:
        """Whether a checkpoint is due in any process."""
        iteration, moment = self._saved
        due = self.position.iteration - iteration >= self.options.checkpoint_iterations
        due = due or time.monotonic() - moment >= 60 * self.options.checkpoint_minutes
        return self.processes.largest([int(due)])[0] > 0

    def _step(self, batch: ClipBatch, waited: float) -> IterationRecord:
        """One step of the optimizer."""
        started = time.perf_counter()
        self._count_faults(batch)
        losses = self._backward(batch)
        norm = float(self.optimization.clip())
        total = math.fsum(losses.values())
        if not (math.isfinite(norm) and math.isfinite(total)):
            self._refuse_to_go_on(batch, losses, norm)
        rate = self.optimization.learning_rate
        self.optimization.step()
        spent = time.perf_counter() - started
        return IterationRecord(
            epoch=self.position.epoch,
            iteration=self.position.iteration + 1,
            losses={**losses, "total": total},
            learning_rate=rate,
            gradient_norm=norm,
            data_seconds=waited,
            compute_seconds=spent,
            clips_per_second=self.options.batch_size / (waited + spent),
            memory_bytes=peak_memory(self.model.device),
        )

    def _backward(self, batch: ClipBatch) -> dict[str, float]:
        """Gradients of this process's share of the batch, part by part; returns the losses of the whole batch."""
        assert self.parallel is not None
        count = self.share // self.options.accumulate
        parts = [ClipBatch(batch.clips[first : first + count]) for first in range(0, self.share, count)]
        size = self.processes.largest(batch.size)  # of the whole step: losses are means over padded frames
        sums: dict[str, float] = {}
        for number, part in enumerate(parts):
            wait = number + 1 < len(parts) and self.processes.size > 1
            with self.parallel.network.no_sync() if wait else contextlib.nullcontext():  # type: ignore[operator]
                losses = self._losses(part, size)
                (torch.stack(list(losses.values())).sum() / len(parts)).backward()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss.item() / len(parts)
        totals = self.parallel.total(list(sums.values()))
        return {name: value / self.processes.size for name, value in zip(sums, totals, strict=True)}

    def _losses(self, batch: ClipBatch, size: Sequence[int]) -> dict[str, Tensor]:
        assert self.parallel is not None
        assert self.model.tokenizer is not None
        device = self.model.device
        tokens = self.model.tokenizer(batch.captions).to(device)
        verbs = {} if tokens.verbs is None else {"verbs": tokens.verbs}
        frames = batch.frames(self.model.config.sam2.image_size, device)
        with autocast(self.options.precision, device):
            return self.parallel.network(frames, tokens.ids, tokens.words, batch.targets(device, size), **verbs)

    def _count_faults(self, batch: ClipBatch) -> None:
        """Report samples that could not be read.

        Raises:
            InputError: there are more than `--max_bad_samples`.
        """
        assert self.parallel is not None
        for fault in batch.faults:
            logger.warning("passed over: %s", fault)
        found = self.position.bad_samples + int(self.parallel.total([float(len(batch.faults))])[0])
        if found > self.options.max_bad_samples:
            named = batch.faults[0] if batch.faults else "another process names it"
            raise InputError(
                f"{found} unreadable sample(s), --max_bad_samples is {self.options.max_bad_samples}: {named}; mend the "
                "file, or allow more; --resume auto goes on from the last checkpoint"
            )
        self.position = replace(self.position, bad_samples=found)

    def _refuse_to_go_on(self, batch: ClipBatch, losses: Mapping[str, float], norm: float) -> None:
        """Save what helps to find out why a loss is not finite.

        Raises:
            InputError: always.
        """
        name = f"failure-{self.position.iteration + 1:08d}-rank-{self.processes.rank}"
        samples = [{"caption": clip.caption, "files": list(clip.files)} for clip in batch.clips]
        report = {"losses": {key: str(value) for key, value in losses.items()}, "gradient_norm": str(norm)}
        atomic_write_json(self.folder / f"{name}.json", {**report, "clips": samples})
        if self.processes.is_main:
            with atomic_write(self.folder / f"{name}.pth") as handle:
                save_torch(plain(self._state([capture_random_state()])), handle)
        files = ", ".join(clip.files[0] for clip in batch.clips)
        raise InputError(
            f"the loss of step {self.position.iteration + 1} is not finite ({report}): the batch starts with {files}; "
            f"see {self.folder / name}.json; the state is beside it, and earlier checkpoints are as they were"
        )

    def save(self) -> None:
        """Write a checkpoint; all processes call it together."""
        states = self.processes.gather(capture_random_state())
        position = self.position
        self._written(lambda: self.store.save(self._state(states), epoch=position.epoch, iteration=position.iteration))
        self._saved = (position.iteration, time.monotonic())

    def _written(self, write: Callable[[], Any]) -> None:
        """Let the first process write; every process raises if it fails."""
        failure: Exception | None = None
        if self.processes.is_main:
            try:
                write()
            except (InputError, OSError) as error:
                failure = error
        if any(self.processes.gather(failure is not None)):
            raise failure or InputError("the first process could not write a checkpoint: its own message says why")

    def _state(self, random_states: list[Any] | None) -> dict[str, Any]:
        """What a checkpoint holds: with `random_states` what changes and all to go on, without them all weights."""
        state: dict[str, Any] = {"args": self.flags, "epoch": self.position.epoch, "iteration": self.position.iteration}
        if random_states is None:
            return {**state, "model": complete_state(self.model, self._files)}
        assert self.model.tokenizer is not None
        return {
            **state,
            "model": trained_state(self.model),
            FROZEN: self._frozen,
            VOCABULARY: self.model.tokenizer.digest,
            "optimizer": self.optimization.optimizer.state_dict(),
            "lr_scheduler": self.optimization.schedule.state_dict(),
            "position": asdict(self.position),
            "sequence": self.options.sequence,
            "clips": len(self.clips),
            "random": random_states,
        }

    def _evaluate(self, log: TrainingLog, stop: StopRequest) -> str | None:
        """Evaluate after an epoch; returns who asked to stop. A training that goes on evaluates what is left."""
        assert self.evaluate is not None
        epoch, iteration = self.position.epoch, self.position.iteration
        number = epoch + (self.position.done > 0)
        try:
            with stop.interrupting(), uncompiled(self.model):
                deciding, scores = self.evaluate(self.model, number)
        except KeyboardInterrupt:
            return stop.requested or "Ctrl-C"
        self.model.train()
        log.evaluation(number, iteration, scores)
        complete = lambda: self._state(None)  # noqa: E731
        self._written(lambda: self.store.note_score(deciding, epoch=epoch, iteration=iteration, complete=complete))
        self.position = replace(self.position, unevaluated=False)
        self.save()
        return None


def _timed(loader: Any) -> Iterator[tuple[ClipBatch, float]]:
    """Batches, and the seconds that each was waited for."""
    started = time.perf_counter()
    for batch in loader:
        yield batch, time.perf_counter() - started
        started = time.perf_counter()
