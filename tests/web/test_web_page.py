"""The page over HTTP, as its own JavaScript uses it: hostile uploads, visitors side by side, and what stays behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import app
from configs import loading
from engine.web.jobs import RunOptions
from engine.web.limits import Limits
from engine.web.server import Address, open_page
from engine.web.visits import Studio
from models.samwise import SAMWISE
from tests import miniature
from tests.media_files import write_video
from tests.web.hostile_files import HOSTILE
from tests.web.page_client import PageClient, text_of, together
from util.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::Warning:gradio.queueing")

LIMITS = Limits(frames=20, file_bytes=1 << 20)
Page = tuple[str, Studio]


@pytest.fixture(scope="module")
def page(micro_model: SAMWISE) -> Iterator[Page]:
    """A page that is being served."""
    with open_page(micro_model, LIMITS, RunOptions(), 0.5, Address(port=0)) as opened:
        yield opened
    assert not opened[1].uploads.parent.exists()


@pytest.fixture
def clip(tmp_path: Path) -> bytes:
    return write_video(tmp_path / "clip.mp4", 9).read_bytes()


def eventually(condition: Any) -> None:
    """Wait for what another thread does."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it has not come about")


def files_of(studio: Studio) -> list[Path]:
    """What visitors have stored, but for the empty files that Gradio makes for every upload."""
    return [path for path in studio.uploads.parent.rglob("*") if path.is_file() and path.stat().st_size]


def test_hostile_uploads_and_the_next_visitor(page: Page, tmp_path: Path, clip: bytes) -> None:
    url, studio = page
    rude = PageClient(url, "rude")
    for name, (make, word) in HOSTILE.items():
        if name != "nothing.mp4":
            assert word in rude.open(f"../../{name}", make(tmp_path / name).read_bytes()), name
    assert "empty" in rude.open("nothing.mp4", b"")
    assert rude.open("../../Bär 🐻 <img src=x onerror=alert(1)>.mp4", b"text").startswith("Bär")
    assert rude.upload("large.mp4", bytes(2 << 20)).status_code == 413
    assert "clip.mp4" in rude.open("../../../../etc/clip.mp4", clip)
    for text, word in (("\n".join(map(str, range(50))), "50 sentences"), (" \n ", "at least one"), ("x" * 301, "301")):
        assert word in rude.call("run", text, 0.5)["status"]
    kind = PageClient(url, "kind")
    assert "9 frames" in kind.open("clip.mp4", clip)
    assert "Done: 9 of 9" in kind.call("run", "the dog", 0.5)["status"]
    for client in (rude, kind):
        client.leave()
    eventually(lambda: not studio.visits)


def test_what_was_typed_is_shown_as_text(page: Page, clip: bytes) -> None:
    client = PageClient(page[0], "script")
    text = "<script>alert(1)</script>\n${1+1} {{7*7}} `x` \\ \"a\" 'b'"
    assert client.open('"><b>{{x}}.mp4', clip)
    legend = client.call("legend", text)["legend"]
    assert client.call("run", text, 0.5)["legend"] == legend
    assert not re.search(r"<script|[${}`\\]", legend)
    assert "&lt;script&gt;" in legend
    client.leave()


