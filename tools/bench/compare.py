"""Two sides in one run, alternating: two revisions, or two settings of one.

Each side is a process of its own that keeps a video open and segments a clip when it is told to, so that both have the
machine in turns. The code of this folder measures both; everything else comes from the side's own tree.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from util.errors import InputError

from .end_to_end import Pipeline, Settings, random_model

ROOT = Path(__file__).resolve().parents[2]
# A tree without this folder can run: modules come from the tree, but `bench` from here.
_START = "import sys; sys.path[:0] = [{tree!r}]; sys.path.append({tools!r}); from bench.compare import serve; serve()"


@dataclass(frozen=True)
class Side:
    """One of two.

    Attributes:
        name: in tables.
        tree: root of the code.
        settings: what it runs.
    """

    name: str
    tree: Path
    settings: Settings


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """The tree of a git revision in a temporary folder.

    Raises:
        InputError: git does not know it.
    """
    with tempfile.TemporaryDirectory(prefix="revision-") as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "--detach", "--quiet", str(tree), revision)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"git {' '.join(arguments[:2])} failed: {done.stderr.strip() or 'no message'}")


class Worker:
    """The process of one side; use it as a context, which ends it."""

    def __init__(self, side: Side, threads: int) -> None:
        start = _START.format(tree=str(side.tree), tools=str(ROOT / "tools"))
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, "-c", start], cwd=side.tree, **pipes)
        self.side = side
        self.ask({"settings": asdict(side.settings), "threads": threads})

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._in.close()
        self._process.wait()

    @property
    def _in(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Let the side do something and wait for its answer.

        Raises:
            InputError: the process has ended; its own message is on the terminal.
        """
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._in.write(json.dumps(question) + "\n")
            self._in.flush()
        line = self._process.stdout.readline()
        if not line:
            raise InputError(f"{self.side.name} failed with status {self._process.wait()}: see its message above")
        return json.loads(line)


def alternate_clips(sides: Sequence[Side], repeats: int, threads: int) -> dict[str, list[float]]:
    """Seconds per frame of `repeats` clips of each side, in turns, after each one's memory has filled."""
    found: dict[str, list[float]] = {side.name: [] for side in sides}
    bar = tqdm(total=repeats * len(sides), desc=f"{sides[0].settings.version}, in turns", unit="clip")
    with bar, contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(side, threads)) for side in sides]
        for _ in range(repeats):
            for worker in workers:
                found[worker.side.name].append(worker.ask({})["seconds_per_frame"])
                bar.update()
    return found


def serve() -> None:
    """The process of a side: reads questions, one JSON object a line; the first has the settings."""
    import torch

    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is no answer
    first = json.loads(sys.stdin.readline())
    torch.set_num_threads(first["threads"])
    settings = Settings(**first["settings"])
    with tempfile.TemporaryDirectory() as folder, Pipeline(random_model(settings), settings, Path(folder)) as pipeline:
        pipeline.fill()
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for _ in sys.stdin:
            clip = pipeline.clip()
            print(json.dumps({"seconds_per_frame": clip.seconds / clip.frames}), file=answers, flush=True)
