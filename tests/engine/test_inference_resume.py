"""Nothing is lost: runs that are killed, stopped, shared between processes, or left by one of them."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datasets.mevis import open_mevis
from datasets.ref_davis import open_ref_davis
from datasets.ref_ytvos import open_ref_ytvos
from datasets.video_index import VideoDataset
from engine.inference.benchmarks import DavisBenchmark, ExpressionBenchmark
from engine.inference.options import InferenceOptions
from engine.inference.run import merge_shards, run_benchmark
from engine.inference.sharding import mask_count
from engine.scoring.davis import davis_sequences
from models.samwise import SAMWISE
from tests import miniature
from tests.conftest import build_micro
from tests.forked import Forked, partners
from util.distributed import joined_processes
from util.errors import InputError, run_script

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = InferenceOptions(num_workers=0, expressions_per_batch=16)
SHORT = {"one": (1, (24, 32)), "five": (5, (30, 20)), "two": (2, (24, 40)), "four": (4, (26, 26))}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> VideoDataset:
    root = tmp_path_factory.mktemp("mevis")
    miniature.write_mevis(root, "valid")
    return open_mevis(root, "valid")


@pytest.fixture(scope="module")
def short_videos(tmp_path_factory: pytest.TempPathFactory) -> VideoDataset:
    root = tmp_path_factory.mktemp("mevis")
    miniature.write_mevis(root, "valid", SHORT)
    return open_mevis(root, "valid")


def finished_zip(dataset: VideoDataset, model: SAMWISE, folder: Path) -> bytes:
    """Segment `dataset` on one thread; the zip."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run_benchmark(model, ExpressionBenchmark(dataset, folder), QUICK)
    torch.set_num_threads(threads)
    return (folder / "Annotations.zip").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(dataset: VideoDataset, micro_model: SAMWISE, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The zip of a run that nothing disturbed."""
    return finished_zip(dataset, micro_model, tmp_path_factory.mktemp("uninterrupted"))


def written(folder: Path) -> dict[Path, int]:
    """Every mask with the time of its last change."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("[0-9]*.png")}


def recorded_videos(folder: Path) -> list[str]:
    return [file.stem for file in (folder / "manifest" / "Annotations" / "videos").glob("*.json")]


def finish(model: SAMWISE, benchmark: ExpressionBenchmark, expected: bytes) -> None:
    """Run again to the end: the same zip, and no mask of a finished video is computed or written again."""
    finished = recorded_videos(benchmark.folder)
    before = {file: time for name in finished for file, time in written(benchmark.masks / name).items()}
    run_benchmark(model, benchmark, QUICK)
    assert (benchmark.folder / "Annotations.zip").read_bytes() == expected
    computed = json.loads((benchmark.folder / "run.json").read_text())["attempts"][-1]["masks"]
    assert computed == sum(mask_count(video) for video in benchmark.dataset.videos if video.name not in finished)
    after = written(benchmark.masks)
    assert all(after[file] == time for file, time in before.items())
    assert not list(benchmark.folder.rglob(".*.tmp*"))


@pytest.fixture(scope="module")
def short_zip(short_videos: VideoDataset, micro_model: SAMWISE, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """As `uninterrupted`, of the short videos."""
    return finished_zip(short_videos, micro_model, tmp_path_factory.mktemp("short"))


@pytest.mark.parametrize("seed", range(5))
def test_kill_nine_at_any_moment(
    seed: int, short_videos: VideoDataset, micro_model: SAMWISE, tmp_path: Path, short_zip: bytes
) -> None:
    """Ten moments in all, every second one in a run that goes on."""
    benchmark = ExpressionBenchmark(short_videos, tmp_path)
    moment = random.Random(seed)
    for masks in sorted(moment.sample(range(sum(map(mask_count, short_videos.videos))), 2)):
        child = Forked(lambda: run_benchmark(micro_model, benchmark, QUICK))
        child.wait_until(lambda masks=masks: len(written(benchmark.masks)) >= masks)  # type: ignore[misc]
        time.sleep(moment.uniform(0, 0.02))
        child.send(signal.SIGKILL)
        assert child.wait() in (-signal.SIGKILL, 0)
    finish(micro_model, benchmark, short_zip)


def test_what_a_killed_run_was_writing_is_removed(
    short_videos: VideoDataset, micro_model: SAMWISE, tmp_path: Path, short_zip: bytes
) -> None:
    benchmark = ExpressionBenchmark(short_videos, tmp_path)
    run_benchmark(micro_model, benchmark, QUICK)
    for place in (".", "manifest/Annotations", "manifest/Annotations/videos", "Annotations/five/2"):
        (tmp_path / place / f".{uuid.uuid4().hex}.tmp.png").touch()
    finish(micro_model, benchmark, short_zip)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_being_told_to_stop_ends_with_one_line(
    number: signal.Signals,
    dataset: VideoDataset,
    micro_model: SAMWISE,
    tmp_path: Path,
    uninterrupted: bytes,
    capfd: pytest.CaptureFixture[str],
) -> None:
    benchmark = ExpressionBenchmark(dataset, tmp_path)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    child = Forked(lambda: run_script(lambda: run_benchmark(micro_model, benchmark, QUICK)))
    child.wait_until(lambda: bool(recorded_videos(tmp_path)))
    child.send(number)
    assert child.wait() == 130
    assert capfd.readouterr().err.splitlines()[-1] == "interrupted: what was already written is complete and stays"
    assert json.loads((tmp_path / "run.json").read_text())["complete"] is False
    finish(micro_model, benchmark, uninterrupted)


def test_a_second_run_in_the_same_folder_waits_its_turn(
    dataset: VideoDataset, micro_model: SAMWISE, tmp_path: Path, uninterrupted: bytes
) -> None:
    benchmark = ExpressionBenchmark(dataset, tmp_path)
    child = Forked(lambda: run_benchmark(micro_model, benchmark, QUICK))
    child.wait_until(lambda: len(written(benchmark.masks)) > 3)
    run_benchmark(micro_model, benchmark, QUICK)
    assert child.wait() == 0
    assert (tmp_path / "Annotations.zip").read_bytes() == uninterrupted
    attempts = json.loads((tmp_path / "run.json").read_text())["attempts"]
    assert [attempt["masks"] for attempt in attempts] == [175, 0]


def together(model: SAMWISE, benchmark: ExpressionBenchmark) -> Callable[[], None]:
    """What each of several processes does."""

    def work() -> None:
        with joined_processes() as processes:
            run_benchmark(model, benchmark, QUICK, processes)

    return lambda: run_script(work)


def test_two_processes_give_the_results_of_one(micro_model: SAMWISE, tmp_path: Path) -> None:
    miniature.write_ytvos(tmp_path / "data")
    dataset = open_ref_ytvos(tmp_path / "data", allow_partial=True)
    alone, both = (ExpressionBenchmark(dataset, tmp_path / name) for name in ("alone", "both"))
    run_benchmark(micro_model, alone, QUICK)
    assert [child.wait() for child in partners(together(micro_model, both), 2)] == [0, 0]
    for name in ("Annotations.zip", "scores.json", "expressions.csv", "videos.csv"):
        assert (both.folder / name).read_bytes() == (alone.folder / name).read_bytes(), name
    run = json.loads((both.folder / "run.json").read_text())
    assert run["processes"] == 2
    assert [own["frames"] > 0 for own in run["attempts"][0]["processes"]] == [True, True]


def test_a_killed_partner_does_not_keep_the_other_waiting(
    dataset: VideoDataset, micro_model: SAMWISE, tmp_path: Path, uninterrupted: bytes
) -> None:
    benchmark = ExpressionBenchmark(dataset, tmp_path)
    first, second = partners(together(micro_model, benchmark), 2)
    second.wait_until(lambda: bool(recorded_videos(tmp_path)))
    second.send(signal.SIGKILL)
    assert second.wait() == -signal.SIGKILL
    assert first.wait() != 0
    finish(micro_model, benchmark, uninterrupted)


def test_a_failing_partner_does_not_keep_the_other_waiting(
    dataset: VideoDataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = build_micro()

    def fail_second(module: torch.nn.Module, arguments: object) -> None:
        if os.environ["RANK"] == "1":
            raise InputError("the second fails")

    model.text_encoder.register_forward_pre_hook(fail_second)
    model.cmt_adapters[0].register_forward_pre_hook(fail_second)
    children = partners(together(model, ExpressionBenchmark(dataset, tmp_path)), 2)
    assert all(child.wait() != 0 for child in children)
    errors = capfd.readouterr().err
    assert "error: the second fails\n" in errors
    assert "error: another process of this run failed" in errors
    assert "Traceback" not in errors


def test_processes_with_other_weights_are_refused(
    dataset: VideoDataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    models = [build_micro(seed=rank) for rank in range(2)]

    def work() -> None:
        with joined_processes() as processes:
            run_benchmark(models[processes.rank], ExpressionBenchmark(dataset, tmp_path), QUICK, processes)

    children = partners(lambda: run_script(work), 2)
    assert all(child.wait() != 0 for child in children)
    assert "weights (sha256)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR, MASTER_PORT is not set"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many'"),
    ],
)
def test_an_incomplete_launcher_is_named(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message), joined_processes():
        pass
    with joined_processes(enabled=False) as processes:
        assert (processes.rank, processes.size, processes.gather(3)) == (0, 1, [3])


def test_an_interrupted_new_start_leaves_nothing_of_the_run_before(
    short_videos: VideoDataset, micro_model: SAMWISE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = ExpressionBenchmark(short_videos, tmp_path)
    run_benchmark(micro_model, benchmark, QUICK)
    (tmp_path / "scores.json").write_text("of the run before")
    monkeypatch.delattr(SAMWISE, "encode")
    with pytest.raises(AttributeError, match="encode"):
        run_benchmark(micro_model, benchmark, replace(QUICK, overwrite=True))
    assert not list(tmp_path.glob("*.zip"))
    assert not (tmp_path / "scores.json").exists()


def test_nothing_is_drawn_of_a_video_without_sentences(
    short_videos: VideoDataset, micro_model: SAMWISE, tmp_path: Path
) -> None:
    first, *others = short_videos.videos
    dataset = replace(short_videos, videos=(replace(first, expressions=()), *others))
    run_benchmark(micro_model, ExpressionBenchmark(dataset, tmp_path), replace(QUICK, visualize=True))
    assert sorted(sheet.stem for sheet in (tmp_path / "visualize").glob("*.jpg")) == sorted(v.name for v in others)
    assert (tmp_path / "Annotations.zip").is_file()


def test_a_merge_keeps_what_the_record_of_a_run_says(
    short_videos: VideoDataset, micro_model: SAMWISE, tmp_path: Path
) -> None:
    benchmark = ExpressionBenchmark(short_videos, tmp_path)
    run_benchmark(micro_model, benchmark, QUICK, facts={"flags": {"split": "valid"}})
    before = json.loads((tmp_path / "run.json").read_text())
    merge_shards(benchmark, QUICK)
    assert json.loads((tmp_path / "run.json").read_text()) == before


def test_a_shard_that_starts_anew_removes_what_was_made_of_the_masks(
    short_videos: VideoDataset, micro_model: SAMWISE, tmp_path: Path
) -> None:
    benchmark = ExpressionBenchmark(short_videos, tmp_path)
    run_benchmark(micro_model, benchmark, QUICK)
    shards = [replace(QUICK, threshold=0.3, overwrite=True, shard=(number, 2)) for number in range(2)]
    for options in shards:
        run_benchmark(micro_model, benchmark, options)
        assert not (tmp_path / "Annotations.zip").exists()
        assert not (tmp_path / "run.json").exists()
        assert len(recorded_videos(tmp_path)) == len(SHORT)  # those of the other shard stay
    merge_shards(benchmark, QUICK)
    assert (tmp_path / "Annotations.zip").is_file()


def test_two_benchmarks_in_one_folder_are_noticed(
    short_videos: VideoDataset, micro_model: SAMWISE, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, data = tmp_path / "results", tmp_path / "data"
    miniature.write_davis(data)
    sequences = davis_sequences(data, "unsupervised", "val")
    run_benchmark(micro_model, ExpressionBenchmark(short_videos, folder), QUICK)
    assert "another benchmark" not in caplog.text
    run_benchmark(micro_model, DavisBenchmark(open_ref_davis(data), sequences, "val", folder), QUICK)
    assert f"{folder} holds the results of another benchmark (Annotations), too" in caplog.text
    other = DavisBenchmark(open_ref_davis(data), sequences, "val", folder)
    run_benchmark(micro_model, other, replace(QUICK, threshold=0.4, overwrite=True))
    assert (folder / "Annotations.zip").is_file()
