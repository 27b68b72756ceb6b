"""Evaluation on miniature benchmarks as a function: what it writes, how it resumes, what it refuses."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.masks import read_frame
from datasets.mevis import open_mevis
from datasets.ref_davis import open_ref_davis
from datasets.ref_ytvos import open_ref_ytvos
from datasets.video_index import Video, VideoDataset
from engine.evaluate_masks import evaluate_expressions
from engine.infer import stream
from engine.inference.benchmarks import DavisBenchmark, ExpressionBenchmark
from engine.inference.options import InferenceOptions
from engine.inference.run import merge_shards, run_benchmark
from engine.scoring.davis import davis_sequences
from models.samwise import SAMWISE
from tests import miniature
from tests.conftest import build_micro
from util.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = {"one": (1, (24, 32)), "nine": (9, (24, 40))}
QUICK = InferenceOptions(num_workers=0, expressions_per_batch=16)


@pytest.fixture(scope="module")
def mevis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MeViS with a hidden and a scored split of two videos."""
    root = tmp_path_factory.mktemp("mevis")
    miniature.write_mevis(root, "valid", FEW)
    miniature.write_mevis(root, "valid_u", FEW)
    return root


@pytest.fixture(scope="module")
def hidden(mevis: Path) -> VideoDataset:
    return open_mevis(mevis, "valid")


