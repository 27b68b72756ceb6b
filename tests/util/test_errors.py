"""What a user reads when something cannot be used."""

from __future__ import annotations

import errno
import sys
from io import BytesIO, TextIOWrapper

import pytest

from util.errors import InputError, run_script


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("expected a,\n found b"), "expected a, found b"),
        (OSError("camera gone"), "camera gone"),
        (FileNotFoundError("no saved session at x"), "no saved session at x"),
        (OSError(errno.ENOSPC, "No space"), "the disk is full: make room and run again"),
        (
            OSError(errno.EFBIG, "File too large", "a.png"),
            "a.png: larger than a file may be here: raise the limit (ulimit -f) or give a path on another disk",
        ),
        (OSError(errno.ENOSPC, "No space", "a/b.png"), "a/b.png: the disk is full: make room and run again"),
        (IsADirectoryError(errno.EISDIR, "x", "a"), "a: expected a file, found a folder: give a file"),
        (
            FileExistsError(errno.EEXIST, "File exists", "a"),
            "a: expected a folder or nothing, found a file: move the file or give another path",
        ),
        (OSError(errno.EIO, "Input/output error", "a"), "[Errno 5] Input/output error: 'a'"),
    ],
)
def test_errors_of_users_are_one_line(error: Exception, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run_script(fail)
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_defects_keep_their_traceback() -> None:
    def fail() -> None:
        raise KeyError("defect")

    with pytest.raises(KeyError):
        run_script(fail)


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", "\u00fc.mp4 a\\udcff.mp4"), ("ascii", "\\xfc.mp4 a\\udcff.mp4")]
)
def test_letters_that_the_output_cannot_show_are_escaped(
    monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str
) -> None:
    output = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(output, encoding, write_through=True))
    run_script(lambda: print("\u00fc.mp4", "a\udcff.mp4", end=""))  # noqa: T201
    assert output.getvalue().decode(encoding) == shown
