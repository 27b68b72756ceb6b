"""Several videos in one batch: the masks of single runs, however the run is cut, killed or shared."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.masks import read_frame
from datasets.mevis import open_mevis
from datasets.transforms import evaluation_size, resize_frame
from datasets.video_index import VideoDataset
from engine.infer import FrameResult, open_session, stream
from engine.inference.batching import group_videos
from engine.inference.benchmarks import ExpressionBenchmark
from engine.inference.options import InferenceOptions
from engine.inference.run import merge_shards, run_benchmark
from engine.inference.segment import decode_groups
from engine.inference.together import segment_together
from models.samwise import SAMWISE
from models.stream import compile_network
from tests import miniature
from tests.benchmark_files import write_json
from tests.conftest import build_micro
from tests.forked import Forked, partners
from util.distributed import Processes, joined_processes
from util.errors import InputError, run_script

pytestmark = pytest.mark.usefixtures("one_thread")

# name -> frames, (H, W), sentences; groups of at most three videos and five sentences: bird with fish and cow, ant, dog
VIDEOS = {
    "ant": (6, (26, 26), 5),
    "bird": (2, (24, 32), 1),
    "cow": (5, (20, 40), 2),
    "dog": (9, (24, 40), 2),
    "fish": (3, (30, 20), 2),
}
ALONE = InferenceOptions(num_workers=0, expressions_per_batch=5, videos_per_batch=1, eval_clip_window=4)
TOGETHER = replace(ALONE, videos_per_batch=3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> VideoDataset:
    root = tmp_path_factory.mktemp("mevis")
    miniature.write_mevis(root, "valid", {name: (count, size) for name, (count, size, _) in VIDEOS.items()})
    path = root / "valid" / "meta_expressions.json"
    meta = json.loads(path.read_text())
    for name, (_, _, sentences) in VIDEOS.items():
        own = meta["videos"][name]
        own["expressions"] = dict(list(own["expressions"].items())[-sentences:])
    write_json(path, meta)
    return open_mevis(root, "valid")


@pytest.fixture(scope="module")
def alone(dataset: VideoDataset, micro_model: SAMWISE, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The zip of a run that takes every video by itself."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = zip_of(micro_model, dataset, tmp_path_factory.mktemp("alone"), ALONE)
    torch.set_num_threads(threads)
    return found


def zip_of(model: SAMWISE, dataset: VideoDataset, folder: Path, options: InferenceOptions) -> bytes:
    run_benchmark(model, ExpressionBenchmark(dataset, folder), options)
    return (folder / "Annotations.zip").read_bytes()


def last_attempt(folder: Path) -> dict[str, float]:
    return json.loads((folder / "run.json").read_text())["attempts"][-1]


def test_the_groups_are_as_said(dataset: VideoDataset) -> None:
    groups = group_videos(dataset.videos, 3, 5)
    assert [[video.name for video in group] for group in groups] == [["ant"], ["bird", "cow", "fish"], ["dog"]]


def test_the_zip_is_that_of_single_runs(
    dataset: VideoDataset, micro_model: SAMWISE, tmp_path: Path, alone: bytes
) -> None:
    steps: list[int] = []
    hook = micro_model.sam.memory_encoder.register_forward_pre_hook(lambda _, inputs: steps.append(len(inputs[0])))
    assert zip_of(micro_model, dataset, tmp_path / "five", replace(TOGETHER, videos_per_batch=5)) == alone
    hook.remove()
    assert max(steps) == 5
    assert json.loads((tmp_path / "five" / "run.json").read_text())["videos_per_batch"] == 5
    assert zip_of(micro_model, dataset, tmp_path / "three", TOGETHER) == alone


def test_a_killed_run_goes_on_to_the_same_zip(
    dataset: VideoDataset, micro_model: SAMWISE, tmp_path: Path, alone: bytes
) -> None:
    """Killed inside the group of three; afterwards a target of a finished video is harmed, and its group runs again."""
    benchmark = ExpressionBenchmark(dataset, tmp_path)
    child = Forked(lambda: run_benchmark(micro_model, benchmark, TOGETHER))
    child.wait_until(lambda: len(list((benchmark.masks / "cow").rglob("[0-9]*.png"))) >= 2)
    child.send(signal.SIGKILL)
    assert child.wait() in (-signal.SIGKILL, 0)
    assert zip_of(micro_model, dataset, tmp_path, TOGETHER) == alone
    (benchmark.masks / "cow" / "4" / "00001.png").write_bytes(b"harmed")
    times = {file: file.stat().st_mtime_ns for file in benchmark.masks.rglob("*.png")}
    assert zip_of(micro_model, dataset, tmp_path, TOGETHER) == alone
    again = {file for file, time in times.items() if file.stat().st_mtime_ns != time}
    assert again == set((benchmark.masks / "cow" / "4").iterdir())
    assert (last_attempt(tmp_path)["masks"], last_attempt(tmp_path)["frames"]) == (5, 2 + 3 + 5)


def test_two_processes_give_the_same_zip(
    dataset: VideoDataset, micro_model: SAMWISE, tmp_path: Path, alone: bytes
) -> None:
    benchmark = ExpressionBenchmark(dataset, tmp_path)

    def work() -> None:
        with joined_processes() as processes:
            run_benchmark(micro_model, benchmark, TOGETHER, processes)

    assert [child.wait() for child in partners(lambda: run_script(work), 2)] == [0, 0]
    assert (tmp_path / "Annotations.zip").read_bytes() == alone
    assert json.loads((tmp_path / "run.json").read_text())["processes"] == 2


def test_shards_are_made_of_whole_groups(
    dataset: VideoDataset, micro_model: SAMWISE, tmp_path: Path, alone: bytes
) -> None:
    benchmark = ExpressionBenchmark(dataset, tmp_path)
    run_benchmark(micro_model, benchmark, replace(TOGETHER, shard=(0, 2)))
    for other in (replace(TOGETHER, videos_per_batch=2), replace(TOGETHER, expressions_per_batch=4)):
        with pytest.raises(InputError, match=r"the first shard ran with [35]"):
            run_benchmark(micro_model, benchmark, replace(other, shard=(1, 2)))
    run_benchmark(micro_model, benchmark, replace(TOGETHER, shard=(1, 2), videos_per_batch=None))
    assert merge_shards(benchmark, TOGETHER, Processes(rank=1, size=2)) is None  # torchrun: the first process merges
    assert not (tmp_path / "Annotations.zip").exists()
    merge_shards(benchmark, TOGETHER)
    assert (tmp_path / "Annotations.zip").read_bytes() == alone


def test_groups_are_cut_when_memory_does_not_suffice(
    dataset: VideoDataset, tmp_path: Path, alone: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    model, most = build_micro(), 3

    def fail(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[0] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    model.sam.memory_encoder.register_forward_pre_hook(fail)
    found = zip_of(model, dataset, tmp_path, TOGETHER)
    assert "out of memory with 5 expressions at once: going on with 2" in caplog.text
    assert found == alone


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_frames_come_in_the_order_of_the_clips(dataset: VideoDataset, threads: int) -> None:
    bird, cow = (next(video for video in dataset.videos if video.name == name) for name in ("bird", "cow"))
    frames = {
        video.name: [read_frame(video.frame_path(index)) for index in range(len(video.frames))] for video in (bird, cow)
    }
    found = list(decode_groups([[cow, bird], [bird]], window=3, side=64, threads=threads))
    expected = [*frames["cow"][:3], *frames["bird"], *frames["cow"][3:], *frames["bird"]]
    assert len(found) == len(expected)
    for own, frame in zip(found, expected, strict=True):
        assert own.size == frame.shape[:2]
        assert np.array_equal(own.pixels, resize_frame(frame, evaluation_size(*own.size, 64)))


def clips(frames: np.ndarray, window: int) -> Iterator[np.ndarray]:
    for start in range(0, len(frames), window):
        yield frames[start : start + window]


@pytest.mark.parametrize(("protocol", "static"), [("paper", False), ("fixed", False), ("paper", True)])
def test_logits_are_those_of_streams(protocol: str, static: bool) -> None:
    """Three videos of which the first ends with a clip of one frame, CME switches for some, one sentence is long."""
    model = build_micro(seed=2, switch_mem="avg")
    with torch.no_grad():
        model.conditional_memory_encoder.decision_class_head.bias.copy_(torch.tensor([-0.6, 0.6]))
    noise = np.random.default_rng(0)
    videos = [noise.integers(0, 256, (count, *size, 3), dtype=np.uint8) for count, size in
              ((9, (40, 60)), (12, (60, 31)), (12, (25, 25)))]  # fmt: skip
    sentences = [["a disc"], ["the square that can be seen at the bottom of it", "it"], ["the third of four bars"]]
    options = {"window": 4, "protocol": protocol}
    expected_of = [
        list(stream(model, texts, video, **options))  # type: ignore[arg-type]
        for texts, video in zip(sentences, videos, strict=True)
    ]
    if static:
        compile_network(model, disable=True)  # steps of static shapes, as written
    sessions = [open_session(model, own, **options) for own in sentences]  # type: ignore[arg-type]
    found: list[list[FrameResult]] = [[], [], []]
    for running in zip(*(clips(video, 4) for video in videos), strict=True):
        for number, results in enumerate(segment_together(sessions, running)):
            found[number] += results
    for own, expected in zip(found, expected_of, strict=True):
        assert [result.index for result in own] == [result.index for result in expected]
        for one, other in zip(own, expected, strict=True):
            assert one.frame_size == other.frame_size
            torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(one.ious, other.ious, rtol=1e-4, atol=1e-4)
