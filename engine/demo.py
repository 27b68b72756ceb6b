"""From a source of frames and some sentences to files: decoding ahead of the model, writing behind it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets.media import Frame, Media
from engine.infer import open_session, stream
from engine.results import ResultFolder
from engine.runtime import float32_arithmetic
from models.samwise import SAMWISE
from util.background import prefetch
from util.errors import InputError
from util.interrupts import sigterm_as_interrupt
from util.paths import writable_folder
from util.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


def clean_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts with white space folded; one that occurs twice is used once, with a warning.

    Raises:
        InputError: no prompt, an empty one, or one that is no valid Unicode.
    """
    cleaned: list[str] = []
    for number, prompt in enumerate(prompts, 1):
        text = " ".join(prompt.split())
        if not text:
            raise InputError(f"--text_prompts: expected a sentence, but number {number} is empty")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InputError(f"--text_prompts: number {number} ({ascii(text)[:60]}) is no valid Unicode text")
        if text in cleaned:
            logger.warning("--text_prompts: %r is given twice and used once", text)
        else:
            cleaned.append(text)
    if not cleaned:
        raise InputError("--text_prompts: expected at least one sentence")
    return cleaned


def segment_media(
    model: SAMWISE,
    media: Media,
    prompts: Sequence[str],
    output_dir: str | Path,
    *,
    window: int = 8,
    threshold: float = 0.5,
    precision: str = "fp32",
    facts: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Segment all prompts in one pass and write what `ResultFolder` describes.

    When it is interrupted, or an error stops it, the frames done until then are written, their videos are completed,
    and result.json says `"complete": false`.

    Args: as for `stream`, and
        output_dir: the folder of the results; its result.json is what is returned.
        threshold: probability above which a pixel belongs to the object, between 0 and 1.
        facts: what else result.json shall say.
        progress: whether to draw a progress bar on standard error.

    Raises:
        InputError: a prompt that cannot be used, a frame that cannot be decoded, or results that would replace `media`.
        OSError: a file that cannot be written.
    """
    prompts = clean_prompts(prompts)
    open_session(model, prompts, window=window, precision=precision)  # refuses what it cannot use before work begins
    root, timed = writable_folder(output_dir), not media.steady
    folder = ResultFolder(root, prompts, media.fps, window, media.path, timed=timed)
    clocks = _Clocks()
    error: BaseException | None = None
    decoded = prefetch(clocks.decode.over(media), depth=window)
    waiting: deque[Frame] = deque()
    source = _remember(clocks.wait.over(decoded), waiting)
    try:
        with (
            sigterm_as_interrupt(),
            contextlib.closing(decoded),
            float32_arithmetic(precision),
            tqdm(total=media.length, unit="frame", bar_format=_BAR, disable=not progress, miniters=1) as bar,
        ):
            results = stream(model, prompts, source, window=window, precision=precision)
            for result in clocks.model.over(results):
                with clocks.model:
                    masks, scores = result.masks(threshold), result.object_scores.tolist()
                name, time_shown = media.frame_name(result.index), media.time_of(result.index)
                folder.add(name, waiting.popleft(), masks, scores, time_shown)
                bar.update()
    except BaseException as caught:  # also Ctrl-C and SIGTERM: what is done is completed first
        error = caught
    return conclude(folder, error, lambda complete: _describe_run(media, facts or {}, clocks, folder, complete))


def conclude(folder: ResultFolder, error: BaseException | None, describe: Callable[[bool], dict[str, Any]]) -> Path:
    """Complete the files of a run and write its record; the record of a run that failed if it got as far as a result.

    Args:
        folder: with all frames added.
        error: what ended the run early; it is raised at the end.
        describe: returns the record, given whether the run is complete.

    Returns:
        the path of the record.

    Raises:
        `error`, or what completing the files raised.
    """
    try:
        folder.finish()
    except Exception as caught:
        error = error or caught
    record = describe(error is None)
    if error is None:
        return folder.write_record(record)
    if folder.written_names:
        with contextlib.suppress(OSError):  # the first error is the one to report
            folder.write_record(record)
    raise error


def describe_input(media: Media) -> dict[str, Any]:
    """What a record says about the source."""
    height, width = media.frame_size
    return {
        "path": media.path,
        "kind": media.kind,
        "height": height,
        "width": width,
        "fps": None if media.fps is None else float(media.fps),
    }


def _describe_run(
    media: Media, facts: Mapping[str, Any], clocks: _Clocks, folder: ResultFolder, complete: bool
) -> dict[str, Any]:
    total = time.perf_counter() - clocks.start
    return {
        "input": describe_input(media),
        "complete": complete,
        **facts,
        "times": {
            "decode": round(clocks.decode.seconds, 3),
            "model": round(clocks.model.seconds - clocks.wait.seconds, 3),
            "write": round(folder.write_seconds, 3),
            "total": round(total, 3),
            "fps": round(len(folder.written_names) / total, 3),
        },
    }


def _remember(frames: Iterable[Frame], kept: deque[Frame]) -> Iterator[Frame]:
    """Pass frames on and keep them until their results come back."""
    for frame in frames:
        kept.append(frame)
        yield frame


class _Clocks:
    """Decoding and writing run beside the model; `wait` is the part of the model's time in which it had no frames."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.decode, self.wait, self.model = Stopwatch(), Stopwatch(), Stopwatch()
