"""Every command of the documents on data and inference runs, in their order, on benchmarks in miniature."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import miniature
from tests.benchmark_files import write_original_coco, write_original_davis
from tests.document_commands import commands, install_network
from tests.document_commands import run as run_command

# The miniature has four videos, not 202.
PARTIAL = ("inference_ytvos", "tools.data.check_dataset")


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and weights under the documented names, and the micro network as `base`."""
    monkeypatch.chdir(tmp_path)
    install_network(tmp_path, monkeypatch, ("final_model_mevis", "final_model_ytvos"))
    for split in ("valid", "valid_u"):
        miniature.write_mevis(tmp_path / "data" / "MeViS_release", split)
    miniature.write_ytvos(tmp_path / "data" / "ref-youtube-vos")
    write_original_davis(tmp_path / "data" / "ref-davis")
    write_original_coco(tmp_path / "data" / "coco")
    return tmp_path


def run(module: str, arguments: list[str]) -> None:
    partial = ["--allow_partial"] if module in PARTIAL or "ytvos" in arguments else []
    run_command(module, [*arguments, *partial])


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
