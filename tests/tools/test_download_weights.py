"""tools/download_weights.py against a server of this process that can stop in the middle."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from configs.loading import sam2_versions
from tests.forked import Forked
from tools.download_weights import SUMS, check, fetch, files_of, main
from util.errors import InputError

CONTENT = bytes(range(256)) * 4000


class Server(ThreadingHTTPServer):
    """Serves one file of changing content.

    Attributes:
        content: the bytes of the file.
        stop_after: bytes of an answer after which the connection closes.
        ranges: whether partial answers are given.
        sent: first byte of every answer's part of the file.
        before_content: called between the headers of an answer and its content.
    """

    content = CONTENT
    stop_after = len(CONTENT)
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), RangeHandler)
        self.sent: list[int] = []
        self.before_content: Callable[[], object] = lambda: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.pt"


class RangeHandler(BaseHTTPRequestHandler):
    """GET with Range, If-Range and ETag."""

    server: Server

    def do_GET(self) -> None:
        if self.path != "/file.pt":
            self.send_error(404)
            return
        content = self.server.content
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and self.server.ranges and self.headers.get("If-Range", tag) == tag else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", tag)
        self.end_headers()
        self.server.sent.append(start)
        self.server.before_content()
        self.wfile.write(content[start : start + self.server.stop_after])

    def log_message(self, *args: object) -> None:
        """Keep the test output clean."""


@pytest.fixture
def server() -> Iterator[Server]:
    instance = Server()
    thread = threading.Thread(target=instance.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield instance
    instance.shutdown()
    thread.join()
    instance.server_close()


def stopped(server: Server, folder: Path, after: int) -> None:
    """One download that the server ends early."""
    server.stop_after = after
    with pytest.raises(InputError, match="run the command again"):
        fetch(server.url, folder, "file.pt")
    server.stop_after = len(CONTENT)
    assert not (folder / "file.pt").exists()
    assert (folder / "file.pt.part").stat().st_size == after


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_download_records_the_sum_and_is_not_repeated(server: Server, tmp_path: Path) -> None:
    fetch(server.url, tmp_path / "new", "sub/file.pt")
    fetch(server.url, tmp_path / "new", "sub/file.pt")
    assert (tmp_path / "new" / "sub" / "file.pt").read_bytes() == CONTENT
    assert names(tmp_path / "new" / "sub") == {"file.pt"}
    sums = json.loads((tmp_path / "new" / SUMS).read_text())
    assert sums == {"sub/file.pt": hashlib.sha256(CONTENT).hexdigest()}
    assert server.sent == [0]


def test_interrupted_download_continues_where_it_stopped(server: Server, tmp_path: Path) -> None:
    stopped(server, tmp_path, 1000)
    fetch(server.url, tmp_path, "file.pt")
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    assert server.sent == [0, 1000]
    assert names(tmp_path) == {"file.pt", SUMS}


def test_two_interruptions(server: Server, tmp_path: Path) -> None:
    stopped(server, tmp_path, 1000)
    server.stop_after = 500
    with pytest.raises(InputError, match="closed after 1500 of"):
        fetch(server.url, tmp_path, "file.pt")
    server.stop_after = len(CONTENT)
    fetch(server.url, tmp_path, "file.pt")
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    assert server.sent == [0, 1000, 1500]


def test_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    stopped(server, tmp_path, 1000)
    server.ranges = False
    fetch(server.url, tmp_path, "file.pt")
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    assert server.sent == [0, 0]


def test_file_that_changed_on_the_server_starts_anew(server: Server, tmp_path: Path) -> None:
    stopped(server, tmp_path, 1000)
    server.content = CONTENT[::-1]
    fetch(server.url, tmp_path, "file.pt")
    assert (tmp_path / "file.pt").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(("part", "sent"), [(CONTENT, []), (CONTENT + b"more", [0])])
def test_part_that_is_complete_or_too_long(server: Server, tmp_path: Path, part: bytes, sent: list[int]) -> None:
    (tmp_path / "file.pt.part").write_bytes(part)
    fetch(server.url, tmp_path, "file.pt")
    assert (tmp_path / "file.pt").read_bytes() == CONTENT
    assert server.sent == sent


def test_file_that_differs_from_its_record_is_refused(server: Server, tmp_path: Path) -> None:
    fetch(server.url, tmp_path, "file.pt")
    (tmp_path / "file.pt").write_bytes(b"changed")
    with pytest.raises(InputError, match="is recorded in"):
        fetch(server.url, tmp_path, "file.pt")
    (tmp_path / "file.pt").unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(InputError, match="is recorded in"):
        fetch(server.url, tmp_path, "file.pt")
    assert names(tmp_path) == {SUMS, "file.pt.part.etag"}
    server.content = CONTENT
    fetch(server.url, tmp_path, "file.pt")
    assert names(tmp_path) == {SUMS, "file.pt"}


def test_one_process_at_a_time_downloads_a_file(server: Server, tmp_path: Path) -> None:
    started, over = threading.Event(), threading.Event()
    server.before_content = lambda: (started.set(), over.wait(60))
    first = Forked(lambda: fetch(server.url, tmp_path, "file.pt"))
    assert started.wait(60)
    with pytest.raises(InputError, match=r"file\.pt is being downloaded already \(process \d+ on "):
        fetch(server.url, tmp_path, "file.pt")
    over.set()
    assert first.wait() == 0
    assert names(tmp_path) == {"file.pt", SUMS}
    assert (tmp_path / "file.pt").read_bytes() == CONTENT


def test_a_folder_in_the_place_of_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.pt").mkdir()
    with pytest.raises(InputError, match=r"file\.pt is a folder, where the file belongs"):
        fetch(server.url, tmp_path, "file.pt")
    assert not server.sent


def test_check_names_what_is_wrong(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(server.url, tmp_path, "file.pt")
    check(tmp_path, ["file.pt"])
    assert capsys.readouterr().out.endswith("file.pt: ok\n")
    (tmp_path / "other.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"2 of 3 .*other.pt .not recorded.*absent.pt .missing."):
        check(tmp_path, ["file.pt", "other.pt", "absent.pt"])
    (tmp_path / "file.pt").write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match="DIFFERS"):
        check(tmp_path, ["file.pt"])
    assert server.sent == [0]


def test_refusals_are_user_errors(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="answers 404"):
        fetch(server.url + ".absent", tmp_path, "file.pt")
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match="run the command again"):
        fetch(server.url, tmp_path, "file.pt")
    for damaged in ("{", "[" * 100_000):
        (tmp_path / SUMS).write_text(damaged)
        with pytest.raises(InputError, match="is damaged"):
            check(tmp_path, ["file.pt"])


def test_names_and_addresses(tmp_path: Path) -> None:
    urls = {url for name in sam2_versions() for url in files_of(name).values()}
    assert len(urls) == len(sam2_versions())
    assert files_of("base")["sam2_hiera_base_plus.pt"].endswith("/072824/sam2_hiera_base_plus.pt")
    assert files_of("large_2.1")["sam2.1_hiera_large.pt"].endswith("/092824/sam2.1_hiera_large.pt")
    assert "roberta-base/model.safetensors" in files_of("roberta-base")
    with pytest.raises(InputError, match=r"expected one of .*tiny"):
        main(["huge", "--out", str(tmp_path)])
    with pytest.raises(InputError, match=r"sam2_hiera_tiny\.pt \(missing\)"):
        main(["tiny", "--check", "--out", str(tmp_path)])


def test_samwise_explains_where_its_weights_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["samwise", "--out", str(tmp_path / "weights")])
    text = capsys.readouterr().out
    assert f"--resume {tmp_path / 'weights' / 'final_model_mevis.pth'} --sam2_version base --HSA" in text
    assert not (tmp_path / "weights").exists()
