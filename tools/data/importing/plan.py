"""From the rows of a table to clips: a split, a name and masks for each, sentences with ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.video_index import fold
from tools.data.importing.problems import Note
from tools.data.importing.tables import HIDDEN_SPLIT, NO_TARGET, Row
from util.naming import safe_names


@dataclass(frozen=True)
class MaskSource:
    """The masks of one object in one video.

    Attributes:
        path: a video, a folder of PNGs, a PNG or a JSON file; None: `rles` are the masks.
        rles: a COCO RLE or None per frame.
        object: its number in the PNGs; None: every pixel that is not background.
        shown: what to call it in messages.
    """

    path: Path | None
    rles: tuple[Any, ...]
    object: int | None
    shown: str


@dataclass(frozen=True)
class Sentence:
    """An expression: the row it comes from, and the places of its masks in `Clip.masks` (none: no target)."""

    row: int
    id: str
    text: str
    masks: tuple[int, ...]


@dataclass(frozen=True)
class Clip:
    """A video, or a part of one, that becomes a video of the data set.

    Attributes:
        split: train, valid_u or valid.
        name: of its folder.
        video: as in the table.
        path: of the video.
        start, end: first and last frame; None: those of the video.
        masks: what the sentences share; empty in the split without masks.
        sentences: in the order of the table.
    """

    split: str
    name: str
    video: str
    path: Path
    start: int | None
    end: int | None
    masks: tuple[MaskSource, ...]
    sentences: tuple[Sentence, ...]

    def rows(self, mask: int | None = None) -> tuple[int, ...]:
        """The rows that name this clip, or its masks at place `mask`."""
        return tuple(each.row for each in self.sentences if mask is None or mask in each.masks)


@dataclass(frozen=True)
class Places:
    """Where the data are: the folder of the videos, and the folder in which paths of masks start."""

    videos: Path
    masks: Path


Part = tuple[str, int | None, int | None]  # video, start, end


def plan(
    rows: Sequence[Row], places: Places, split: str | None, valid_share: float
) -> tuple[list[Clip], list[Note], list[Note]]:
    """Group rows to clips. Nothing is opened; whether files are there is checked.

    Args:
        rows: of `read_table`.
        split: of rows that name none; None: whole videos are shared out over train and valid_u.
        valid_share: the part of these videos that goes to valid_u, from 0 to below 1.

    Returns:
        Clips in the order of the table, faults, and warnings.
    """
    faults: list[Note] = []
    warnings: list[Note] = []
    present = _present(rows, places, faults)
    chosen = _splits(rows, split, valid_share, warnings)
    groups: dict[tuple[str, Part], list[Row]] = {}
    for row in present:
        groups.setdefault((chosen[row.number], (row.video, row.start, row.end)), []).append(row)
    parts = list(dict.fromkeys(part for _, part in groups))
    names = dict(zip(parts, safe_names([_base_name(part, places) for part in parts]), strict=True))
    clips = [
        _clip(own_split, names[part], part, members, places, faults, warnings)
        for (own_split, part), members in groups.items()
    ]
    unused = tuple(row.number for row in present if chosen[row.number] == HIDDEN_SPLIT and row.masks is not None)
    if unused:
        warnings.append(Note(unused, f"split {HIDDEN_SPLIT} has no masks, these are left alone; valid_u is scored"))
    return clips, faults, warnings


def _present(rows: Sequence[Row], places: Places, faults: list[Note]) -> list[Row]:
    """The rows whose files are there; a fault for each file that is not."""
    missing: dict[str, list[int]] = {}
    for row in rows:
        needed = {f"{row.video}: no such video in {places.videos}": places.videos / row.video}
        if isinstance(row.masks, str) and row.masks != NO_TARGET:
            needed[f"{row.masks}: no such masks in {places.masks}, the folder of the table"] = places.masks / row.masks
        for problem, path in needed.items():
            if not path.exists():
                missing.setdefault(problem, []).append(row.number)
    faults += [Note(tuple(numbers), problem) for problem, numbers in missing.items()]
    absent = {number for numbers in missing.values() for number in numbers}
    return [row for row in rows if row.number not in absent]


def _splits(rows: Sequence[Row], split: str | None, valid_share: float, warnings: list[Note]) -> dict[int, str]:
    """Row number -> split. A row without one goes where other rows of its video are, else by `split` or share."""
    told: dict[str, dict[str, None]] = {}
    for row in rows:
        told.setdefault(row.video, {})
        if row.split:
            told[row.video][row.split] = None
    for video, splits in told.items():
        if len(splits) > 1 and "train" in splits:
            numbers = tuple(row.number for row in rows if row.video == video)
            warnings.append(Note(numbers, f"{video} is in {' and '.join(splits)}: scores on known videos flatter"))
    open_videos = sorted(
        (v for v, splits in told.items() if not splits), key=lambda v: hashlib.sha256(v.encode()).digest()
    )
    count = 0
    if split is None and valid_share > 0 and len(open_videos) > 1:
        count = min(max(round(valid_share * len(open_videos)), 1), len(open_videos) - 1)
    shared = {video: "valid_u" if place < count else "train" for place, video in enumerate(open_videos)}
    return {row.number: row.split or next(iter(told[row.video]), None) or split or shared[row.video] for row in rows}


def _base_name(part: Part, places: Places) -> str:
    video, start, end = part
    path = PurePosixPath(video)
    text = str(path) if (places.videos / video).is_dir() else str(path.with_suffix(""))
    if start is None and end is None:
        return text
    return f"{text}_{start or 0}-{'end' if end is None else end}"


def _clip(
    split: str, name: str, part: Part, rows: Sequence[Row], places: Places, faults: list[Note], warnings: list[Note]
) -> Clip:
    video, start, end = part
    sources: dict[str, tuple[int, MaskSource]] = {}
    targets: dict[int, tuple[int, ...]] = {}
    for row in rows:
        if split == HIDDEN_SPLIT or row.masks == NO_TARGET:
            targets[row.number] = ()
        elif row.masks is None:
            problem = (
                f"no masks: only split {HIDDEN_SPLIT} goes without; write {NO_TARGET} if the sentence has no target"
            )
            faults.append(Note((row.number,), problem))
        else:
            keys = {_key(source): source for source in _sources(row, places)}
            targets[row.number] = tuple(sources.setdefault(key, (len(sources), own))[0] for key, own in keys.items())
    known = [row for row in rows if row.number in targets]
    _check_sentences(video, known, targets, faults, warnings)
    ids = _ids(known, faults)
    sentences = tuple(Sentence(row.number, ids[row.number], row.sentence, targets[row.number]) for row in known)
    masks = tuple(source for _, source in sources.values())
    return Clip(split, name, video, places.videos / video, start, end, masks, sentences)


def _sources(row: Row, places: Places) -> list[MaskSource]:
    if isinstance(row.masks, list):
        return [MaskSource(None, tuple(row.masks), None, "the list of masks")]
    assert row.masks is not None
    return [MaskSource(places.masks / row.masks, (), number, row.masks) for number in row.objects or (None,)]


def _key(source: MaskSource) -> str:
    place = source.rles if source.path is None else str(source.path.resolve())
    return json.dumps([place, source.object], sort_keys=True)


def _check_sentences(
    video: str, rows: Sequence[Row], targets: dict[int, tuple[int, ...]], faults: list[Note], warnings: list[Note]
) -> None:
    """Rows that say the same about the same video."""
    said: dict[str, list[Row]] = {}
    for row in rows:
        said.setdefault(fold(row.sentence), []).append(row)
    for same in said.values():
        numbers = tuple(row.number for row in same)
        if len({frozenset(targets[number]) for number in numbers}) < len(numbers):
            faults.append(
                Note(numbers, f"{video}: duplicate rows, {same[0].sentence!r:.80} is there {len(same)} times")
            )
        elif len(numbers) > 1:
            problem = f"{video}: {same[0].sentence!r:.80} has several masks: one row with the masks of all is better"
            warnings.append(Note(numbers, problem))


def _ids(rows: Sequence[Row], faults: list[Note]) -> dict[int, str]:
    """Row number -> id of its expression: the one it gives, or the next number that is free."""
    taken: dict[str, int] = {}
    for row in rows:
        if row.id:
            first = taken.setdefault(row.id.casefold(), row.number)
            if first != row.number:
                faults.append(Note((first, row.number), f"{row.video}: id {row.id!r} twice (case does not count)"))
    free = (str(number) for number in range(len(rows) + len(taken)) if str(number) not in taken)
    return {row.number: row.id or next(free) for row in rows}
