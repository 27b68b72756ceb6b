"""What the benchmarks differ in: where masks go, how they are drawn from probabilities, how they are scored and sent.

Axes: k expressions of one target, H rows and W columns of a source frame.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.ref_davis import ANNOTATORS
from datasets.video_index import Video, VideoDataset
from engine.evaluate_masks import evaluate_davis, evaluate_expressions, write_expression_scores
from engine.inference.palette_masks import draw_labels, encode_labels
from engine.published_figures import PUBLISHED, davis_table, expressions_table, split_title
from engine.scoring.davis import DavisSequence, annotator_stores, true_objects
from engine.scoring.expressions import ExpressionScore, ExpressionTask, expression_tasks, score_expression
from engine.scoring.mask_store import MaskStore
from engine.scoring.pool import ScorePool
from engine.submission import make_submission
from util.errors import InputError

if TYPE_CHECKING:  # processes that draw pictures do without PyTorch
    from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A folder of masks of one video, one PNG per frame.

    Attributes:
        folder: relative to the folder of all masks, with "/".
        expressions: places in `Video.expressions` of the k expressions that its masks show.
    """

    folder: str
    expressions: tuple[int, ...]


class Benchmark(Protocol):
    """A split to segment.

    Attributes:
        dataset: the split.
        folder: of all results.
        masks: the folder below which targets lie.
    """

    dataset: VideoDataset
    folder: Path
    masks: Path

    @property
    def tree(self) -> str:
        """A name for the kind of masks; benchmarks with the same one cannot share a folder."""

    @property
    def is_scored(self) -> bool:
        """Whether there is ground truth."""

    def targets(self, video: Video) -> tuple[Target, ...]:
        """The folders of masks of one video."""

    def mask_folders(self) -> list[Path]:
        """The folders that hold masks and nothing else of value, for starting anew."""

    def draw(self, probabilities: Tensor, threshold: float) -> Tensor:
        """The mask (H, W) uint8 of one target in one frame, from the probabilities (k, H, W) of its expressions.

        On the device of the probabilities.
        """

    def encode(self, mask: NDArray[np.uint8]) -> bytes:
        """A mask as a PNG."""

    @staticmethod
    def objects(mask: NDArray[np.uint8], target: Target) -> list[NDArray[np.bool_]]:
        """The k objects (H, W) that a mask shows. Static, so that it can be sent to another process alone."""

    def score(self, pool: ScorePool, video: Video) -> list[Future[ExpressionScore]]:
        """Start to score a finished video, if that can be done before the others are finished."""

    def finish(self, scores: Sequence[ExpressionScore] | None, num_workers: int) -> Mapping[str, Any] | None:
        """Check, pack and score the finished masks.

        Args:
            scores: what the futures of `score` brought for all videos, in the order of the data set; None to score
                now, in `num_workers` processes.

        Returns:
            The content of scores.json; None if there is no ground truth.

        Raises:
            InputError: masks are missing or wrong.
        """


class ExpressionBenchmark:
    """MeViS or Ref-YouTube-VOS: one binary mask per expression and frame.

    Args:
        dataset: the split.
        folder: of all results; the masks go to its `Annotations`, and the submission beside it.
    """

    tree = "Annotations"

    def __init__(self, dataset: VideoDataset, folder: Path) -> None:
        self.dataset = dataset
        self.folder = folder
        self.masks = folder / self.tree
        self._tasks: dict[str, list[ExpressionTask]] = {}
        if self.is_scored:
            for task in expression_tasks(dataset):
                self._tasks.setdefault(task.video.name, []).append(task)

    @property
    def is_scored(self) -> bool:
        """Whether there is ground truth."""
        return self.dataset.ground_truth is not None

    @property
    def is_sent(self) -> bool:
        """Whether the benchmark has a server for this split."""
        return self.dataset.name == "ytvos" or not self.is_scored

    def targets(self, video: Video) -> tuple[Target, ...]:
        """See `Benchmark`."""
        return tuple(Target(f"{video.name}/{own.id}", (place,)) for place, own in enumerate(video.expressions))

    def mask_folders(self) -> list[Path]:
        """See `Benchmark`."""
        return [self.masks]

    def draw(self, probabilities: Tensor, threshold: float) -> Tensor:
        """See `Benchmark`; values 0 and 255."""
        return (probabilities[0] > threshold).byte().mul_(255)

    def encode(self, mask: NDArray[np.uint8]) -> bytes:
        """See `Benchmark`; 8-bit grey."""
        done, data = cv2.imencode(".png", mask)
        assert done
        return data.tobytes()

    @staticmethod
    def objects(mask: NDArray[np.uint8], target: Target) -> list[NDArray[np.bool_]]:
        """See `Benchmark`."""
        return [mask > 0]

    def score(self, pool: ScorePool, video: Video) -> list[Future[ExpressionScore]]:
        """See `Benchmark`."""
        store = MaskStore(self.masks)
        return [pool.submit(score_expression, task, store) for task in self._tasks.get(video.name, [])]

    def finish(self, scores: Sequence[ExpressionScore] | None, num_workers: int) -> Mapping[str, Any] | None:
        """See `Benchmark`; writes Annotations.zip where there is a server to send it to."""
        summary = self._score_all(scores, num_workers) if self.is_scored else None
        if self.is_sent:
            zip_path = self.masks.with_suffix(".zip")
            make_submission(self.masks, zip_path, self.dataset)
            figure = PUBLISHED.get((self.dataset.name, split_title(self.dataset)))
            published = "" if figure is None else f" (published: {figure.percent} J&F)"
            logger.info("for the benchmark's server%s: %s", published, zip_path)
        return summary

    def _score_all(self, scores: Sequence[ExpressionScore] | None, num_workers: int) -> Mapping[str, Any]:
        if scores is None:
            summary = evaluate_expressions(self.dataset, self.masks, self.folder, num_workers)
        else:
            summary = write_expression_scores(self.folder, scores)
        logger.info("%s", expressions_table(self.dataset, summary))
        return summary


