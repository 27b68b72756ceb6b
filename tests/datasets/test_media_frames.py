from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.media_base import Media
from datasets.media_frames import Picture, open_frames
from util.errors import InputError

FRAMES = [np.full((4, 6, 3), 20 * number, np.uint8) for number in range(3)]


def files(folder: Path) -> list[str | Path]:
    """The frames as images, given as text and as paths."""
    paths: list[str | Path] = []
    for number, frame in enumerate(FRAMES):
        path = folder / f"{number}.png"
        Image.fromarray(frame).save(path)
        paths += [path if number else str(path)]
    return paths


def images(folder: Path) -> list[Image.Image]:
    """The frames as images in memory, one of them with transparent parts, one grey."""
    return [Image.fromarray(FRAMES[0]).convert("RGBA"), Image.fromarray(FRAMES[1][..., 0]), Image.fromarray(FRAMES[2])]


@pytest.mark.parametrize("made", [lambda folder: FRAMES, images, files])
@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_frames_of_all_kinds_are_the_same(
    tmp_path: Path, made: Callable[[Path], Sequence[Picture]], kind: Callable[[Sequence[Picture]], Media]
) -> None:
    media = open_frames(kind(made(tmp_path)), Fraction(3))
    assert (media.kind, media.frame_size, media.fps) == ("video", (4, 6), 3)
    np.testing.assert_array_equal(list(media), FRAMES)


def test_images_are_upright(tmp_path: Path) -> None:
    image, turned = Image.fromarray(FRAMES[1]), Image.Exif()
    turned[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=turned)
    with Image.open(tmp_path / "turned.jpg") as opened:
        for frames in (opened, [opened], [tmp_path / "turned.jpg"]):
            media = open_frames(frames, None)
            assert [frame.shape for frame in media] == [(6, 4, 3)]
            assert media.frame_size == (6, 4)


def test_one_image_is_no_video() -> None:
    for frame in (FRAMES[1], Image.fromarray(FRAMES[1])):
        media = open_frames(frame, None)
        assert (media.kind, media.fps, media.length) == ("image", None, 1)


def test_sizes_of_files_are_compared_before_they_are_decoded(tmp_path: Path) -> None:
    paths = files(tmp_path)
    Image.new("RGB", (8, 4)).save(paths[2])
    with pytest.raises(InputError, match="frame 2 is 8x4, the first one 6x4: segment them apart"):
        open_frames(paths, None)
    Path(paths[2]).write_text("no image")
    with pytest.raises(InputError, match=r"2\.png: expected an image, found another or a damaged file"):
        open_frames(paths, None)


def test_files_are_decoded_in_their_turn(tmp_path: Path) -> None:
    frames = iter(open_frames(files(tmp_path), None))
    np.testing.assert_array_equal(next(frames), FRAMES[0])
    (tmp_path / "1.png").unlink()
    with pytest.raises(InputError, match=r"1\.png: expected an image, found no file"):
        next(frames)
