"""Writing tensors where writing fails: the error itself is raised, not what PyTorch makes of it."""

from __future__ import annotations

import io
import resource
import signal
from pathlib import Path

import pytest
import torch

from tests.forked import Forked
from util import torch_files
from util.paths import atomic_write
from util.torch_files import save_torch

CONTENT = {"x": torch.arange(100_000.0), "y": [torch.tensor(3), "é"], "z": torch.zeros(0)}


def test_it_comes_back_as_from_torch(tmp_path: Path) -> None:
    written, usual = io.BytesIO(), io.BytesIO()
    save_torch(CONTENT, written)
    torch.save(CONTENT, usual)
    assert written.getvalue() == usual.getvalue()
    back = torch.load(io.BytesIO(written.getvalue()), weights_only=True)
    assert torch.equal(back["x"], CONTENT["x"])
    assert back["y"] == CONTENT["y"]


@pytest.mark.parametrize("limit", [0, 40, 700, 5_000, 399_999, 400_700])
def test_a_full_disk_is_said(tmp_path: Path, limit: int) -> None:
    def write() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(OSError, match="File too large"), atomic_write(tmp_path / "x.pth") as handle:
            save_torch(CONTENT, handle)

    assert Forked(write).wait() == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("inside", [True, False])
def test_ctrl_c_at_any_write_is_ctrl_c(inside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.BytesIO):
        """As a file, or instead of `_Held`: as if Ctrl-C came before the first line of `write`."""

        left = 0
        failure = None

        def write(self, data: object) -> int:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return len(memoryview(data).cast("B"))  # type: ignore[arg-type]

    for number in range(100):
        file = Interrupted()
        file.left = number
        if not inside:
            monkeypatch.setattr(torch_files, "_Held", lambda _, file=file: file)
        try:
            save_torch(CONTENT, io.BytesIO() if not inside else file)
        except KeyboardInterrupt:
            continue
        assert number > 5  # so many writes are all
        return
    pytest.fail("there is no end")


def test_other_errors_stay_what_they_are() -> None:
    class Unwilling:
        def __reduce__(self) -> str:
            raise RuntimeError("not to be pickled")

    with pytest.raises(RuntimeError, match="not to be pickled"):
        save_torch({"x": Unwilling()}, io.BytesIO())
