"""What containers say about the frames in them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from numbers import Rational
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from datasets.media import open_media
from datasets.media_live import open_live
from datasets.media_video import exact
from tests.live_sources import piped
from tests.media_files import (
    GREEN,
    RED,
    number_of,
    picture,
    quadrants,
    set_edit_list,
    without_decoder,
    write_heif,
    write_video,
)
from util.errors import InputError


@pytest.mark.parametrize("muxer", [{}, {"movflags": "faststart"}])
@pytest.mark.parametrize("options", [{"bf": "0"}, {}], ids=["in order", "reordered"])
def test_a_part_of_a_video_that_was_trimmed_without_being_encoded_anew(
    tmp_path: Path, options: dict[str, str], muxer: dict[str, str]
) -> None:
    path = write_video(tmp_path / "trimmed.mp4", 20, options=options, muxer=muxer)
    set_edit_list(path, 500, 800)
    media = open_media(str(path))
    assert [number_of(frame) for frame in media] == list(range(5, 13))
    assert (media.length, media.fps) == (8, 10)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match="cut off"):
        open_media(str(path))


def test_a_clock_that_was_set_while_it_was_recorded(tmp_path: Path) -> None:
    times = [100 * number + (1_700_000_000_000 if number > 4 else 0) for number in range(10)]
    path = write_video(tmp_path / "jump.mkv", 10, times_ms=times)
    media = open_media(str(path))
    assert (media.fps, media.length) == (10, 10)
    assert (media.steady, media.time_of(9)) == (True, 0.9)
    assert [number_of(frame) for frame in open_media(str(path), 5)] == [0, 2, 4, 5, 6, 8]


def test_recordings_that_were_strung_together_have_no_common_clock(tmp_path: Path) -> None:
    times = [0, 100, 150, 400, 1000]
    parts = [write_video(tmp_path / name, 5, times_ms=times).read_bytes() for name in ("a.ts", "b.ts")]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    assert not open_media(str(tmp_path / "a.ts")).steady
    both = open_media(str(tmp_path / "both.ts"))
    assert both.steady
    assert [both.time_of(index) for index in range(10)] == sorted({both.time_of(index) for index in range(10)})


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_a_recording_that_begins_between_two_whole_pictures(tmp_path: Path, suffix: str) -> None:
    times = [0, 100, 300, 350, 700, 800, 1200, 1250, 1300, 2000]
    path = write_video(tmp_path / f"whole.{suffix}", 10, times_ms=times, options={"g": "5", "bf": "0"})
    with av.open(str(path)) as whole, av.open(str(tmp_path / f"part.{suffix}"), "w") as part:
        stream = part.add_stream_from_template(whole.streams.video[0])
        for number, packet in enumerate(whole.demux(video=0)):
            if packet.size and number >= 2:
                packet.stream = stream
                part.mux(packet)
    media = open_media(str(tmp_path / f"part.{suffix}"))
    assert [number_of(frame) for frame in media] == [5, 6, 7, 8, 9]
    assert (media.length, media.steady) == (5, False)
    assert [media.time_of(index) for index in range(5)] == pytest.approx([0, 0.4, 0.45, 0.5, 1.2], abs=2e-3)


def test_a_part_of_a_picture_is_not_taken_for_the_picture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"photo\.heic: the picture is stored in 2 tiles, .* save it as JPEG or PNG"):
        open_media(str(write_heif(tmp_path / "photo.heic", tiled=True)))


def test_pictures_that_nothing_here_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = tmp_path / "drawing.svg"
    drawing.write_text("<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'/>")
    files = drawing, without_decoder(tmp_path / "unknown.avi")
    for file in files:
        with pytest.raises(InputError, match=f"{file.name}: there is no decoder for its pictures here: save it as"):
            open_media(str(file))
    with (
        piped(monkeypatch, lambda pipe: pipe.write(files[1].read_bytes())),
        pytest.raises(InputError, match="standard input: there is no decoder"),
    ):
        open_live("-")


def test_a_picture_in_the_container_of_a_video_is_an_image(tmp_path: Path) -> None:
    media = open_media(str(write_heif(tmp_path / "photo.heic", tiled=False)))
    assert (media.kind, media.length, media.fps, media.frame_size) == ("image", 1, None, (48, 32))
    assert quadrants(next(iter(media)))[:3] == ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("native.mov", "png", "rgba"),
        ("prores.mov", "prores_ks", "yuva444p10le"),
        ("vp9.webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_transparent_parts_are_laid_over_white_as_in_images(
    tmp_path: Path, name: str, codec: str, pix_fmt: str
) -> None:
    pixels = np.dstack([picture(64, 64), np.full((64, 64), 255, np.uint8)])
    pixels[32:, :32, 3], pixels[32:, 32:, 3] = 128, 0
    Image.fromarray(pixels).save(tmp_path / "image.png")
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 64, pix_fmt, 4_000_000
        for number in range(3):
            pixels[:32, :32, :3] = RED if number < 2 else GREEN
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        container.mux(stream.encode())
    media = open_media(str(tmp_path / name))
    frames, (expected,) = list(media), open_media(str(tmp_path / "image.png"))
    assert (media.length, len(frames)) == (3, 3)
    centres = np.s_[16:64:32, 16:64:32]
    assert tuple(expected[centres][1, 1]) == (255, 255, 255)
    for frame in frames[:2]:
        assert np.abs(frame[centres].astype(int) - expected[centres]).max() < 24
    assert quadrants(frames[2])[0] == "green"
    assert len(list(open_media(str(tmp_path / name), 5))) == 2


@Rational.register
@dataclass
class ForeignRational:
    """As PyAV 19 has them: rational numbers without the methods of `Fraction`, false where they are unset."""

    numerator: int
    denominator: int

    def __bool__(self) -> bool:
        return bool(self.numerator and self.denominator)


def test_rates_of_any_kind_of_rational_number() -> None:
    assert exact(ForeignRational(30000, 1001)).limit_denominator(100) == Fraction(2997, 100)
    assert exact(Fraction(1, 25)) == Fraction(1, 25)
    assert exact(ForeignRational(1, 0)) is exact(ForeignRational(0, 1)) is exact(None) is None
