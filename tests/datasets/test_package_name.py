"""The folder `datasets` shares its name with a library that other libraries look for."""

from __future__ import annotations

from pathlib import Path

import transformers
from transformers import RobertaModel

import datasets


def test_transformers_works_beside_the_local_folder() -> None:
    assert Path(datasets.__file__).parent == Path(__file__).resolve().parents[2] / "datasets"
    assert RobertaModel.__module__.startswith(transformers.__name__)


def test_nothing_in_the_local_folder_looks_like_the_library() -> None:
    assert not any(hasattr(datasets, name) for name in ("__version__", "Dataset", "load_dataset"))
