"""Evaluation on a benchmark as a function of (network, benchmark, options): the scripts and the training call it."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from datasets.video_index import Video
from engine.inference.batching import automatic_batch, automatic_videos, group_videos
from engine.inference.benchmarks import Benchmark
from engine.inference.follow_up import FollowUp
from engine.inference.manifest import Manifest
from engine.inference.options import InferenceOptions
from engine.inference.record import RunRecord, describe_data, environment, identity_of, log_to, remove_outcome
from engine.inference.segment import Group, Segmenter, VideoWork
from engine.inference.sharding import mask_count, split_groups
from engine.inference.writer import MaskWriter
from engine.runtime import float32_arithmetic
from models.motion_prompts import find_verbs
from models.samwise import SAMWISE
from util.distributed import Processes
from util.errors import InputError
from util.interrupts import sigterm_as_interrupt
from util.paths import remove_temporary_files, writable_folder

logger = logging.getLogger(__name__)

ALONE = Processes()
_BATCH_NOTE, _VIDEOS_NOTE, _ENVIRONMENT_NOTE = "expressions_per_batch", "videos_per_batch", "environment"
_CHECK_THREADS = 8
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


def check_folders(benchmark: Benchmark) -> None:
    """Make the folders that results go to, see `writable_folder`."""
    masks = benchmark.masks if benchmark.masks.is_dir() else benchmark.masks.parent
    for folder in dict.fromkeys((benchmark.folder, masks)):
        writable_folder(folder)


def run_benchmark(
    model: SAMWISE,
    benchmark: Benchmark,
    options: InferenceOptions,
    processes: Processes = ALONE,
    facts: Mapping[str, Any] | None = None,
) -> Mapping[str, Any] | None:
    """Segment a split, or go on where an earlier run with the same weights and options stopped; then pack and score it.

    All processes call it together. Beside the masks `benchmark.folder` gets run.json, log.txt and a folder `manifest`
    of records, and what `Benchmark.finish` writes.

    Args:
        model: the network with its tokenizer, on the device of this process.
        benchmark: the split.
        options: how to run it.
        processes: those that share the work.
        facts: what else run.json shall say.

    Returns:
        The content of scores.json; None if there is no ground truth, or only a shard was segmented.

    Raises:
        InputError: the folder holds masks of other weights or options, a sentence is too long, a frame does not decode,
            memory does not suffice for one expression, or another process failed.
        OSError: a file cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM. In all these cases what is finished stays, and the next run goes on.
    """
    check_sentences(model, benchmark.dataset.sentences())
    if options.protocol == "paper" and options.eval_clip_window == 1:
        logger.warning(
            "--protocol paper treats a clip of one frame as an image: with --eval_clip_window 1 no frame remembers "
            "another; --protocol fixed keeps the memory"
        )
    run = _Run(model, benchmark, options, processes)
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_as_interrupt())
        stack.enter_context(float32_arithmetic(options.precision))
        stack.enter_context(_evaluation_mode(model))
        if processes.is_main:
            stack.enter_context(log_to(benchmark.folder / f"log{options.shard_name}.txt"))
            stack.enter_context(run.manifest.locked(f"run{options.shard_name}"))
        run.begin(facts or {})
        return run.work()


def merge_shards(
    benchmark: Benchmark, options: InferenceOptions, processes: Processes = ALONE
) -> Mapping[str, Any] | None:
    """Pack and score what runs with `InferenceOptions.shard` have segmented. Needs no network, and one process only.

    Returns, raises: as `run_benchmark`; also InputError if a video is not finished.
    """
    if options.overwrite or options.shard is not None:
        raise InputError("--merge segments nothing and removes nothing: leave --overwrite and --shard out")
    if not processes.is_main:
        return None
    dataset = benchmark.dataset
    manifest = _manifest(benchmark)
    identity = manifest.resume_any()
    with log_to(benchmark.folder / "log.txt"), manifest.locked("merge"):
        for name, value in describe_data(dataset).items():
            if identity.get(name) != value:
                raise InputError(f"{benchmark.masks} was made for {name} {identity.get(name)}, this is {value}")
        unfinished = [work.video.name for work in _pending(manifest, benchmark, dataset.videos) if work.targets]
        if unfinished:
            raise InputError(
                f"{len(unfinished)} of {len(dataset.videos)} videos are not finished, the first is {unfinished[0]}: "
                "run the missing shards (--shard i/n) again, or the script without --shard"
            )
        _remove_leftovers(benchmark)
        scores = benchmark.finish(None, options.num_workers)
        RunRecord(benchmark.folder / "run.json", identity, None).complete()
    return scores


class _Run:
    """One call of `run_benchmark`."""

    def __init__(self, model: SAMWISE, benchmark: Benchmark, options: InferenceOptions, processes: Processes) -> None:
        self.model = model
        self.benchmark = benchmark
        self.options = options
        self.processes = processes
        self.manifest = _manifest(benchmark)
        self.started = time.perf_counter()
        self.batch = self.most_videos = 1
        self.record: RunRecord | None = None

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Agree with the other processes and with an earlier run."""
        options, benchmark = self.options, self.benchmark
        size, device = self.model.config.sam2.image_size, self.model.device
        identity = identity_of(self.model, benchmark.dataset, options)
        batch = min(self.processes.gather(options.batch or automatic_batch(size, options.eval_clip_window, device)))
        most_videos = min(self.processes.gather(options.videos_per_batch or automatic_videos(device)))
        notes: dict[str, Any] = {
            _BATCH_NOTE: batch,
            _VIDEOS_NOTE: most_videos,
            _ENVIRONMENT_NOTE: environment(device),
        }
        if self.processes.is_main:
            if options.overwrite:
                self._clear()
            self.manifest.start(identity, notes, options.overwrite)
            if options.shard is None:
                _remove_leftovers(benchmark)
            self._compare_environment(notes[_ENVIRONMENT_NOTE])
        self.processes.barrier()
        self.manifest.join(identity)
        self.batch = options.batch or self.manifest.note(_BATCH_NOTE, batch)
        self.most_videos = options.videos_per_batch or self.manifest.note(_VIDEOS_NOTE, 1)
        if options.shard is not None:
            self._check_shards()
        if self.processes.is_main:
            sizes = {_BATCH_NOTE: self.batch, _VIDEOS_NOTE: self.most_videos}
            content = {**facts, **notes, **sizes, "processes": self.processes.size}
            self.record = RunRecord(benchmark.folder / f"run{options.shard_name}.json", identity, content)

    def work(self) -> Mapping[str, Any] | None:
        """Segment this process's share; the main process then finishes for all."""
        options, benchmark = self.options, self.benchmark
        groups = self._own_groups()
        videos = [video for group in groups for video in group]
        if options.overwrite and options.shard is not None:
            for video in videos:
                self.manifest.forget(video, [target.folder for target in benchmark.targets(video)])
        items = iter(_pending(self.manifest, benchmark, videos))
        pending = [tuple(next(items) for _ in group) for group in groups]
        with FollowUp(benchmark, options) as follow_up:
            timing = self._segment(pending, follow_up)
            scores = follow_up.results()
        everything = self.processes.gather((scores, timing))
        summary = None
        if self.record is not None:
            self.record.add_timing([timing for _, timing in everything])
            if options.shard is None:
                merged = {name: own for scores, _ in everything if scores for name, own in scores.items()}
                ordered = [score for video in benchmark.dataset.videos for score in merged.get(video.name, ())]
                summary = benchmark.finish(ordered or None, options.num_workers)
            else:
                logger.info("this shard is finished; when all are, --merge checks, scores and packs their masks")
            self.record.complete()
        return self.processes.gather(summary)[0]

    def _compare_environment(self, now: Mapping[str, Any]) -> None:
        """Warn where other versions made the masks that are there: rounding may differ."""
        earlier = self.manifest.note(_ENVIRONMENT_NOTE, now)
        changed = [f"{name} {earlier.get(name)} (now {now[name]})" for name in now if now[name] != earlier.get(name)]
        if changed:
            logger.warning("earlier masks were made with %s: single pixels may differ", ", ".join(changed))

    def _clear(self) -> None:
        """Remove what was made of all masks, and the masks themselves; a shard leaves those of the others."""
        remove_outcome(self.benchmark.tree, self.benchmark.folder, *self.benchmark.mask_folders())
        if self.options.shard is not None:
            (self.benchmark.folder / "run.json").unlink(missing_ok=True)
            return
        for folder in (*self.benchmark.mask_folders(), self.manifest.folder / "videos"):
            if folder.is_dir():
                shutil.rmtree(folder)

    def _check_shards(self) -> None:
        """Refuse a shard whose groups are not those of the others: together they would not hold every video.

        Raises:
            InputError: see above.
        """
        for name, own in ((_BATCH_NOTE, self.batch), (_VIDEOS_NOTE, self.most_videos)):
            others = self.manifest.note(name, own)
            if own != others and (self.most_videos > 1 or name == _VIDEOS_NOTE):
                raise InputError(
                    f"--{name} {own}: the first shard ran with {others}, which decides what the shards are; give the "
                    "same, or start all shards anew in another --name_exp"
                )

    def _own_groups(self) -> list[Sequence[Video]]:
        """The groups of this process; those of several videos are the same for any number of processes and shards."""
        groups: Sequence[Sequence[Video]] = group_videos(self.benchmark.dataset.videos, self.most_videos, self.batch)
        if self.options.shard is not None:
            number, parts = self.options.shard
            groups = split_groups(groups, parts)[number]
        return split_groups(groups, self.processes.size)[self.processes.rank]

    def _segment(self, pending: Sequence[Group], follow_up: FollowUp) -> dict[str, float]:
        """Segment what is pending; returns what was done and the seconds that it took."""
        items = [item for group in pending for item in group]
        total = sum(mask_count(item.video) for item in items)
        groups = [group for group in pending if any(item.targets for item in group)]
        todo = sum(item.mask_count for item in items)
        if todo < total:
            logger.info("going on: %d of %d masks are finished", total - todo, total)
        for item in items:
            if not item.targets:
                follow_up.take_finished(item.video)

        def record(video: Video, digests: dict[str, str]) -> None:
            self.manifest.record(video, digests)
            follow_up.take_new(video)

        writer = MaskWriter(max(1, self.options.num_workers))
        segmenter = Segmenter(self.model, self.benchmark, self.options, self.batch, writer, record)
        hidden = not self.processes.is_main
        try:
            shown = {"bar_format": _BAR, "disable": hidden, "miniters": 1}  # masks come clip by clip, many at once
            with tqdm(total=total, initial=total - todo, unit="mask", **shown) as bar:
                segmenter.run(groups, bar)
        finally:
            writer.close()
        clocks = segmenter.clocks
        return {
            "masks": todo,
            "frames": sum(len(item.video.frames) for group in groups for item in group),
            "decode": clocks.decode.seconds,
            "wait": clocks.wait.seconds,
            "model": clocks.model.seconds,
            "postprocess": clocks.postprocess.seconds,
            "write": writer.seconds,
            "total": time.perf_counter() - self.started,
        }


