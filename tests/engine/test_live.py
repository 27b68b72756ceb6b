"""Live video with a small real network: what is written, however it ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from datasets import media_live
from datasets.media import open_media, open_source
from datasets.media_live import open_live
from engine.demo import segment_media
from engine.infer import FrameResult, VideoSession, stream
from engine.live import LiveOptions, segment_live, segment_source
from engine.results import FRAMES
from models.samwise import SAMWISE
from tests.conftest import build_micro
from tests.forked import PATIENCE, Forked
from tests.live_sources import jpeg, mjpeg_server, part, piped
from tests.media_files import write_video
from util.errors import InputError

PROMPTS = ["the red disc", "../../x"]
PAGE = os.sysconf("SC_PAGE_SIZE")


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FRAMES).read_text().splitlines()]


def recent_line(folder: Path) -> dict[str, Any]:
    """What is known of the newest frame but one that is written; index and time are -1 before there is one."""
    path = folder / FRAMES
    if not path.exists() or path.stat().st_size == 0:
        return {"index": -1, "time": -1}
    with path.open("rb") as handle:
        handle.seek(max(path.stat().st_size - 1000, 0))
        return json.loads(handle.read().splitlines(keepends=True)[-2:][0].splitlines()[0])


def times_of(video: Path) -> list[float]:
    """Presentation times of the frames, all of which decode."""
    with av.open(str(video)) as container:
        return [frame.time for frame in container.decode(video=0)]


@contextlib.contextmanager
def forked(function: Callable[[], object]) -> Iterator[Forked]:
    """A process that calls the function; it does not outlive the block."""
    child = Forked(function)
    try:
        yield child
    finally:
        with contextlib.suppress(ChildProcessError):  # it has been waited for
            if os.waitpid(child.pid, os.WNOHANG)[0] == 0:
                child.send(signal.SIGKILL)
                os.waitpid(child.pid, 0)


@contextlib.contextmanager
def sender(monkeypatch: pytest.MonkeyPatch, command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Standard input is a pipe from a shell command; it does not outlive the block."""
    with subprocess.Popen(["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            monkeypatch.setattr(sys, "stdin", process.stdout)
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def smallest() -> SAMWISE:
    """A network that takes a few milliseconds per frame."""
    return build_micro(
        hsa_patch_size=(4, 2, 1),
        sam2__image_size=32,
        sam2__hiera__stages=(1, 1, 1, 1),
        sam2__hiera__global_blocks=(2,),
        sam2__memory_attention_layers=1,
    )


@pytest.fixture
def clip(tmp_path: Path) -> bytes:
    times = [0, 100, 200, 300, 900, 1000, 1100, 1200, 1300, 2000]
    return write_video(tmp_path / "clip.mkv", len(times), times_ms=times).read_bytes()


@pytest.mark.parametrize("window", [1, 4])
def test_every_frame_of_a_pipe(
    smallest: SAMWISE, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    out = tmp_path / "out"
    with piped(monkeypatch, lambda pipe: pipe.write(clip)):
        live = LiveOptions(save_masks=True)
        options: dict[str, Any] = {"window": window, "threshold": 0.4, "facts": {"untrained": True}, "progress": False}
        path = segment_source(smallest, open_source("-"), PROMPTS, out, live=live, **options)
    assert path == out / "result.json"
    record, lines = record_of(out), lines_of(out)
    assert record["input"] == {"path": "standard input", "kind": "live", "height": 48, "width": 64, "fps": None}
    assert (record["complete"], record["untrained"], record["frames_file"]) == (True, True, FRAMES)
    assert record["counts"] == {"written": 10, "dropped": 0, "damaged": 0}
    assert 0 < record["delay_ms"]["mean"] <= record["delay_ms"]["max"]
    assert [prompt["folder"] for prompt in record["prompts"]] == ["the_red_disc", "x"]
    times = [0, 0.1, 0.2, 0.3, 0.9, 1, 1.1, 1.2, 1.3, 2]
    assert [line["index"] for line in lines] == list(range(10))
    assert [line["time"] for line in lines] == pytest.approx(times, abs=2e-3)
    assert times_of(out / "all_prompts.mp4") == pytest.approx(times, abs=2e-3)
    frames = open_media(str(tmp_path / "clip.mkv"))
    for line, result in zip(lines, stream(smallest, PROMPTS, frames, window=window), strict=True):
        for number, mask in enumerate(result.masks(0.4)):
            file = out / record["prompts"][number]["masks"] / f"{line['index']:05d}.png"
            np.testing.assert_array_equal(np.asarray(Image.open(file)) == 255, mask)
            assert line["areas"][number] == mask.sum()
        assert line["object_scores"] == pytest.approx(result.object_scores.tolist(), abs=1e-4)


def test_dropped_frames_keep_their_numbers(smallest: SAMWISE, tmp_path: Path) -> None:
    with mjpeg_server(300, 0.0005) as address:
        segment_live(
            smallest, open_live(address), PROMPTS, tmp_path, live=LiveOptions(drop=True), window=2, progress=False
        )
    record, indices = record_of(tmp_path), [line["index"] for line in lines_of(tmp_path)]
    assert record["counts"]["dropped"] > 0
    assert record["counts"]["written"] + record["counts"]["dropped"] == 300
    assert indices == sorted(set(indices))
    assert indices[-1] == 299  # the newest are kept
    assert len(times_of(tmp_path / "all_prompts.mp4")) == len(indices)
    assert not (tmp_path / "the_red_disc").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_leaves_a_playable_video(smallest: SAMWISE, tmp_path: Path, number: signal.Signals) -> None:
    def run() -> None:
        segment_live(smallest, open_live(address), PROMPTS, tmp_path, live=LiveOptions(), window=2, progress=False)

    with mjpeg_server(1_000_000, 0.05) as address, forked(run) as child:
        child.wait_until(lambda: recent_line(tmp_path)["time"] > 1.3)
        child.send(number)
        status = child.wait()
    killed = number == signal.SIGKILL
    assert status == (-signal.SIGKILL if killed else 0)
    assert record_of(tmp_path)["complete"] is not killed
    times = times_of(tmp_path / "all_prompts.mp4")
    assert open_media(str(tmp_path / "all_prompts.mp4")).length == len(times)
    if killed:  # what lies in a fragment that was not finished is lost
        assert len(times) > 0
        assert lines_of(tmp_path)[len(times) - 1]["time"] == pytest.approx(times[-1], abs=2e-3)
    else:
        assert len(times) == len(lines_of(tmp_path)) == record_of(tmp_path)["counts"]["written"]


def test_stopping_does_not_wait_for_a_pipe_that_pauses(
    smallest: SAMWISE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, images = threading.Event(), b"".join(part(jpeg(number)) for number in range(5))

    def write(pipe: io.FileIO) -> None:
        pipe.write(images)
        over.wait()

    def run() -> None:
        segment_live(smallest, open_live("-"), PROMPTS, tmp_path, live=LiveOptions(), window=2, progress=False)

    with piped(monkeypatch, write):
        try:
            with forked(run) as child:
                child.wait_until(lambda: (tmp_path / FRAMES).exists() and len(lines_of(tmp_path)) == 4)
                child.send(signal.SIGINT)
                assert child.wait() == 0
        finally:
            over.set()
    assert record_of(tmp_path)["counts"]["written"] == len(times_of(tmp_path / "all_prompts.mp4")) == 4


@pytest.mark.parametrize("data", ["", "--next\\r\\nContent-Type: image/jpeg\\r\\n"], ids=["nothing", "half a header"])
def test_ctrl_c_before_the_first_frame(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: str) -> None:
    sent, waits, take = tmp_path / "sent", tmp_path / "waits", media_live.take

    def take_with_notice(answer: SimpleQueue[Any]) -> Any:
        waits.touch()
        return take(answer)

    def run() -> None:
        try:
            open_live("-")
        except KeyboardInterrupt:
            sys.exit(130)

    monkeypatch.setattr(media_live, "take", take_with_notice)
    command = f"printf '%b' '{data}'; touch '{sent}'; sleep 600"
    with sender(monkeypatch, command) as process, forked(run) as child:
        child.wait_until(lambda: sent.exists() and waits.exists())
        assert process.stdout is not None
        child.wait_until(lambda: not select.select([process.stdout], [], [], 0)[0])  # what there is has been read
        child.send(signal.SIGINT)
        assert child.wait() == 130


def test_the_clip_in_hand_is_finished(
    smallest: SAMWISE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: bytes
) -> None:
    """The signal comes while the second clip is computed."""
    feed, fed = VideoSession.feed, []

    def feed_and_interrupt(session: VideoSession, frames: list[np.ndarray]) -> list[FrameResult]:
        fed.extend(frames)
        if len(fed) == 8:
            signal.raise_signal(signal.SIGINT)
        return feed(session, frames)

    monkeypatch.setattr(VideoSession, "feed", feed_and_interrupt)
    with piped(monkeypatch, lambda pipe: pipe.write(clip)):
        segment_live(smallest, open_live("-"), PROMPTS, tmp_path, live=LiveOptions(), window=4, progress=False)
    assert record_of(tmp_path)["complete"] is True
    assert len(times_of(tmp_path / "all_prompts.mp4")) == len(lines_of(tmp_path)) == 8


def growth(child: Forked, folder: Path) -> int:
    """Bytes by which the process has grown between frames 600 and 3,000; it is stopped then."""

    def resident() -> int:
        return PAGE * int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])

    child.wait_until(lambda: recent_line(folder)["index"] >= 600)
    early = resident()
    for number in range(800, 3001, 200):  # every part has its own time limit
        child.wait_until(lambda number=number: recent_line(folder)["index"] >= number)
    late = resident()
    child.send(signal.SIGINT)
    assert child.wait() == 0
    record = record_of(folder)
    counts = record["counts"]
    assert record["complete"] is True
    assert counts["written"] == len(times_of(folder / "all_prompts.mp4")) == len(lines_of(folder))
    assert counts["written"] + counts["dropped"] > 3000 - 8
    return late - early


def test_3000_frames_need_no_more_memory_than_600(smallest: SAMWISE, tmp_path: Path) -> None:
    def run() -> None:
        segment_live(smallest, open_live(address), PROMPTS[:1], tmp_path, live=LiveOptions(drop=True), progress=False)

    with mjpeg_server(1_000_000, 0.001) as address, forked(run) as child:
        assert growth(child, tmp_path) < 8 << 20


@pytest.mark.slow
def test_3000_frames_of_a_pipe_need_no_more_memory_than_600(
    smallest: SAMWISE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.write_bytes(b"".join(part(jpeg(number)) for number in range(50)))

    def run() -> None:
        segment_live(smallest, open_live("-"), PROMPTS[:1], out, live=LiveOptions(), progress=False)

    with sender(monkeypatch, f"while cat '{images}'; do :; done") as process, forked(run) as child:
        sys.stdin.close()  # the child alone reads, so that its end ends the sender
        assert growth(child, out) < 8 << 20
        process.wait(PATIENCE)
    assert record_of(out)["counts"]["dropped"] == 0
    assert [line["index"] for line in lines_of(out)] == list(range(record_of(out)["counts"]["written"]))


@pytest.mark.parametrize(("end", "message"), [("cut", "broke off in the middle of frame 5"), ("silent", "no frame")])
def test_what_came_before_the_end_of_a_broken_stream_is_kept(
    smallest: SAMWISE, tmp_path: Path, end: str, message: str
) -> None:
    kept = 5 if end == "cut" else 6
    with mjpeg_server(6, **({"cut": 100} if end == "cut" else {"stall": 60})) as address:
        source = open_live(address, patience=0.3)
        with pytest.raises(InputError, match=message):
            segment_live(smallest, source, PROMPTS, tmp_path, live=LiveOptions(), window=4, progress=False)
    record = record_of(tmp_path)
    assert (record["complete"], record["counts"]["written"]) == (False, kept)
    assert len(times_of(tmp_path / "all_prompts.mp4")) == len(lines_of(tmp_path)) == kept


def test_status_is_one_line(
    smallest: SAMWISE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("engine.live._STATUS_SECONDS", 0.02)
    with mjpeg_server(12, 0.02) as address:
        segment_live(smallest, open_live(address), PROMPTS, tmp_path, live=LiveOptions(status=True), window=1)
    shown = capsys.readouterr().err
    found = re.findall(r"delay (\d+) ms, (\d+\.\d) frame/s, (\d+) frames, 0 dropped, 0 damaged", shown)
    assert len(found) > 1
    assert int(found[-1][2]) > int(found[0][2])
    assert shown.count("\n") == 1


def test_results_of_an_earlier_run_are_replaced(
    smallest: SAMWISE, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def live(data: bytes, save_masks: bool) -> None:
        with piped(monkeypatch, lambda pipe: pipe.write(data)):
            options = LiveOptions(save_masks=save_masks)
            segment_live(smallest, open_live("-"), PROMPTS[:1], out, live=options, progress=False)

    def files() -> set[str]:
        return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}

    short = b"".join(part(jpeg(number)) for number in range(2))
    segment_media(smallest, open_media(str(tmp_path / "clip.mkv")), PROMPTS[:1], out, progress=False)
    assert len(files()) == 2 * 10 + 3
    live(clip, save_masks=True)
    assert files() == {"result.json", FRAMES, "all_prompts.mp4"} | {
        f"the_red_disc/masks/{number:05d}.png" for number in range(10)
    }
    live(short, save_masks=False)
    assert files() == {"result.json", FRAMES, "all_prompts.mp4"}
    segment_media(smallest, open_media(str(tmp_path / "clip.mkv")), PROMPTS[:1], out, progress=False)
    assert FRAMES not in files()


def test_a_password_is_not_written_down(smallest: SAMWISE, tmp_path: Path) -> None:
    with mjpeg_server(3) as plain:
        address = plain.replace("http://", "http://me:secret@")
        facts = {"flags": {"input_path": address, "seed": 0}, "command": f"x --input_path={address} y"}
        segment_live(
            smallest, open_live(address), PROMPTS[:1], tmp_path, live=LiveOptions(), facts=facts, progress=False
        )
    text = (tmp_path / "result.json").read_text()
    assert "secret" not in text
    assert record_of(tmp_path)["flags"]["seed"] == 0


def test_what_cannot_be_written_ends_the_run(smallest: SAMWISE, tmp_path: Path) -> None:
    (tmp_path / "all_prompts.mp4" / "x").mkdir(parents=True)
    with mjpeg_server(1_000_000, 0.001) as address, pytest.raises(OSError, match=r"all_prompts\.mp4 cannot be written"):
        segment_live(smallest, open_live(address), PROMPTS, tmp_path, live=LiveOptions(), progress=False)
    assert record_of(tmp_path)["complete"] is False


def test_bad_prompts_are_refused_before_anything_is_written(smallest: SAMWISE, tmp_path: Path) -> None:
    def prompts() -> Iterator[list[str]]:
        yield from ([], [" "], ["word " * 600])

    with mjpeg_server(3) as address:
        for bad in prompts():
            with pytest.raises(InputError):
                segment_live(smallest, open_live(address), bad, tmp_path / "out", live=LiveOptions())
    assert not (tmp_path / "out").exists()
