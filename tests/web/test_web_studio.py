"""Visits, runs and what is left of them: everything behind the page, with a real small network."""

from __future__ import annotations

import gc
import json
import os
import resource
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datasets.media import open_media
from engine.infer import stream
from engine.web.exports import EXPORTS
from engine.web.jobs import Job, RunOptions, Worker
from engine.web.limits import Limits
from engine.web.store import LEVELS, RunStore, levels_of, threshold_level
from engine.web.visits import Studio, Visit
from models.samwise import SAMWISE
from tests.forked import Forked
from tests.media_files import picture, write_video
from util.drawing import draw_overlay, palette
from util.errors import InputError

SENTENCES = ["the red thing on the left", "zebra 42 flies?"]
TEXT = "\n".join(SENTENCES)


@pytest.fixture
def studio(micro_model: SAMWISE, tmp_path: Path) -> Iterator[Studio]:
    studio = Studio(micro_model, Limits(visits=5), tmp_path / "root")
    yield studio
    studio.close()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", 11)


def finish(job: Job) -> Job:
    """Wait for a run to end."""
    while not job.over:
        job.wait(len(job.store), 5.0)
    return job


def segment(studio: Studio, clip: Path, text: str = TEXT, key: str = "me") -> tuple[Visit, Job]:
    """A visit with a finished run."""
    visit = studio.visit(key)
    visit.open(clip, clip.name, studio.limits)
    return visit, finish(studio.start(visit, text))


def export(kind: str, job: Job, threshold: float, folder: Path) -> Path:
    """Write a file of a run."""
    *shares, path = EXPORTS[kind](job, threshold, folder)
    assert shares == sorted(shares)
    assert isinstance(path, Path)
    return path


def test_masks_are_those_of_the_network_at_every_threshold(studio: Studio, micro_model: SAMWISE, clip: Path) -> None:
    visit, job = segment(studio, clip)
    assert (job.state, len(job.store)) == ("done", 11)
    assert visit.media is not None
    expected = list(stream(micro_model, SENTENCES, visit.media))
    for level in range(1, LEVELS + 1):
        for index in (0, 10):
            masks = expected[index].masks(level / 100)
            assert np.array_equal(np.stack(list(job.store.masks(index, level / 100))), masks)
    assert [threshold_level(value) for value in (0.0, 0.5, 0.504, 1.0)] == [1, 50, 50, 99]


def test_levels_are_exact_next_to_every_threshold() -> None:
    bounds = np.array([level / 100 for level in range(101)], np.float32)
    values = np.concatenate([bounds, np.nextafter(bounds, np.float32(0)), np.nextafter(bounds, np.float32(1))])
    levels = levels_of(torch.from_numpy(values)).numpy()
    for level in range(1, LEVELS + 1):
        assert np.array_equal(levels >= level, (torch.from_numpy(values) > level / 100).numpy())


def test_another_threshold_does_not_run_the_network(
    studio: Studio, micro_model: SAMWISE, clip: Path, tmp_path: Path
) -> None:
    calls = []
    counter = micro_model.sam.sam_mask_decoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        _, job = segment(studio, clip)
        assert len(calls) >= 11
        calls.clear()
        pictures = [job.store.overlay(5, threshold) for threshold in (0.3, 0.5, 0.7)]
        masks = [export("masks", job, threshold, tmp_path / str(threshold)) for threshold in (0.3, 0.7)]
    finally:
        counter.remove()
    assert calls == []
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[1], pictures[2])
    assert masks[0].read_bytes() != masks[1].read_bytes()


def test_the_shown_picture_is_the_overlay(studio: Studio, micro_model: SAMWISE, clip: Path) -> None:
    visit, job = segment(studio, clip)
    assert visit.media is not None
    frames = list(visit.media)
    masks = list(stream(micro_model, SENTENCES, frames))[7].masks(0.4)
    expected = draw_overlay(frames[7], list(masks), palette(2), SENTENCES)
    shown = job.store.overlay(7, 0.4)
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 4  # JPEG


