"""Live sources: what opens, what is refused, what is dropped, and how a stream ends."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from datasets.media import LiveSource, Media, open_media, open_source
from datasets.media_live import LiveReader, is_live, open_live
from datasets.media_stream import LiveFrame, _Timeline
from tests.live_sources import SIZE, jpeg, mjpeg_server, mute_server, part, piped, rtsp_server
from tests.media_files import number_of, quadrants, write_video
from util.errors import InputError


def taken(reader: LiveReader) -> list[LiveFrame]:
    with reader:
        return list(reader)


def test_what_is_live_by_its_form() -> None:
    for path in ("-", "camera:0", "Camera:/dev/video2", "rtsp://host/x", "RTSPS://host/x"):
        assert is_live(path)
    for path in ("camera", "camera:", "video.mp4", "http://host/x", "--", "./-"):
        assert not is_live(path)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "muxer"),
    [
        ("a.mkv", "libx264", "yuv420p", {}),
        ("a.ts", "libx264", "yuv420p", {}),
        ("a.y4m", "rawvideo", "yuv420p", {}),
        ("a.avi", "mjpeg", "yuvj420p", {}),
        ("a.mp4", "libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    ],
)
def test_containers_on_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str, pix_fmt: str, muxer: dict[str, str]
) -> None:
    data = write_video(tmp_path / name, 9, codec=codec, pix_fmt=pix_fmt, muxer=muxer).read_bytes()
    with piped(monkeypatch, lambda pipe: [pipe.write(data[i : i + 700]) for i in range(0, len(data), 700)]):
        source = open_source("-")
        assert isinstance(source, LiveSource)
        assert (source.path, source.frame_size) == ("standard input", SIZE)
        frames = taken(source.read(4, drop=False))
    assert [frame.index for frame in frames] == list(range(9))
    assert [number_of(frame.pixels) for frame in frames] == list(range(9))
    assert [frame.time for frame in frames] == pytest.approx([number / 10 for number in range(9)], abs=2e-3)
    assert all(quadrants(frame.pixels)[:3] == ["red", "green", "blue"] for frame in frames)
    with pytest.raises(InputError, match="only once"):
        source.read(4, drop=False)


@pytest.mark.parametrize("muxer", [{}, {"movflags": "faststart"}])
def test_mp4_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, muxer: dict[str, str]) -> None:
    """More of it than FFmpeg keeps: it cannot go back to the frames when it has come to an index at the end."""
    options: dict[str, Any] = {"codec": "mjpeg", "pix_fmt": "yuvj420p", "muxer": muxer}
    data = write_video(tmp_path / "a.mp4", 20, (480, 640), **options).read_bytes()
    assert len(data) > 2 * 32768
    with piped(monkeypatch, lambda pipe: pipe.write(data)):
        if muxer:
            assert len(taken(open_live("-").read(8, drop=False))) == 20
            return
        with pytest.raises(InputError, match=r"broke off .*; an MP4 on standard input has to be fragmented"):
            open_live("-")


@pytest.mark.parametrize(("fps", "rate"), [(None, 25), (5, 5)])
def test_bare_jpegs_on_standard_input(monkeypatch: pytest.MonkeyPatch, fps: float | None, rate: int) -> None:
    with piped(monkeypatch, lambda pipe: pipe.write(b"".join(map(jpeg, range(7))))):
        frames = taken(open_live("-", fps).read(4, drop=False))
    assert [number_of(frame.pixels) for frame in frames] == list(range(7))
    assert [frame.time for frame in frames] == pytest.approx([number / rate for number in range(7)])


def test_mjpeg_over_http() -> None:
    with mjpeg_server(12) as address:
        source = open_source(address)  # the server says what it sends
        assert isinstance(source, LiveSource)
        frames = taken(source.read(4, drop=False))
        assert [number_of(frame.pixels) for frame in frames] == list(range(12))
        again = taken(source.read(4, drop=False))
        assert len(again) == 12


def test_a_file_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    data, asked = write_video(tmp_path / "video.mp4", 2).read_bytes(), list[str]()

    class OneTimeLink(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if len(asked) == 1 else 410)
            self.end_headers()
            self.wfile.write(data if len(asked) == 1 else b"used up")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), OneTimeLink) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        for _ in range(2):
            source = open_source(f"http://127.0.0.1:{server.server_address[1]}/video.mp4?once")
            assert isinstance(source, Media)
            assert source.length == 2
        server.shutdown()
    assert asked == ["/video.mp4?once"]


def test_a_stream_where_a_file_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    with mjpeg_server(3) as address, pytest.raises(InputError, match="expected a file, found a stream without end"):
        open_media(address)


@contextlib.contextmanager
def guarded_camera(user: str) -> Iterator[str]:
    """The address of a camera that sends three JPEGs to whoever gives this `name:password`."""
    token = base64.b64encode(user.encode()).decode()

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == f"Basic {token}"
            self.send_response(200 if known else 401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
            self.end_headers()
            with contextlib.suppress(OSError):  # the reader has gone
                self.wfile.write(b"".join(part(jpeg(number)) for number in range(3)) if known else b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/stream.mjpg"
        server.shutdown()


def test_mjpeg_over_http_with_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is asked with it what it sends, and no message tells it."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    with guarded_camera("me:p@ss/word") as plain:
        address = plain.replace("http://", "http://me:p%40ss%2Fword@")
        source = open_source(address)
        assert isinstance(source, LiveSource)
        assert source.path == plain.replace("http://", "http://***@")
        assert [number_of(frame.pixels) for frame in taken(source.read(4, drop=False))] == [0, 1, 2]
        for wrong in ("me:other@", "me:p@ther@", "me:o/ther@"):
            with pytest.raises(InputError, match=r"http://\*\*\*@127.* cannot be downloaded") as caught:
                open_source(plain.replace("http://", f"http://{wrong}") + "?pwd=other")
            assert "ther" not in str(caught.value)


def test_rtsp(tmp_path: Path) -> None:
    with rtsp_server(12, 50, tmp_path / "camera.h264") as address:
        source = open_source(address)
        assert isinstance(source, LiveSource)
        frames = taken(source.read(4, drop=False))
    assert source.frame_size == SIZE
    assert [number_of(frame.pixels) for frame in frames] == list(range(12))
    steps = [b.time - a.time for a, b in zip(frames, frames[1:], strict=False)]
    assert steps[1:] == pytest.approx([0.02] * 10, abs=1e-3)  # FFmpeg gives the first frame no time stamp


def test_slow_consumer_drops_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is the newest, in order, and every frame is either taken or counted."""
    with mjpeg_server(40) as address, open_live(address).read(3, drop=True) as reader:
        first = next(reader)
        while not reader._ended:
            time.sleep(0.001)
        rest = list(reader)
    assert first.index < rest[0].index
    assert [frame.index for frame in rest] == [37, 38, 39]
    assert [number_of(frame.pixels) for frame in rest] == [5, 6, 7]
    assert reader.dropped == 40 - 4


