"""The files of a run's folder: run.json (or one per shard), scores.json and CSV tables, checked while they are read."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from util.errors import InputError

RECORD = "run.json"
BENCHMARKS = ("mevis", "ytvos", "davis")
_SHARD_RECORDS = "run-shard-*.json"
_DATA_SET = "data set"
_USUAL_SPLITS = {"mevis": "valid_u", "ytvos": "valid", "davis": "valid"}
_DEFAULTS = {
    "mevis_path": "data/MeViS_release",
    "mevis_version": None,
    "ytvos_path": "data/ref-youtube-vos",
    "davis_path": "data/ref-davis",
    "set": "val",
    "task": "unsupervised",
    "allow_partial": False,
    "results_path": None,
}


@dataclass(frozen=True)
class RunFiles:
    """What a run's folder says about itself.

    Attributes:
        folder: of the run.
        records: file name -> content; empty if no inference of this project made the masks.
        benchmark, split: names of the data set and its part.
        flags: values of the flags that name data and masks.
        predictions: where the masks are, if the user said so.
    """

    folder: Path
    records: dict[str, dict[str, Any]]
    benchmark: str
    split: str
    flags: Mapping[str, Any]
    predictions: Path | None


def read_run(folder: Path, given: Mapping[str, Any]) -> RunFiles:
    """Read what made the masks.

    Args:
        folder: of the run.
        given: flags of the command line that the user gave, besides those of `RunFiles.flags` also `dataset_file`,
            `split` and `predictions`; they come before what the record says.

    Raises:
        InputError: no or no complete record, or one that contradicts `given`.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder of a run's results (output/NAME)")
    records = _read_records(folder)
    benchmark, split = _data_set(folder, records, given)
    recorded: dict[str, Any] = {}
    for record in reversed(list(records.values())):
        flags = record.get("flags")
        recorded |= flags if isinstance(flags, dict) else {}
    flags = {name: given.get(name, recorded.get(name, default)) for name, default in _DEFAULTS.items()}
    return RunFiles(folder, records, benchmark, split, flags, given.get("predictions"))


def _read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """run.json first; then, where it comes from a merge and knows no flags, the shards' records."""
    shards = sorted(folder.glob(_SHARD_RECORDS))
    if not (folder / RECORD).is_file():
        if shards:
            raise InputError(f"{folder} holds shards that are not merged yet; run the inference with --merge first")
        return {}
    record = read_object(folder / RECORD, "run the inference again")
    if "steps" in record and "identity" not in record:
        raise InputError(
            f"{folder}: expected the results of an inference, found a training; tools/plot_log.py draws its curves, "
            "and its evaluations are in the folder evaluation"
        )
    if record.get("complete") is not True:
        raise InputError(f"{folder / RECORD} says that the run is not finished; run the same command again to go on")
    records = {RECORD: record}
    if "flags" not in record:
        records |= {shard.name: read_object(shard, "run this shard again") for shard in shards}
    return records


def _data_set(folder: Path, records: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> tuple[str, str]:
    """Name and split of the data set."""
    if not records:
        benchmark = given.get("dataset_file")
        if benchmark is None:
            raise InputError(
                f"{folder / RECORD} is missing: give the folder of a finished run, or for masks that were made "
                f"otherwise --dataset_file ({', '.join(BENCHMARKS)})"
            )
        return benchmark, given.get("split", _USUAL_SPLITS[benchmark])
    identity = records[RECORD].get("identity")
    if isinstance(identity, dict) and _DATA_SET not in identity and (folder / "results").is_dir():
        raise InputError(
            f"{folder}: expected the run of a video benchmark, found RefCOCO, which has no report; scores.json and "
            "results/*/*/expressions.csv hold its scores"
        )
    names = str(identity.get(_DATA_SET) if isinstance(identity, dict) else None).split()
    if len(names) != 2 or names[0] not in BENCHMARKS:
        raise InputError(
            f"{folder / RECORD} does not name its data set (identity, {_DATA_SET}); expected one of "
            f"{', '.join(BENCHMARKS)} and a split; run the inference again"
        )
    for flag, name in zip(("dataset_file", "split"), names, strict=True):
        if given.get(flag, name) != name:
            raise InputError(f"--{flag} {given[flag]}: {folder / RECORD} says {name}; leave the flag out")
    return names[0], names[1]


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """A JSON object.

    Args:
        remedy: what a user can do if it is missing or damaged.

    Raises:
        InputError: it is.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable as JSON ({error}); {remedy}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a JSON {type(value).__name__}, expected an object; {remedy}")
    return value


def read_table(path: Path, remedy: str) -> list[dict[str, str]]:
    """The rows of a CSV file with a header; raises as `read_object`."""
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; {remedy}") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is not readable as CSV ({error}); {remedy}") from error


def number(value: Any) -> float:
    """A finite number; raises ValueError or TypeError if it is none."""
    result = float(value)
    if not math.isfinite(result):
        raise ValueError(f"{value} is not a finite number")
    return result