def test_files_to_take_home(studio: Studio, micro_model: SAMWISE, clip: Path, tmp_path: Path) -> None:
    visit, job = segment(studio, clip)
    assert visit.media is not None
    masks = [result.masks(0.6) for result in stream(micro_model, SENTENCES, visit.media)]
    with zipfile.ZipFile(export("masks", job, 0.6, tmp_path / "out")) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 22
        for name, number in (("the_red_thing_on_the_left", 0), ("zebra_42_flies", 1)):
            stored = cv2.imdecode(np.frombuffer(archive.read(f"{name}/00008.png"), np.uint8), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(stored, masks[8][number] * np.uint8(255))
    record = json.loads(export("record", job, 0.6, tmp_path / "out").read_text("utf-8"))
    assert (record["complete"], record["threshold"], record["input"]["path"]) == (True, 0.6, "clip.mp4")
    assert [prompt["text"] for prompt in record["prompts"]] == SENTENCES
    assert record["prompts"][1]["areas"] == [int(mask[1].sum()) for mask in masks]
    assert len(record["prompts"][1]["object_scores"]) == len(record["frames"]) == 11
    path = export("overlays", job, 0.6, tmp_path / "out")
    assert path.name == "clip-overlay.mp4"
    with av.open(str(path)) as video:
        assert [frame.to_ndarray(format="rgb24").shape for frame in video.decode(video=0)] == [(48, 64, 3)] * 11


def test_an_image(studio: Studio, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(picture(600, 2000)).save(path)
    visit, job = segment(studio, path, "the red thing")
    assert visit.first is not None
    assert visit.first.shape == (288, 960, 3)
    assert (job.state, len(job.store), job.store.overlay(0, 0.5).shape) == ("done", 1, (288, 960, 3))
    with Image.open(export("overlays", job, 0.5, tmp_path / "out")) as overlay:
        assert (overlay.size, overlay.format) == ((2000, 600), "JPEG")


def test_a_run_that_is_cancelled_keeps_what_is_done(
    studio: Studio, micro_model: SAMWISE, clip: Path, tmp_path: Path
) -> None:
    long = write_video(tmp_path / "long.mp4", 200)
    visit, other = studio.visit("me"), studio.visit("you")
    for guest in (visit, other):
        guest.open(long, long.name, studio.limits)
    held, cancelled = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        if visit.job is not None and len(visit.job.store) == 8:  # the second clip lasts until it is cancelled
            held.set()
            cancelled.wait(60.0)

    hook = micro_model.sam.sam_mask_decoder.register_forward_pre_hook(hold)
    try:
        job, waiting = studio.start(visit, TEXT), studio.start(other, TEXT)
        assert held.wait(60.0)
        assert (len(job.store), studio.ahead(job), studio.ahead(waiting), waiting.state) == (8, 0, 1, "waiting")
        waiting.cancel()
        job.cancel()
        cancelled.set()
        finish(job)
    finally:
        hook.remove()
    assert (job.state, len(job.store)) == ("cancelled", 16)
    assert (waiting.state, len(waiting.store)) == ("cancelled", 0)
    record = json.loads(export("record", job, 0.5, tmp_path / "out").read_text("utf-8"))
    assert (record["complete"], len(record["frames"])) == (False, 16)
    with av.open(str(export("overlays", job, 0.5, tmp_path / "out"))) as video:
        assert len(list(video.decode(video=0))) == 16
    assert segment(studio, clip, key="you")[1].state == "done"


def test_what_goes_wrong_in_a_run_stays_in_this_run(
    studio: Studio, micro_model: SAMWISE, clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faults: list[BaseException] = [
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        KeyError("secret"),
    ]

    def fail(*_: object) -> None:
        if faults:
            raise faults[0]

    hook = micro_model.sam.sam_mask_decoder.register_forward_pre_hook(fail)
    try:
        messages = []
        while faults:
            _, job = segment(studio, clip)
            assert (job.state, len(job.store)) == ("failed", 0)
            messages.append(job.message)
            faults.pop(0)
        assert segment(studio, clip)[1].state == "done"
    finally:
        hook.remove()
    assert all("Memory ran out" in message for message in messages[:2])
    assert "Something went wrong" in messages[2]
    assert "secret" not in messages[2]
    assert "secret" in caplog.text


def test_limits_while_it_runs(micro_model: SAMWISE, clip: Path, tmp_path: Path) -> None:
    studio = Studio(micro_model, Limits(result_bytes=20_000), tmp_path / "root")
    try:
        _, job = segment(studio, clip)
        assert job.state == "failed"
        assert "too large" in job.message
        assert len(job.store) > 0
        visit = studio.visit("me")
        for text, word in (("", "at least one"), ("x\n" * 2 + "y" * 400, "Shorten"), ("é" * 290, "")):
            if word:
                with pytest.raises(InputError, match=word):
                    studio.start(visit, text)
        with pytest.raises(InputError, match="Upload"):
            studio.start(studio.visit("new"), "the dog")
    finally:
        studio.close()


def test_a_file_that_cannot_grow_keeps_the_frames_in_it(micro_model: SAMWISE, clip: Path, tmp_path: Path) -> None:
    def run() -> None:
        studio = Studio(micro_model, Limits(), tmp_path / "root")
        most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most[1]))
        try:
            visit, job = segment(studio, clip)
            assert job.state == "failed"
            assert 0 < len(job.store) == len(job.store.scores) < 11
            assert visit.media is not None
            expected = list(stream(micro_model, SENTENCES, visit.media))
            for index in range(len(job.store)):
                assert np.array_equal(np.stack(list(job.store.masks(index, 0.5))), expected[index].masks())
                assert job.store.overlay(index, 0.5).shape == (48, 64, 3)
            studio.end_visit("me")
            assert not list((tmp_path / "root" / "visits").iterdir())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, most)

    assert Forked(run).wait() == 0


