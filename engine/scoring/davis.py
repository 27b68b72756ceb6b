"""The DAVIS-2017 evaluation: J and F of several objects per sequence, `unsupervised` and `semi-supervised`.

Axes: P predicted objects, O true objects, T frames, H rows, W columns.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.ref_davis import ANNOTATORS
from datasets.validation import follow_link_file, shape
from datasets.video_index import MASK_SUFFIX
from engine.scoring.assignment import best_assignment
from engine.scoring.mask_store import MaskStore, open_store, read_mask
from engine.scoring.tables import write_csv
from util.errors import InputError
from util.metrics import PackedMask, SequenceStatistics, sequence_statistics

logger = logging.getLogger(__name__)

TASKS = ("unsupervised", "semi-supervised")
MEASURES = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
MAX_PROPOSALS = 20  # predicted objects that the unsupervised task accepts
_VOID = 255
_RESOLUTION = "480p"


@dataclass(frozen=True)
class DavisSequence:
    """One sequence: its true masks, one palette PNG per frame, in order; predictions are `SEQUENCE/FRAME.png`."""

    name: str
    task: str
    files: tuple[Path, ...]

    @property
    def scored_files(self) -> tuple[Path, ...]:
        """All frames, but for the first and the last if the task is semi-supervised."""
        return self.files if self.task == "unsupervised" else self.files[1:-1]

    def names(self) -> list[str]:
        """The predicted PNGs that are read."""
        return [f"{self.name}/{path.name}" for path in self.scored_files]


@dataclass(frozen=True)
class ObjectScore:
    """Per-frame values of one true object.

    Attributes:
        label: SEQUENCE_N as DAVIS prints it. In the unsupervised task N counts the matched predictions in ascending
            order, which need not be the order of the true objects.
        true_object, predicted_object: palette indices that were compared.
        j_frames, f_frames: (T,) J and F.
    """

    label: str
    true_object: int
    predicted_object: int
    j_frames: tuple[float, ...]
    f_frames: tuple[float, ...]

    @property
    def j(self) -> SequenceStatistics:
        """Statistics of J over the frames."""
        return sequence_statistics(self.j_frames)

    @property
    def f(self) -> SequenceStatistics:
        """Statistics of F over the frames."""
        return sequence_statistics(self.f_frames)


@dataclass(frozen=True)
class SequenceScore:
    """The objects of one sequence, in DAVIS's order."""

    sequence: str
    objects: tuple[ObjectScore, ...]


def davis_sequences(
    davis_path: str | Path, task: str, subset: str = "val", allow_partial: bool = False
) -> list[DavisSequence]:
    """The sequences of ImageSets/2017/SUBSET.txt with their true masks.

    Args:
        davis_path: `data/ref-davis` (which holds `DAVIS/`), or the DAVIS folder itself.
        task: one of TASKS. Unsupervised reads `Annotations_unsupervised/480p`, else the converted `valid/Annotations`,
            semi-supervised `Annotations/480p`; where neither is there, whichever annotations are, with a warning.
        allow_partial: leave out listed sequences that have no true masks.

    Raises:
        InputError: files or folders are missing; the message names them.
    """
    if task not in TASKS:
        raise InputError(f"--task is one of {', '.join(TASKS)}; found {task}")
    root = Path(davis_path)
    davis = root if (root / "ImageSets").is_dir() else root / "DAVIS"
    listing = davis / "ImageSets" / "2017" / f"{subset}.txt"
    if not listing.is_file():
        raise InputError(f"{listing} is missing; expected the names of the sequences of --set {subset} (docs/data.md)")
    annotations = _annotation_folder(root, davis, task)
    names = [line.strip() for line in listing.read_text("utf-8-sig", "replace").splitlines() if line.strip()]
    sequences = [
        DavisSequence(name, task, tuple(sorted((annotations / name).glob(f"*{MASK_SUFFIX}")))) for name in names
    ]
    there = [sequence for sequence in sequences if sequence.files]
    absent = [sequence.name for sequence in sequences if not sequence.files]
    if absent and (not there or not allow_partial):
        raise InputError(
            f"{annotations} has no masks of {len(absent)} of the {len(names)} sequences of {listing}, the first is "
            f"{absent[0]}; add them, or give --allow_partial to score the others"
        )
    if absent:
        logger.warning("%d of %d sequences are scored: %s has no others", len(there), len(names), annotations)
    return there


