"""On a GPU the masks of a clip are written while the next one is computed; here a CPU does both, in the same order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.mevis import open_mevis
from datasets.video_index import VideoDataset
from engine.inference.benchmarks import ExpressionBenchmark
from engine.inference.download import Download
from engine.inference.options import InferenceOptions
from engine.inference.run import run_benchmark
from engine.inference.segment import Segmenter
from engine.inference.writer import MaskWriter
from models.samwise import SAMWISE
from tests import miniature
from tests.conftest import build_micro

pytestmark = pytest.mark.usefixtures("one_thread")

VIDEOS = {"one": (1, (24, 32)), "seven": (7, (24, 40)), "nine": (9, (24, 40))}  # frames, size
WINDOW = 3
ALONE = InferenceOptions(num_workers=0, expressions_per_batch=16, eval_clip_window=WINDOW)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> VideoDataset:
    root = tmp_path_factory.mktemp("mevis")
    miniature.write_mevis(root, "valid", VIDEOS)
    return open_mevis(root, "valid")


def zip_of(model: SAMWISE, dataset: VideoDataset, folder: Path, options: InferenceOptions) -> bytes:
    run_benchmark(model, ExpressionBenchmark(dataset, folder), options)
    return (folder / "Annotations.zip").read_bytes()


@pytest.mark.parametrize(
    "options", [ALONE, replace(ALONE, expressions_per_batch=1), replace(ALONE, videos_per_batch=3)]
)
def test_the_zip_is_the_same(
    options: InferenceOptions,
    dataset: VideoDataset,
    micro_model: SAMWISE,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once = zip_of(micro_model, dataset, tmp_path / "at_once", options)
    monkeypatch.setattr(Segmenter, "behind", 1)
    assert zip_of(micro_model, dataset, tmp_path / "behind", options) == at_once


def test_a_batch_is_halved_while_masks_wait_to_be_written(
    dataset: VideoDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Memory does not suffice in a second clip, when the first is not written yet: nothing is lost or counted twice."""
    model = build_micro()
    expected = zip_of(model, dataset, tmp_path / "enough", ALONE)
    monkeypatch.setattr(Segmenter, "behind", 1)
    run_clips, calls = Segmenter._run_clips, []

    def fail_once(*args: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 3:  # the first video has one clip
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return run_clips(*args)

    monkeypatch.setattr(Segmenter, "_run_clips", fail_once)
    options = replace(ALONE, expressions_per_batch=2)
    assert zip_of(model, dataset, tmp_path / "little", options) == expected
    masks = sum(frames for frames, _ in VIDEOS.values()) * len(dataset.videos[0].expressions)
    assert f"{masks}/{masks} [" in capfd.readouterr().err


def test_a_cpu_draws_a_frame_when_it_is_written(
    dataset: VideoDataset, micro_model: SAMWISE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masks of no more than a frame are kept beside those that the writer holds."""
    calls: list[str] = []
    draw, wait = ExpressionBenchmark.draw, Download.wait
    monkeypatch.setattr(ExpressionBenchmark, "draw", lambda *args: (calls.append("draw"), draw(*args))[1])
    monkeypatch.setattr(Download, "wait", lambda *args: (calls.append("wait"), wait(*args))[1])
    zip_of(micro_model, dataset, tmp_path, ALONE)
    targets = len(dataset.videos[0].expressions)
    assert calls == (["draw"] * targets + ["wait"]) * sum(frames for frames, _ in VIDEOS.values())


@pytest.mark.parametrize("behind", [0, 1])
def test_a_clip_waits_for_its_masks_when_the_next_one_has_been_given_out(
    behind: int, dataset: VideoDataset, micro_model: SAMWISE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    run_clips, wait, finish = Segmenter._run_clips, Download.wait, MaskWriter.after

    def note(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            if [*calls[-1:], name] != ["wait", "wait"]:  # a clip waits once for every frame
                calls.append(name)
            return function(*args)

        return noted

    monkeypatch.setattr(Segmenter, "behind", behind)
    monkeypatch.setattr(Segmenter, "_run_clips", note("compute", run_clips))
    monkeypatch.setattr(Download, "wait", note("wait", wait))
    monkeypatch.setattr(MaskWriter, "after", note("finish", finish))
    zip_of(micro_model, dataset, tmp_path, ALONE)
    at_once, last = ["compute", "wait"], ["finish"]
    expected = {
        0: at_once + last + 2 * (3 * at_once + last),
        1: at_once + last + 2 * (["compute"] + 2 * at_once + last),
    }
    assert calls == expected[behind]