def _manifest(benchmark: Benchmark) -> Manifest:
    return Manifest(benchmark.folder / "manifest" / benchmark.tree, benchmark.masks)


def _pending(manifest: Manifest, benchmark: Benchmark, videos: Sequence[Video]) -> list[VideoWork]:
    """One item per video with those of its targets that are not finished."""

    def check(video: Video) -> VideoWork:
        targets = benchmark.targets(video)
        finished = manifest.finished(video, [target.folder for target in targets])
        return VideoWork(video, tuple(target for target in targets if target.folder not in finished))

    with ThreadPoolExecutor(_CHECK_THREADS) as pool:
        return list(pool.map(check, videos))


def _remove_leftovers(benchmark: Benchmark) -> None:
    """Remove temporary files that a killed run left beside its results; not while other shards may be writing."""
    records = _manifest(benchmark).folder
    for folder in (benchmark.folder, *benchmark.mask_folders(), records, records / "videos"):
        remove_temporary_files(folder)


@contextlib.contextmanager
def _evaluation_mode(model: SAMWISE) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def check_sentences(model: SAMWISE, sentences: Iterable[tuple[str, str]]) -> None:
    """Refuse a sentence that the text encoder cannot take before any compute starts.

    Args:
        model: the network with its tokenizer.
        sentences: each after the place where it stands, which the message names.

    Raises:
        InputError: there is one.
    """
    assert model.tokenizer is not None
    if model.tokenizer.motion_prompt:
        find_verbs("")  # is there what they need?
    for place, text in sentences:
        if len(text.lower().encode()) + 2 > model.tokenizer.max_tokens:  # a token has a byte; <s> and </s>
            try:
                model.tokenizer([text])
            except InputError as error:
                raise InputError(f"{place}: {error}") from error
