"""Atomic writing, and local paths for URLs (against an HTTP server of this process)."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.checkpoint import read_checkpoint
from util.errors import InputError, describe
from util.paths import (
    atomic_path,
    atomic_write,
    atomic_write_json,
    hide_secrets,
    local_path,
    path_manager,
    read_json_object,
    sha256_of,
)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; a path that ends in "short" promises more bytes than it sends."""

    def do_GET(self) -> None:
        self.server.requested.append(self.path)  # type: ignore[attr-defined]
        self.server.authorization = self.headers["Authorization"]  # type: ignore[attr-defined]
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to"))
            self.end_headers()
            return
        if self.path.endswith("short"):
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"only this")
            return
        super().do_GET()

    def log_message(self, *args: object) -> None:
        """Keep the test output clean."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"served bytes")
    instance = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    instance.requested = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=instance.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield instance
    instance.shutdown()
    thread.join()
    instance.server_close()


def url_of(server: ThreadingHTTPServer, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


def test_write_creates_parents_and_leaves_one_file(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "out.bin"
    with atomic_write(target) as handle:
        handle.write(b"123")
        assert not target.exists()
    assert target.read_bytes() == b"123"
    assert list(target.parent.iterdir()) == [target]


def test_text_is_utf8_with_plain_line_ends(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "t.txt", "w") as handle:
        handle.write("höhe\n漢\n")
    assert (tmp_path / "t.txt").read_bytes() == "höhe\n漢\n".encode()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")

    def write() -> None:
        with atomic_write(target) as handle:
            handle.write(b"new")
            raise error

    with pytest.raises(error):
        write()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_path_that_was_never_written_leaves_nothing(tmp_path: Path) -> None:
    seen = []
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "clip.mp4") as temporary:
        seen.append(temporary)
    assert seen[0].suffix == ".mp4"
    assert seen[0].parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a regular file"), atomic_write(tmp_path):
        pass
    with pytest.raises(InputError, match="not a regular file"), atomic_write("/dev/null"):
        pass
    assert Path("/dev/null").exists()


def test_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_write(tmp_path / "link") as handle:
        handle.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25)
@given(value=JSON)
def test_json_survives(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    atomic_write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value


def test_sha256_reads_beyond_one_chunk(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("path", ["a/b.png", "missing", "C:/x.png", Path("/tmp/x")])
def test_plain_paths_pass_through(path: str | Path) -> None:
    assert local_path(path) == Path(path)


def test_url_is_downloaded_once(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    url = url_of(server, "a.bin")
    first = local_path(url, cache_dir=tmp_path / "cache")
    assert first.name == "a.bin"
    assert first.read_bytes() == b"served bytes"
    assert local_path(url, cache_dir=tmp_path / "cache") == first
    assert server.requested == ["/a.bin"]  # type: ignore[attr-defined]


def test_a_long_name_in_another_script(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    name = "\u89c6" * 83 + ".mp4"
    (tmp_path / "served" / name).write_bytes(b"served bytes")
    assert local_path(url_of(server, quote(name)), cache_dir=tmp_path / "cache").suffix == ".mp4"


@pytest.mark.parametrize("typed", ["Bär und Hund.bin", "B%C3%A4r%20und%20Hund.bin"])
def test_an_address_as_it_is_typed(server: ThreadingHTTPServer, tmp_path: Path, typed: str) -> None:
    (tmp_path / "served" / "Bär und Hund.bin").write_bytes(b"both")
    assert local_path(url_of(server, f"{typed}?x=ä b"), tmp_path / "cache").read_bytes() == b"both"


def test_a_full_disk_is_not_the_fault_of_the_address(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        local_path(url_of(server, "a.bin"), tmp_path / "cache")
    assert describe(caught.value) == "the disk is full: make room and run again"


def test_cache_folder_follows_the_environment(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "elsewhere"))
    assert local_path(url_of(server, "a.bin")).is_relative_to(tmp_path / "elsewhere")
    with path_manager().open(url_of(server, "a.bin"), "rb") as handle:
        assert handle.read() == b"served bytes"


def test_urls_that_differ_in_query_or_host_do_not_share_a_file(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    first = local_path(url_of(server, "a.bin?x=1"), cache_dir=tmp_path)
    second = local_path(url_of(server, "a.bin?x=2"), cache_dir=tmp_path)
    assert first != second
    assert first.name == second.name == "a.bin"


def test_path_cannot_leave_the_cache(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    assert local_path(url_of(server, "x/..%2fa.bin?/../.."), cache_dir=tmp_path / "cache").is_relative_to(
        tmp_path / "cache"
    )


@pytest.mark.parametrize("path", ["missing.bin", "short"])
def test_failed_download_is_a_user_error_and_leaves_no_file(
    server: ThreadingHTTPServer, tmp_path: Path, path: str
) -> None:
    with pytest.raises(InputError, match="cannot be downloaded"):
        local_path(url_of(server, path), cache_dir=tmp_path / "cache")
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.suffix != ".lock"]


@pytest.mark.parametrize(
    ("url", "reason"), [("ftp://host/a", "only http"), ("http://[bad/a", "cannot be"), ("http://", "cannot be")]
)
def test_bad_urls_are_user_errors(url: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        local_path(url, cache_dir=tmp_path)


@pytest.mark.parametrize("password", ["secret", "p@ss", "p%40ss", "p[ss", "hüte", ""])
def test_password_is_sent_as_basic_authentication(server: ThreadingHTTPServer, tmp_path: Path, password: str) -> None:
    url = url_of(server, "a.bin").replace("http://", f"http://me:{password}@")
    assert local_path(url, cache_dir=tmp_path / "cache").read_bytes() == b"served bytes"
    kind, token = server.authorization.split()  # type: ignore[attr-defined]
    assert (kind, base64.b64decode(token).decode()) == ("Basic", f"me:{password.replace('%40', '@')}")


def test_password_does_not_go_where_the_host_redirects(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    local_path(url_of(server, "to/a.bin").replace("http://", "http://me:secret@"), cache_dir=tmp_path / "cache")
    assert server.requested == ["/to/a.bin", "/a.bin"]  # type: ignore[attr-defined]
    assert server.authorization is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "path",
    [
        "http://me:secret@127.0.0.1:{port}/missing",
        "http://me:sec@ret@127.0.0.1:{port}/missing",
        "http://me:sec/ret@127.0.0.1:{port}/missing",
        "http://me:sec[ret@127.0.0.1:{port}/missing",
        "http://127.0.0.1:{port}/missing?pwd=secret",
        "http://127.0.0.1:{port}/missing?pwd=secret ret",
        "ftp://me:secret@127.0.0.1:{port}/missing",
    ],
)
def test_messages_hold_no_password(server: ThreadingHTTPServer, tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError) as caught:
        local_path(path.format(port=server.server_port), cache_dir=tmp_path / "cache")
    assert f"127.0.0.1:{server.server_port}/missing" in str(caught.value)
    assert "sec" not in str(caught.value)
    assert "ret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://user:p@ss@host/s", "rtsp://***@host/s"),
        ("rtsp://user:a/b?c#d@host:554/s", "rtsp://***@host:554/s"),
        ('RTSP://user:p"s\\s@host', "RTSP://***@host"),
        ("http://user@host:80/a@b?c=d@e", "http://***@host:80/a@b?c=d@e"),
        ("http://host:80/a@b", "http://host:80/a@b"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        ("http://host/v.mjpg?user=admin&pwd=secret", "http://host/v.mjpg?user=admin&pwd=***"),
        (
            "http://host/v?Access_Token=a=b&API-KEY=c;passWord=d&x=1#auth=e",
            "http://host/v?Access_Token=***&API-KEY=***&x=1#auth=***",
        ),
        ("http://host/v?passage&size=1", "http://host/v?passage&size=1"),
        ("a folder/pwd=x@y?key=z", "a folder/pwd=x@y?key=z"),
        ("camera:0", "camera:0"),
    ],
)
def test_what_is_shown_of_an_address(url: str, shown: str) -> None:
    assert hide_secrets(url) == shown


def test_weights_at_an_address_that_gave_something_else_at_first(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "served" / "a.pth").write_text("<html>please log in</html>")
    with pytest.raises(InputError, match=r"a\.pth holds no weights: it is a web page"):
        read_checkpoint(url_of(server, "a.pth"))
    torch.save({"model": {"image_encoder.trunk.pos_embed": torch.zeros(1)}}, tmp_path / "served" / "a.pth")
    assert read_checkpoint(url_of(server, "a.pth")).kind == "sam2"
    (tmp_path / "own.pth").write_text("no download")
    with pytest.raises(InputError, match="holds no weights"):
        read_checkpoint(tmp_path / "own.pth")
    assert (tmp_path / "own.pth").is_file()


def test_a_file_that_cannot_be_made_is_called_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(temporary: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(temporary))

    for name in ("open", "unlink"):  # what a read-only file system says to either
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(OSError, match=r"Read-only") as caught, atomic_write(tmp_path / "report.html", "w"):
        pytest.fail("there is nothing to write to")
    assert caught.value.filename == str(tmp_path / "report.html")


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000, "\x00"])
def test_what_is_no_json_object_is_read_as_an_empty_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert read_json_object(tmp_path / "a.json") == {}
    assert read_json_object(tmp_path / "absent.json") is None