@pytest.fixture(scope="module")
def reference(hidden: VideoDataset, micro_model: SAMWISE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of an uninterrupted run on the hidden split."""
    folder = tmp_path_factory.mktemp("reference")
    run_benchmark(micro_model, ExpressionBenchmark(hidden, folder), QUICK)
    return folder


def masks_of(folder: Path) -> dict[str, np.ndarray]:
    root = folder / "Annotations"
    return {str(file.relative_to(root)): np.asarray(Image.open(file)) for file in sorted(root.rglob("*.png"))}


def source_frames(video: Video) -> Iterator[np.ndarray]:
    return (read_frame(video.frame_path(index)) for index in range(len(video.frames)))


def zip_bytes(folder: Path) -> bytes:
    return (folder / "Annotations.zip").read_bytes()


def test_masks_are_those_of_the_streaming_interface(
    reference: Path, hidden: VideoDataset, micro_model: SAMWISE
) -> None:
    found = masks_of(reference)
    assert len(found) == 10 * 5
    for video in hidden.videos:
        captions = [expression.text for expression in video.expressions]
        results = stream(micro_model, captions, source_frames(video), window=8, protocol="paper")
        for frame, result in zip(video.frames, results, strict=True):
            for expression, mask in zip(video.expressions, result.masks(), strict=True):
                image = found[f"{video.name}/{expression.id}/{frame}.png"]
                assert image.dtype == np.uint8
                assert np.array_equal(image, mask * np.uint8(255))
    assert 0.05 < np.mean([mask.mean() / 255 for mask in found.values()]) < 0.95


@pytest.mark.parametrize("batch", [1, 2])
def test_batches_of_any_size_give_the_same_masks(
    batch: int, reference: Path, hidden: VideoDataset, micro_model: SAMWISE, tmp_path: Path
) -> None:
    options = InferenceOptions(num_workers=2, expressions_per_batch=batch)
    run_benchmark(micro_model, ExpressionBenchmark(hidden, tmp_path), options)
    together, apart = masks_of(reference), masks_of(tmp_path)
    assert together.keys() == apart.keys()
    differing = sum(int((together[name] != apart[name]).sum()) for name in together)
    assert differing <= 2, "more than rounding"


def test_the_protocol_decides_about_a_last_clip_of_one_frame(
    reference: Path, hidden: VideoDataset, micro_model: SAMWISE, tmp_path: Path
) -> None:
    options = InferenceOptions(num_workers=0, expressions_per_batch=16, protocol="fixed")
    run_benchmark(micro_model, ExpressionBenchmark(hidden, tmp_path), options)
    paper, fixed = masks_of(reference), masks_of(tmp_path)
    differing = {name for name in paper if not np.array_equal(paper[name], fixed[name])}
    assert differing
    assert all(name.startswith("nine/") and name.endswith("00008.png") for name in differing)


def test_the_folder_of_a_run(reference: Path) -> None:
    run = json.loads((reference / "run.json").read_text())
    assert run["complete"] is True
    assert run["expressions_per_batch"] == 16
    assert run["attempts"][0]["masks"] == 50
    assert run["identity"]["--protocol"] == "paper"
    assert "torch" in run["environment"]
    assert "started" in (reference / "log.txt").read_text()
    with zipfile.ZipFile(reference / "Annotations.zip") as archive:
        assert "nine/4/00008.png" in archive.namelist()
    assert not (reference / "scores.json").exists()


def test_training_mode_is_kept(hidden: VideoDataset, tmp_path: Path) -> None:
    model = build_micro().train()
    run_benchmark(model, ExpressionBenchmark(hidden, tmp_path), QUICK)
    assert model.training


def test_pictures_can_be_drawn_later_and_without_ground_truth(
    reference: Path, hidden: VideoDataset, micro_model: SAMWISE
) -> None:
    assert not (reference / "visualize").exists()
    options = InferenceOptions(num_workers=0, expressions_per_batch=16, visualize=True)
    run_benchmark(micro_model, ExpressionBenchmark(hidden, reference), options)
    with Image.open(reference / "visualize" / "nine.jpg") as sheet:
        assert sheet.width == 6 * 204


def test_a_second_run_computes_nothing_again(
    hidden: VideoDataset, micro_model: SAMWISE, tmp_path: Path, reference: Path
) -> None:
    benchmark = ExpressionBenchmark(hidden, tmp_path)
    run_benchmark(micro_model, benchmark, QUICK)
    times = {file: file.stat().st_mtime_ns for file in benchmark.masks.rglob("*.png")}
    (benchmark.masks / "nine" / "2" / "00003.png").write_bytes(b"harmed")
    (benchmark.masks / "nine" / "0" / f".{'f' * 32}.tmp.png").write_bytes(b"left over")
    (tmp_path / "Annotations.zip").unlink()
    run_benchmark(micro_model, benchmark, QUICK)
    again = {file for file, time in times.items() if file.stat().st_mtime_ns != time}
    assert again == set((benchmark.masks / "nine" / "2").iterdir())
    assert zip_bytes(tmp_path) == zip_bytes(reference)
    attempts = json.loads((tmp_path / "run.json").read_text())["attempts"]
    assert [attempt["masks"] for attempt in attempts] == [50, 9]


def test_other_weights_and_flags_are_refused_until_overwritten(
    hidden: VideoDataset, mevis: Path, micro_model: SAMWISE, tmp_path: Path
) -> None:
    benchmark = ExpressionBenchmark(hidden, tmp_path)
    run_benchmark(micro_model, benchmark, QUICK)
    before = zip_bytes(tmp_path)
    other = build_micro(seed=1)
    with pytest.raises(InputError, match=r"weights \(sha256\) .* \(now .*--overwrite"):
        run_benchmark(other, benchmark, QUICK)
    strict = InferenceOptions(num_workers=0, threshold=0.6)
    with pytest.raises(InputError, match=r"--threshold 0.5 \(now 0.6\)"):
        run_benchmark(micro_model, benchmark, strict)
    with pytest.raises(InputError, match=r"data set mevis valid \(now mevis valid_u\)"):
        run_benchmark(micro_model, ExpressionBenchmark(open_mevis(mevis, "valid_u"), tmp_path), QUICK)
    assert zip_bytes(tmp_path) == before
    (benchmark.masks / "stray.png").write_bytes(b"from elsewhere")
    run_benchmark(other, benchmark, replace(QUICK, overwrite=True))
    assert zip_bytes(tmp_path) != before
    run_benchmark(other, benchmark, QUICK)


def test_a_stray_file_stops_the_zip_and_no_more(
    hidden: VideoDataset, micro_model: SAMWISE, tmp_path: Path, reference: Path
) -> None:
    benchmark = ExpressionBenchmark(hidden, tmp_path)
    stray = benchmark.masks / "nine" / "notes.txt"
    run_benchmark(micro_model, benchmark, QUICK)
    (tmp_path / "Annotations.zip").unlink()
    stray.write_text("to be or not to be")
    with pytest.raises(InputError, match=r"nine/notes\.txt is not expected"):
        run_benchmark(micro_model, benchmark, QUICK)
    assert not (tmp_path / "Annotations.zip").exists()
    stray.unlink()
    run_benchmark(micro_model, benchmark, QUICK)
    assert zip_bytes(tmp_path) == zip_bytes(reference)


def test_shards_and_merge_equal_one_run(
    hidden: VideoDataset, micro_model: SAMWISE, tmp_path: Path, reference: Path
) -> None:
    benchmark = ExpressionBenchmark(hidden, tmp_path)
    for number in range(2):
        with pytest.raises(InputError, match=r"header\.json is missing|videos are not finished"):
            merge_shards(benchmark, QUICK)
        options = InferenceOptions(num_workers=0, expressions_per_batch=16, shard=(number, 2))
        assert run_benchmark(micro_model, benchmark, options) is None
        assert not (tmp_path / "Annotations.zip").exists()
        assert json.loads((tmp_path / f"run-shard-{number + 1}-of-2.json").read_text())["complete"] is True
    merge_shards(benchmark, QUICK)
    assert zip_bytes(tmp_path) == zip_bytes(reference)


def test_shards_of_a_scored_split_are_scored_when_merged(mevis: Path, micro_model: SAMWISE, tmp_path: Path) -> None:
    dataset = open_mevis(mevis, "valid_u")
    whole = run_benchmark(micro_model, ExpressionBenchmark(dataset, tmp_path / "whole"), QUICK)
    benchmark = ExpressionBenchmark(dataset, tmp_path / "parts")
    for number in range(3):  # more shards than videos
        options = InferenceOptions(num_workers=0, expressions_per_batch=16, shard=(number, 3))
        run_benchmark(micro_model, benchmark, options)
    for unfit in (replace(QUICK, overwrite=True), options):
        with pytest.raises(InputError, match="leave --overwrite and --shard out"):
            merge_shards(benchmark, unfit)
    assert merge_shards(benchmark, QUICK) == whole
    with pytest.raises(InputError, match="data set mevis valid_u, this is mevis valid"):
        merge_shards(ExpressionBenchmark(open_mevis(mevis, "valid"), tmp_path / "parts"), QUICK)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_scores_are_those_of_the_masks(
    num_workers: int, mevis: Path, micro_model: SAMWISE, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    dataset = open_mevis(mevis, "valid_u")
    options = InferenceOptions(num_workers=num_workers, visualize=True)
    scores = run_benchmark(micro_model, ExpressionBenchmark(dataset, tmp_path), options)
    assert scores == json.loads((tmp_path / "scores.json").read_text())
    assert scores == evaluate_expressions(dataset, tmp_path / "Annotations", tmp_path / "again", 0)
    assert scores is not None
    assert scores["official"] != scores["by_text"]
    assert set(scores["no_target"]) == {"expressions", "no_target_accuracy", "target_accuracy"}
    assert len(scores["expressions"]) == 10
    assert "57.1" in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "Annotations.zip").exists()
    pictures = tmp_path / "visualize"
    assert len(list(pictures.glob("nine/*/*.jpg"))) == 9 * 5
    with Image.open(pictures / "nine.jpg") as sheet:
        assert sheet.width == 6 * 2 * 204  # six frames, each with the ground truth beside it
    with Image.open(pictures / "one.jpg") as sheet:
        assert sheet.width == 1 * 2 * 204


def test_ref_youtube_vos_is_scored_and_packed(micro_model: SAMWISE, tmp_path: Path) -> None:
    miniature.write_ytvos(tmp_path / "data")
    dataset = open_ref_ytvos(tmp_path / "data", allow_partial=True)
    scores = run_benchmark(micro_model, ExpressionBenchmark(dataset, tmp_path / "out"), QUICK)
    assert scores is not None
    assert len(scores["expressions"]) == 4 * 2
    with zipfile.ZipFile(tmp_path / "out" / "Annotations.zip") as archive:
        assert "Annotations/seventeen/1/00016.png" in archive.namelist()
        assert not [name for name in archive.namelist() if "hidden" in name]


@pytest.fixture(scope="module")
def davis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("davis")
    miniature.write_davis(root)
    return root


@pytest.mark.parametrize("batch", [16, 3])
def test_davis_masks_follow_the_rule_and_are_scored(
    batch: int, davis: Path, micro_model: SAMWISE, tmp_path: Path
) -> None:
    dataset = open_ref_davis(davis)
    sequences = davis_sequences(davis, "unsupervised", "val")
    benchmark = DavisBenchmark(dataset, sequences, "val", tmp_path)
    options = InferenceOptions(num_workers=0, expressions_per_batch=batch)
    scores = run_benchmark(micro_model, benchmark, options)
    assert scores is not None
    assert list(scores) == ["anno_0", "anno_1", "anno_2", "anno_3", "average"]
    mean = np.mean([scores[f"anno_{number}"]["J&F-Mean"] for number in range(4)])
    assert scores["average"]["J&F-Mean"] == pytest.approx(mean)
    root = tmp_path / "eval_davis" / "valid"
    assert (root / "anno_3" / "global_results-val.csv").is_file()
    assert (root / "anno_3" / "per-sequence_results-val.csv").is_file()
    video = dataset.videos[2]
    captions = [expression.text for expression in video.expressions]
    results = stream(micro_model, captions, source_frames(video), protocol="paper")
    for frame, result in zip(video.frames, results, strict=True):
        kept = np.where(result.probabilities().numpy() < 0.5, 0, result.probabilities().numpy())
        for annotator in range(4):
            background = np.full((1, *kept.shape[1:]), 0.1, np.float32)
            expected = np.concatenate([background, kept[annotator::4]]).argmax(axis=0)
            with Image.open(root / f"anno_{annotator}" / video.name / f"{frame}.png") as image:
                assert image.mode == "P"
                assert (np.asarray(image) != expected).sum() <= (0 if batch == 16 else 1)
    assert run_benchmark(micro_model, benchmark, options) == scores


def test_davis_refuses_sequences_that_are_not_segmented(davis: Path, tmp_path: Path) -> None:
    sequences = davis_sequences(davis, "unsupervised", "val")
    dataset = open_ref_davis(davis)
    fewer = VideoDataset("davis", "valid", dataset.meta_path, dataset.videos[:2], dataset.ground_truth)
    with pytest.raises(InputError, match="frame 00000 of nine"):
        DavisBenchmark(fewer, sequences, "val", tmp_path)


class NoMemory:
    """A hook that fails as a GPU does when more than `most` expressions run together."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.failures = 0

    def __call__(self, module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if arguments[0].shape[0] > self.most:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")


def test_batches_are_halved_when_memory_does_not_suffice(
    hidden: VideoDataset, tmp_path: Path, reference: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, hook = build_micro(), NoMemory(most=1)
    model.cmt_adapters[1].register_forward_pre_hook(hook)
    run_benchmark(model, ExpressionBenchmark(hidden, tmp_path), QUICK)
    assert hook.failures == 2  # 5 -> 2 -> 1, and then for good
    assert "going on with 2" in caplog.text
    together, apart = masks_of(reference), masks_of(tmp_path)
    assert sum(int((together[name] != apart[name]).sum()) for name in together) <= 2


def test_too_little_memory_for_one_expression_is_said_in_a_line(hidden: VideoDataset, tmp_path: Path) -> None:
    model = build_micro()
    model.cmt_adapters[0].register_forward_pre_hook(NoMemory(most=0))
    with pytest.raises(InputError, match="one expression at a time"):
        run_benchmark(model, ExpressionBenchmark(hidden, tmp_path), QUICK)


def test_other_errors_of_the_network_are_not_swallowed(hidden: VideoDataset, tmp_path: Path) -> None:
    model = build_micro()
    model.tokenizer = build_micro().tokenizer
    del model.cmt_adapters[2]
    with pytest.raises(IndexError):
        run_benchmark(model, ExpressionBenchmark(hidden, tmp_path), QUICK)


def test_a_harmed_frame_is_named_and_what_was_finished_stays(micro_model: SAMWISE, tmp_path: Path) -> None:
    root = tmp_path / "data"
    miniature.write_mevis(root, "valid", FEW)
    dataset = open_mevis(root, "valid")
    frame = root / "valid" / "JPEGImages" / "nine" / "00005.jpg"
    whole = frame.read_bytes()
    benchmark = ExpressionBenchmark(dataset, tmp_path / "out")
    frame.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"nine/00005\.jpg.*check_dataset"):
        run_benchmark(micro_model, benchmark, QUICK)
    Image.new("RGB", (10, 10)).save(frame)
    with pytest.raises(InputError, match=r"nine/00005\.jpg: the frame is 10x10, the video's first is 40x24"):
        run_benchmark(micro_model, benchmark, QUICK)
    times = {file: file.stat().st_mtime_ns for file in (benchmark.masks / "one").rglob("*.png")}
    assert len(times) == 5
    frame.write_bytes(whole)
    run_benchmark(micro_model, benchmark, QUICK)
    assert all(file.stat().st_mtime_ns == time for file, time in times.items())


def test_a_sentence_that_is_too_long_is_refused_before_anything_runs(micro_model: SAMWISE, tmp_path: Path) -> None:
    miniature.write_mevis(tmp_path / "data", "valid", FEW)
    meta = tmp_path / "data" / "valid" / "meta_expressions.json"
    meta.write_text(meta.read_text().replace("a flying elephant", "very " * 600 + "long"))
    benchmark = ExpressionBenchmark(open_mevis(tmp_path / "data", "valid"), tmp_path / "out")
    with pytest.raises(InputError, match=r"videos/one/expressions/4: .*at most 512"):
        run_benchmark(micro_model, benchmark, QUICK)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_stops_the_run_and_costs_nothing_that_was_finished(
    hidden: VideoDataset, micro_model: SAMWISE, tmp_path: Path, reference: Path
) -> None:
    benchmark = ExpressionBenchmark(hidden, tmp_path)
    in_the_way = benchmark.masks / "nine" / "1" / "00004.png"
    in_the_way.mkdir(parents=True)  # the first run may write into an empty folder of its own
    manifest = tmp_path / "manifest" / "Annotations"
    with pytest.raises(InputError, match="unknown origin"):
        run_benchmark(micro_model, benchmark, QUICK)
    in_the_way.rmdir()
    (benchmark.masks / "nine" / "1").rmdir()
    (benchmark.masks / "nine").rmdir()

    def fail(mask: np.ndarray) -> bytes:
        raise OSError(28, "No space left on device")

    class FullDisk(ExpressionBenchmark):
        encode = staticmethod(fail)  # type: ignore[assignment]

    with pytest.raises(OSError, match="No space left"):
        run_benchmark(micro_model, FullDisk(hidden, tmp_path), QUICK)
    assert not list((manifest / "videos").glob("*.json"))
    run_benchmark(micro_model, benchmark, QUICK)
    assert zip_bytes(tmp_path) == zip_bytes(reference)
