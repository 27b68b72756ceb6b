"""The clips that come with the repository, to try the page with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[2] / "docs" / "demo"
_SUFFIXES = (".mp4", ".webm", ".mov", ".jpg", ".png")


@dataclass(frozen=True)
class Example:
    """A file and what to ask for in it.

    Attributes:
        path: of the video or image.
        sentences: what to ask for, one per line; may be empty.
    """

    path: Path
    sentences: str

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.path.stem.replace("_", " ").replace("-", " ")


def list_examples(folder: Path = SHIPPED) -> list[Example]:
    """The videos and images of a folder, by name; the sentences are those of the text file beside each."""
    if not folder.is_dir():
        return []
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
    return [Example(file, _sentences(file.with_suffix(".txt"))) for file in files]


def _sentences(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
