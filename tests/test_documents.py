"""Every command of the documents on data and inference runs, in their order, on benchmarks in miniature."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from configs import loading
from tests import miniature
from tests.benchmark_files import write_original_coco, write_original_davis
from tests.conftest import build_micro
from tests.weight_files import save_published, save_vocabulary

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAM = re.compile(r"^\.venv/bin/(?:python|torchrun --nproc_per_node=\d+) (\S+)\.py\b(.*)$", re.MULTILINE)
# The miniature has four videos, not 202.
PARTIAL = ("inference_ytvos", "tools.data.check_dataset")


def commands(document: str) -> list[tuple[str, list[str]]]:
    """(module, arguments) of every command in a document's code blocks; comments are left out."""
    blocks = re.findall(r"^```\n(.*?)^```", (REPOSITORY / document).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    text = "\n".join(blocks)
    found = PROGRAM.findall(text)
    assert len(found) == text.count(".venv/bin/")
    return [(name.replace("/", "."), shlex.split(rest, comments=True)) for name, rest in found]


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and weights under the documented names, and the micro network as `base`."""
    configuration = miniature.write_configuration(tmp_path / "configs")
    tree = OmegaConf.load(configuration / "sam2" / "tiny.yaml")
    tree.name = "base"
    OmegaConf.save(tree, configuration / "sam2" / "base.yaml")
    monkeypatch.setattr(loading, "CONFIG_DIR", configuration)
    monkeypatch.chdir(tmp_path)
    for split in ("valid", "valid_u"):
        miniature.write_mevis(tmp_path / "data" / "MeViS_release", split)
    miniature.write_ytvos(tmp_path / "data" / "ref-youtube-vos")
    write_original_davis(tmp_path / "data" / "ref-davis")
    write_original_coco(tmp_path / "data" / "coco")
    stored = {"sam2_version": "base", "adapter_dim": 32, "fusion_stages_txt": [1, 2, 3]}
    (tmp_path / "pretrain").mkdir()
    for name in ("mevis", "ytvos"):
        save_published(tmp_path / "pretrain" / f"final_model_{name}.pth", build_micro(), **stored)
    save_vocabulary(tmp_path / "pretrain" / "roberta-base")
    return tmp_path


def run(module: str, arguments: list[str]) -> None:
    partial = ["--allow_partial"] if module in PARTIAL or "ytvos" in arguments else []
    workers = ["--num_workers", "0"] if module.startswith("inference_") or module == "tools.evaluate" else []
    importlib.import_module(module).main([*arguments, *partial, *workers])


def test_from_data_to_zip(computer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        preparation = [c for c in commands("docs/data.md") if c[0].startswith("tools.data.")]
        for module, arguments in preparation:
            run(module, arguments)
        for module, arguments in commands("docs/training-and-inference.md"):
            run(module, arguments)
        for module, arguments in commands("docs/data.md"):
            run(module, arguments)
    finally:
        torch.set_num_threads(threads)
    output = computer / "output"
    for name in ("mevis", "ytvos", "shards"):
        assert (output / name / "Annotations.zip").is_file()
    for name in ("mevis_u", "ytvos", "davis"):
        assert (output / name / "scores.json").is_file()
    assert (output / "mevis_u" / "report.html").is_file()
    whole, shards = (output / name / "Annotations.zip" for name in ("ytvos", "shards"))
    assert whole.read_bytes() == shards.read_bytes()
    assert "57.1" in capsys.readouterr().out
