"""The parts of benchmark inference, one by one."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datasets.video_index import Expression, Video
from engine.inference.batching import automatic_batch, automatic_videos, group_videos, is_out_of_memory, partition
from engine.inference.download import delayed
from engine.inference.manifest import Manifest, digest_of
from engine.inference.options import InferenceOptions
from engine.inference.palette_masks import BACKGROUND, davis_palette, draw_labels, encode_labels
from engine.inference.sharding import mask_count, split_groups
from engine.inference.writer import MaskWriter
from util.errors import InputError


def make_video(name: str, frames: int, expressions: int) -> Video:
    own = tuple(Expression(str(number), f"thing {number}", (), ()) for number in range(expressions))
    return Video(name, Path(name), tuple(f"{index:05d}" for index in range(frames)), own)


SIZES = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), max_size=12)  # frames, expressions


@given(SIZES, st.integers(1, 5), st.integers(1, 3))
def test_parts_hold_every_group_once_and_are_balanced(sizes: list[tuple[int, int]], parts: int, most: int) -> None:
    videos = [make_video(str(number), *size) for number, size in enumerate(sizes)]
    groups = group_videos(videos, most, 16)
    shares = split_groups(groups, parts)
    assert len(shares) == parts
    assert sorted(int(video.name) for share in shares for group in share for video in group) == list(range(len(videos)))
    assert all(share == [group for group in groups if group in share] for share in shares)
    loads = [sum(mask_count(video) for group in share for video in group) for share in shares]
    largest = max((sum(map(mask_count, group)) for group in groups), default=0)
    assert max(loads) - min(loads) <= largest


@given(SIZES, st.integers(1, 5), st.integers(1, 20))
def test_groups_keep_to_both_limits(sizes: list[tuple[int, int]], most: int, expressions: int) -> None:
    videos = [make_video(str(number), *size) for number, size in enumerate(sizes)]
    groups = group_videos(videos, most, expressions)
    assert sorted(int(video.name) for group in groups for video in group) == list(range(len(videos)))
    assert [int(group[0].name) for group in groups] == sorted(int(group[0].name) for group in groups)
    for group in groups:
        assert len(group) <= most
        assert len(group) == 1 or sum(len(video.expressions) for video in group) <= expressions
        assert [int(video.name) for video in group] == sorted(int(video.name) for video in group)
    if most == 1:
        assert groups == [[video] for video in videos]


def test_videos_of_a_group_are_of_about_the_same_length() -> None:
    videos = [make_video(str(number), frames, 2) for number, frames in enumerate((40, 8, 41, 9))]
    assert [[video.name for video in group] for group in group_videos(videos, 2, 16)] == [["0", "2"], ["1", "3"]]
    assert automatic_videos(torch.device("cpu")) == 1
    assert automatic_videos(torch.device("cuda")) > 1


@given(st.integers(0, 60), st.integers(1, 20))
def test_batches_cover_all_and_are_about_equal(count: int, most: int) -> None:
    ranges = partition(count, most)
    assert [place for own in ranges for place in own] == list(range(count))
    sizes = [len(own) for own in ranges]
    assert len(sizes) == -(-count // most)
    assert not sizes or (max(sizes) <= most and max(sizes) - min(sizes) <= 1)


def test_larger_inputs_make_smaller_batches() -> None:
    cpu = torch.device("cpu")
    sizes = [automatic_batch(side, window, cpu) for side, window in ((64, 8), (1024, 8), (4096, 64))]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] >= 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("out of memory"), False),
    ],
)
def test_out_of_memory_is_recognised(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
    later = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    later.__context__ = error
    assert is_out_of_memory(later) is expected


@given(st.integers(0, 6), st.integers(0, 3))
def test_items_come_a_number_of_places_behind(count: int, behind: int) -> None:
    taken: list[int] = []
    found = []
    for item in delayed((taken.append(number) or number for number in range(count)), behind):
        found.append(item)
        assert len(taken) == min(item + 1 + behind, count)
    assert found == list(range(count))


def test_labels_follow_the_most_probable_object_above_the_threshold() -> None:
    first = torch.tensor([[0.9, 0.49, 0.5, 0.6]])
    second = torch.tensor([[0.8, 0.3, 0.7, 0.6]])
    labels = draw_labels(torch.stack([first, second]), 0.5)
    assert labels.tolist() == [[1, 0, 2, 1]]  # of equal ones the first
    assert draw_labels(torch.full((1, 1, 1), 0.08), 0.05).tolist() == [[0]]  # below the background's 0.1


@given(st.integers(1, 4), st.sampled_from([0.05, 0.3, 0.5]), st.integers(0, 1000))
def test_labels_are_the_first_of_the_largest(objects: int, threshold: float, seed: int) -> None:
    probabilities = np.random.default_rng(seed).integers(0, 11, (objects, 4, 5)).astype(np.float32) / 10
    kept = np.where(probabilities < np.float32(threshold), 0, probabilities)
    expected = np.concatenate([np.full((1, 4, 5), BACKGROUND, dtype=np.float32), kept]).argmax(axis=0)
    assert np.array_equal(draw_labels(torch.from_numpy(probabilities), threshold).numpy(), expected)


def test_palette_pngs_are_those_of_davis() -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    with Image.open(io.BytesIO(encode_labels(labels))) as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), labels)
        assert bytes(image.getpalette() or [])[:12] == bytes([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    assert davis_palette()[255 * 3 :] == bytes([224, 224, 192])


@pytest.mark.parametrize(
    "values", [{"protocol": "new"}, {"shard": (2, 2)}, {"shard": (-1, 2)}, {"num_workers": -1}], ids=str
)
def test_options_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(values))}"):
        InferenceOptions(**values)  # type: ignore[arg-type]


def test_batch_size_val_stands_for_expressions_per_batch() -> None:
    assert InferenceOptions().batch is None
    assert InferenceOptions(batch_size_val=3).batch == 3
    assert InferenceOptions(batch_size_val=3, expressions_per_batch=2).batch == 2


def encode(image: np.ndarray) -> bytes:
    return image.tobytes()


def refuse(image: np.ndarray) -> bytes:
    raise OSError("the disk is full")


def test_the_writer_writes_everything_and_tells_hashes(tmp_path: Path) -> None:
    images = [np.full((8, 8), value, np.uint8) for value in range(20)]
    writer = MaskWriter(threads=3, max_bytes=100)
    hashes = [writer.write(tmp_path / "a" / f"{i}.png", image, encode) for i, image in enumerate(images)]
    found: list[str] = []
    writer.after(hashes, found.extend)
    writer.drain()
    writer.close()
    assert [(tmp_path / "a" / f"{i}.png").read_bytes() for i in range(20)] == [image.tobytes() for image in images]
    assert found == [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def test_an_error_of_the_writer_arrives_and_nothing_is_recorded(tmp_path: Path) -> None:
    writer = MaskWriter(threads=1)
    image = np.zeros((2, 2), np.uint8)
    called: list[list[str]] = []

    def write_two() -> None:
        futures = [writer.write(tmp_path / "a.png", image, encode), writer.write(tmp_path / "b.png", image, refuse)]
        writer.after(futures, called.append)
        writer.drain()

    with pytest.raises(OSError, match="the disk is full"):
        write_two()
    writer.close()
    assert called == []
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


IDENTITY = {"weights": "abc", "--threshold": 0.5}


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Manifest, Video]:
    """A manifest in which target v/0 of a video of two frames is finished, and v/1 is not."""
    video = make_video("v", 2, 2)
    manifest = Manifest(tmp_path / "manifest", tmp_path / "masks")
    manifest.start(IDENTITY, {"note": 1}, overwrite=False)
    manifest.join(IDENTITY)
    hashes = []
    for frame in video.frames:
        for target in ("v/0", "v/1"):
            file = tmp_path / "masks" / target / f"{frame}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(f"{target} {frame}".encode())
        hashes.append(hashlib.sha256(f"v/0 {frame}".encode()).hexdigest())
    manifest.record(video, {"v/0": digest_of(hashes)})
    return manifest, video


def test_what_is_recorded_and_there_is_finished(begun: tuple[Manifest, Video]) -> None:
    manifest, video = begun
    assert manifest.finished(video, ["v/0", "v/1"]) == {"v/0"}
    manifest.record(video, {"v/1": "of other bytes"})
    assert manifest.finished(video, ["v/0", "v/1"]) == {"v/0"}
    manifest.forget(video, ["v/0", "v/1"])
    assert manifest.finished(video, ["v/0"]) == set()
    assert not list(manifest.masks.rglob("*.png"))


def drop(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [drop, cut])
def test_what_was_harmed_is_not_finished(begun: tuple[Manifest, Video], harm: Callable[[Path], None]) -> None:
    manifest, video = begun
    harm(manifest.masks / "v" / "0" / "00001.png")
    assert manifest.finished(video, ["v/0"]) == set()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"targets": 3}', b"\xff"])
def test_a_harmed_record_counts_as_none(begun: tuple[Manifest, Video], content: bytes) -> None:
    manifest, video = begun
    (manifest.folder / "videos" / "v.json").write_bytes(content)
    assert manifest.finished(video, ["v/0"]) == set()


def test_leftovers_of_a_killed_process_are_removed(begun: tuple[Manifest, Video]) -> None:
    manifest, video = begun
    leftover = manifest.masks / "v" / "1" / f".{'0a' * 16}.tmp.png"
    leftover.write_bytes(b"")
    manifest.finished(video, ["v/0", "v/1"])
    assert not leftover.exists()


def test_another_identity_is_refused_by_name(begun: tuple[Manifest, Video]) -> None:
    manifest, _ = begun
    manifest.start(IDENTITY, {"note": 2}, overwrite=False)
    assert manifest.note("note", None) == 1
    other = {**IDENTITY, "--threshold": 0.6}
    with pytest.raises(InputError, match=r"--threshold 0.5 \(now 0.6\).*--overwrite"):
        manifest.start(other, {}, overwrite=False)
    with pytest.raises(InputError, match=r"--threshold 0.5 \(now 0.6\)"):
        manifest.join(other)
    manifest.start(other, {"note": 3}, overwrite=True)
    manifest.join(other)
    assert manifest.note("note", None) == 3


def test_masks_of_unknown_origin_are_refused(begun: tuple[Manifest, Video]) -> None:
    manifest, _ = begun
    (manifest.folder / "header.json").unlink()
    with pytest.raises(InputError, match="unknown origin"):
        manifest.start(IDENTITY, {}, overwrite=False)
    with pytest.raises(InputError, match="--shard"):
        manifest.resume_any()