def test_without_dropping_the_source_waits() -> None:
    """A megabyte of sockets' buffers aside, the camera sends nothing while nobody takes frames."""
    sent: list[int] = []
    with mjpeg_server(20_000, sent=sent) as address, open_live(address).read(3, drop=False) as reader:
        frames = [next(reader) for _ in range(5)]
        before = -1
        while len(sent) != before:
            before = len(sent)
            time.sleep(0.1)
        assert len(sent) < 20_000
        assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
        assert reader.dropped == 0


def test_frames_per_second_of_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_video(tmp_path / "a.mkv", 10).read_bytes()
    with piped(monkeypatch, lambda pipe: pipe.write(data)):
        frames = taken(open_live("-", 4).read(8, drop=False))
    assert [frame.index for frame in frames] == [0, 3, 5, 8]


def test_size_that_changes_is_scaled_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(1) + jpeg(2, (96, 128)) + jpeg(3)
    with piped(monkeypatch, lambda pipe: pipe.write(data)):
        frames = taken(open_live("-").read(8, drop=False))
    assert [frame.pixels.shape for frame in frames] == [(*SIZE, 3)] * 3
    assert [number_of(frame.pixels) for frame in frames] == [1, 2, 3]


def test_damaged_frames_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = jpeg(2)[:-200]
    data = b"".join(part(image) for image in (jpeg(0), jpeg(1), broken, jpeg(3)))
    with piped(monkeypatch, lambda pipe: pipe.write(data)):
        reader = open_live("-").read(8, drop=False)
        frames = taken(reader)
    assert [frame.index for frame in frames] == [0, 1, 3]
    assert reader.damaged == 1


