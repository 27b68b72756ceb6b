"""Commands that several stages of the study have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from engine.train.log import LOG_NAME
from tools.data.make_refshapes import SUMMARY as FACTS
from tools.study.places import PRETRAIN, SPLIT, Places
from tools.study.runner import Stage, shown
from tools.study.settings import Settings

_LAST_STEPS = 50  # over which the final loss is a mean


def official(scores: Path) -> Mapping[str, Any]:
    """J, F and J&F of a scores.json."""
    return json.loads(scores.read_bytes())["official"]


def training_results(folder: Path) -> Mapping[str, Any]:
    """Steps of a training, and its mean loss over the last of them."""
    lines = [json.loads(line) for line in (folder / LOG_NAME).read_text("utf-8").splitlines()]
    losses = [line["losses"]["total"] for line in lines if "losses" in line]
    last = losses[-_LAST_STEPS:]
    return {"steps": len(losses), "loss": sum(last) / len(last)}


def pretrained(places: Places) -> tuple[str, ...]:
    """Flags that begin with the adapters of main_pretrain.py."""
    return "--sam2_weights", shown(places.stand_in), "--resume", shown(places.last(PRETRAIN))


def training(places: Places, settings: Settings, group: str, run: str, steps: int, flags: tuple[str, ...]) -> Stage:
    """main.py on the clips; `flags` say from which weights."""
    command = (
        "main.py", "--sam2_version", "nano", *flags,
        "--dataset_file", "mevis", "--mevis_path", shown(places.data / "MeViS_release"),
        "--num_frames", str(settings.clip_frames), "--batch_size", str(settings.finetune_batch),
        *schedule(steps, settings.finetune_lr), "--output_dir", shown(places.runs), "--name_exp", run,
        "--num_workers", str(settings.num_workers),
    )  # fmt: skip
    folder = places.runs / run
    return Stage(run, group, command, (places.last(run),), folder, partial(training_results, folder))


def schedule(steps: int, lr: float) -> tuple[str, ...]:
    """Flags of a training of so many steps, the last fifth of them at a tenth of the learning rate."""
    drop = max(1, steps * 4 // 5)
    length = ("--epochs", "1000", "--max_iterations", str(steps))
    return ("--lr", f"{lr:g}", "--lr_drop", str(drop), *length, "--no_evaluation")


def inference(
    places: Places,
    settings: Settings,
    group: str,
    run: str,
    weights: tuple[str, ...],
    mevis: Path,
    flags: tuple[str, ...] = (),
    split: str = SPLIT,
) -> Stage:
    """inference_mevis.py on a split, with scores where there is ground truth."""
    command = (
        "inference_mevis.py", "--split", split, "--mevis_path", shown(mevis), *weights, *flags,
        "--output_dir", shown(places.runs), "--name_exp", run, "--num_workers", str(settings.num_workers),
    )  # fmt: skip
    if split != SPLIT:
        return Stage(run, group, command, (places.masks(run).with_suffix(".zip"),))
    return Stage(run, group, command, (places.scores(run),), results=partial(official, places.scores(run)))


def split_of(places: Places, group: str, out: Path, videos: int, *, late: bool = False) -> Stage:
    """The first videos of the evaluation split, or first of those with late distractors, as a data set of their own."""
    change = ("late", "--refshapes", shown(places.data / FACTS)) if late else ("first",)
    mevis = shown(places.data / "MeViS_release")
    command = ("tools/study/splits.py", *change, mevis, "--videos", str(videos), "--out", shown(out))
    return Stage(out.name, group, command, (out / SPLIT / "meta_expressions.json",))
