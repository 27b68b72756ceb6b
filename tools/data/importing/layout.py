"""The folder of an import: finished clips that wait, clips in their places, and the metadata of MeViS.

    OUT/SPLIT/JPEGImages/NAME/00000.jpg, OUT/SPLIT/{meta_expressions,meta_expressions_v2,mask_dict}.json
    OUT/.import/waiting/SPLIT/NAME/{frames/, record.json}     converted, not yet in place
    OUT/.import/records/SPLIT/NAME.json                       of a clip that is in its place

Metadata are taken away before clips move and come last: a data set that is there is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.mevis import META_FILES
from tools.data.importing.convert import FRAMES, RECORD, VERSION, Options, Task
from tools.data.importing.fingerprints import Fingerprints
from tools.data.importing.plan import Clip, Sentence
from tools.data.importing.problems import Note
from tools.data.importing.tables import HIDDEN_SPLIT
from tools.data.refshapes.files import frame_names
from tools.data.refshapes.layouts import write_json
from util.errors import InputError
from util.paths import atomic_write_json

STATE = ".import"
MASKS = "mask_dict.json"
Record = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """The folder `out` of an import."""

    out: Path

    @property
    def state(self) -> Path:
        """What the next import wants to know."""
        return self.out / STATE

    def check(self) -> None:
        """Raise an InputError if the folder holds something else than an import."""
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out} is a file: give a folder as --out")
        if self.out.is_dir() and any(self.out.iterdir()) and not self.state.is_dir():
            raise InputError(f"{self.out} is not empty and was not made by this program; give a new folder as --out")

    def task(self, clip: Clip, options: Options, hashes: Fingerprints) -> Task:
        """What there is to do for a clip; every path of it has been read by `hashes`."""
        masks = [
            [list(mask.rles) if mask.path is None else hashes.of(mask.path), mask.object, mask.shown]
            for mask in clip.masks
        ]
        decisive = [VERSION, clip.split, clip.name, clip.video, hashes.of(clip.path), clip.start, clip.end, masks]
        text = json.dumps([*decisive, options.fps, options.max_side], sort_keys=True)
        folder = self._waiting(clip.split) / clip.name
        return Task(clip, options, folder, hashlib.sha256(text.encode()).hexdigest())

    def is_finished(self, task: Task) -> bool:
        """Whether the clip was converted before from the same input."""
        return self._is_waiting(task) or self._is_placed(task)

    def place(self, tasks: Sequence[Task]) -> list[Record]:
        """Bring finished clips to their places; those of other imports leave the splits of these.

        Returns:
            The record of every clip.
        """
        for split in dict.fromkeys(task.clip.split for task in tasks):
            own = [task for task in tasks if task.clip.split == split]
            folder = self.out / split
            for name in (*META_FILES.values(), MASKS):
                (folder / name).unlink(missing_ok=True)
            (folder / "JPEGImages").mkdir(parents=True, exist_ok=True)
            for task in own:
                if self._is_waiting(task):
                    self._move(task)
            names = {task.clip.name for task in own}
            for old in [path for path in (folder / "JPEGImages").iterdir() if path.name not in names and path.is_dir()]:
                shutil.rmtree(old)
            for old in [path for path in self._records(split).iterdir() if path.stem not in names]:
                old.unlink()
            shutil.rmtree(self._waiting(split), ignore_errors=True)
        return [_read(self._record(task)) for task in tasks]

    def write_metadata(self, split: str, videos_of_split: Sequence[tuple[Clip, Record]]) -> list[Note]:
        """meta_expressions.json, with `_v2` if there are sentences without a target, and mask_dict.json.

        Returns:
            Warnings about sentences whose target is never visible.
        """
        warnings: list[Note] = []
        masks: dict[str, list[Any]] = {}
        videos: dict[int, dict[str, Record]] = {1: {}, 2: {}}
        for number, (clip, record) in enumerate(videos_of_split):
            visible = {
                place: str(len(masks) + index)
                for index, place in enumerate(p for p, rles in enumerate(record["masks"]) if any(rles))
            }
            masks |= {key: record["masks"][place] for place, key in visible.items()}
            entry = {"vid_id": number, "frames": frame_names(record["frames"])}
            expressions = {item.id: _expression(item, visible, split) for item in clip.sentences}
            targets = {key: value for key, value in expressions.items() if value.get("anno_id", True)}
            videos[2][clip.name] = {"expressions": expressions, **entry}
            if targets:
                videos[1][clip.name] = {"expressions": targets, **entry}
            warnings += [
                Note(
                    (item.row,),
                    f"{clip.video}: the target of {item.text!r:.80} is visible in no frame: kept as no-target",
                )
                for item in clip.sentences
                if item.masks and item.id not in targets
            ]
        if split != HIDDEN_SPLIT:
            write_json(self.out / split / MASKS, masks)
        if videos[1] != videos[2]:
            write_json(self.out / split / META_FILES[2], {"videos": videos[2]})
        if videos[1]:
            write_json(self.out / split / META_FILES[1], {"videos": videos[1]})
        elif split == "train":
            warnings.append(Note((), "no sentence of split train has a visible target: there is nothing to train with"))
        return warnings

    def _waiting(self, split: str) -> Path:
        return self.state / "waiting" / split

    def _records(self, split: str) -> Path:
        return self.state / "records" / split

    def _record(self, task: Task) -> Path:
        return self._records(task.clip.split) / f"{task.clip.name}.json"

    def _is_waiting(self, task: Task) -> bool:
        record = _read(task.folder / RECORD)
        return record.get("digest") == task.digest and _holds(task.folder / FRAMES, record)

    def _is_placed(self, task: Task) -> bool:
        record = _read(self._record(task))
        place = self.out / task.clip.split / "JPEGImages" / task.clip.name
        return record.get("digest") == task.digest and _holds(place, record)

    def _move(self, task: Task) -> None:
        """The record first: until the frames are there, the clip still counts as waiting."""
        place = self.out / task.clip.split / "JPEGImages" / task.clip.name
        write_json(self._record(task), _read(task.folder / RECORD))
        if place.exists():
            shutil.rmtree(place)
        (task.folder / FRAMES).replace(place)

    def write_report(self, name: str, value: Any) -> Path:
        """Write JSON to `name` in the folder and return where it is."""
        atomic_write_json(self.out / name, value)
        return self.out / name


def _expression(item: Sentence, visible: dict[int, str], split: str) -> Record:
    if split == HIDDEN_SPLIT:
        return {"exp": item.text}
    places = [place for place in item.masks if place in visible]
    return {"exp": item.text, "obj_id": places, "anno_id": [int(visible[place]) for place in places]}


def _read(path: Path) -> Record:
    """A JSON object; empty if there is none."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _holds(folder: Path, record: Record) -> bool:
    """Whether a folder has as many frames as its record says."""
    return folder.is_dir() and sum(1 for _ in folder.iterdir()) == record["frames"]
