"""What is between an image and a video: animations, and streams that Pillow takes for images."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from PIL import Image

from datasets.media import open_media
from tests.media_files import number_of, picture


@pytest.mark.parametrize("suffix", ["webp", "png"])
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
    assert "an animation of 3 frames: the first is used" in record.getMessage()


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
