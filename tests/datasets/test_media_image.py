"""What is between an image and a video: animations, and streams that Pillow takes for images."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from PIL import Image

from datasets.media import open_media
from tests.media_files import number_of, picture, write_video
from util.errors import InputError


@pytest.mark.parametrize("suffix", ["webp", "png", "tif"])
def test_animation_that_is_read_as_an_image_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    path = tmp_path / f"image.{suffix}"
    frames = [Image.fromarray(picture(16, 16, number)) for number in (0, 8, 16)]
    frames[0].save(path)
    open_media(str(path))
    assert caplog.records == []
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=200)
    media = open_media(str(path))
    assert (media.kind, [number_of(frame) for frame in media]) == ("image", [0])
    (record,) = caplog.records
    assert "image." in record.getMessage()
    assert "holds 3 images: the first is used" in record.getMessage()


@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video"])
def test_bare_mpeg_is_a_video(tmp_path: Path, codec: str) -> None:
    """Pillow knows its first bytes and nothing more of it."""
    with av.open(str(tmp_path / "video.mpg"), "w", format=codec) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(48, 64, 4 * number), format="rgb24")))
        container.mux(stream.encode())
    media = open_media(str(tmp_path / "video.mpg"))
    assert (media.kind, media.frame_size) == ("video", (48, 64))
    assert [number_of(frame) for frame in media] == pytest.approx([0, 4, 8, 12, 16], abs=1)


@pytest.mark.parametrize("suffix", ["mjpg", "MJPEG"])
def test_bare_mjpeg_is_a_video(tmp_path: Path, suffix: str) -> None:
    """Pillow takes it for its first frame."""
    path = write_video(tmp_path / "video.mjpeg", 5, codec="mjpeg", pix_fmt="yuvj420p")
    media = open_media(str(path.rename(tmp_path / f"video.{suffix}")))
    assert (media.kind, media.length, media.fps) == ("video", 5, 25)
    assert [number_of(frame) for frame in media] == list(range(5))


def test_a_frame_that_is_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    for number in (0, 2):
        Image.fromarray(picture(16, 16, number)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").symlink_to(tmp_path / "store" / "1.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=r"1\.png: expected an image, found no file"):
        open_media(str(tmp_path))
    (tmp_path / "1.png").unlink()
    assert open_media(str(tmp_path)).length == 2
