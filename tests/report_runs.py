"""Finished runs on tiny data sets, for tests of what reads their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.mevis import open_mevis
from datasets.video_index import VideoDataset
from tests.benchmark_files import frame_names, labels, write_davis, write_json, write_mevis
from tools import evaluate


def write_predictions(folder: Path, dataset: VideoDataset) -> None:
    """One mask per expression and frame: what `labels` calls object 1, lower by a row for every expression."""
    for video in dataset.videos:
        for place, expression in enumerate(video.expressions):
            own = folder / video.name / expression.id
            own.mkdir(parents=True)
            for index, frame in enumerate(video.frames):
                mask = np.roll(labels(index, video.frame_size()) == 1, place, axis=0)
                Image.fromarray(mask.astype(np.uint8) * 255).save(own / f"{frame}.png")


def write_record(folder: Path, data_set: str, **flags: Any) -> None:
    record = {"complete": True, "command": "python3 inference.py --resume 'a b.pth'", "flags": flags}
    write_json(folder / "run.json", {**record, "identity": {"data set": data_set}})


def scored_mevis(root: Path) -> Path:
    """A run on MeViS as inference and scoring leave it: ROOT/run; the data are in ROOT/data."""
    write_mevis(root / "data")
    write_predictions(root / "run" / "Annotations", open_mevis(root / "data", "valid_u"))
    options = ["--mevis_path", str(root / "data"), "--output_dir", str(root / "run"), "--num_workers", "0"]
    evaluate.main(["mevis", str(root / "run" / "Annotations"), *options])
    write_record(root / "run", "mevis valid_u", mevis_path=str(root / "data"), split="valid_u")
    return root / "run"


def davis_run(root: Path) -> Path:
    """Annotator 1 confuses the two objects, annotator 2 finds only the first."""
    write_davis(root / "data")
    listing = root / "data" / "DAVIS" / "ImageSets" / "2017" / "val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("walk\n")
    masks = root / "run" / "eval_davis" / "valid"
    for annotator, numbers in enumerate(([0, 1, 2], [0, 2, 1], [0, 1, 0], [0, 1, 2])):
        folder = masks / f"anno_{annotator}" / "walk"
        folder.mkdir(parents=True)
        for index, frame in enumerate(frame_names(2)):
            image = Image.fromarray(np.array(numbers, np.uint8)[labels(index)]).convert("P")
            image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
            image.save(folder / f"{frame}.png")
    options = ["--davis_path", str(root / "data"), "--output_dir", str(root / "run"), "--num_workers", "0"]
    evaluate.main(["davis", str(masks), *options])
    write_record(root / "run", "davis valid", davis_path=str(root / "data"), set="val")
    return root / "run"