def _annotation_folder(root: Path, davis: Path, task: str) -> Path:
    unsupervised, supervised = (
        follow_link_file(davis / name) / _RESOLUTION for name in ("Annotations_unsupervised", "Annotations")
    )
    converted = follow_link_file(root / "valid" / "Annotations")
    wanted = [unsupervised, converted] if task == "unsupervised" else [supervised]
    others = [supervised] if task == "unsupervised" else [unsupervised, converted]
    for folder in (*wanted, *others):
        if folder.is_dir():
            if folder not in wanted:
                logger.warning("%s is missing; the %s task is scored with %s", wanted[0], task, folder)
            return folder
    raise InputError(f"{wanted[0]} is missing; unpack the masks of DAVIS-2017 there (docs/data.md)")


def annotator_stores(path: str | Path, sequences: Sequence[DavisSequence]) -> dict[str, MaskStore]:
    """The predictions at `path`, a folder or zip: {"anno_0": ..., ..., "anno_3": ...}, or {"global": ...}.

    The folders anno_0 to anno_3 may be at the top or in `valid` or `eval_davis/valid`, as the inference writes them;
    without them the sequences' folders are expected at the top.

    Raises:
        InputError: none of this is there, or a PNG is missing.
    """
    first = "anno_0/"
    places = [f"{parent}{first}" for parent in ("", "valid/", "eval_davis/valid/")]
    store = open_store(path, [sequence.name for sequence in sequences], [*places, ""])
    stores = {"global": store}
    if store.prefix:
        parent = store.prefix.removesuffix(first)
        names = [f"anno_{number}" for number in range(ANNOTATORS)]
        stores = {name: replace(store, prefix=f"{parent}{name}/") for name in names}
    for annotator in stores.values():
        annotator.require(name for sequence in sequences for name in sequence.names())
    return stores


def true_objects(sequence: DavisSequence, size: tuple[int, int] | None = None) -> int:
    """The number of objects to score: the highest index of the sequence's first frame, whether that is scored or not.

    Args:
        size: (H, W) of the source frames, if that is to be checked, too.

    Raises:
        InputError: too few frames, no object, or a mask of another size.
    """
    if not sequence.scored_files:
        raise InputError(f"{sequence.name} has {len(sequence.files)} frames; the {sequence.task} task needs 3 or more")
    first = read_mask(sequence.files[0])
    if size is not None and first.shape != size:
        raise InputError(
            f"{sequence.files[0]}: the true mask is {shape(first.shape)}, the source frame {shape(size)}; put masks "
            "and frames of one resolution there (docs/data.md)"
        )
    objects = int(np.where(first == _VOID, 0, first).max())
    if objects == 0:
        raise InputError(f"{sequence.files[0]} shows no object; expected the palette index of at least one")
    return objects


def score_sequence(sequence: DavisSequence, store: MaskStore) -> SequenceScore:
    """Score one sequence from its palette PNGs.

    The true objects are those of `true_objects`. Unsupervised: void pixels (255) count nowhere, and predictions are
    matched to true objects by the best sum of (J + F) / 2. Semi-supervised: equal palette indices are compared, and
    void pixels are background.

    Raises:
        InputError: too few frames, no object, a prediction that is missing or of another size, or too many objects.
    """
    files, objects = sequence.scored_files, true_objects(sequence)
    limit = max(MAX_PROPOSALS, objects) if sequence.task == "unsupervised" else objects
    scores = np.zeros((2, limit, objects, len(files)))
    proposals = objects
    for frame, (file, name) in enumerate(zip(files, sequence.names(), strict=True)):
        truth, prediction = read_mask(file), store.read(name)
        if truth.shape != prediction.shape:
            sizes = ", the true mask is ".join(f"{m.shape[1]}x{m.shape[0]}" for m in (prediction, truth))
            raise InputError(f"{name} is {sizes} (width x height); predictions must have the size of the source frame")
        highest = int(prediction.max())
        if highest > limit:
            raise InputError(
                f"{name} holds the palette index {highest}; the {sequence.task} task accepts up to {limit}"
            )
        proposals = max(proposals, highest)
        void = truth == _VOID
        truth[void] = 0
        if sequence.task == "unsupervised":
            prediction[void] = 0
        scores[:, :, :, frame] = _frame_scores(prediction, truth, limit, objects)
    return _matched(sequence, scores[:, :proposals])


