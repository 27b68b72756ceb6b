"""What a report shows: the sentences of a run, with the scores and the masks of each.

Axes: H rows and W columns of a source frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy import bool_
from numpy.typing import NDArray

from datasets.video_index import MASK_SUFFIX, Expression, GroundTruth, Video
from engine.scoring.mask_store import MaskStore


@dataclass(frozen=True)
class Score:
    """Fractions from 0 to 1.

    Attributes:
        j, f: means over the frames.
        target_area: mean share of a frame that the target covers.
        has_target: the sentence refers to something.
    """

    j: float
    f: float
    target_area: float
    has_target: bool

    @property
    def j_and_f(self) -> float:
        """The mean of J and F."""
        return (self.j + self.f) / 2


@dataclass(frozen=True)
class PredictedMasks:
    """Where the masks of one sentence are: `folder`/FRAME.png in `store`.

    Attributes:
        palette_index: the value of the object's pixels; None if every value but 0 is.
    """

    store: MaskStore
    folder: str
    palette_index: int | None = None

    def mask(self, video: Video, index: int) -> NDArray[bool_]:
        """The predicted mask (H, W) of frame `index`.

        Raises:
            InputError: the PNG is missing or does not decode.
        """
        values = self.store.read(f"{self.folder}/{video.frames[index]}{MASK_SUFFIX}")
        return values > 0 if self.palette_index is None else values == self.palette_index


@dataclass(frozen=True)
class Row:
    """One sentence of a run.

    Attributes:
        video: what it is about.
        expression: the sentence, and which objects it means.
        key: its name within the video, for people.
        predicted: its masks.
        score: None if there is no ground truth.
        note: what a reader should know about the score; mostly empty.
    """

    video: Video
    expression: Expression
    key: str
    predicted: PredictedMasks
    score: Score | None
    note: str = ""


@dataclass(frozen=True)
class ScoreTable:
    """Scores of the whole run.

    Attributes:
        columns: names of the columns of `cells`.
        cells: measure -> one fraction per column, None for an empty cell.
        published: measure -> published score in percent.
        notes: what a reader should know about columns and published scores.
        headline: the (measure, column) that the published score belongs beside; the usual one if there is none.
    """

    columns: tuple[str, ...]
    cells: dict[str, tuple[float | None, ...]]
    published: dict[str, float]
    notes: tuple[str, ...]
    headline: tuple[str, str]


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Attributes:
        name: of the run.
        benchmark: name and split of the data set.
        rows: all sentences, in the order of the metadata.
        scores: None if there is no ground truth.
        ground_truth: None if the owners of the data keep it.
        records: name of a file about the run -> its content (run.json, or one file per shard).
    """

    name: str
    benchmark: str
    rows: tuple[Row, ...]
    scores: ScoreTable | None
    ground_truth: GroundTruth | None
    records: dict[str, dict[str, Any]]
