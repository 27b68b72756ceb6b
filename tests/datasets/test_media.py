"""Every kind of input that the demo accepts or refuses, as real files."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from datasets.media import Media, open_media
from tests.media_files import RED, cut, number_of, picture, quadrants, set_display_matrix, write_video
from util.errors import InputError

UPRIGHT = ["red", "green", "blue", "grey"]


def decoded(media: Media) -> list[np.ndarray]:
    frames = list(media)
    for frame in frames:
        assert frame.dtype == np.uint8
        assert frame.shape == (*media.frame_size, 3)
        assert frame.flags.c_contiguous
    return frames


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif", "ppm"])
def test_image_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(picture(47, 63, 16)).save(path)
    media = open_media(str(path))
    assert (media.kind, media.length, media.fps, media.frame_size) == ("image", 1, None, (47, 63))
    (frame,) = decoded(media)
    assert quadrants(frame) == UPRIGHT
    assert media.frame_name(0) == "00000"


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }[orientation](picture(40, 64, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    media = open_media(str(path))
    assert media.frame_size == (40, 64)
    assert quadrants(decoded(media)[0]) == UPRIGHT
    assert open_media(str(tmp_path)).frame_size == (40, 64)  # the same file as a folder of one frame


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    pixels = np.dstack([picture(8, 8), np.full((8, 8), 255, np.uint8)])
    pixels[4:, 4:] = (90, 0, 90, 0)  # invisible: its colour must not show
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    (frame,) = decoded(open_media(str(tmp_path / "rgba.png")))
    assert tuple(frame[6, 6]) == (255, 255, 255)
    assert tuple(frame[0, 0]) == RED


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(picture(8, 8)).quantize(4)
    image.save(tmp_path / "palette.png", transparency=image.getpixel((0, 0)))
    (frame,) = decoded(open_media(str(tmp_path / "palette.png")))
    assert tuple(frame[0, 0]) == (255, 255, 255)
    assert quadrants(frame)[1:3] == UPRIGHT[1:3]


@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        (np.array([[0, 0x8000, 0xFFFF]], np.uint16), "png"),
        (np.array([[0, 0x8000, 0xFFFF]], np.uint16), "tif"),
        (np.array([[0.0, 128 / 255, 1.0]], np.float32), "tif"),
        (np.array([[0, 128, 255]], np.uint8), "png"),
    ],
)
def test_grey_images_of_any_depth(tmp_path: Path, values: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(values).save(path)
    (frame,) = decoded(open_media(str(path)))
    np.testing.assert_array_equal(frame, np.repeat(np.array([[[0], [128], [255]]], np.uint8), 3, axis=2))


def test_still_image_that_only_ffmpeg_reads(tmp_path: Path) -> None:
    path = write_video(tmp_path / "image.exr", 1, codec="exr", pix_fmt="gbrapf32le", options={"compression": "none"})
    media = open_media(str(path))
    assert (media.kind, media.length, media.fps) == ("image", 1, None)
    assert quadrants(decoded(media)[0])[:3] == UPRIGHT[:3]


def test_animated_gif_is_a_video(tmp_path: Path) -> None:
    frames = [Image.fromarray(picture(16, 16, number)) for number in (0, 8, 16)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=200)
    media = open_media(str(tmp_path / "moving.gif"))
    assert (media.kind, media.length, media.fps) == ("video", 3, 5)
    assert [number_of(frame) for frame in decoded(media)] == [0, 8, 16]


def test_fps_of_an_image_is_reported_as_unused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(picture(8, 8)).save(tmp_path / "image.png")
    open_media(str(tmp_path / "image.png"), fps=5)
    assert "--fps is not used" in caplog.text


# ---- videos ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "size"),
    [
        ("plain.mp4", "libx264", "yuv420p", (48, 64)),
        ("odd.mp4", "libx264", "yuv444p", (47, 63)),
        ("ten_bit.mkv", "ffv1", "yuv444p10le", (48, 64)),
        ("alpha.mov", "png", "rgba", (48, 64)),
        ("old.avi", "mpeg4", "yuv420p", (48, 64)),
        ("stream.ts", "libx264", "yuv420p", (48, 64)),
        ("tiny.mkv", "ffv1", "rgb24", (5, 5)),
        ("portrait.webm", "libvpx-vp9", "yuv420p", (64, 36)),
    ],
)
def test_video_formats(tmp_path: Path, name: str, codec: str, pix_fmt: str, size: tuple[int, int]) -> None:
    rgb = {"pix_fmt": "bgr0"} if pix_fmt == "rgb24" else {"pix_fmt": pix_fmt}
    path = write_video(tmp_path / name, 6, size, codec=codec, **rgb)
    media = open_media(str(path))
    assert (media.kind, media.length, media.fps, media.frame_size) == ("video", 6, 10, size)
    frames = decoded(media)
    assert [number_of(frame) for frame in frames] == list(range(6))
    assert all(quadrants(frame)[:3] == UPRIGHT[:3] for frame in frames)
    assert [media.frame_name(index) for index in (0, 5)] == ["00000", "00005"]
    assert len(list(media)) == 6  # a second look starts anew


def test_sound_is_ignored(tmp_path: Path) -> None:
    media = open_media(str(write_video(tmp_path / "sound.mp4", 5, audio=True)))
    assert len(decoded(media)) == media.length == 5


def test_one_frame_video(tmp_path: Path) -> None:
    media = open_media(str(write_video(tmp_path / "one.mp4", 1)))
    assert (media.kind, media.length, media.fps) == ("video", 1, 10)
    assert len(decoded(media)) == 1


def test_4k_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "4k.mp4", 1, (2160, 3840), options={"preset": "ultrafast"})
    assert quadrants(decoded(open_media(str(path)))[0])[:3] == UPRIGHT[:3]


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), ["red", "green", "blue", "grey"]),
        ((0, 1, -1, 0), ["blue", "red", "grey", "green"]),  # a quarter turn clockwise
        ((-1, 0, 0, -1), ["grey", "blue", "green", "red"]),
        ((0, -1, 1, 0), ["green", "grey", "red", "blue"]),  # a quarter turn anticlockwise
        ((-1, 0, 0, 1), ["green", "red", "grey", "blue"]),  # mirrored left to right
        ((1, 0, 0, -1), ["blue", "grey", "red", "green"]),
        ((0, 1, 1, 0), ["red", "blue", "green", "grey"]),  # mirrored at the diagonal
    ],
)
def test_display_matrix(tmp_path: Path, matrix: tuple[int, int, int, int], shown: list[str]) -> None:
    path = write_video(tmp_path / "phone.mp4", 3, (36, 64))
    set_display_matrix(path, *matrix)
    media = open_media(str(path))
    assert media.frame_size == ((64, 36) if matrix[0] == 0 else (36, 64))
    assert all(quadrants(frame) == shown for frame in decoded(media))


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24), Fraction(1, 2), Fraction(1, 20)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frame_rate_is_kept(tmp_path: Path, rate: Fraction, suffix: str) -> None:
    assert open_media(str(write_video(tmp_path / f"rate.{suffix}", 6, rate=rate))).fps == rate


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate(tmp_path: Path, suffix: str) -> None:
    times = [0, 100, 150, 400, 450, 500, 900, 950, 1000, 1500, 2000, 3000]
    path = write_video(tmp_path / f"variable.{suffix}", len(times), times_ms=times)
    media = open_media(str(path))
    assert media.length == len(decoded(media)) == len(times)
    assert media.fps == pytest.approx(11 / 3.0, rel=0.01)  # 11 intervals in 3 seconds
    sampled = open_media(str(path), fps=2)
    # the first frame of every half second
    assert [times[number_of(frame)] for frame in decoded(sampled)] == [0, 500, 1000, 1500, 2000, 3000]
    assert (sampled.length, sampled.fps) == (6, 2)


@pytest.mark.parametrize(("fps", "expected"), [(5, [0, 2, 4, 6, 8]), (4, [0, 3, 5, 8]), (10, list(range(10)))])
def test_subsampling_by_time(tmp_path: Path, fps: float, expected: list[int]) -> None:
    media = open_media(str(write_video(tmp_path / "video.mp4", 10)), fps)
    assert [number_of(frame) for frame in decoded(media)] == expected
    assert (media.length, media.fps) == (len(expected), fps)


def test_more_frames_than_a_video_has_are_not_invented(tmp_path: Path) -> None:
    media = open_media(str(write_video(tmp_path / "video.mp4", 4)), fps=60)
    assert (media.length, media.fps, len(decoded(media))) == (4, 10, 4)


def test_stream_that_changes_its_size_is_scaled_to_the_first(tmp_path: Path) -> None:
    small, large = write_video(tmp_path / "a.ts", 3, (48, 64)), write_video(tmp_path / "b.ts", 3, (96, 128))
    (tmp_path / "both.ts").write_bytes(small.read_bytes() + large.read_bytes())
    frames = decoded(open_media(str(tmp_path / "both.ts")))
    assert len(frames) == 6
    assert quadrants(frames[-1])[:3] == UPRIGHT[:3]


def test_name_that_looks_like_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", 2).rename(tmp_path / "concat:a|b.mp4")
    assert open_media("concat:a|b.mp4").length == 2


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    for number in (0, 1, 2, 9, 10, 11):
        Image.fromarray(picture(16, 24, number)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("left alone")
    (tmp_path / ".hidden.png").write_text("left alone")
    media = open_media(str(tmp_path))
    assert (media.kind, media.length, media.fps, media.frame_size) == ("folder", 6, 10, (16, 24))
    assert [number_of(frame) for frame in decoded(media)] == [0, 1, 2, 9, 10, 11]
    assert [media.frame_name(index) for index in (0, 4)] == ["frame0", "frame10"]
    assert open_media(str(tmp_path), fps=25).fps == 25


def test_damaged_frame_is_named_after_those_before_it(tmp_path: Path) -> None:
    for name in "abc":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / f"{name}.jpg")
    cut(tmp_path / "b.jpg", tmp_path / "b.jpg", 0.8)
    frames = iter(open_media(str(tmp_path)))
    next(frames)
    with pytest.raises(InputError, match=r"b\.jpg: the image cannot be decoded .*truncated"):
        next(frames)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A folder of inputs that cannot be used."""
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 50)
    (tmp_path / "text.jpg").write_text("this is not an image\n" * 50)
    (tmp_path / "nothing.mp4").write_bytes(b"")
    (tmp_path / "subtitles.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n")
    cut(write_video(tmp_path / "whole.mp4"), tmp_path / "no_index.mp4", 0.8)
    cut(write_video(tmp_path / "fast.mp4", muxer={"movflags": "faststart"}), tmp_path / "half.mp4", 0.8)
    cut(write_video(tmp_path / "long.mkv", 60, codec="mjpeg", pix_fmt="yuvj420p"), tmp_path / "half.mkv", 0.5)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    for suffix in ("jpg", "png"):
        noise.save(tmp_path / f"whole.{suffix}")
        cut(tmp_path / f"whole.{suffix}", tmp_path / f"half.{suffix}", 0.8)
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    Image.fromarray(picture(20, 30)).save(tmp_path / "mixed" / "1.png")
    Image.fromarray(picture(20, 31)).save(tmp_path / "mixed" / "2.png")
    (tmp_path / "twice").mkdir()
    Image.fromarray(picture(20, 30)).save(tmp_path / "twice" / "1.png")
    Image.fromarray(picture(20, 30)).save(tmp_path / "twice" / "1.jpg")
    with av.open(str(tmp_path / "song.m4a"), "w", format="mp4") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 64, 48, "yuvj420p", Disposition.attached_pic
        sound = container.add_stream("aac", rate=44100)
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture(48, 64), format="rgb24")))
        container.mux(cover.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.mp4", "missing.mp4 does not exist"),
        ("text.mp4", "expected an image, a video or a folder of images"),
        ("text.jpg", "expected an image, a video or a folder of images"),
        ("nothing.mp4", "found an empty file"),
        ("subtitles.srt", "found a file that holds only subtitle"),
        ("song.m4a", "found a file that holds only audio and a cover picture"),
        ("no_index.mp4", "damaged, cut off"),
        ("half.mp4", "cut off: [0-7] of at least 8 frames are in the file"),
        ("half.mkv", r"cut off: [\d.]+ of 6.0 s are in the file"),
        ("half.jpg", "cannot be decoded .*truncated"),
        ("half.png", "cannot be decoded"),
        ("empty", "found none among 0 files"),
        ("mixed", "1.png is 30x20 and 2.png is 31x20"),
        ("twice", "1.jpg and 1.png would make files of one name"),
    ],
)
def test_bad_inputs_are_refused_before_anything_is_decoded(bad: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_media(str(bad / name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_image_that_claims_to_be_enormous(tmp_path: Path) -> None:
    path = tmp_path / "bomb.ppm"
    path.write_bytes(b"P6 20000 20000 255\n" + bytes(1000))
    with pytest.raises(InputError, match=r"bomb\.ppm: the image cannot be decoded .*exceeds limit"):
        open_media(str(path))


def test_damage_in_the_middle_of_a_video_names_the_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "damaged.mov", 8, (128, 128), codec="png", pix_fmt="rgb24")
    data = bytearray(path.read_bytes())
    fifth = [index for index in range(len(data)) if data[index : index + 4] == b"IDAT"][4]
    data[fifth - 33 : fifth + 60] = bytes(93)
    path.write_bytes(data)
    seen = []
    with pytest.raises(InputError, match=r"damaged\.mov: decoding broke off at frame 4 "):
        seen.extend(map(number_of, open_media(str(path))))
    assert seen == [0, 1, 2, 3]


# ---- URLs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a local web server on `tmp_path`/www; what is downloaded goes to `tmp_path`/cache."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "www").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_url(server: str, tmp_path: Path) -> None:
    write_video(tmp_path / "www" / "video.mp4", 3)
    media = open_media(f"{server}/video.mp4")
    assert (media.path, media.length, len(decoded(media))) == (f"{server}/video.mp4", 3, 3)
    with pytest.raises(InputError, match="404"):
        open_media(f"{server}/missing.mp4")


def test_an_address_that_gave_something_else_at_first(server: str, tmp_path: Path) -> None:
    (tmp_path / "www" / "video.mp4").write_text("<html>please log in</html>")
    with pytest.raises(InputError, match=r"/video\.mp4: expected an image, a video"):
        open_media(f"{server}/video.mp4")
    write_video(tmp_path / "www" / "video.mp4", 3)
    assert open_media(f"{server}/video.mp4").length == 3


# ---- real files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "size", "fps", "length"),
    [
        ("example_image.jpg", "image", (480, 854), None, 1),
        ("example_video.mp4", "video", (480, 854), 10, 50),
        ("sam2_04_coffee.mp4", "video", (720, 1280), Fraction(30000, 1001), 287),
        ("bedroom", "folder", (540, 960), 10, 11),
        ("horse", "folder", (480, 854), 10, 19),
    ],
)
def test_real_media(
    shared: Path, name: str, kind: str, size: tuple[int, int], fps: Fraction | None, length: int
) -> None:
    media = open_media(str(shared / "data" / "video" / name))
    assert (media.kind, media.frame_size, media.fps, media.length) == (kind, size, fps, length)
    count = 0
    for frame in media:
        assert frame.shape == (*size, 3)
        count += 1
    assert count == length
