"""The weights in checkpoints of a training: small ones beside the files of the frozen weights, and complete ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.train.checkpoints import CheckpointStore, StoredCheckpoint
from engine.train.start import warn_of_kept_values
from engine.train.weights import complete_state, frozen_record, load_network, trained_state
from models.checkpoint import LoadReport, load_weights, read_checkpoint
from models.checkpoint_formats import arguments_of
from models.checkpoint_keys import is_trainable
from models.samwise import SAMWISE
from models.tokenizer import Tokenizer, byte_tokenizer
from tests.conftest import build_micro
from tests.weight_files import assert_same, published, save_published, save_roberta, save_sam2
from util.errors import InputError


@pytest.fixture(scope="module")
def start() -> SAMWISE:
    """The network before training."""
    return build_micro(seed=1)


def train(model: SAMWISE) -> None:
    """Change what training changes, a BatchNorm's buffers included."""
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if is_trainable(key):
                value.add_(1)


def begun(start: SAMWISE, folder: Path, origin: str) -> tuple[SAMWISE, LoadReport, dict[str, Any]]:
    """A trained network that began with published or base weights, and the flags of the latter."""
    flags: dict[str, Any] = {}
    if origin == "published":
        report = load_weights(model := build_micro(seed=2), resume=str(save_published(folder / "start.pth", start)))
    else:
        flags["sam2_weights"] = str(save_sam2(folder / "sam2.pt", start))
        flags["roberta"] = str(save_roberta(folder / "roberta", start))
        report = load_weights(model := build_micro(seed=2), resume=None, **flags)
    train(model)
    return model, report, flags


def saved(model: SAMWISE, files: Sequence[Path], folder: Path) -> StoredCheckpoint:
    """A small checkpoint of `model`, written and read."""
    store = CheckpointStore(folder / "run", 3)
    state = {"model": trained_state(model), "args": arguments_of(model.config), "frozen": frozen_record(model, files)}
    store.save(state, epoch=0, iteration=5)
    return store.require_latest()


@pytest.mark.parametrize("origin", ["published", "base"])
def test_a_training_goes_on_from_a_small_checkpoint(start: SAMWISE, tmp_path: Path, origin: str) -> None:
    model, report, _ = begun(start, tmp_path, origin)
    stored = saved(model, report.files, tmp_path)
    assert (
        stored.path.stat().st_size
        < 0.7 * (tmp_path / ("start.pth" if origin == "published" else "sam2.pt")).stat().st_size
    )
    again = build_micro(seed=3)
    assert load_network(again, stored).fresh == ()
    assert_same(again, model)


def test_a_small_checkpoint_is_read_by_every_script_beside_the_base_files(start: SAMWISE, tmp_path: Path) -> None:
    model, report, flags = begun(start, tmp_path, "base")
    stored = saved(model, report.files, tmp_path)
    again = build_micro(seed=3)
    read = load_weights(again, resume=str(stored.path), **flags)
    assert_same(again, model)
    assert set(read.loaded) == {key for key in model.state_dict() if is_trainable(key)}
    assert (read.fresh, read.warnings) == ((), ())


def test_files_that_moved_are_given_by_flags(start: SAMWISE, tmp_path: Path) -> None:
    model, report, flags = begun(start, tmp_path, "base")
    stored = saved(model, report.files, tmp_path)
    moved = Path(flags["sam2_weights"]).rename(tmp_path / "moved.pt")
    with pytest.raises(InputError, match="--sam2_weights"):
        load_network(build_micro(seed=3), stored)
    again = build_micro(seed=3)
    load_network(again, stored, sam2_weights=str(moved), roberta=flags["roberta"])
    assert_same(again, model)


def test_a_stand_in_that_moved_is_given_by_a_flag(tmp_path: Path) -> None:
    model = build_micro(seed=5)
    model.tokenizer = Tokenizer(byte_tokenizer(), 30)
    model.save_pretrained(tmp_path / "stand_in")
    train(model)
    stored = saved(model, [tmp_path / "stand_in" / "model.safetensors"], tmp_path)
    moved = (tmp_path / "stand_in").rename(tmp_path / "moved")
    again = build_micro(seed=3)
    load_network(again, stored, sam2_weights=str(moved))
    assert_same(again, model)


def test_other_frozen_weights_are_refused(start: SAMWISE, tmp_path: Path) -> None:
    model, report, _ = begun(start, tmp_path, "published")
    stored = saved(model, report.files, tmp_path)
    save_published(tmp_path / "start.pth", build_micro(seed=9))
    with pytest.raises(InputError, match=r"frozen weights are not those that .*00000005\.pth was trained with \(from"):
        load_network(build_micro(seed=3), stored)


def test_random_frozen_weights_come_from_the_seed(tmp_path: Path) -> None:
    model = build_micro(seed=4)
    train(model)
    stored = saved(model, (), tmp_path)
    again = build_micro(seed=4)
    load_network(again, stored)
    assert_same(again, model)
    with pytest.raises(InputError, match="random weights of another --seed"):
        load_network(build_micro(seed=5), stored)


@pytest.mark.parametrize("origin", ["published", "base"])
def test_a_complete_state_has_every_published_key(start: SAMWISE, tmp_path: Path, origin: str) -> None:
    model, report, _ = begun(start, tmp_path, origin)
    state = complete_state(model, report.files)
    expected = published(model).keys()
    if origin == "base":  # this RoBERTa file has no head
        expected = {key for key in expected if "lm_head" not in key}
    assert state.keys() == expected
    store = CheckpointStore(tmp_path / "run", 3)
    path = store.save_last({"model": state, "args": arguments_of(model.config)}, epoch=1, iteration=6)
    assert read_checkpoint(path).kind == "samwise"
    again = build_micro(seed=3)
    load_weights(again, resume=str(path))
    assert_same(again, model)
    from_last = build_micro(seed=3)
    load_network(from_last, StoredCheckpoint(path, torch.load(path, weights_only=True), 1, 6))
    assert_same(from_last, model)


def test_a_complete_state_does_without_files_that_are_gone(start: SAMWISE, tmp_path: Path) -> None:
    keys = complete_state(start, [tmp_path / "gone.pth"]).keys()
    assert {"text_encoder._float_tensor", "text_encoder.model.encoder.sentence_encoder.version"} <= keys


def test_values_that_a_continued_training_does_not_use_are_named(caplog: pytest.LogCaptureFixture) -> None:
    stored = {"lr": 1e-3, "lr_drop": [60000], "weight_decay": 0.0}
    continued = StoredCheckpoint(Path("last.pth"), {"args": stored}, 1, 6)
    flags = {"lr": 0.5, "lr_drop": [60000], "weight_decay": 0.1}
    warn_of_kept_values(flags, {"lr"}, None)
    warn_of_kept_values(flags, {"lr_drop", "resume"}, continued)
    assert not caplog.text
    warn_of_kept_values(flags, {"lr", "lr_drop"}, continued)
    assert [record.getMessage() for record in caplog.records] == [
        "--lr 0.5 is not used: the training that goes on has 0.001"
    ]
