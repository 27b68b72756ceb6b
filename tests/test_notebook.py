"""The notebook runs from the first to the last cell, in a kernel of its own, as it is stored."""

from __future__ import annotations

import ast
import base64
import json
from pathlib import Path
from typing import Any

import av
import cv2
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from datasets.media import open_media
from models.model_folder import read_folder_config
from tests import media_files

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOK = REPOSITORY / "notebooks" / "quickstart.ipynb"
KERNEL_SECONDS = 600


@pytest.fixture
def own_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of Jupyter and IPython are those of nobody."""
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def shown(notebook: Any, name: str, kind: str) -> Any:
    """What the cell of this name shows last, of one kind."""
    (cell,) = [cell for cell in notebook.cells if cell.id == name]
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", ())][-1]


def picture(data: str) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_it_is_stored_without_outputs() -> None:
    notebook = read()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (cell.outputs, cell.execution_count) == ([], None)


def execute(settings: str) -> Any:
    """The notebook after all cells have run, with these lines after the settings."""
    notebook = read()
    (place,) = [n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(settings))
    folder = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=KERNEL_SECONDS, kernel_name="python3", resources=folder).execute()
    return notebook


@pytest.mark.slow
@pytest.mark.usefixtures("own_jupyter")
def test_every_cell_runs(tmp_path: Path) -> None:
    output = tmp_path / "output"
    notebook = execute(f"OUTPUT = Path({str(output)!r})")

    record = json.loads((output / "result.json").read_text("utf-8"))
    sentences = [prompt["text"] for prompt in record["prompts"]]
    media = open_media(str(REPOSITORY / "docs" / "demo" / "shapes.mp4"))
    count, (height, width) = media.length, media.frame_size
    assert count is not None
    assert 2 <= len(sentences) <= 3
    assert ast.literal_eval(shown(notebook, "settings", "text/plain")) == sentences
    assert shown(notebook, "segment", "text/plain") == str((count, len(sentences), height, width))
    assert picture(shown(notebook, "overlays", "image/png")).shape == (4 * height, width, 3)
    assert "base64" in shown(notebook, "play", "text/html")
    assert "README.md" in shown(notebook, "hand-on", "text/plain")
    assert read_folder_config(output / "model").model.sam2.name == "nano"
    for prompt in record["prompts"]:
        masks = [cv2.imread(str(output / file), cv2.IMREAD_UNCHANGED) for file in prompt["masks"]]
        assert [int((mask > 0).sum()) for mask in masks] == prompt["areas"]
        assert len(masks) == count
    with av.open(str(output / "all_prompts.mp4")) as video:
        assert len(list(video.decode(video=0))) == count
    assert picture(shown(notebook, "stream", "image/png")).shape == (height, width, 3)
    assert "the session needs at most" in shown(notebook, "stream", "text/plain")


@pytest.mark.slow
@pytest.mark.usefixtures("own_jupyter")
@pytest.mark.parametrize("frames", [0, 3])
def test_an_image_and_a_video_shorter_than_a_window_do_too(tmp_path: Path, frames: int) -> None:
    source, output = tmp_path / ("video.mp4" if frames else "image.png"), tmp_path / "output"
    if frames:
        media_files.write_video(source, frames)
    else:
        Image.fromarray(media_files.picture(48, 64)).save(source)
    notebook = execute(f"VIDEO = {str(source)!r}; OUTPUT = Path({str(output)!r})")
    count = max(frames, 1)
    assert ast.literal_eval(shown(notebook, "segment", "text/plain"))[::2] == (count, 48)
    assert picture(shown(notebook, "overlays", "image/png")).shape == (count * 48, 64, 3)
    if frames:
        assert "base64" in shown(notebook, "play", "text/html")
    else:
        assert picture(shown(notebook, "play", "image/png")).shape == (48, 64, 3)
    assert picture(shown(notebook, "stream", "image/png")).shape == (48, 64, 3)
    assert "the session needs at most" in shown(notebook, "stream", "text/plain")
