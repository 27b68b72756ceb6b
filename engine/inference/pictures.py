"""Pictures of finished masks: overlays of every frame, and one contact sheet per video (frames x targets).

Axes: H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from datasets.masks import read_frame
from datasets.video_index import MASK_SUFFIX, GroundTruth, Video
from engine.inference.benchmarks import Target
from engine.results import save_jpeg
from engine.scoring.mask_store import read_mask
from util.drawing import draw_overlay, palette

SHEET_FRAMES = 6  # columns of a contact sheet, spread over the video
CELL_WIDTH = 200  # pixels
_TITLE_HEIGHT = 22
_FONT_SIZE = 14
_GAP = 4
_TITLE, _PAPER = (32, 32, 32), (255, 255, 255)

Objects = Callable[[NDArray[np.uint8], Target], list[NDArray[np.bool_]]]


@dataclass(frozen=True)
class PictureJob:
    """What to draw of one video; it can be sent to another process.

    Attributes:
        video: its frames are read again.
        targets: its masks.
        masks: the folder below which they lie.
        objects: tells the objects of a mask apart, as `Benchmark.objects`.
        ground_truth: of these expressions, or None.
        folder: gets TARGET/FRAME.jpg, and VIDEO.jpg, the sheet, when all else is there.
    """

    video: Video
    targets: tuple[Target, ...]
    masks: Path
    objects: Objects
    ground_truth: GroundTruth | None
    folder: Path

    @property
    def sheet(self) -> Path:
        """The contact sheet."""
        return self.folder / f"{self.video.name}.jpg"


def draw_pictures(job: PictureJob) -> None:
    """Draw everything of one video; nothing where nothing is asked about it.

    Raises:
        InputError: a frame or a mask is missing.
        OSError: a file cannot be read or written.
    """
    if not job.targets:
        return
    count = len(job.video.frames)
    chosen = chosen_frames(count)
    cells: dict[str, list[np.ndarray]] = {target.folder: [] for target in job.targets}
    for index in range(count):
        frame = read_frame(job.video.frame_path(index))
        for target in job.targets:
            objects = job.objects(read_mask(job.masks / target.folder / _name(job.video, index)), target)
            labels = [job.video.expressions[place].text for place in target.expressions]
            overlay = draw_overlay(frame, objects, palette(len(objects)), labels)
            save_jpeg(job.folder / target.folder / f"{job.video.frames[index]}.jpg", overlay)
            if index in chosen:
                cells[target.folder].append(draw_cell(frame, objects, job.video.frames[index]))
                if job.ground_truth is not None:
                    cells[target.folder].append(draw_cell(frame, _truth(job, target, index), "ground truth"))
    save_jpeg(job.sheet, draw_sheet([(_title(job.video, target), cells[target.folder]) for target in job.targets]))


def chosen_frames(count: int) -> list[int]:
    """Indices of the frames of a contact sheet, spread over a video of `count`."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, SHEET_FRAMES))})


def _name(video: Video, index: int) -> str:
    return f"{video.frames[index]}{MASK_SUFFIX}"


def _title(video: Video, target: Target) -> str:
    return f"{target.folder}: " + " | ".join(video.expressions[place].text for place in target.expressions)


def _truth(job: PictureJob, target: Target, index: int) -> list[NDArray[np.bool_]]:
    assert job.ground_truth is not None
    return [job.ground_truth.mask(job.video, job.video.expressions[place], index) for place in target.expressions]


def draw_cell(frame: np.ndarray, objects: Sequence[NDArray[np.bool_]], label: str) -> np.ndarray:
    """A small overlay, `CELL_WIDTH` wide."""
    size = (CELL_WIDTH, max(1, round(CELL_WIDTH * frame.shape[0] / frame.shape[1])))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    for mask, colour in zip(objects, palette(len(objects)), strict=True):
        reduced = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        small = draw_overlay(small, [reduced], [colour], [label])
    return small


def draw_sheet(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> np.ndarray:
    """(H, W, 3) uint8: per row a title, and below it its cells side by side."""
    strips = []
    for title, cells in rows:
        gap = np.full((cells[0].shape[0], _GAP, 3), _PAPER, dtype=np.uint8)
        line = np.concatenate([part for cell in cells for part in (cell, gap)], axis=1)
        header = Image.new("RGB", (line.shape[1], _TITLE_HEIGHT), _PAPER)
        font = ImageFont.load_default(_FONT_SIZE)
        ImageDraw.Draw(header).text((_GAP, _TITLE_HEIGHT // 2), title, _TITLE, font, anchor="lm")
        strips += [np.asarray(header), line]
    return np.concatenate(strips)