def test_nobody_reaches_the_files_of_others_or_of_the_server(page: Page, clip: bytes, tmp_path: Path) -> None:
    url, studio = page
    client = PageClient(url, "guest")
    client.open("clip.mp4", clip)
    client.call("run", "the dog", 0.5)
    (visit,) = [visit for visit in studio.visits if visit.media is not None and visit.job is not None]
    stored = [path for path in visit.folder.iterdir() if path.is_file()]
    assert len(stored) == 2
    for path in (*stored, Path("/etc/passwd"), Path(app.__file__)):
        assert client.http.get(f"gradio_api/file={path}").status_code == 403
        with pytest.raises(RuntimeError):
            client.call("upload", {"path": str(path), "meta": {"_type": "gradio.FileData"}})
    saved = client.call("save_masks", 0.5)["collect"]
    assert client.http.get(f"gradio_api/file={saved['path']}").content[:2] == b"PK"
    client.leave()
    eventually(lambda: visit not in studio.visits and not visit.folder.exists())
    assert httpx.get(f"{url}gradio_api/file={saved['path']}", trust_env=False).status_code == 403


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    answer = httpx.get(page[0], trust_env=False)
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    config = httpx.get(f"{page[0]}config", trust_env=False).json()
    assert (config["analytics_enabled"], config["run_history"], config["footer_links"]) == (False, False, [])
    theme = httpx.get(f"{page[0]}theme.css", trust_env=False).text
    assert not re.search(r"@import|@font-face|url\(.?https?:", theme)


def test_four_visitors_at_once(page: Page, tmp_path: Path) -> None:
    url, studio = page
    clips = [write_video(tmp_path / f"{n}.mp4", 3 + n).read_bytes() for n in range(4)]

    def visit(number: int) -> None:
        client = PageClient(url, f"visitor {number}")
        assert f"{3 + number} frames" in client.open("clip.mp4", clips[number])
        for turn in range(2):
            shown = client.call("run", f"thing {number}\nturn {turn}", 0.5)
            assert f"Done: {3 + number} of {3 + number} frames" in shown["status"]
            assert text_of(shown["legend"]) == f"thing {number}turn {turn}"
            assert client.call("look", 2, 0.3)["picture"] != client.call("look_again", 2, 0.7)["picture"]
        client.leave()

    assert together(*[lambda number=number: visit(number) for number in range(4)]) == []
    eventually(lambda: not studio.visits)


def test_what_breaks_is_logged_and_not_shown(page: Page, clip: bytes, caplog: pytest.LogCaptureFixture) -> None:
    url, studio = page
    client = PageClient(url, "unlucky")
    client.open("clip.mp4", clip)
    (visit,) = studio.visits
    shutil.rmtree(visit.folder)
    status = text_of(client.call("run", "the dog", 0.5)["status"])
    assert status == "Something went wrong; the log of the server says what."
    assert "FileNotFoundError" in caplog.text
    client.leave()
    eventually(lambda: not studio.visits)


def test_uploads_are_gone_with_the_visitor(page: Page, clip: bytes) -> None:
    url, studio = page
    client = PageClient(url, "leaving")
    client.open("unique name.mp4", clip + bytes(8))
    (visit,) = studio.visits
    (original,) = studio.uploads.rglob("unique name.mp4")
    os.utime(original, (time.time() - 100,) * 2)  # as after a minute
    client.call("run", "the dog", 0.5)
    client.leave()
    eventually(lambda: not original.exists() and not visit.folder.exists())
    assert not [path for path in files_of(studio) if "unique" in path.name]


def test_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """app.py serves the page until SIGTERM."""
    monkeypatch.setattr(loading, "CONFIG_DIR", miniature.write_configuration(tmp_path / "configs"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    titles: list[str] = []

    def look_and_stop() -> None:
        for _ in range(600):
            try:
                titles.append(httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).text)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=look_and_stop)
    watcher.start()
    app.main([*miniature.ARGUMENTS, "--port", str(port), "--max_frames", "7"])
    watcher.join()
    assert "SAMWISE" in titles[0]
    assert "7 frames" in titles[0]
    assert "the page is closed" in capsys.readouterr().out


def test_a_port_that_is_taken_and_gradio_that_is_missing(micro_model: SAMWISE, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = open_page(micro_model, LIMITS, RunOptions(), 0.5, Address(port=other.getsockname()[1]))
        with pytest.raises(InputError, match="--port"), taken:
            pass
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "engine.web.page", raising=False)
    with (
        pytest.raises(InputError, match="make web"),
        open_page(micro_model, LIMITS, RunOptions(), 0.5, Address(port=0)),
    ):
        pass
