"""Passwords in addresses of streams and files stay out of what is written."""

from __future__ import annotations

import functools
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datasets.media import LiveSource, open_source
from datasets.media_live import _address
from engine.live import LiveOptions, _facts_of, segment_source
from models.samwise import SAMWISE
from tests.media_files import write_video


@pytest.mark.parametrize("password", ["sec@ret", 'sec"ret', "sec\\ret", "sec\nret"])
def test_a_password_with_special_characters_is_not_written_down(password: str) -> None:
    """Neither as it is nor as JSON writes it."""
    address = f"rtsp://me:{password}@192.0.2.7/s?token=secret"
    source = LiveSource(_address(address, 10), None, (4, 4), None)
    facts = {"flags": {"input_path": address, "text_prompts": ["a", "b"], "seed": 0}, "command": [f"x {address} y"]}
    record = _facts_of(source, facts)
    shown = "rtsp://***@192.0.2.7/s?token=***"
    assert record["input"]["path"] == shown
    assert record["flags"] == {"input_path": shown, "text_prompts": ["a", "b"], "seed": 0}
    assert record["command"] == [f"x {shown} y"]


def test_a_password_of_a_file_is_not_written_down(
    micro_model: SAMWISE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    write_video(tmp_path / "video.mp4", 2)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://me:secret@127.0.0.1:{server.server_address[1]}/video.mp4?key=secret"
        facts = {"flags": {"input_path": url}}
        source = open_source(url)
        server.shutdown()
    path = segment_source(
        micro_model, source, ["the red disc"], tmp_path / "out", live=LiveOptions(), facts=facts, progress=False
    )
    assert "secret" not in path.read_text()
    record = json.loads(path.read_text())
    assert record["flags"]["input_path"] == record["input"]["path"] == url.replace("me:secret", "***")[:-6] + "***"