class DavisBenchmark:
    """Ref-DAVIS17: one palette PNG per annotator and frame, `anno_{0..3}/VIDEO/FRAME.png`.

    Args:
        dataset: split valid.
        sequences: what is scored, of `engine.scoring.davis.davis_sequences`.
        subset: name of this set of sequences.
        folder: of all results.
        masks: where the masks go; by default to `eval_davis/valid` in `folder`.

    Raises:
        InputError: a sequence to score is not in the split, has other frames there, or cannot be scored.
    """

    tree = "eval_davis"
    is_scored = True

    def __init__(
        self,
        dataset: VideoDataset,
        sequences: Sequence[DavisSequence],
        subset: str,
        folder: Path,
        masks: str | Path | None = None,
    ) -> None:
        self.dataset = dataset
        self.folder = folder
        self.masks = folder / self.tree / dataset.split if masks is None else Path(masks)
        self._sequences = sequences
        self._subset = subset
        videos = {video.name: video for video in dataset.videos}
        for sequence in sequences:
            frames = set(videos[sequence.name].frames) if sequence.name in videos else set()
            absent = [file.stem for file in sequence.files if file.stem not in frames]
            if absent:
                raise InputError(
                    f"{dataset.meta_path} lacks frame {absent[0]} of {sequence.name}, which --set {subset} scores: "
                    "convert the data again (tools/data/convert_davis_to_ytvos.py), or choose another --set"
                )
            true_objects(sequence, videos[sequence.name].frame_size())  # raises now what the scoring would in the end

    def targets(self, video: Video) -> tuple[Target, ...]:
        """See `Benchmark`; the places follow `datasets.ref_davis.annotator_expressions`."""
        places = range(len(video.expressions))
        names = [f"anno_{number}/{video.name}" for number in range(ANNOTATORS if video.expressions else 0)]
        return tuple(Target(name, tuple(places[number::ANNOTATORS])) for number, name in enumerate(names))

    def mask_folders(self) -> list[Path]:
        """See `Benchmark`."""
        return [self.masks / f"anno_{number}" for number in range(ANNOTATORS)]

    def draw(self, probabilities: Tensor, threshold: float) -> Tensor:
        """See `Benchmark`; object numbers, 0 for the background."""
        return draw_labels(probabilities, threshold)

    def encode(self, mask: NDArray[np.uint8]) -> bytes:
        """See `Benchmark`; with a palette."""
        return encode_labels(mask)

    @staticmethod
    def objects(mask: NDArray[np.uint8], target: Target) -> list[NDArray[np.bool_]]:
        """See `Benchmark`."""
        return [mask == number for number in range(1, len(target.expressions) + 1)]

    def score(self, pool: ScorePool, video: Video) -> list[Future[ExpressionScore]]:
        """Nothing: DAVIS is scored as a whole."""
        return []

    def finish(self, scores: Sequence[ExpressionScore] | None, num_workers: int) -> Mapping[str, Any]:
        """See `Benchmark`; writes DAVIS's CSV files into the folders of the annotators."""
        stores = annotator_stores(self.masks, self._sequences)
        csv_dirs = {name: self.masks / name for name in stores}
        results = evaluate_davis(self._sequences, stores, self._subset, csv_dirs, self.folder, num_workers)
        logger.info("%s", davis_table(self._subset, self._sequences[0].task, results))
        return results
