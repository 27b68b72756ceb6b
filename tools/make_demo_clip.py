"""Draw the clip that ships with the repository: three shapes that move over moving ground.

    python tools/make_demo_clip.py [docs/demo/shapes.mp4]

Sentences that fit it: "the red disc that moves to the right", "the blue square", "the yellow triangle that bounces".
The frames are computed from nothing but the numbers below, so that everyone can make them again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.results import VideoFile

HEIGHT, WIDTH, FRAMES, FPS = 270, 480, 28, Fraction(12)
SMOOTH = 4  # shapes are drawn this many times larger and reduced, which gives soft edges
DEFAULT_PATH = Path("docs/demo/shapes.mp4")


def ground() -> np.ndarray:
    """A grassy texture larger than the frame, (H + 60, W + 120, 3) uint8 RGB."""
    rng = np.random.default_rng(7)
    height, width = HEIGHT + 60, WIDTH + 120
    light = np.zeros((height, width), np.float32)
    for cell, strength in ((96, 22.0), (32, 16.0), (10, 12.0), (4, 8.0)):
        noise = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
        light += strength * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    colour = np.array([104, 128, 92], np.float32) + light[..., None] * np.array([0.9, 1.0, 0.7], np.float32)
    return np.clip(colour, 0, 255).astype(np.uint8)


def paint(frame: np.ndarray, shape: str, centre: tuple[float, float], colour: tuple[int, int, int]) -> None:
    """Draw one shape with a soft shadow, in place; `centre` is (x, y) in pixels."""
    mask = np.zeros((HEIGHT * SMOOTH, WIDTH * SMOOTH), np.uint8)
    x, y = (round(SMOOTH * value) for value in centre)
    if shape == "disc":
        cv2.circle(mask, (x, y), 34 * SMOOTH, 255, cv2.FILLED)
    else:
        corners = {"square": [(-29, -29), (29, -29), (29, 29), (-29, 29)], "triangle": [(0, -38), (38, 30), (-38, 30)]}
        cv2.fillPoly(mask, [np.array(corners[shape]) * SMOOTH + np.array([x, y])], 255)
    cover = cv2.resize(mask, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255
    shadow = cv2.GaussianBlur(np.roll(cover[..., 0], (7, 5), (0, 1)), (0, 0), 4)[..., None] * 0.45
    rows = np.linspace(1.12, 0.88, HEIGHT, dtype=np.float32)[:, None, None]
    body = np.clip(np.array(colour, np.float32) * rows, 0, 255)
    frame[:] = np.rint(frame * (1 - shadow) * (1 - cover) + body * cover).astype(np.uint8)


def clip() -> Iterator[np.ndarray]:
    """The frames, (H, W, 3) uint8 RGB."""
    texture = ground()
    for t in range(FRAMES):
        left, top = 2 + 3 * t, 20 + round(12 * np.sin(0.3 * t))
        frame = texture[top : top + HEIGHT, left : left + WIDTH].copy()
        paint(frame, "square", (352 - 1.5 * t, 84 + 10 * np.sin(0.25 * t)), (52, 92, 214))
        paint(frame, "triangle", (128 + 2.5 * t, 214 - 92 * abs(np.sin(np.pi * t / 9))), (238, 200, 44))
        paint(frame, "disc", (52 + 13.5 * t, 176 - 1.2 * t), (214, 48, 44))
        yield frame


def main() -> None:
    """Write the clip."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_PATH
    video = VideoFile(path, FPS)
    for frame in clip():
        video.add(frame)
    video.finish()
    print(f"{path}: {FRAMES} frames of {WIDTH}x{HEIGHT}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
