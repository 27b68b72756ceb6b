"""Every command of the documents on data, inference and training runs, in their order, on benchmarks in miniature."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests import miniature
from tests.benchmark_files import write_original_coco, write_original_davis
from tests.conftest import SHALLOW, build_micro
from tests.document_commands import commands, install_network
from tests.document_commands import run as run_command
from tests.weight_files import save_published, save_roberta, save_sam2

VIDEOS = {"one": (1, (24, 32)), "five": (5, (30, 20)), "two": (2, (24, 40)), "three": (3, (26, 26))}
# These are four videos, not 202.
PARTIAL = ("inference_ytvos", "tools.data.check_dataset")
# Of a training the first steps; one that goes on has one more to do.
STEPS = {"main": ["--device", "cpu", "--max_iterations"], "main_pretrain": ["--device", "cpu", "--max_iterations"]}
NOT_IN_PRE_TRAINING = r"cmt_adapters\.\d+\.(hsa|norm_pre_HSA|spatial_pos)|conditional|.*(obj_score|no_obj_ptr)"


@pytest.fixture
def computer(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and weights under the documented names, and the micro network as `base`."""
    install_network(workplace, monkeypatch, ("final_model_mevis", "final_model_ytvos"))
    monkeypatch.setattr(miniature, "VIDEOS", VIDEOS)
    model, pretrain = build_micro(**SHALLOW), workplace / "pretrain"
    flags = {"sam2_version": "base", "adapter_dim": 32, "fusion_stages_txt": [1, 2, 3], "HSA": False}
    save_published(pretrain / "pretrained_model.pth", model, drop=NOT_IN_PRE_TRAINING, **flags)
    save_sam2(pretrain / "sam2_hiera_tiny.pt", model)
    save_roberta(pretrain / "roberta-base", model)
    for split in ("train", "valid", "valid_u"):
        miniature.write_mevis(workplace / "data" / "MeViS_release", split)
    miniature.write_ytvos(workplace / "data" / "ref-youtube-vos")
    write_original_davis(workplace / "data" / "ref-davis")
    write_original_coco(workplace / "data" / "coco")
    return workplace


def run(module: str, arguments: list[str]) -> None:
    partial = ["--allow_partial"] if module in PARTIAL or "ytvos" in arguments else []
    steps = "3" if "auto" in arguments else "2"
    run_command(module, [*arguments, *partial], {name: [*flags, steps] for name, flags in STEPS.items()})


def test_from_data_to_zip(computer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preparation = [c for c in commands("docs/data.md") if c[0].startswith("tools.data.")]
    for module, arguments in preparation:
        run(module, arguments)
    coco = computer / "data" / "coco"
    miniature.write_refcoco(coco, [f"{name}/train" for name in ("refcoco", "refcoco+", "refcocog")])
    for module, arguments in commands("docs/training-and-inference.md"):
        run(module, arguments)
    for name in ("refcoco", "refcoco+"):  # of these the originals are not there to be converted again
        shutil.rmtree(coco / name)
    for module, arguments in commands("docs/data.md"):
        run(module, arguments)
    output = computer / "output"
    for name in ("mevis", "ytvos", "shards"):
        assert (output / name / "Annotations.zip").is_file()
    for name in ("mevis_u", "ytvos", "davis"):
        assert (output / name / "scores.json").is_file()
    assert (output / "mevis_u" / "report.html").is_file()
    assert (output / "ris_eval" / "scores.json").is_file()
    for name, steps in {"ris": 2, "train_ytvos": 2, "train_mevis": 3, "train_mevis_2": 2, "tuned": 2}.items():
        last = torch.load(output / name / "checkpoints" / "last.pth", weights_only=True)
        assert last["iteration"] == steps
    assert (output / "both.png").is_file()
    whole, shards = (output / name / "Annotations.zip" for name in ("ytvos", "shards"))
    assert whole.read_bytes() == shards.read_bytes()
    assert "57.1" in capsys.readouterr().out
