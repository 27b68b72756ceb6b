"""A picture to look at: some videos of a split, one row per expression, with the targets outlined."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tools.data.refshapes.sentences import Expression
from tools.data.refshapes.video import Clip, build_image, build_video
from util.drawing import draw_overlay, palette
from util.paths import atomic_path

_VIDEOS, _COLUMNS, _CELL_WIDTH, _LINE = 6, 6, 200, 22


def write_contact_sheet(
    path: Path, seed: int, split: str, count: int, frames: int | None = None, size: tuple[int, int] | None = None
) -> None:
    """Draw the first videos of a split: one row per expression, frames spread over the video.

    Args:
        count: number of videos in the split.
        frames, size: see `build_video`.
    """
    rows = []
    for index in range(min(_VIDEOS, count)):
        image = split.startswith("image_")
        clip = build_image(seed, split, index, size) if image else build_video(seed, split, index, frames, size)
        for expression in (*clip.expressions, *clip.no_target):
            rows += [_caption(expression, index), _row(clip, expression)]
    with atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), np.concatenate(rows)[..., ::-1])


def _caption(expression: Expression, index: int) -> np.ndarray:
    """A strip of text, (h, w, 3) uint8."""
    strip = Image.new("RGB", (_COLUMNS * _CELL_WIDTH, _LINE), (255, 255, 255))
    late = "".join(f", object {d.object + 1} fits until frame {d.until}" for d in expression.distractors)
    text = f"video {index}: {expression.text}   [{expression.kind}{late}]"
    ImageDraw.Draw(strip).text((6, _LINE // 2), text, (0, 0, 0), ImageFont.load_default(14), anchor="lm")
    return np.asarray(strip)


def _row(clip: Clip, expression: Expression) -> np.ndarray:
    """Frames of a clip with the target of an expression, (h, w, 3) uint8."""
    target = np.isin(clip.labels, np.array(expression.targets, int) + 1)
    cells = []
    for place in np.linspace(0, len(clip.frames) - 1, _COLUMNS).round().astype(int):
        drawn = draw_overlay(clip.frames[place], [target[place]], palette(1), [f"frame {place}"])
        scale = (_CELL_WIDTH - 4) / drawn.shape[1]
        small = cv2.resize(drawn, (_CELL_WIDTH - 4, round(scale * drawn.shape[0])), interpolation=cv2.INTER_AREA)
        cells.append(cv2.copyMakeBorder(small, 0, 6, 0, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    return np.concatenate(cells, axis=1)
