"""Weight files that cannot be read: each is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.checkpoint import read_checkpoint, save_compact
from models.samwise import SAMWISE
from tests.weight_files import save_published
from util.errors import InputError


class Dangerous:
    """Anything but tensors and arguments."""


def damaged(kind: str, path: Path, micro_model: SAMWISE) -> None:
    save = save_compact if kind.startswith("compact") else save_published
    save(path, micro_model)  # type: ignore[operator]
    data = path.read_bytes()
    contents = {
        "truncated": data[: len(data) // 2],
        "compact truncated": data[: len(data) // 2],
        "compact header": data[:20],
        "compact newer": data.replace(b'"format_version":"1"', b'"format_version":"9"'),
        "compact config": data.replace(b'\\"hsa\\"', b'\\"xyz\\"'),
        "garbage": bytes(range(1, 256)) * 9,
        "pickle": b"\x80\x02" + bytes(100),
        "text": b"not weights\n" * 20,
        "page": b"<!DOCTYPE html><html></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "empty": b"",
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "objects":
        torch.save({"model": {"sam.x": torch.zeros(1)}, "extra": Dangerous()}, path)
    elif kind == "list":
        torch.save([torch.zeros(1)], path)
    elif kind == "no tensors":
        torch.save({"model": {"sam.x": "y"}}, path)
    elif kind == "foreign":
        torch.save({"backbone.conv1.weight": torch.zeros(1)}, path)
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "damaged or truncated"),
        ("compact truncated", "damaged or truncated"),
        ("compact header", "damaged or truncated"),
        ("compact newer", "of version 9"),
        ("compact config", "stored configuration cannot be read"),
        ("garbage", "format is unknown"),
        ("pickle", "damaged or truncated"),
        ("text", "it is a text file"),
        ("page", "it is a web page"),
        ("pointer", "git lfs pull"),
        ("empty", "it is empty"),
        ("objects", r"holds Python objects \(.*Dangerous"),
        ("list", "expected a mapping"),
        ("no tensors", "expected a mapping"),
        ("foreign", r"unknown network \(backbone\.conv1\.weight\)"),
        ("missing", "does not exist"),
        ("folder", "is a folder"),
    ],
)
def test_damaged_files_are_one_line(micro_model: SAMWISE, tmp_path: Path, kind: str, message: str) -> None:
    damaged(kind, tmp_path / "c.pth", micro_model)
    with pytest.raises(InputError, match=message) as caught:
        read_checkpoint(tmp_path / "c.pth")
    assert "\n" not in str(caught.value)
    assert "c.pth" in str(caught.value)
