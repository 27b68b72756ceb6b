"""Runs stages one after the other, each once: what is done is noted in a file and passed over the next time."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from util.errors import InputError
from util.interrupts import sigterm_as_interrupt
from util.paths import atomic_write_json, read_json_object

ROOT = Path(__file__).resolve().parents[2]
MARKERS = "stages"
# Programs that several processes can share.
SHARED = ("main.py", "main_pretrain.py", "inference_mevis.py", "tools/train_stand_in.py")
Execute = Callable[[Sequence[str]], int]


def no_results() -> Mapping[str, Any]:
    """Of a stage whose products say all."""
    return {}


@dataclass(frozen=True)
class Stage:
    """One command of the project.

    Attributes:
        name: of its marker and its line.
        group: what --only and --skip name.
        command: the program, relative to the project's folder, and its arguments: what a user would type there.
        products: files that are there when it has come to its end.
        training: the folder of a training's results: where that has checkpoints, the training goes on.
        results: read after the command; go to the marker.
        repeated: run it every time.
    """

    name: str
    group: str
    command: tuple[str, ...]
    products: tuple[Path, ...]
    training: Path | None = None
    results: Callable[[], Mapping[str, Any]] = no_results
    repeated: bool = False

    @property
    def typed(self) -> str:
        """The command line."""
        return shlex.join(["python", *self.command])

    def to_run(self) -> tuple[str, ...]:
        """The command, with `--resume auto` where it goes on with an interrupted training.

        The checkpoint knows the files of the frozen weights: these are not named again.
        """
        if self.training is None or not any((self.training / "checkpoints").glob("checkpoint_*.pth")):
            return self.command
        command = list(self.command)
        for flag in ("--resume", "--sam2_weights"):
            if flag in command:
                place = command.index(flag)
                del command[place : place + 2]
        return (*command, "--resume", "auto")


def shown(path: Path) -> str:
    """A path as commands name it: relative to the project's folder if it lies there, else absolute."""
    path = path.resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def execute(command: Sequence[str], processes: int = 1) -> int:
    """Run a command in the project's folder; returns its exit status.

    Trainings and inferences are shared by `processes`, as torchrun starts them, with a part of the cores each.
    Ctrl-C and SIGTERM reach it once, as SIGTERM, and it may come to an orderly end before KeyboardInterrupt goes on.
    """
    arguments, environment = list(command), dict(os.environ)
    if processes > 1 and command[0] in SHARED:
        arguments = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), *command]
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise


def run_stages(stages: Sequence[Stage], out: Path, run: Execute = execute) -> None:
    """Run what is not done yet.

    Args:
        stages: in their order.
        out: gets `MARKERS`/NAME.json of each: its command, the seconds that it took, its results.
        run: runs a command and returns its exit status.

    Raises:
        InputError: a stage failed, or was done with another command.
        KeyboardInterrupt: Ctrl-C or SIGTERM. In both cases what is done stays.
    """
    began = time.perf_counter()
    with sigterm_as_interrupt():
        for number, stage in enumerate(stages, 1):
            head = f"[{number}/{len(stages)}] {stage.name}"
            marker = read_marker(out, stage.name)
            if marker.get("done") and not stage.repeated:
                if marker["command"] != stage.typed:
                    raise InputError(
                        f"{marker_path(out, stage.name)}: this stage was done as {marker['command']!r}, now it is "
                        f"{stage.typed!r}: give the same flags or another --out, or remove the file and the results"
                    )
                print(f"{head}: done before, in {marker['seconds']:.0f} s", flush=True)
                continue
            print(f"{head}: {stage.typed}", flush=True)
            seconds = _run(stage, out, run, 0.0 if stage.repeated else marker.get("seconds", 0.0))
            total = (time.perf_counter() - began) / 60
            print(f"{head}: done in {seconds:.0f} s, {total:.1f} min in all", flush=True)


def _run(stage: Stage, out: Path, run: Execute, earlier: float) -> float:
    """Run one stage and write its marker; returns its seconds, those of `earlier` attempts included."""
    command, began = stage.to_run(), time.perf_counter()
    status: int | None = None
    try:
        status = run(command)
    finally:
        seconds = earlier + time.perf_counter() - began
        missing = [str(product) for product in stage.products if not product.exists()]
        done = status == 0 and not missing
        note = {"stage": stage.name, "group": stage.group, "command": stage.typed, "seconds": seconds, "done": done}
        results = {"results": dict(stage.results())} if done else {}
        atomic_write_json(marker_path(out, stage.name), {**note, **results})
    if not done:
        reason = f"ended with status {status}" if status else f"did not make {', '.join(missing)}"
        raise InputError(f"the stage {stage.name} {reason}; the same command goes on there: {stage.typed}")
    return seconds


def marker_path(out: Path, name: str) -> Path:
    """The file that says what is known of a stage."""
    return out / MARKERS / f"{name}.json"


def read_marker(out: Path, name: str) -> dict[str, Any]:
    """What is known of a stage; empty if it never ran."""
    return read_json_object(marker_path(out, name)) or {}


def read_markers(out: Path) -> list[dict[str, Any]]:
    """All that is known of the stages of a folder, in the order in which they were done.

    Raises:
        InputError: a marker is damaged.
    """
    files = sorted((out / MARKERS).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    try:
        return [json.loads(file.read_bytes()) for file in files]
    except ValueError as error:
        raise InputError(f"a file of {out / MARKERS} is damaged ({error}): remove it") from error
