"""Batches: their order, their pixels, and the processes that load them."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from datasets.training import BatchSampler, ClipBatch, ClipLoader, ClipSet, TrainingClip, make_loader
from datasets.transforms import normalise
from tests.benchmark_files import write_coco, write_frames, write_json, write_ytvos
from tests.forked import Forked
from tests.training_sets import content, cut_jpeg, opened
from util.errors import InputError


def batches(length: int, batch: int, epoch: int = 0, start: int = 0, rank: int = 0, size: int = 1) -> list[list[int]]:
    sampler = BatchSampler(length, batch, seed=3, rank=rank, world_size=size)
    sampler.set_epoch(epoch, start)
    made = list(sampler)
    assert all(of == epoch for part in made for of, _ in part)
    assert len(made) == len(sampler) - start
    return [[index for _, index in part] for part in made]


@given(st.integers(1, 50), st.integers(1, 12), st.integers(0, 3))
def test_an_epoch_has_every_clip_at_most_once(length: int, batch: int, epoch: int) -> None:
    made = batches(length, batch, epoch)
    assert all(len(part) == batch for part in made)
    flat = [index for part in made for index in part]
    if length >= batch:
        assert len(set(flat)) == len(flat) == length // batch * batch
    else:
        assert len(made) == 1
        assert set(flat) == set(range(length))
    assert flat == [index for part in batches(length, batch, epoch) for index in part]


@given(st.integers(1, 50), st.integers(1, 4), st.integers(1, 4), st.data())
def test_processes_share_the_same_global_batches(length: int, each: int, size: int, data: st.DataObject) -> None:
    whole = batches(length, each * size)
    start = data.draw(st.integers(0, len(whole)))
    parts = [batches(length, each * size, 0, start, rank, size) for rank in range(size)]
    assert [[index for part in together for index in part] for together in zip(*parts, strict=True)] == whole[start:]


def test_epochs_and_seeds_differ() -> None:
    orders = [batches(30, 5, epoch) for epoch in range(3)]
    other = BatchSampler(30, 5, seed=4)
    assert len({str(order) for order in [*orders, [[index for _, index in part] for part in other]]}) == 4


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(InputError, match="--batch_size 6 is the total of all processes and has to be a multiple of"):
        BatchSampler(10, 6, seed=0, rank=1, world_size=4)


@pytest.fixture
def clips(tmp_path: Path) -> ClipSet:
    """Clips of two sizes, some of them unreadable."""
    write_ytvos(tmp_path, "train", ["a", "b"], frames=6)
    clip_set = opened("ytvos", tmp_path, augment=True)
    (tmp_path / "train/JPEGImages/a/00003.jpg").write_bytes(cut_jpeg())
    return clip_set


def loaded(clip_set: Dataset[TrainingClip], num_workers: int, epochs: int = 2) -> list[list[object]]:
    sampler = BatchSampler(len(clip_set), 4, seed=0)  # type: ignore[arg-type]
    loader = make_loader(clip_set, sampler, num_workers)
    made = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch, start=epoch)
        assert len(loader) == 3
        made += [[content(clip) for clip in batch.clips] for batch in loader]
    loader.close()
    return made


def test_the_number_of_processes_changes_nothing(clips: ClipSet) -> None:
    before = torch.get_rng_state()
    alone = loaded(clips, 0)
    assert len(alone) == 5
    assert any(clip[4] for batch in alone for clip in batch)  # faults
    assert loaded(clips, 2) == alone
    assert torch.equal(torch.get_rng_state(), before)
    assert not multiprocessing.active_children()


def test_images_of_different_size_in_one_batch(tmp_path: Path) -> None:
    write_coco(tmp_path, "refcoco", "train")
    path = tmp_path / "refcoco/instances_refcoco_train.json"
    value = json.loads(path.read_text())
    value["images"][2].update(height=40, width=20)
    write_json(path, value)
    write_frames(tmp_path / "other", 2, (40, 20))
    (tmp_path / "other/00001.jpg").replace(tmp_path / "train2014/00001.jpg")
    clip_set = opened("refcoco", tmp_path, num_frames=1)
    batch = ClipBatch(tuple(clip_set[0, index] for index in (0, 2)))
    assert [tuple(clip.masks.shape) for clip in batch.clips] == [(1, 48, 64), (1, 64, 32)]
    assert batch.size == (64, 64)
    assert batch.captions == ("a triangle", "the rest")
    assert [Path(file).name for file in batch.files] == ["00000.jpg", "00001.jpg"]
    for each in (batch, pickle.loads(pickle.dumps(batch))):
        assert [content(clip) for clip in each.clips] == [content(clip) for clip in batch.clips]
        frames, targets = each.frames(80, "cpu"), each.targets("cpu", (70, 64))
        assert frames.shape == (2, 1, 3, 80, 80)
        assert targets.shape == (2, 1, 70, 64)
        for place, clip in enumerate(each.clips):
            height, width = clip.masks.shape[1:]
            assert torch.equal(frames[place, :, :, :height, :width], normalise(clip.frames))
            assert torch.equal(targets[place, :, :height, :width], clip.masks)
            assert not targets[place, :, height:].any()
            assert not frames[place, :, :, height:].any()
            assert not frames[place, :, :, :, width:].any()
            assert targets[place].sum() == clip.masks.sum()


class Counting(Dataset[TrainingClip]):
    """Clips that say which ones were asked for, and who asked; 0 is not to be had."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return 12

    def __getitem__(self, key: tuple[int, int]) -> TrainingClip:
        self.asked.append(key)
        if key[0] == 1:
            raise InputError("nothing here")
        pixels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
        return TrainingClip(pixels, torch.ones(1, 2, 2, dtype=torch.bool), str(os.getpid()), (str(key[1]),))


