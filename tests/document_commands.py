"""Runs the commands that documents show, on a network and data in miniature."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from configs import loading
from tests import miniature
from tests.conftest import SHALLOW, build_micro
from tests.weight_files import save_published, save_vocabulary

REPOSITORY = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PROGRAM = re.compile(r"^\.venv/bin/(?:python|torchrun --nproc_per_node=\d+) (\S+)\.py\b(.*)$", re.MULTILINE)
# Those that know --num_workers, of which the small data need none.
_WITH_WORKERS = ("inference_mevis", "inference_ytvos", "inference_davis", "tools.evaluate", "main", "main_pretrain")


def blocks(document: str, language: str = "") -> list[str]:
    """The code blocks of a document that are marked with a language, by default those with none."""
    text = (REPOSITORY / document).read_text("utf-8")
    return [content for name, content in _BLOCK.findall(text) if name == language]


def commands(document: str) -> list[tuple[str, list[str]]]:
    """(module, arguments) of every command in a document's code blocks; comments are left out."""
    text = "\n".join(blocks(document))
    found = _PROGRAM.findall(text)
    assert len(found) == text.count(".venv/bin/")
    return [(name.replace("/", "."), shlex.split(rest, comments=True)) for name, rest in found]


def install_network(folder: Path, monkeypatch: pytest.MonkeyPatch, weights: Sequence[str]) -> None:
    """The micro network as `base`, and its weights as `folder`/pretrain/NAME.pth with a tokenizer beside them."""
    configuration = miniature.write_configuration(folder / "configs")
    tree = OmegaConf.load(configuration / "sam2" / "tiny.yaml")
    tree.name = "base"
    OmegaConf.save(tree, configuration / "sam2" / "base.yaml")
    monkeypatch.setattr(loading, "CONFIG_DIR", configuration)
    stored = {"sam2_version": "base", "adapter_dim": 32, "fusion_stages_txt": [1, 2, 3]}
    (folder / "pretrain").mkdir()
    for name in weights:
        save_published(folder / "pretrain" / f"{name}.pth", build_micro(**SHALLOW), **stored)
    save_vocabulary(folder / "pretrain" / "roberta-base")


def run(module: str, arguments: Sequence[str], more: Mapping[str, Sequence[str]] | None = None) -> None:
    """Call a program's `main`, with `more` arguments for some modules."""
    workers = ["--num_workers", "0"] if module in _WITH_WORKERS else []
    importlib.import_module(module).main([*arguments, *workers, *(more or {}).get(module, ())])
