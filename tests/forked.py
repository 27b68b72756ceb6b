"""Code that runs in a process of its own, to be killed or to have partners: a fork, so that it starts at once."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from util.locks import exclusive_folder

PATIENCE = 120.0  # seconds after which a test gives up


class Forked:
    """A process that calls `function` and ends: with 0, with SystemExit's status, or with 1 after an exception."""

    def __init__(self, function: Callable[[], object], environment: dict[str, str] | None = None) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        gc.collect()  # what ends threads when it is freed (FFmpeg's converters) must not be freed in the fork
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.environ.update(environment or {})
                torch.set_num_threads(1)  # OpenMP's threads are gone in a fork
                tqdm.set_lock(threading.RLock())  # the usual one is shared, and a killed process would keep it locked
                function()
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for the end; the exit status, or minus the number of the signal that ended it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        self.send(signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise TimeoutError(f"process {self.pid} did not end")

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "gave up waiting"
            time.sleep(0.004)


def holding(folder: Path) -> Forked:
    """A process that has a folder of results to itself until it is killed."""
    held = folder.parent / f"{folder.name}.held"

    def work() -> None:
        with exclusive_folder(folder):
            held.touch()
            threading.Event().wait()

    child = Forked(work)
    child.wait_until(held.exists)
    held.unlink()
    return child


def partners(function: Callable[[], object], size: int) -> list[Forked]:
    """`size` processes with the environment that torchrun would give them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [Forked(function, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(size)]