def _frame_scores(
    prediction: NDArray[np.uint8], truth: NDArray[np.uint8], proposals: int, objects: int
) -> NDArray[np.float64]:
    """Palette images (H, W) -> (2, P, O): J and F of every predicted with every true object."""
    predicted = _objects(prediction, proposals)
    true = _objects(truth, objects)
    pairs = [[(mask.jaccard(target), mask.boundary_f(target)) for target in true] for mask in predicted]
    return np.array(pairs).transpose(2, 0, 1)


def _objects(labels: NDArray[np.uint8], count: int) -> list[PackedMask]:
    """The masks of the palette indices 1 ... count; indices that do not occur share one empty mask."""
    present = np.bincount(labels.reshape(-1), minlength=count + 1) > 0
    nothing = PackedMask(np.zeros(labels.shape, dtype=np.bool_))
    return [PackedMask(labels == index) if present[index] else nothing for index in range(1, count + 1)]


def _matched(sequence: DavisSequence, scores: NDArray[np.float64]) -> SequenceScore:
    """scores (2, P, O, T), P >= O."""
    if sequence.task == "unsupervised":
        rows, columns = best_assignment(scores.mean(axis=3).mean(axis=0))
    else:
        rows = columns = np.arange(scores.shape[2])
    return SequenceScore(
        sequence=sequence.name,
        objects=tuple(
            ObjectScore(
                label=f"{sequence.name}_{place}",
                true_object=int(column) + 1,
                predicted_object=int(row) + 1,
                j_frames=tuple(scores[0, row, column].tolist()),
                f_frames=tuple(scores[1, row, column].tolist()),
            )
            for place, (row, column) in enumerate(zip(rows, columns, strict=True), start=1)
        ),
    )


def global_results(scores: Sequence[SequenceScore]) -> dict[str, float]:
    """MEASURES, each the mean over all objects of all sequences; fractions.

    Raises:
        InputError: there are no scores.
    """
    if not scores:
        raise InputError("expected at least one sequence to score, found none")
    statistics = [(item.j, item.f) for score in scores for item in score.objects]
    results = {
        f"{measure}-{name.capitalize()}": float(np.mean([getattr(pair[index], name) for pair in statistics]))
        for index, measure in enumerate("JF")
        for name in ("mean", "recall", "decay")
    }
    return {MEASURES[0]: (results["J-Mean"] + results["F-Mean"]) / 2, **results}


def average(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every measure over annotators."""
    return {measure: float(np.mean([result[measure] for result in results])) for measure in MEASURES}


def write_davis_csv(folder: Path, subset: str, scores: Sequence[SequenceScore]) -> None:
    """Write global_results-SUBSET.csv and per-sequence_results-SUBSET.csv as DAVIS does: three decimals."""
    results = global_results(scores)
    write_csv(folder / f"global_results-{subset}.csv", MEASURES, [[f"{results[name]:.3f}" for name in MEASURES]])
    rows = [[item.label, f"{item.j.mean:.3f}", f"{item.f.mean:.3f}"] for score in scores for item in score.objects]
    write_csv(folder / f"per-sequence_results-{subset}.csv", ("Sequence", "J-Mean", "F-Mean"), rows)
