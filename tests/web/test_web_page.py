"""The page over HTTP, as its own JavaScript uses it: hostile uploads, visitors side by side, and what stays behind."""

from __future__ import annotations

import logging
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
from engine.web import visits
from engine.web.exports import EXPORTS
from engine.web.jobs import Job, RunOptions
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


def test_nothing_is_fetched_for_a_visitor(page: Page, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    async def fetch(url: str, *_: Any) -> None:
        fetched.append(url)

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", fetch)
    monkeypatch.setattr("gradio.routes.secure_url_stream_response", fetch)
    client = PageClient(page[0], "guest")
    for address in ("https://www.example.com/clip.mp4", "http://example.com/"):
        file = {"path": address, "meta": {"_type": "gradio.FileData"}}
        for function, values in (("upload", [file]), ("legend", [file]), ("run", [[{"it": file}], 0.5])):
            with pytest.raises(httpx.HTTPStatusError, match="403"):
                client.call(function, *values)
    assert client.http.get("gradio_api/file=https://www.example.com/clip.mp4").status_code == 403
    assert client.http.get("gradio_api/file/https://www.example.com/clip.mp4").status_code == 403
    assert client.http.get("gradio_api/file%3Dhttp://www.example.com/clip.mp4").status_code in (403, 404)
    assert fetched == []
    assert client.http.post("gradio_api/queue/join", content=bytes(3 << 20)).status_code == 413
    assert "9 frames" in client.open("https.mp4", clip)
    client.leave()


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


def test_a_disk_that_is_full_while_saving(page: Page, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(job: Job, threshold: float, folder: Path) -> Iterator[float | Path]:
        Path("/dev/full").write_bytes(bytes(len(job.store)))
        yield folder

    monkeypatch.setitem(EXPORTS, "record", export)
    client = PageClient(page[0], "full")
    client.open("clip.mp4", clip)
    client.call("run", "the dog", 0.5)
    assert "the disk is full: make room" in client.call("save_record", 0.5)["status"]
    assert "Saved as" in client.call("save_masks", 0.5)["status"]
    client.leave()


def test_an_upload_that_breaks_off(page: Page, clip: bytes, caplog: pytest.LogCaptureFixture) -> None:
    url, studio = page
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    try:
        begun = clip + bytes(200_000)
        with socket.create_connection(("127.0.0.1", httpx.URL(url).port)) as visitor:
            visitor.sendall(
                b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n"
                b"Content-Type: multipart/form-data; boundary=edge\r\n\r\n--edge\r\n"
                b'Content-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n' + begun
            )
            eventually(lambda: [path for path in studio.uploads.glob("tmp*") if path.stat().st_size > 100_000])
        for _ in range(20):  # meanwhile the server notices
            httpx.get(f"{url}config", trust_env=False).raise_for_status()
    finally:
        logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert caplog.text == ""
    (left,) = [path for path in studio.uploads.glob("tmp*") if path.stat().st_size > 100_000]
    os.utime(left, (time.time() - 700,) * 2)
    studio.remove_broken_uploads()
    assert not left.exists()


def test_nobody_has_to_ask_for_that(micro_model: SAMWISE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "_SWEEP_SECONDS", 0.01)
    studio = Studio(micro_model, LIMITS, tmp_path / "root")
    try:
        left = studio.uploads / "tmpleft"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"data")
        os.utime(left, (time.time() - 700,) * 2)
        eventually(lambda: not left.exists())
    finally:
        studio.close()


def test_only_this_computer_and_only_the_page_itself(page: Page, clip: bytes) -> None:
    url, studio = page
    client, port = PageClient(url, "local"), httpx.URL(url).port
    uploads, known = {"files": ("unwanted.mp4", clip)}, set(studio.uploads.rglob("*"))
    foreign = [
        {"Host": "evil.example"},
        {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "[::1"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "null"},
    ]
    for headers in foreign:
        answers = [client.http.get("config", headers=headers)]
        answers.append(client.http.post("gradio_api/upload", files=uploads, headers=headers))
        body = {"fn_index": 0, "data": [None], "session_hash": "evil"}
        answers.append(client.http.post("gradio_api/queue/join", json=body, headers=headers))
        for answer in answers:
            assert (answer.status_code, len(answer.text.splitlines())) == (403, 1), headers
    assert set(studio.uploads.rglob("*")) == known
    for name in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}", "localhost", f"[::1]:{port}"):
        headers = {"Host": name, "Origin": f"http://{name}"}
        assert client.http.get("", headers=headers).status_code == 200
        assert client.http.post("gradio_api/upload", files=uploads, headers=headers).status_code == 200


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


def own_hosts() -> list[str]:
    """Under which this computer can listen; some have no IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return ["localhost", "0.0.0.0"]
    return ["localhost", "0.0.0.0", "::1", "[::1]", "::"]


@pytest.mark.parametrize("host", own_hosts())
def test_hosts(micro_model: SAMWISE, clip: bytes, host: str) -> None:
    with open_page(micro_model, LIMITS, RunOptions(), 0.5, Address(host, 0)) as (url, _):
        client = PageClient(url, "anybody")
        assert "9 frames" in client.open("clip.mp4", clip)
        status = client.http.get("config", headers={"Host": "page.example"}).status_code
        assert status == (200 if host in ("::", "0.0.0.0") else 403)


def test_a_proxy_of_the_network_is_not_asked(micro_model: SAMWISE, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody is there
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    monkeypatch.delenv("no_proxy", raising=False)
    with open_page(micro_model, LIMITS, RunOptions(), 0.5, Address(port=0)) as (url, _):
        assert httpx.get(url).status_code == 200
        for name in ("NO_PROXY", "no_proxy"):
            assert os.environ[name] == "intranet.example,127.0.0.1,localhost"
    assert os.environ["NO_PROXY"] == "intranet.example"
    assert "no_proxy" not in os.environ


@pytest.mark.parametrize(("threshold", "step"), [(0.001, 0.01), (0.999, 0.99), (0.296, 0.3)])
def test_a_threshold_between_the_steps(micro_model: SAMWISE, clip: bytes, threshold: float, step: float) -> None:
    with open_page(micro_model, LIMITS, RunOptions(), threshold, Address(port=0)) as (url, _):
        client = PageClient(url, "sure")
        components = client.http.get("config").json()["components"]
        (value,) = [c["props"]["value"] for c in components if c["props"].get("elem_id") == "threshold"]
        assert value == step
        client.open("clip.mp4", clip)
        assert "Done: 9 of 9" in client.call("run", "the dog", value)["status"]


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
