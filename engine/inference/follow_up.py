"""What happens to a video when its masks are written: scoring and pictures, in other processes beside the model."""

from __future__ import annotations

import itertools
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType

from datasets.video_index import GroundTruth, MaskDictionary, Video, VideoDataset
from engine.inference.benchmarks import Benchmark
from engine.inference.options import InferenceOptions
from engine.inference.pictures import PictureJob, draw_pictures
from engine.scoring.expressions import ExpressionScore
from engine.scoring.pool import ScorePool, collect

PICTURE_FOLDER = "visualize"


class FollowUp:
    """Starts scoring and drawing as videos are finished; a context manager. Its methods may be called by any thread.

    A shard is not scored: that is done when all shards are merged.
    """

    def __init__(self, benchmark: Benchmark, options: InferenceOptions) -> None:
        self._benchmark = benchmark
        self._draws = options.visualize
        self._scores = benchmark.is_scored and options.shard is None
        self._pool = ScorePool(options.num_workers)
        self._scoring: dict[str, list[Future[ExpressionScore]]] = {}
        self._drawing: list[Future[None]] = []

    def __enter__(self) -> FollowUp:
        self._pool.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, error, trace)

    def take_finished(self, video: Video) -> None:
        """A video that an earlier run has finished; it may have drawn the pictures."""
        self._take(video, self._draws and not self._job(video).sheet.is_file())

    def take_new(self, video: Video) -> None:
        """A video that was just finished."""
        self._job(video).sheet.unlink(missing_ok=True)
        self._take(video, self._draws)

    def results(self) -> dict[str, list[ExpressionScore]]:
        """Wait for everything; returns video -> scores of its expressions, as far as they are scored one by one.

        Raises:
            InputError, OSError: what went wrong in another process.
        """
        scoring = list(itertools.chain.from_iterable(self._scoring.values()))
        collect(scoring, [1] * len(scoring), "scoring", "expression")
        collect(self._drawing, [1] * len(self._drawing), "pictures", "video")
        return {name: [future.result() for future in own] for name, own in self._scoring.items()}

    def _take(self, video: Video, draw: bool) -> None:
        if self._scores:
            self._scoring[video.name] = self._benchmark.score(self._pool, video)
        if draw:
            self._drawing.append(self._pool.submit(draw_pictures, self._job(video)))

    def _job(self, video: Video) -> PictureJob:
        benchmark = self._benchmark
        return PictureJob(
            video=video,
            targets=benchmark.targets(video),
            masks=benchmark.masks,
            objects=benchmark.objects,
            ground_truth=_truth_of(benchmark.dataset, video),
            folder=benchmark.folder / PICTURE_FOLDER,
        )


def _truth_of(dataset: VideoDataset, video: Video) -> GroundTruth | None:
    """The ground truth of one video alone, so that little is sent to another process."""
    truth = dataset.ground_truth
    if not isinstance(truth, MaskDictionary):
        return truth
    own = {anno_id for expression in video.expressions for anno_id in expression.anno_ids}
    return replace(truth, masks={anno_id: truth.masks[anno_id] for anno_id in own})
