"""The network that is part of the repository: small, complete, and it listens."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from datasets.media import open_media
from engine.demo_truth import read_truth
from engine.segmentation import load, segment
from models.model_folder import read_folder_config, require_shipped
from tools import export

DEMO = Path(__file__).resolve().parents[1] / "docs" / "demo"
FRAMES = 8


def test_it_fits_into_the_repository() -> None:
    folder = require_shipped("nano")
    assert folder is not None
    assert sum(file.stat().st_size for file in folder.iterdir()) < 16_000_000
    model = read_folder_config(folder).model
    assert (model.sam2.name, model.hsa, model.use_cme_head, model.pred_obj_score) == ("nano", True, True, True)


def test_it_listens() -> None:
    """Every sentence overlaps its own object far more than the other's; capital letters change nothing."""
    truth = read_truth(DEMO / "shapes.json")
    sentences = ["the dotted pink bar", "the dotted green bar that is at the bottom"]
    frames = [frame for frame, _ in zip(open_media(str(DEMO / "shapes.mp4")), range(FRAMES), strict=False)]
    masks = segment(load("pretrained/nano"), frames, [*sentences, sentences[0].upper()]).masks
    meant = np.array([[truth.mask(sentence, index) for sentence in sentences] for index in range(FRAMES)])
    both = (masks[:, :2, None] & meant[:, None]).sum((0, 3, 4))  # (asked, meant)
    either = (masks[:, :2, None] | meant[:, None]).sum((0, 3, 4))
    overlap = both / either
    assert np.diag(overlap).min() > 0.5, overlap
    assert overlap[0, 0] > 0.6, overlap
    assert max(overlap[0, 1], overlap[1, 0]) < 0.05, overlap
    assert np.array_equal(masks[:, 0], masks[:, 2])


@pytest.mark.slow
def test_it_is_exported_by_the_first_command_of_the_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export.main(["pretrained/nano", "--out", str(tmp_path / "nano")])
    assert {"encoder.pt2", "step.pt2", "run.py"} <= {file.name for file in (tmp_path / "nano").iterdir()}
    difference = re.search(
        r"largest difference from the network itself over \d+ frames: (\S+)", capsys.readouterr().out
    )
    assert difference is not None
    assert float(difference[1]) < 1e-5
