"""Which sentences a report shows in pictures, and the pictures.

Axes: H rows and W columns of a source frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.masks import read_frame
from datasets.video_index import GroundTruth, Video
from engine.report.rows import Report, Row, Score
from util.drawing import Colour, draw_overlay, palette
from util.errors import InputError
from util.metrics import jaccard

FRAMES = 4  # per case, spread over the video
PICTURE_SIDE = 360  # pixels, the longer side
PICTURES_BYTES = 6 << 20  # of all JPEGs together; a page holds four characters for three bytes
_QUALITIES = (80, 65, 50, 35)
_SMALLEST_SIDE = 32
_PREDICTED, _TRUE = palette(3)[0], palette(3)[2]  # red and yellow


@dataclass(frozen=True)
class Picture:
    """A JPEG of `width` x `height` pixels."""

    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True)
class CaseFrame:
    """One frame: its file's name, the prediction, and with ground truth also the target and J."""

    name: str
    predicted: Picture
    target: Picture | None
    j: float | None


@dataclass(frozen=True)
class Case:
    """A sentence with pictures; `number` is its place in `Report.rows`."""

    number: int
    row: Row
    frames: tuple[CaseFrame, ...]


@dataclass(frozen=True)
class CaseGroup:
    """Cases under one heading."""

    title: str
    cases: tuple[Case, ...]


def draw_cases(report: Report, count: int) -> list[CaseGroup]:
    """Choose cases and draw them; frames are decoded one at a time.

    Args:
        report: of a run.
        count: of the worst and of the best cases each.

    Raises:
        InputError: a frame or mask is missing, does not decode, or they differ in size.
    """
    chosen = choose_cases(report.rows, count)
    frames = sum(len(chosen_frames(report.rows[number].video)) for _, numbers in chosen for number in numbers)
    limit = PICTURES_BYTES // max(1, frames * (1 if report.ground_truth is None else 2))
    groups = []
    with tqdm(total=frames, desc="pictures", unit="frame") as bar:
        for title, numbers in chosen:
            cases = [_draw_case(number, report.rows[number], report.ground_truth, limit, bar) for number in numbers]
            groups.append(CaseGroup(title, tuple(cases)))
    return groups


def choose_cases(rows: Sequence[Row], count: int) -> list[tuple[str, list[int]]]:
    """Headings with places in `rows`: the lowest and the highest J&F, worst and best first, none in both.

    Sentences without a target are wrong or right as a whole, so they are no best cases; the wrong ones have a heading
    of their own. Without scores there is one group, spread over all rows. Groups without cases are left out.
    """
    scored = [(number, row.score) for number, row in enumerate(rows) if row.score is not None]
    if not scored:
        places = sorted({round(place) for place in np.linspace(0, len(rows) - 1, min(count, len(rows)))})
        groups = [("Examples", places)]
    else:
        ranked = _ranked([(number, score) for number, score in scored if score.has_target])
        false_alarms = _ranked([(n, score) for n, score in scored if not score.has_target and score.j_and_f < 1])
        worst = ranked[: min(count, (len(ranked) + 1) // 2)]
        best = ranked[len(worst) :][::-1][:count]
        groups = [("Worst cases", worst), ("Best cases", best)]
        groups.append(("Sentences without a target for which something was found", false_alarms[:count]))
    return [(title, numbers) for title, numbers in groups if numbers]


def _ranked(scored: Sequence[tuple[int, Score]]) -> list[int]:
    """Places by ascending J&F; of equal ones the first comes first."""
    return [number for number, _ in sorted(scored, key=lambda item: item[1].j_and_f)]


def chosen_frames(video: Video) -> list[int]:
    """The frames of a case, from the first to the last."""
    count = len(video.frames)
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, FRAMES))})


def _draw_case(number: int, row: Row, truth: GroundTruth | None, limit: int, bar: tqdm) -> Case:
    frames = []
    for index in chosen_frames(row.video):
        frame = read_frame(row.video.frame_path(index))
        predicted = row.predicted.mask(row.video, index)
        target = None if truth is None else truth.mask(row.video, row.expression, index)
        for mask, what in ((predicted, "predicted"), (target, "true")):
            if mask is not None and mask.shape != frame.shape[:2]:
                sizes = ", its frame ".join(f"{shape[1]}x{shape[0]}" for shape in (mask.shape, frame.shape))
                place = f"{row.video.name}, sentence {row.key}, frame {row.video.frames[index]}"
                raise InputError(f"{place}: the {what} mask is {sizes} (width x height); give the data it was made for")
        frames.append(
            CaseFrame(
                name=row.video.frames[index],
                predicted=_overlay(frame, predicted, _PREDICTED, "prediction", limit),
                target=None if target is None else _overlay(frame, target, _TRUE, "ground truth", limit),
                j=None if target is None else jaccard(predicted, target),
            )
        )
        bar.update()
    return Case(number, row, tuple(frames))


def _overlay(frame: NDArray[np.uint8], mask: NDArray[np.bool_], colour: Colour, label: str, limit: int) -> Picture:
    """The frame with the mask, reduced to `PICTURE_SIDE`; at most `limit` bytes if that can be."""
    height, width = frame.shape[:2]
    scale = min(1.0, PICTURE_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    reduced = share >= 0.5
    if not reduced.any():
        reduced = share > 0  # what is tiny must not vanish
    return _compressed(draw_overlay(small, [reduced], [colour], [label]), limit)


def _compressed(picture: NDArray[np.uint8], limit: int) -> Picture:
    while True:
        height, width = picture.shape[:2]
        for quality in _QUALITIES:
            done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
            assert done
            if data.size <= limit:
                return Picture(data.tobytes(), width, height)
        if max(height, width) < 2 * _SMALLEST_SIDE:
            return Picture(data.tobytes(), width, height)
        half = max(1, width // 2), max(1, height // 2)
        picture = np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), dtype=np.uint8)
