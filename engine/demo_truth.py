"""The true masks of a video, given beside it, and what a demo run scores against them.

A truth is a JSON file: `{"objects": {NAME: [RLE, null, ...]}, "sentences": {SENTENCE: [NAME, ...]}}`, with one COCO run
length mask per frame of the video, or null where the object is not to be seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.masks import decode_rle, rle_runs
from datasets.media import LiveSource, Media
from datasets.video_index import fold
from engine.inference.pictures import chosen_frames, draw_cell, draw_sheet
from engine.results import SHEET, save_jpeg
from engine.scoring.mask_store import read_mask
from engine.scoring.tables import text_table
from util.errors import InputError
from util.metrics import video_scores
from util.paths import atomic_write_json

_MEASURES = ("J", "F", "J&F")


@dataclass(frozen=True)
class VideoTruth:
    """What sentences mean in a video of T frames.

    Attributes:
        path: of the file.
        frame_size: (H, W).
        objects: name -> T COCO run lengths, or None where the object is not to be seen.
        sentences: sentence, in lower case -> names of the objects it means; none if it means nothing.
    """

    path: Path
    frame_size: tuple[int, int]
    objects: Mapping[str, Sequence[Any]]
    sentences: Mapping[str, Sequence[str]]

    @property
    def length(self) -> int:
        """T."""
        return len(next(iter(self.objects.values())))

    def knows(self, prompt: str) -> bool:
        """Whether a prompt is one of the sentences."""
        return fold(prompt) in self.sentences

    def mask(self, prompt: str, index: int) -> NDArray[np.bool_]:
        """What a prompt means in a frame, (H, W)."""
        mask = np.zeros(self.frame_size, np.bool_)
        for name in self.sentences[fold(prompt)]:
            if (rle := self.objects[name][index]) is not None:
                mask |= decode_rle(rle)
        return mask

    def check(self, source: Media | LiveSource, prompts: Sequence[str]) -> None:
        """Refuse what cannot be compared, before anything is computed.

        Raises:
            InputError: another size or number of frames, or none of the prompts is a sentence of the truth.
        """
        if isinstance(source, LiveSource):
            raise InputError(f"--truth {self.path}: {source.path} is a live source, whose frames are not known before")
        if source.frame_size != self.frame_size or source.length not in (None, self.length):
            found = f"{source.length} frames of {source.frame_size[1]}x{source.frame_size[0]}"
            raise InputError(
                f"--truth {self.path} is of {self.length} frames of {self.frame_size[1]}x{self.frame_size[0]}, "
                f"{source.path} has {found}: give the video that it belongs to, without --fps"
            )
        if not any(map(self.knows, prompts)):
            raise InputError(f"--truth {self.path} has none of these sentences; it has: {'; '.join(self.sentences)}")


def read_truth(path: str | Path) -> VideoTruth:
    """Read and check a truth.

    Raises:
        InputError: it is missing, damaged, or contradicts itself.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text("utf-8"))
        objects, sentences = content["objects"], content["sentences"]
        sizes = {rle_runs(rle)[1] for masks in objects.values() for rle in masks if rle is not None}
        lengths = {len(masks) for masks in objects.values()}
        unknown = {name for names in sentences.values() for name in names} - objects.keys()
    except FileNotFoundError as error:
        raise InputError(f"--truth {path} does not exist: expected a JSON file of true masks") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"--truth {path}: expected JSON with 'objects', run lengths by name, and 'sentences', names by sentence "
            f"(found {type(error).__name__}: {' '.join(str(error).split())[:80]})"
        ) from error
    if len(sizes) != 1 or len(lengths) != 1 or unknown or not sentences:
        raise InputError(
            f"--truth {path}: expected masks of one size, as many for every object, and sentences about them; found "
            f"sizes {sorted(sizes)}, lengths {sorted(lengths)}, and {sorted(unknown) or 'no'} unknown objects"
        )
    return VideoTruth(path, sizes.pop(), objects, {fold(text): names for text, names in sentences.items()})


def report(record_file: Path, source: Media | LiveSource, truth: VideoTruth | None) -> str:
    """What to tell when a run is finished: where its results are and, with a truth, its scores and what to look at."""
    if truth is None or isinstance(source, LiveSource):
        return f"results: {record_file}"
    table = score_results(record_file, source, truth)
    return f"{table}\nresults: {record_file}\nlook at: {record_file.with_name(SHEET)}"


def score_results(record_file: Path, media: Media, truth: VideoTruth) -> str:
    """Compare the masks of a finished run with the truth: adds J, F and J&F to its record and draws a contact sheet.

    Args:
        record_file: the run's result.json; its prompts that the truth knows get scores, and it gets their means.
        media: the source of the run.
        truth: see `VideoTruth.check`.

    Returns:
        a table for people.

    Raises:
        InputError: the run has another number of frames, or a mask cannot be read.
        OSError: a file cannot be written.
    """
    root, record = record_file.parent, json.loads(record_file.read_text("utf-8"))
    known = [prompt for prompt in record["prompts"] if truth.knows(prompt["text"])]
    for prompt in known:
        predicted = [read_mask(root / file) for file in prompt["masks"]]
        j, f = video_scores(predicted, [truth.mask(prompt["text"], index) for index in range(truth.length)])
        prompt.update(zip(_MEASURES, (j.mean(), f.mean(), (j.mean() + f.mean()) / 2), strict=True))
    means = {measure: float(np.mean([prompt[measure] for prompt in known])) for measure in _MEASURES}
    save_jpeg(root / SHEET, _draw(root, media, known, truth))
    atomic_write_json(record_file, {**record, "truth": {"path": str(truth.path), **means}, "contact_sheet": SHEET})
    rows = [[prompt["text"], *(f"{100 * prompt[measure]:.1f}" for measure in _MEASURES)] for prompt in known]
    rows.append(["mean", *(f"{100 * value:.1f}" for value in means.values())])
    return text_table(["sentence (%)", *_MEASURES], rows)


def _draw(root: Path, media: Media, prompts: Sequence[Mapping[str, Any]], truth: VideoTruth) -> np.ndarray:
    """(H, W, 3) uint8: a row per prompt; of some frames the result, and the truth beside it."""
    cells: list[list[np.ndarray]] = [[] for _ in prompts]
    chosen = chosen_frames(truth.length)
    for index, frame in enumerate(media):
        if index in chosen:
            for row, prompt in zip(cells, prompts, strict=True):
                found = read_mask(root / prompt["masks"][index]) > 0
                row.append(draw_cell(frame, [found], f"frame {index}"))
                row.append(draw_cell(frame, [truth.mask(prompt["text"], index)], "truth"))
    titles = [f"{prompt['text']}   (J&F {100 * prompt['J&F']:.1f})" for prompt in prompts]
    return draw_sheet(list(zip(titles, cells, strict=True)))
