"""tools/checkpoint.py: tables, and conversions that keep every bit."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from configs.schema import shipped_folder
from engine.train.checkpoints import CheckpointStore
from engine.train.weights import complete_state, trained_state
from models.checkpoint import load_weights, read_checkpoint, save_compact
from models.checkpoint_formats import arguments_of
from models.checkpoint_keys import is_trainable
from models.samwise import SAMWISE
from tests.conftest import build_micro
from tests.weight_files import assert_same, key_file_state, save_published, save_roberta, save_sam2
from tools.checkpoint import main
from util.errors import InputError


def official(path: Path, name: str, **arguments: Any) -> Path:
    """A published checkpoint of official size; what training changes is random, the rest views of a few zeros."""
    generator = torch.Generator().manual_seed(0)
    state = key_file_state(name)
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif is_trainable(key):
            state[key] = torch.randn(value.shape, generator=generator)
    content = {"model": {"module." + key: value for key, value in state.items()}}
    torch.save({**content, "args": argparse.Namespace(**arguments)}, path)
    return path


def assert_same_tensors(first: Path, second: Path) -> None:
    one, two = read_checkpoint(first).state, read_checkpoint(second).state
    assert one.keys() == two.keys()
    assert [key for key in one if not same_bits(one[key], two[key])] == []


def same_bits(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("keys_tiny_full", {"HSA": True, "use_cme_head": True, "cme_decision_window": 6}),
        ("keys_tiny_ris", {"use_cme_head": False, "disable_pred_obj_score": True}),
        ("keys_base_full", {}),
    ],
)
def test_published_to_compact_and_back_is_exact(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    original = official(tmp_path / "original.pth", name, **arguments)
    compact, back, again = tmp_path / "c.safetensors", tmp_path / "back.pth", tmp_path / "again.safetensors"
    main(["to-compact", str(original), str(compact)])
    main(["to-published", str(compact), str(back), "--base", str(original)])
    main(["to-compact", str(back), str(again)])
    assert_same_tensors(original, back)
    assert_same_tensors(compact, again)
    config = read_checkpoint(compact).config
    assert config is not None
    assert config == read_checkpoint(again).config
    assert (config.sam2.name, config.hsa) == (name.split("_")[1], "full" in name)
    assert (config.use_cme_head, config.pred_obj_score) == ("full" in name, "full" in name)
    assert config.cme_decision_window == arguments.get("cme_decision_window", 4)


def test_compact_to_published_and_back_is_exact(micro_model: SAMWISE, tmp_path: Path) -> None:
    compact, out = tmp_path / "c.safetensors", tmp_path / "out.pth"
    save_compact(compact, micro_model)
    base = save_published(tmp_path / "base.pth", build_micro(seed=5))
    main(["to-published", str(compact), str(out), "--base", str(base)])
    with safe_open(compact, framework="pt") as handle:
        trained = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    checkpoint, source = read_checkpoint(out), read_checkpoint(base)
    assert checkpoint.state.keys() == source.state.keys()
    for key, value in checkpoint.state.items():
        assert same_bits(value, trained.get(key, source.state[key])), key
    assert checkpoint.arguments is not None
    assert checkpoint.arguments["HSA_patch_size"] == [8, 4, 2]


def test_base_weights_make_a_published_checkpoint(micro_model: SAMWISE, tmp_path: Path) -> None:
    compact, out = tmp_path / "c.safetensors", tmp_path / "out.pth"
    save_compact(compact, micro_model)
    sam2, roberta = save_sam2(tmp_path / "sam2.pt", micro_model), save_roberta(tmp_path / "roberta", micro_model)
    main(["to-published", str(compact), str(out), "--sam2_weights", str(sam2), "--roberta", str(roberta)])
    model = build_micro(seed=9)
    report = load_weights(model, resume=str(out))
    assert_same(model, micro_model)
    assert report.warnings == ()
    keys = set(read_checkpoint(out).state)
    assert {"text_encoder._float_tensor", "text_encoder.model.encoder.sentence_encoder.version"} <= keys


def test_nano_takes_its_frozen_weights_from_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checkpoints of a training, too: the last one holds everything, the others only what training changes."""
    folder = shipped_folder("nano")
    assert folder is not None
    model = SAMWISE.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.cmt_adapters.parameters():
            parameter.add_(0.01)
    store, about = CheckpointStore(tmp_path / "checkpoints", 1), {"args": arguments_of(model.config)}
    last = store.save_last({"model": complete_state(model, ()), **about}, epoch=1, iteration=2)
    part = store.save({"model": trained_state(model), **about}, epoch=1, iteration=2)
    compact, whole = tmp_path / "c.safetensors", [tmp_path / "default.pth", tmp_path / "folder.pth"]
    with pytest.raises(InputError, match=r"holds only what training changes, .* give its last\.pth"):
        main(["to-compact", str(part), str(compact)])
    main(["to-compact", str(last), str(compact)])
    monkeypatch.chdir(tmp_path)  # no pretrain here
    main(["to-published", str(compact), str(whole[0])])
    main(["to-published", str(compact), str(whole[1]), "--sam2_weights", str(folder)])
    for path in whole:
        assert_same_tensors(path, last)