@pytest.mark.parametrize("multipart", [False, True])
def test_stream_that_ends_in_the_middle_of_a_frame(monkeypatch: pytest.MonkeyPatch, multipart: bool) -> None:
    data = b"".join(part(jpeg(n)) if multipart else jpeg(n) for n in range(5))
    with piped(monkeypatch, lambda pipe: pipe.write(data[:-200])):
        reader, seen = open_live("-").read(8, drop=False), []
        with reader, pytest.raises(InputError, match="standard input: the stream broke off in the middle of frame 4"):
            seen.extend(frame.index for frame in reader)
    assert seen == [0, 1, 2, 3]


def test_connection_that_breaks_in_the_middle_of_a_frame() -> None:
    with mjpeg_server(4, cut=200) as address, open_live(address).read(8, drop=False) as reader:
        assert [next(reader).index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(InputError, match="broke off in the middle of frame 3"):
            next(reader)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "standard input: no video stream can be opened"),
        (b"this is not a video\n" * 100, "standard input: no video stream can be opened"),
        (os.urandom(40_000), "standard input: "),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", "standard input: no video stream can be opened"),
        (jpeg(0)[:300], "standard input: "),
    ],
    ids=["nothing", "text", "noise", "playlist", "half a frame"],
)
def test_what_is_no_stream(monkeypatch: pytest.MonkeyPatch, data: bytes, message: str) -> None:
    with piped(monkeypatch, lambda pipe: pipe.write(data)), pytest.raises(InputError, match=message) as caught:
        open_live("-")
    assert "\n" not in str(caught.value)


def test_sound_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_video(tmp_path / "a.ts", 2, audio=True).read_bytes()
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="found a terminal or nothing"):
        open_live("-")
    with piped(monkeypatch, lambda pipe: pipe.write(data)):
        assert len(taken(open_live("-").read(8, drop=False))) == 2


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:  # bound, not listening: nobody else gets it
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_refused_connection(closed_port: int, scheme: str) -> None:
    address = f"{scheme}://user:secret@127.0.0.1:{closed_port}/x"
    with pytest.raises(InputError, match="Connection refused") as caught:
        open_source(address, live=True)
    assert "secret" not in str(caught.value)
    assert f"{scheme}://***@127.0.0.1:{closed_port}/x" in str(caught.value)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_server_that_never_answers(scheme: str) -> None:
    with mute_server() as host, pytest.raises(InputError, match=r"no frame came for 0\.2 seconds"):
        open_live(f"{scheme}://{host}/x", patience=0.2)


def test_stream_that_falls_silent() -> None:
    with mjpeg_server(3, stall=60) as address:
        reader = open_live(address, patience=0.3).read(8, drop=False)
        with reader:
            assert [next(reader).index for _ in range(3)] == [0, 1, 2]
            with pytest.raises(InputError, match=r"no frame came for 0\.3 seconds; is the source still there"):
                next(reader)


def test_missing_camera() -> None:
    with pytest.raises(InputError, match=r"camera:973: no video stream can be opened \(.+\)"):
        open_source("camera:973")


def test_files_are_not_live(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "video.mp4", 2))
    assert isinstance(open_source(path), Media)
    with pytest.raises(InputError, match=r"--live, --drop and --save_masks are for cameras"):
        open_source(path, live=True)


def test_times_rise_whatever_the_stamps_say() -> None:
    timeline = _Timeline(None, None, stamped=True)
    stamps = [5.0, 5.5, 5.5, 1.0, 1.25, None, 900.0, 900.5]
    arrivals = [0.0, 0.4, 0.9, 1.5, 1.6, 2.0, 2.3, 2.9]
    times = [
        timeline.place(index, None if stamp is None else Fraction(stamp), arrived)
        for index, (stamp, arrived) in enumerate(zip(stamps, arrivals, strict=True))
    ]
    assert times == pytest.approx([0, 0.5, 1.0, 1.6, 1.85, 2.25, 2.55, 3.05])


def test_frames_without_time_stamps_have_the_times_of_their_arrivals() -> None:
    timeline = _Timeline(None, Fraction(2), stamped=False)
    times = [timeline.place(index, Fraction(index), 7 + 0.25 * index) for index in range(6)]
    assert times == [0, None, 0.5, None, 1, None]
