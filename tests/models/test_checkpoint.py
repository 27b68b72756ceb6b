"""Loading weights into a network, with real networks of a few hundred thousand parameters."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import RobertaForMaskedLM, RobertaModel

from configs.loading import sam2_versions
from models.build import build_model
from models.checkpoint import load_weights, read_checkpoint, save_compact, stored_arguments
from models.checkpoint_keys import detect_sam2_version, from_fairseq, is_ignored, is_trainable, to_fairseq
from models.samwise import SAMWISE
from tests.conftest import DATA, MICRO, build_micro, micro_config
from tests.weight_files import (
    ARGUMENTS,
    assert_same,
    empty_model,
    key_file_state,
    published,
    save_published,
    save_roberta,
    save_sam2,
)
from util.errors import InputError

KEY_FILES = {
    "keys_tiny_full": ("tiny", {"hsa": True, "use_cme_head": True}),
    "keys_base_full": ("base", {"hsa": True, "use_cme_head": True}),
    "keys_large_full": ("large", {"hsa": True, "use_cme_head": True}),
    "keys_tiny_ris": ("tiny", {"pred_obj_score": False}),
}


@pytest.fixture(scope="module")
def trained() -> SAMWISE:
    """The network whose weights the files of these tests hold."""
    return build_micro(seed=1)


@pytest.fixture
def model() -> SAMWISE:
    """A network with other weights, to load into."""
    return build_micro(seed=2)


# ---- every published key


@pytest.mark.parametrize("name", KEY_FILES)
def test_every_key_file_loads_with_nothing_missing_or_unexpected(name: str, tmp_path: Path) -> None:
    version, values = KEY_FILES[name]
    state = key_file_state(name)
    torch.save(state, tmp_path / "c.pth")
    network = empty_model(version, **values)
    report = load_weights(network, resume=str(tmp_path / "c.pth"))
    assert set(report.loaded) == set(network.state_dict())
    assert report.from_base == report.fresh == ()
    unused = {key for key in state if key.startswith("conditional_memory_encoder.")} if "ris" in name else set()
    assert set(report.ignored) == {key for key in state if is_ignored(key)} | unused
    assert len(report.loaded) + len(report.ignored) == len(state)
    assert not any(tensor.is_meta for tensor in network.state_dict().values())


def test_text_encoder_names_map_both_ways() -> None:
    keys = json.loads((DATA / "keys_tiny_full.json").read_text())
    assert all(to_fairseq(from_fairseq(key)) == key for key in keys)
    fairseq = "text_encoder.model.encoder.sentence_encoder.layers.11.self_attn.k_proj.weight"
    assert from_fairseq(fairseq) == "text_encoder.encoder.layer.11.attention.self.key.weight"


@pytest.mark.parametrize("version", sam2_versions())
def test_version_is_detected_from_the_tensors(version: str) -> None:
    assert detect_sam2_version(empty_model(version).state_dict()) == version


# ---- published checkpoints


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_published_checkpoint_fills_the_network(
    trained: SAMWISE, model: SAMWISE, tmp_path: Path, prefix: str, zipped: bool
) -> None:
    state = {prefix + key: value for key, value in published(trained).items()}
    content = {
        "model": state,
        "args": argparse.Namespace(**ARGUMENTS),
        "optimizer": {"state": {0: {"step": 3}}},
        "epoch": 2,
    }
    torch.save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    report = load_weights(model, resume=str(tmp_path / "c.pth"))
    assert_same(model, trained)
    assert (report.from_base, report.fresh, report.warnings) == ((), (), ())
    assert report.summary().startswith(f"weights: {len(report.loaded)} tensors from the checkpoint, 0 from base")
    assert stored_arguments(read_checkpoint(tmp_path / "c.pth")) == ARGUMENTS


def test_state_under_our_own_names_loads(trained: SAMWISE, model: SAMWISE, tmp_path: Path) -> None:
    torch.save(trained.state_dict(), tmp_path / "c.pth")
    load_weights(model, resume=str(tmp_path / "c.pth"))
    assert_same(model, trained)


def test_loading_keeps_the_networks_dtype_and_what_trains(trained: SAMWISE, tmp_path: Path) -> None:
    path = save_published(tmp_path / "c.pth", trained)
    with torch.device("meta"):
        networks = [build_model(micro_config()), build_model(micro_config()).bfloat16()]
    networks.append(build_model(micro_config()).bfloat16())
    for network in networks:
        expected = {name: (value.dtype, value.requires_grad) for name, value in network.named_parameters()}
        load_weights(network, resume=str(path))
        assert {name: (value.dtype, value.requires_grad) for name, value in network.named_parameters()} == expected
    assert_same(networks[0], trained)
    assert_same(networks[1], networks[2])


# ---- what does not fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("sam.no_mem_embed"), r"1 missing: sam\.no_mem_embed"),
        (lambda s: s.pop("cmt_adapters.1.spatial_pos_embed"), r"1 missing: cmt_adapters\.1\.spatial"),
        (lambda s: s.update({"sam.more": torch.zeros(1)}), r"1 unexpected: sam\.more"),
        (lambda s: s.update({"other.more": torch.zeros(1)}), r"1 unexpected: other\.more"),
        (lambda s: s.update({"cmt_adapters.3.hsa.linear.bias": torch.zeros(1)}), "--fusion_stages"),
        (lambda s: s.update({"cmt_adapters.0.spatial_pos_embed": torch.zeros(1, 1, 1, 16, 32)}), "--HSA_patch_size"),
        (lambda s: s.update({"sam.no_mem_embed": torch.zeros(1, 1, 32).long()}), "int64 where .* float32"),
        (lambda s: [s.pop(key) for key in list(s) if key.startswith("cmt_adapters.")], "holds no adapters|no HSA"),
    ],
)
def test_misfits_name_the_key(
    trained: SAMWISE, model: SAMWISE, tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    state = published(trained)
    change(state)
    torch.save({"model": state}, tmp_path / "c.pth")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        load_weights(model, resume=str(tmp_path / "c.pth"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("held", "wanted"), [("keys_base_full", "tiny"), ("keys_tiny_full", "large")])
def test_checkpoint_of_another_size_names_the_flag(held: str, wanted: str, tmp_path: Path) -> None:
    torch.save(key_file_state(held), tmp_path / "c.pth")
    size = held.split("_")[1]
    with pytest.raises(InputError, match=f"looks like {size}, use --sam2_version {size}"):
        load_weights(empty_model(wanted, hsa=True, use_cme_head=True), resume=str(tmp_path / "c.pth"))


def test_sam21_and_sam2_are_told_apart(tmp_path: Path) -> None:
    torch.save(key_file_state("keys_tiny_full"), tmp_path / "c.pth")
    with pytest.raises(InputError, match="looks like tiny, use --sam2_version tiny"):
        load_weights(empty_model("tiny_2.1", hsa=True, use_cme_head=True), resume=str(tmp_path / "c.pth"))
    newer = {key.removeprefix("sam."): torch.zeros(()).expand(value.shape)
             for key, value in empty_model("tiny_2.1").state_dict().items()
             if key.startswith("sam.") and "project_text" not in key}  # fmt: skip
    torch.save({"model": newer}, tmp_path / "sam2.1.pt")
    with pytest.raises(InputError, match=r"use --sam2_version tiny_2\.1"):
        load_weights(empty_model("tiny"), resume=None, sam2_weights=str(tmp_path / "sam2.1.pt"))


def test_base_file_given_as_checkpoint_names_its_flag(trained: SAMWISE, model: SAMWISE, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--sam2_weights"):
        load_weights(model, resume=str(save_sam2(tmp_path / "s.pt", trained)))
    with pytest.raises(InputError, match="--roberta"):
        load_weights(model, resume=str(save_roberta(tmp_path / "r", trained) / "model.safetensors"))


# ---- parts that a checkpoint or the network lacks


def test_parts_without_weights_start_fresh_and_warn(trained: SAMWISE, model: SAMWISE, tmp_path: Path) -> None:
    path = save_published(tmp_path / "c.pth", trained, drop=r"\.hsa\.|norm_pre_HSA|spatial_pos|conditional", HSA=False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = load_weights(model, resume=str(path))
    assert len(report.fresh) == len([key for key in before if re.search(r"\.hsa\.|norm_pre|spatial_pos|conditio", key)])
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in report.fresh)
    assert [re.findall("untrained: the (HSA|CME),", warning) for warning in report.warnings] == [["HSA"], ["CME"]]
    assert "warning: untrained: the HSA, no file holds" in report.summary()
    with pytest.raises(InputError, match=r"weights of the HSA .*drop --HSA"):
        load_weights(model, resume=str(path), allow_fresh=False)


def test_parts_that_the_flags_switch_off_are_ignored_and_reported(trained: SAMWISE, tmp_path: Path) -> None:
    network = build_micro(hsa=False, use_cme_head=False, pred_obj_score=False)
    report = load_weights(network, resume=str(save_published(tmp_path / "c.pth", trained)))
    text = " ".join(report.warnings)
    for flag in ("--HSA is not given", "--use_cme_head is not given", "--disable_pred_obj_score is given"):
        assert flag in text
    assert len(report.warnings) == 3
    assert "sam.no_obj_ptr" in report.ignored
    untrained = save_published(tmp_path / "d.pth", trained, use_cme_head=False)
    assert "--use_cme_head" not in " ".join(load_weights(network, resume=str(untrained)).warnings)


def test_object_scores_come_from_sam2_when_the_checkpoint_lacks_them(
    trained: SAMWISE, model: SAMWISE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save_published(tmp_path / "c.pth", trained, drop="obj_score|no_obj_ptr", disable_pred_obj_score=True)
    base = save_sam2(tmp_path / "sam2.pt", trained)
    report = load_weights(model, resume=str(path), sam2_weights=str(base))
    assert_same(model, trained)
    assert set(report.from_base) == {key for key in model.state_dict() if re.search("obj_score|no_obj_ptr", key)}
    assert report.warnings == ("--disable_pred_obj_score is False here, but the checkpoint was trained with True",)
    with pytest.raises(InputError, match=r"sam2_hiera_tiny.pt does not exist.*tools/download_weights.py tiny"):
        load_weights(model, resume=str(path))


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        ({"HSA_patch_size": [4, 4, 2]}, r"--HSA_patch_size is \[8, 4, 2\] here, .* with \[4, 4, 2\]"),
        ({"fusion_stages_txt": [4, 8, 12]}, "--fusion_stages_txt"),
        ({"use_cme_head": False}, "--use_cme_head is True here, but the checkpoint was trained with False"),
        ({"motion_prompt": True}, "--motion_prompt"),
    ],
)
def test_contradicting_arguments_are_reported(
    trained: SAMWISE, model: SAMWISE, tmp_path: Path, arguments: dict[str, Any], warning: str
) -> None:
    report = load_weights(model, resume=str(save_published(tmp_path / "c.pth", trained, **arguments)))
    assert len(report.warnings) == 1
    assert re.search(warning, report.warnings[0])


def test_unused_base_weights_are_reported(trained: SAMWISE, model: SAMWISE, tmp_path: Path) -> None:
    report = load_weights(model, resume=str(save_published(tmp_path / "c.pth", trained)), sam2_weights="not_read.pt")
    assert "--sam2_weights is not used" in report.summary()


def test_motion_projection_starts_as_a_copy_of_the_text_projection(trained: SAMWISE, tmp_path: Path) -> None:
    network = build_micro(seed=3, motion_prompt=True)
    report = load_weights(network, resume=str(save_published(tmp_path / "c.pth", trained)))
    prompts = network.sam.sam_prompt_encoder
    assert torch.equal(prompts.project_motion_prompts.layers[0].weight, prompts.project_text.layers[0].weight)
    assert len(report.fresh) == 6


# ---- compact checkpoints and base weights


@pytest.mark.parametrize("cls", [RobertaModel, RobertaForMaskedLM])
def test_compact_checkpoint_with_base_weights(trained: SAMWISE, model: SAMWISE, tmp_path: Path, cls: type) -> None:
    save_compact(tmp_path / "c.safetensors", trained)
    report = load_weights(
        model,
        resume=str(tmp_path / "c.safetensors"),
        sam2_weights=str(save_sam2(tmp_path / "sam2.pt", trained)),
        roberta=str(save_roberta(tmp_path / "roberta", trained, cls)),
    )
    assert_same(model, trained)
    assert set(report.loaded) == {key for key in model.state_dict() if is_trainable(key)}
    assert len(report.loaded) + len(report.from_base) == len(model.state_dict())
    assert (report.fresh, report.warnings) == ((), ())


def test_compact_checkpoint_holds_what_trains_and_its_configuration(trained: SAMWISE, tmp_path: Path) -> None:
    save_compact(tmp_path / "c.safetensors", trained)
    checkpoint = read_checkpoint(tmp_path / "c.safetensors")
    assert checkpoint.kind == "compact"
    assert checkpoint.config == trained.config
    training = {name for name, parameter in trained.named_parameters() if parameter.requires_grad}
    statistics = {name for name, _ in trained.named_buffers() if name.startswith("cmt_adapters.")}
    assert set(checkpoint.state) == training | statistics
    assert stored_arguments(checkpoint)["HSA"] is True


def test_compact_checkpoint_of_another_version_names_the_flag(trained: SAMWISE, tmp_path: Path) -> None:
    save_compact(tmp_path / "c.safetensors", trained)
    with pytest.raises(InputError, match=r"trained with --sam2_version tiny, not tiny_2\.1"):
        load_weights(build_micro("tiny_2.1"), resume=str(tmp_path / "c.safetensors"))


def test_base_weights_alone_leave_the_trainable_parts_fresh(trained: SAMWISE, model: SAMWISE, tmp_path: Path) -> None:
    report = load_weights(
        model,
        resume=None,
        sam2_weights=str(save_sam2(tmp_path / "sam2.pt", trained)),
        roberta=str(save_roberta(tmp_path / "roberta", trained)),
    )
    assert report.loaded == ()
    assert set(report.fresh) == {key for key in model.state_dict() if is_trainable(key)}
    assert len(report.warnings) == 4


@pytest.mark.parametrize("fused", [True, False])
def test_fairseq_roberta(trained: SAMWISE, model: SAMWISE, tmp_path: Path, fused: bool) -> None:
    prefix = "text_encoder.model.encoder."
    state = {key.removeprefix(prefix): value for key, value in published(trained).items() if key.startswith(prefix)}
    if fused:
        for layer in range(MICRO["text__layers"]):  # type: ignore[call-overload]
            for kind in ("weight", "bias"):
                stem = f"sentence_encoder.layers.{layer}.self_attn."
                state[f"{stem}in_proj_{kind}"] = torch.cat([state.pop(f"{stem}{p}_proj.{kind}") for p in "qkv"])
        for kind in ("weight", "bias"):
            state[f"sentence_encoder.emb_layer_norm.{kind}"] = state.pop(f"sentence_encoder.layernorm_embedding.{kind}")
    folder = tmp_path / "roberta.base"
    folder.mkdir()
    content = {"model": {("decoder." if fused else "encoder.") + key: value for key, value in state.items()}}
    torch.save({**content, "args": argparse.Namespace(arch="roberta_base")}, folder / "model.pt")
    path = save_published(tmp_path / "c.pth", trained, drop="text_encoder")
    report = load_weights(model, resume=str(path), roberta=str(folder))
    assert_same(model, trained)
    assert all(key.startswith("text_encoder.") for key in report.from_base)


def test_token_types_are_refused_unless_zero(trained: SAMWISE, model: SAMWISE, tmp_path: Path) -> None:
    roberta = RobertaModel.from_pretrained(save_roberta(tmp_path / "r", trained))
    roberta.embeddings.token_type_embeddings.weight.data[0, 0] = 1
    roberta.save_pretrained(tmp_path / "r")
    path = save_published(tmp_path / "c.pth", trained, drop="text_encoder")
    with pytest.raises(InputError, match="token-type"):
        load_weights(model, resume=str(path), roberta=str(tmp_path / "r"))


@pytest.mark.parametrize("roberta", [None, "nobody/no-such-model", "roberta-nowhere", "./missing", "a/b/c", "."])
def test_missing_roberta_names_the_download(
    trained: SAMWISE, model: SAMWISE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roberta: str | None
) -> None:
    path = save_published(tmp_path / "c.pth", trained, drop="text_encoder")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match=r"tools/download_weights.py roberta-base"):
        load_weights(model, resume=str(path), roberta=roberta)


def test_wrong_kinds_of_base_weights(trained: SAMWISE, model: SAMWISE, tmp_path: Path) -> None:
    sam2, roberta = save_sam2(tmp_path / "s.pt", trained), save_roberta(tmp_path / "r", trained)
    with pytest.raises(InputError, match=r"--roberta .*expected RoBERTa, found sam2"):
        load_weights(model, resume=None, sam2_weights=str(sam2), roberta=str(sam2))
    with pytest.raises(InputError, match=r"--sam2_weights .*expected an official SAM 2 file, found roberta"):
        load_weights(model, resume=None, sam2_weights=str(roberta / "model.safetensors"), roberta=str(roberta))
