"""What a run leaves behind besides its results: run.json and log.txt."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from datasets.video_index import VideoDataset
from engine.inference.options import InferenceOptions
from models.checkpoint import LoadReport
from models.samwise import SAMWISE
from util.paths import atomic_write_json, read_json_object, sha256_of

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "transformers", "numpy", "opencv-python-headless", "pillow", "pycocotools")
_REPOSITORY = Path(__file__).resolve().parents[2]


def remove_outcome(tree: str, *folders: Path) -> None:
    """Remove what was made of the masks of a run that starts anew: scores, tables, the page and what is sent in.

    Args:
        tree: name of the kind of masks, see `Benchmark`; a zip of another kind stays.
        folders: of results.
    """
    for folder in folders:
        for pattern in ("scores.json", "*.csv", f"{tree}.zip", "report.html"):
            for file in folder.glob(pattern):
                file.unlink(missing_ok=True)  # another shard may start anew, too


def weights_digest(model: SAMWISE) -> str:
    """SHA-256 of all tensors of the network, wherever they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def dataset_digest(dataset: VideoDataset) -> str:
    """SHA-256 of what is segmented: names of videos and frames, expressions and their sentences."""
    listing = [
        [video.name, video.frames, [[expression.id, expression.text] for expression in video.expressions]]
        for video in dataset.videos
    ]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def describe_data(dataset: VideoDataset) -> dict[str, Any]:
    """The part of a run's identity that the data set decides."""
    return {"data set": f"{dataset.name} {dataset.split}", "sentences (sha256)": dataset_digest(dataset)}


def identity_of(model: SAMWISE, dataset: VideoDataset, options: InferenceOptions) -> dict[str, Any]:
    """Everything that decides the masks but for rounding; plain values under names for people."""
    flags = ("eval_clip_window", "threshold", "protocol", "precision")
    return {
        **describe_data(dataset),
        **{f"--{name}": getattr(options, name) for name in flags},
        **describe_network(model),
    }


def describe_network(model: SAMWISE) -> dict[str, Any]:
    """The part of a run's identity that the network and its vocabulary decide."""
    assert model.tokenizer is not None
    network = json.loads(json.dumps(dataclasses.asdict(model.config)))
    return {
        "weights (sha256)": weights_digest(model),
        "vocabulary (sha256)": model.tokenizer.digest,
        **{f"network {name}": value for name, value in _flat(network)},
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, code revision and hardware."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        **found,
        "revision": _revision(),
        "system": platform.platform(),
        "device": f"{device} ({name})",
    }


def _revision() -> str | None:
    """The git commit of the code, with "+" for uncommitted changes; None outside of a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(_REPOSITORY), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def describe_weights(report: LoadReport) -> dict[str, Any]:
    """The files of a network's weights with their hashes, and how many tensors came from where."""
    counts = {name: len(getattr(report, name)) for name in ("loaded", "from_base", "fresh", "ignored")}
    files = [{"path": str(file), "sha256": sha256_of(file)} for file in report.files if file.is_file()]
    return {"files": files, "tensors": counts}


def command_line() -> str:
    """As it would be typed."""
    return shlex.join([Path(sys.executable).name, *sys.argv])


class RunRecord:
    """run.json: says how results were made, from the first moment on, and at the end that they are complete.

    Args:
        path: the file.
        identity: what decides the masks. Timings of earlier runs with the same one are kept, as "attempts".
        content: what else it shall hold; None for what an earlier run with the same identity has noted.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], content: Mapping[str, Any] | None) -> None:
        self._path = path
        earlier = read_json_object(path) or {}
        if earlier.get("identity") != identity:
            earlier = {}
        self._content = {"complete": False, "command": command_line(), **(earlier if content is None else content)}
        self._content |= {"complete": False, "identity": identity, "attempts": earlier.get("attempts", [])}
        self._write()

    def add_timing(self, timings: Sequence[Mapping[str, float]]) -> None:
        """Note and print what every process did and the seconds that it took, see `Clocks`.

        Decoding and writing run beside the model; "write" is a sum over threads.
        """
        sums = {name: round(sum(timing[name] for timing in timings), 3) for name in timings[0]}
        sums["total"] = round(max(timing["total"] for timing in timings), 3)
        rates = {f"{name}_per_second": round(sums[name] / sums["total"], 3) for name in ("frames", "masks")}
        self._content["attempts"] = [*self._content["attempts"], {**sums, **rates, "processes": list(timings)}]
        logger.info(
            "%d frames, %d masks in %.1f s (%.2f frames/s); decode %.1f s, model %.1f s, post-processing %.1f s, "
            "writing %.1f s",
            *(sums[name] for name in ("frames", "masks", "total")),
            rates["frames_per_second"],
            *(sums[name] for name in ("decode", "model", "postprocess", "write")),
        )

    def complete(self) -> None:
        """Note that all results are there."""
        self._content["complete"] = True
        self._write()

    def _write(self) -> None:
        atomic_write_json(self._path, self._content)


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Nothing: a log that cannot be written (a full disk) must not hide the error that matters."""


def _note(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({"levelname": "INFO", "levelno": logging.INFO, "msg": text})


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append the records of all loggers to a file, too, for the time of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    handler.handle(_note(f"started: {command_line()}"))
    try:
        yield
    except BaseException as error:
        handler.handle(_note(f"stopped: {type(error).__name__} {error}"))
        raise
    finally:
        root.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()