def test_batches_that_are_done_are_not_loaded_again() -> None:
    counting = Counting()
    sampler = BatchSampler(12, 3, seed=0)
    expected = list(sampler)[2:]
    sampler.set_epoch(0, 2)
    assert len(list(make_loader(counting, sampler, 0))) == 2
    assert counting.asked == [key for batch in expected for key in batch]


@pytest.mark.filterwarnings("error:This DataLoader will create")
def test_more_processes_than_cores_are_not_started() -> None:
    loader = make_loader(Counting(), BatchSampler(12, 2, seed=0), 64)
    assert len(list(loader)) == 6
    assert 1 <= len(multiprocessing.active_children()) <= (os.cpu_count() or 1)
    loader.close()


@pytest.mark.skipif(sys.platform != "linux", reason="where processes are spawned, every way is that way")
def test_python_may_start_processes_as_it_likes() -> None:
    """From 3.14 on it forks them from a server of its own."""
    usual = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        loader = make_loader(Counting(), BatchSampler(12, 2, seed=0), 1)
        assert len(list(loader)) == 6
        loader.close()
    finally:
        multiprocessing.set_start_method(usual, force=True)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_users_error_stays_one_line(num_workers: int) -> None:
    sampler = BatchSampler(12, 3, seed=0)
    sampler.set_epoch(1)
    with pytest.raises(InputError, match=r"^nothing here$"):
        list(make_loader(Counting(), sampler, num_workers))


def worker_pids(loader: ClipLoader) -> tuple[Iterator[ClipBatch], set[int]]:
    found = iter(loader)
    pids = {int(caption) for _ in range(2) for caption in next(found).captions}
    assert len(pids) == 2
    return found, pids


def test_signals_for_the_group_are_left_to_the_main_process() -> None:
    loader = make_loader(Counting(), BatchSampler(12, 2, seed=0), 2)
    rest, pids = worker_pids(loader)

    def send() -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            for pid in pids:
                os.kill(pid, number)

    assert Forked(send).wait() == 0  # another process, as a scheduler is
    assert len(list(rest)) == 4
    loader.close()
    del rest
    assert not pids & {process.pid for process in multiprocessing.active_children()}


def test_a_process_that_was_killed_is_one_line() -> None:
    loader = make_loader(Counting(), BatchSampler(12, 1, seed=0), 2)
    rest, pids = worker_pids(loader)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(InputError, match=r"a data loading process was killed: .*--num_workers"):
        list(rest)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_main_one(end: signal.Signals, tmp_path: Path) -> None:
    """All of them inherit one end of a pipe: it is closed when the last one is gone."""
    reader, writer = os.pipe()
    started = tmp_path / "started"

    def run() -> None:
        loader = make_loader(Counting(), BatchSampler(12, 2, seed=0), 2)
        rest, _ = worker_pids(loader)
        started.touch()
        time.sleep(100)
        del rest

    main = Forked(run)
    os.close(writer)
    main.wait_until(started.exists)
    main.send(end)
    assert main.wait() == -end
    assert select.select([reader], [], [], 60)[0]
    assert os.read(reader, 1) == b""
    os.close(reader)
