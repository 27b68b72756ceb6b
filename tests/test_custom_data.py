"""Every command of docs/custom-data.md runs, in their order, on what its examples describe in miniature."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch

from tests.document_commands import blocks, commands, install_network, run
from tests.own_videos import run_lengths, shapes, write_images, write_json, write_palette, write_video

DOCUMENT = "docs/custom-data.md"
# Ten epochs of a network that learns nothing would only take time.
SHORT = {"main": ["--epochs", "1", "--num_frames", "4", "--device", "cpu"]}


@pytest.fixture
def computer(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tables of the document, the files that they name, and weights."""
    install_network(workplace, monkeypatch, ["final_model_mevis"])
    own = workplace / "own"
    for index, name in enumerate(("kitchen", "street", "yard")):
        clip = shapes(index)
        if name == "yard":
            write_images(own / "videos" / name, clip.frames)
        else:
            write_video(own / "videos" / f"{name}.mp4", clip.frames)
        write_palette(own / "masks" / name, clip)
    write_video(own / "masks/kitchen_cup.mp4", shapes(0).labels == 1)
    write_json(own / "masks/street_cyclist.json", run_lengths(shapes(1).labels == 3))
    write_video(own / "new.mp4", shapes(3).frames[:3])
    for suffix in ("csv", "json"):
        (text,) = blocks(DOCUMENT, suffix)
        (own / f"table.{suffix}").write_text(text, "utf-8")
    return workplace


def test_from_videos_to_scores(computer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for module, arguments in commands(DOCUMENT):
        one_process = ["--workers", "1"] if module == "tools.data.import_videos" else []
        run(module, [*arguments, *one_process], SHORT)
    output = computer / "output"
    scores = {name: json.loads((output / name / "scores.json").read_text()) for name in ("own_before", "own_after")}
    assert all(len(score["expressions"]) == 2 for score in scores.values())
    assert len(json.loads((output / "own_after_v2/scores.json").read_text())["expressions"]) == 3
    assert (output / "own_before/report.html").is_file()
    assert any((output / "new").rglob("*.png"))
    evaluations = [line for line in (output / "own/log.jsonl").read_text().splitlines() if '"evaluation"' in line]
    assert len(evaluations) == 1
    best = torch.load(output / "own/checkpoints/best.pth", weights_only=True)["model"]
    start = torch.load(computer / "pretrain/final_model_mevis.pth", weights_only=False)["model"]
    assert any(not torch.equal(value, start[key]) for key, value in best.items() if key.startswith("cmt_adapters"))
    assert "warnings" in capsys.readouterr().out


def test_the_tables_of_the_document() -> None:
    """Both name every column that is explained."""
    (text,) = blocks(DOCUMENT, "csv")
    (entries,) = (json.loads(block) for block in blocks(DOCUMENT, "json"))
    known = {name for entry in entries for name in entry} | set(next(csv.reader(io.StringIO(text))))
    assert known == {"video", "sentence", "masks", "object", "split", "start", "end", "id"}
