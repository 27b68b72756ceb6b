"""The program as people meet it: a process of its own with the nano network, reached over HTTP by four at once."""

from __future__ import annotations

import io
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.media import Frame, open_media
from engine.results import VideoFile
from engine.segmentation import segment
from engine.web.examples import list_examples
from models.build import load_model
from models.model_folder import read_folder_config, require_shipped
from tests.web.page_client import PageClient, together
from util.naming import safe_names

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
USERS, RUNS = 4, 5


@dataclass(frozen=True)
class Task:
    """What somebody asks for: a part of the shipped clip of their own, and two sentences."""

    clip: Path
    sentences: tuple[str, str]


class Server:
    """`app.py` in a process of its own, with a folder for its files."""

    def __init__(self, model: Path, files: Path) -> None:
        files.mkdir()
        self.files = files
        environment = {"TMPDIR": str(files), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "app.py", "--resume", str(model), "--device", "cpu", "--port", str(free_port())],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.said: list[str] = []
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.search(r"the page is at (\S+)", line):
                self.url = found[1]
                break
        else:
            raise AssertionError("".join(self.said))
        threading.Thread(target=self.said.extend, args=(self.process.stdout,), daemon=True).start()

    def resident(self) -> int:
        """Bytes that it holds when all visitors have gone."""
        eventually(lambda: not [file for visits in self.files.glob("*/visits") for file in visits.iterdir()])
        time.sleep(1.0)  # memory is given back after the files are deleted
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def stop(self) -> int:
        """Ask it to end; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60.0)


@pytest.fixture
def model() -> Path:
    folder = require_shipped("nano")
    assert folder is not None
    return folder


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[Server]:
    server = Server(model, tmp_path / "server")
    yield server
    server.process.kill()


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    """Twenty, no two of the same frames."""
    (example,) = list_examples()
    frames, known = list(open_media(str(example.path))), example.sentences.splitlines()
    clips = tmp_path / "clips"
    clips.mkdir()
    return [
        Task(
            write_part(clips / f"{number}.mp4", frames[number : number + 3 + number % USERS]),
            (known[number % len(known)], known[(number + 1 + number // USERS % (len(known) - 1)) % len(known)]),
        )
        for number in range(USERS * RUNS)
    ]


def write_part(path: Path, frames: list[Frame]) -> Path:
    video = VideoFile(path, Fraction(8))
    for frame in frames:
        video.add(frame)
    video.finish()
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it has not come about")


def run_on_page(client: PageClient, task: Task) -> np.ndarray:
    """(T, E, H, W) bool: what somebody has in the zip that the page gives for a task."""
    assert "Now say what to look for" in client.open(task.clip.name, task.clip.read_bytes())
    assert "Done" in client.call("run", "\n".join(task.sentences), 0.5)["status"]
    saved = client.call("save_masks", 0.5)["collect"]
    assert Path(saved["path"]).name == f"{task.clip.stem}-masks.zip"
    found: dict[str, list[np.ndarray]] = {name: [] for name in safe_names(task.sentences)}
    with zipfile.ZipFile(io.BytesIO(client.http.get(f"gradio_api/file={saved['path']}").content)) as archive:
        for name in sorted(archive.namelist()):
            mask = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_UNCHANGED)
            assert mask is not None
            found[name.partition("/")[0]].append(mask > 0)
    return np.stack([np.stack(masks) for masks in found.values()], axis=1)


@pytest.mark.usefixtures("one_thread")
def test_twenty_runs_of_four_people_at_once(server: Server, model: Path, tasks: list[Task]) -> None:
    """Each gets what its own video and sentences give alone, and the process is as large as before."""
    network, _ = load_model(read_folder_config(model).model, resume=str(model))
    expected = [segment(network, task.clip, task.sentences).masks for task in tasks]
    assert len({masks.tobytes() for masks in expected}) > len(tasks) // 2  # some may be empty
    found: dict[int, np.ndarray] = {}

    def visit(user: int, name: str, runs: int) -> None:
        client = PageClient(server.url, f"{name} {user}")
        for number in range(user, runs * USERS, USERS):
            found[number] = run_on_page(client, tasks[number])
        client.leave()

    def everybody(name: str, runs: int) -> int:
        """All at once; returns the bytes of the process when they have gone."""
        assert together(*[lambda user=user: visit(user, name, runs) for user in range(USERS)]) == []
        return server.resident()

    before = everybody("first", 1)
    found.clear()
    after = everybody("user", RUNS)
    assert [number for number, masks in enumerate(expected) if not np.array_equal(found[number], masks)] == []
    assert after < 1.05 * before
    assert server.stop() == 0, "".join(server.said)
    assert list(server.files.iterdir()) == []