def test_a_full_disk_is_called_so(micro_model: SAMWISE, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "full.run"
    path.symlink_to("/dev/full")
    media = open_media(str(clip))
    job, worker = (
        Job(media, RunStore(path, media.frame_size, SENTENCES, 1 << 20)),
        Worker(micro_model, RunOptions(), 20),
    )
    worker.submit(job)
    finish(job)
    worker.close()
    job.store.close()
    assert (job.state, len(job.store)) == ("failed", 0)
    assert job.message == "On the server the disk is full: make room and run again."
    assert not path.is_symlink()


def test_uploads_that_broke_off_are_deleted(studio: Studio) -> None:
    studio.remove_broken_uploads()  # before there is a folder
    kept, gone = ["tmpnew", "tmpslow", "tmpempty", "photo.png", "hash/tmp.mp4"], ["tmpold", "tmpoldempty"]
    ages = dict(zip([*kept, *gone], (0, 500, 30, 9000, 9000, 700, 90), strict=True))
    for name, age in ages.items():
        path = studio.uploads / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if "empty" in name else b"data")
        os.utime(path, (time.time() - age,) * 2)
    (studio.uploads / "tmpfolder").mkdir()
    studio.remove_broken_uploads()
    files = {str(path.relative_to(studio.uploads)) for path in studio.uploads.rglob("*") if path.is_file()}
    assert files == set(kept)
    assert (studio.uploads / "tmpfolder").is_dir()


def test_a_visit_leaves_nothing(studio: Studio, clip: Path, tmp_path: Path) -> None:
    visit, job = segment(studio, clip)
    export("record", job, 0.5, visit.downloads / "1")
    files = [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    assert len(files) == 3
    visit.open(clip, "other.mp4", studio.limits)
    assert visit.job is None
    with pytest.raises(InputError, match="given up"):
        job.store.overlay(0, 0.5)
    studio.start(visit, TEXT)
    studio.end_visit("me")
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    assert clip.exists()
    studio.end_visit("me")
    studio.end_visit(None)


def test_visits_end_when_nothing_happens(micro_model: SAMWISE, clip: Path, tmp_path: Path) -> None:
    studio = Studio(micro_model, Limits(visits=2, idle_seconds=60.0), tmp_path / "root")
    try:
        idle, busy = studio.visit("idle"), studio.visit("busy")
        with pytest.raises(InputError, match="as many visitors"):
            studio.visit("third")
        with pytest.raises(InputError, match="session"):
            studio.visit(None)
        idle.used -= 61.0
        studio.end_idle_visits()
        assert list(studio.visits) == [busy]
        assert not idle.folder.exists()
        studio.visit("third")
    finally:
        studio.close()


def test_people_who_upload_the_same_file_do_not_lose_it(studio: Studio, tmp_path: Path) -> None:
    shared = tmp_path / "root" / "uploads" / "hash" / "clip.mp4"
    shared.parent.mkdir(parents=True)
    write_video(shared)
    first, second = studio.visit("first"), studio.visit("second")
    first.open(shared, "clip.mp4", studio.limits)
    second.open(shared, "clip.mp4", studio.limits)
    studio.end_visit("first")
    assert shared.exists()
    assert second.media is not None
    assert len(list(second.media)) == 8
    os.utime(shared, (time.time() - 100,) * 2)
    studio.end_visit("second")
    assert not shared.exists()


def resident() -> int:
    """Bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_four_people_at_once(micro_model: SAMWISE, tmp_path: Path) -> None:
    """20 runs: each gets the masks of its own video and sentences, and memory comes back."""
    studio = Studio(micro_model, Limits(), tmp_path / "root")
    cases = [
        (write_video(tmp_path / f"{n}.mp4", 3 + n, (48, 64 + 16 * n)), f"thing {n}\nthe other {n}") for n in range(4)
    ]
    expected = {}
    for number, (clip, text) in enumerate(cases):
        visit, _ = segment(studio, clip, text, "before")
        assert visit.media is not None
        expected[number] = [result.masks() for result in stream(micro_model, text.splitlines(), visit.media)]
    faults: list[str] = []
    gc.collect()
    before = resident()

    def person(number: int) -> None:
        for turn in range(5):
            case = (number + turn) % 4
            clip, text = cases[case]
            _, job = segment(studio, clip, text, f"person {number}")
            found = [np.stack(list(job.store.masks(index, 0.5))) for index in range(len(job.store))]
            same = len(found) == len(expected[case]) and all(map(np.array_equal, found, expected[case]))
            if job.state != "done" or not same or job.store.sentences != tuple(text.splitlines()):
                faults.append(f"person {number}, run {turn}: {job.state}")

    people = [threading.Thread(target=person, args=(number,)) for number in range(4)]
    for thread in people:
        thread.start()
    for thread in people:
        thread.join()
    assert faults == []
    for key in ("before", *(f"person {number}" for number in range(4))):
        studio.end_visit(key)
    gc.collect()
    assert resident() < 1.05 * before
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    studio.close()
