"""Weight files of every kind for tests, made from a network."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import RobertaConfig, RobertaForMaskedLM, RobertaModel

from configs.loading import load_model_config
from models.build import build_model
from models.checkpoint_keys import to_fairseq
from models.samwise import SAMWISE
from models.tokenizer import byte_tokenizer
from tests.conftest import DATA

ARGUMENTS = {"HSA": True, "use_cme_head": True, "sam2_version": "tiny", "lr": 1e-5, "epochs": 4}
HEAD = "text_encoder.model.encoder.lm_head."


def key_file_state(name: str) -> dict[str, Tensor]:
    """All tensors of a published checkpoint, each a view of a single zero."""
    shapes = json.loads((DATA / f"{name}.json").read_text())
    counters = {key: torch.zeros(shape, dtype=torch.long) for key, shape in shapes.items() if key.endswith("tracked")}
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()} | counters


def empty_model(version: str, **values: Any) -> SAMWISE:
    """A network of official size without memory behind it."""
    with torch.device("meta"):
        return build_model(load_model_config(version, **values))


def published(model: SAMWISE) -> dict[str, Tensor]:
    """The state of a network as a published checkpoint has it, tensors without use included."""
    state = {to_fairseq(key): value.clone() for key, value in model.state_dict().items()}
    state["text_encoder._float_tensor"] = torch.zeros(1)
    state["text_encoder.model.encoder.sentence_encoder.version"] = torch.full((1,), 3.0)
    state[HEAD + "dense.weight"] = torch.randn(32, 32)
    state[HEAD + "bias"] = torch.randn(300)
    for key in ("mask_downsample.weight", "no_mem_pos_enc", "sam_prompt_encoder.point_embeddings.2.weight"):
        state["sam." + key] = torch.randn(1, 4)
    state["sam.sam_mask_decoder.output_hypernetworks_mlps.3.layers.1.bias"] = torch.randn(4)
    return state


def save_published(path: Path, model: SAMWISE, drop: str = "$^", **arguments: Any) -> Path:
    """Write a published checkpoint of `model` without the keys that match `drop`."""
    state = {key: value for key, value in published(model).items() if not re.search(drop, key)}
    torch.save({"model": state, "args": argparse.Namespace(**{**ARGUMENTS, **arguments})}, path)
    return path


def save_sam2(path: Path, model: SAMWISE) -> Path:
    """Write an official SAM 2 file with the frozen tensors of `model`."""
    state = {key: value for key, value in published(model).items() if key.startswith("sam.")}
    torch.save({"model": {key[4:]: value for key, value in state.items() if "project_text" not in key}}, path)
    return path


def save_roberta(folder: Path, model: SAMWISE, cls: type = RobertaModel) -> Path:
    """Write a transformers folder with the text encoder of `model`."""
    config = RobertaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=514, type_vocab_size=1,
    )  # fmt: skip
    roberta = cls(config)
    encoder = roberta.roberta if cls is RobertaForMaskedLM else roberta
    encoder.load_state_dict(model.text_encoder.state_dict(), strict=False)
    encoder.embeddings.token_type_embeddings.weight.data.zero_()
    roberta.save_pretrained(folder)
    return folder


def assert_same(model: SAMWISE, other: SAMWISE) -> None:
    state, expected = model.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    assert [key for key in state if not torch.equal(state[key], expected[key])] == []


def save_vocabulary(folder: Path) -> Path:
    """A tiny RoBERTa vocabulary in transformers' two files: 256 bytes, one merge and the special tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = byte_tokenizer().get_vocab() | {"ab": 297, "<mask>": 298}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\na b\n", "utf-8")
    return folder