def test_inspect_prints_the_parts_and_the_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], micro_model: SAMWISE
) -> None:
    path = official(tmp_path / "c.pth", "keys_base_full", HSA=True, lr=1e-5)
    main(["inspect", str(path)])
    text = capsys.readouterr().out
    assert "samwise weights, --sam2_version base" in text
    rows = {line.split("  ")[0]: int(line[18:27].replace(",", "")) for line in text.splitlines() if " MB " in line}
    state = read_checkpoint(path).state
    assert rows.pop("total") == len(state) == sum(rows.values())
    assert rows["CME"] == len([key for key in state if key.startswith("conditional_memory_encoder.")])
    assert "HSA = True" in text
    main(["inspect", str(path), "--keys"])
    assert set(re.findall(r"^(\S+)  \[", capsys.readouterr().out, re.MULTILINE)) == set(state)
    main(["inspect", str(save_roberta(tmp_path / "roberta", micro_model))])
    assert "model.safetensors: roberta weights" in capsys.readouterr().out
    main(["inspect", str(save_sam2(tmp_path / "sam2.pt", micro_model))])
    assert "no stored arguments" in capsys.readouterr().out
    micro_model.save_pretrained(tmp_path / "folder")
    main(["inspect", str(tmp_path / "folder")])
    assert "folder/model.safetensors: samwise weights" in capsys.readouterr().out
    save_compact(tmp_path / "c.safetensors", micro_model)
    main(["inspect", str(tmp_path / "c.safetensors")])
    assert "stored configuration:" in capsys.readouterr().out


def test_inspect_says_of_another_folder_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "sam2_hiera_tiny.pt").touch()
    with pytest.raises(InputError, match="holds neither a model nor RoBERTa's weights") as caught:
        main(["inspect", str(tmp_path)])
    assert str(caught.value).startswith(str(tmp_path))
    assert "--roberta" not in str(caught.value)


def test_inputs_are_never_overwritten(micro_model: SAMWISE, tmp_path: Path) -> None:
    compact, base = tmp_path / "c.safetensors", save_published(tmp_path / "base.pth", micro_model)
    save_compact(compact, micro_model)
    before = base.read_bytes(), compact.read_bytes()
    for arguments in (
        ["to-compact", str(base), str(base)],
        ["to-published", str(compact), str(base), "--base", str(base)],
        ["to-published", str(compact), str(tmp_path / "x" / ".." / "c.safetensors"), "--base", str(base)],
    ):
        with pytest.raises(InputError, match="is an input of the conversion"):
            main(arguments)
    assert (base.read_bytes(), compact.read_bytes()) == before


def test_wrong_inputs_are_user_errors_and_write_nothing(
    micro_model: SAMWISE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    compact, base = tmp_path / "c.safetensors", save_published(tmp_path / "base.pth", micro_model)
    save_compact(compact, micro_model)
    sam2 = save_sam2(tmp_path / "sam2.pt", micro_model)
    other = save_published(tmp_path / "other.pth", build_micro(sam2__hiera__embed_dim=32))
    scoreless = save_published(tmp_path / "scoreless.pth", micro_model, drop="obj_score|no_obj_ptr")
    out = tmp_path / "out.bin"
    for arguments, message in (
        (["to-compact", str(compact), str(out)], "expected a published SAMWISE checkpoint, found compact"),
        (["to-compact", str(sam2), str(out)], "found sam2 weights"),
        (["to-compact", str(base), str(out)], "no SAM 2 image encoder of an official size"),
        (["to-published", str(base), str(out), "--base", str(base)], "expected a compact checkpoint, found samwise"),
        (["to-published", str(compact), str(out), "--base", str(sam2)], "expected a published checkpoint, found sam2"),
        (["to-published", str(compact), str(out), "--base", str(other)], "does not fit --sam2_version"),
        (["to-published", str(compact), str(out), "--base", str(scoreless)], "sam2_hiera_tiny.pt does not exist"),
        (["to-published", str(compact), str(out), "--base", str(base), "--roberta", "x"], "--base holds everything"),
        (["to-compact", str(base), "new.pth"], "new.pth: to-compact writes a .safetensors file"),
        (["to-published", str(compact), "new.SAFETENSORS", "--base", str(base)], "to-published writes a .pth file"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            main(arguments)
    assert not out.exists()
    assert not list(tmp_path.glob("new.*"))
