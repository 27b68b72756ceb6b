"""A video from JPEG files to PNG files, clip by clip, with the parts that `engine.inference` has.

Nothing here may need more of the network than an earlier revision has: `compare` runs it on both.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

import engine.infer as infer
from configs.loading import load_model_config
from engine.inference.writer import MaskWriter
from models.build import load_model
from models.samwise import SAMWISE
from util.background import prefetch

from .measure import Part, flop_counter, part_clock, synchronize, timed

try:
    from engine.inference.download import Download, delayed
except ImportError:  # an earlier revision, which waits for every mask
    Download, delayed = None, lambda clips, behind: iter(clips)  # type: ignore[assignment, misc]

FRAME_SIZE = (540, 960)
SENTENCES = (
    "the red disc that moves to the right",
    "a small dog",
    "the person who stands up and walks away from the table",
    "the car on the left that turns",
    "two horses that run side by side",
    "the bird that flies away first",
    "a man with a black hat who sits still",
    "the last of the boats",
)
FILES = 16  # JPEG files; the video goes through them again and again
FILLING = 16  # frames until all memories and pointers are there
WRITERS = 2
REST = "pyramid, enlarging, the rest"
BESIDE = ("decode and resize", "write")  # in threads beside the network: their seconds are not part of the sum


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        version: value of `--sam2_version`.
        expressions: sentences in one batch.
        window: frames per clip.
        precision: `fp32`, `tf32` or `bf16`.
        device: of the network.
        compile: whether the network is compiled.
        cuda_graphs: whether what was compiled is recorded as CUDA graphs.
        clips: that are timed together, from the first file to the last mask.
    """

    version: str
    expressions: int = 1
    window: int = 8
    precision: str = "fp32"
    device: str = "cpu"
    compile: bool = False
    cuda_graphs: bool = False
    clips: int = 1


@dataclass
class Clip:
    """One clip, or several in a row, that were segmented.

    Attributes:
        frames: how many.
        seconds: from the first frame's file to the last mask's.
        parts: name -> time and work; empty where only the whole was measured.
    """

    frames: int
    seconds: float
    parts: dict[str, Part] = field(default_factory=dict)


def random_model(settings: Settings) -> SAMWISE:
    """A network with HSA and CME and random weights; they do not change the work."""
    config = load_model_config(settings.version, hsa=True, use_cme_head=True)
    model = load_model(config, untrained=True, device=settings.device)[0]
    if settings.compile:
        from models.stream import compile_network

        options = {"mode": "reduce-overhead"} if settings.cuda_graphs else {}
        if "precision" in inspect.signature(compile_network).parameters:  # else an earlier revision
            options["precision"] = settings.precision
        compile_network(model, **options)
    return model


def write_jpegs(folder: Path, size: tuple[int, int]) -> list[Path]:
    """`FILES` frames (H, W) of coloured noise that moves, as sharp as photographs."""
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[: size[0], : size[1]]
    grain = np.random.default_rng(0).integers(0, 24, (*size, 3))
    paths = []
    for t in range(FILES):
        ground = [120 + 90 * np.sin((columns + 9 * t) / 37.0 + shift) * np.cos(rows / 29.0) for shift in (0, 1, 2)]
        frame = np.clip(np.stack(ground, axis=-1) + np.roll(grain, 9 * t, axis=1), 0, 255).astype(np.uint8)
        paths.append(folder / f"{t:05d}.jpg")
        Image.fromarray(frame).save(paths[-1], quality=90)
    return paths


def encode_png(mask: np.ndarray) -> bytes:
    """8-bit grey, as for the benchmarks."""
    done, data = cv2.imencode(".png", mask)
    assert done
    return data.tobytes()


class Pipeline:
    """An endless video that is segmented clip by clip; use it as a context.

    Args:
        model: the network, on its device.
        settings: what is measured.
        folder: for JPEG and PNG files.
    """

    def __init__(self, model: SAMWISE, settings: Settings, folder: Path) -> None:
        self.model = model
        self.settings = settings
        self.folder = folder
        self.paths = sorted((folder / "frames").glob("*.jpg")) or write_jpegs(folder / "frames", FRAME_SIZE)
        sentences = SENTENCES[: settings.expressions]
        self.session = infer.open_session(model, sentences, window=settings.window, precision=settings.precision)
        self.decode_seconds = 0.0
        self._frames = prefetch(self._decode(), 2 * settings.window)
        self._writer = MaskWriter(WRITERS)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.close()
        self._writer.close()

    def _decode(self) -> Iterator[Any]:
        prepare = getattr(infer, "prepare_frame", None)  # earlier revisions resize between two clips
        for path in itertools.cycle(self.paths):
            start = time.perf_counter()
            with Image.open(path) as image:
                frame = np.asarray(image.convert("RGB"))
            if prepare is not None:
                frame = prepare(frame, self.model.config.sam2.image_size)
            self.decode_seconds += time.perf_counter() - start
            yield frame

    def fill(self) -> None:
        """Segment until the memory is full: also the warm-up."""
        recorded = 1 if self.settings.cuda_graphs else 0  # PyTorch records what it runs for the second time
        while self.session.frames_done < FILLING + recorded:
            self.clip(1)

    @property
    def behind(self) -> int:
        """How many clips are written behind the one that is computed, as in `engine.inference.segment`."""
        return 1 if self.model.device.type == "cuda" and Download is not None else 0

    def clip(self, count: int | None = None) -> Clip:
        """Segment `count` clips in a row (by default those of the settings), and wait until their masks are written."""
        start, done = time.perf_counter(), self.session.frames_done
        for clip in delayed((self._segment() for _ in range(count or self.settings.clips)), self.behind):
            self._write(clip)
        self._writer.drain()
        synchronize(self.model.device)
        return Clip(self.session.frames_done - done, time.perf_counter() - start)

    def _segment(self) -> Iterable[tuple[int, Any]]:
        """Segment the next clip: of each frame its number and what `_masks` returns."""
        results = self.session.feed(itertools.islice(self._frames, self.settings.window))
        masks = ((result.index, self._masks(result)) for result in results)
        return list(masks) if self.behind else masks

    def _masks(self, result: infer.FrameResult) -> Any:
        """(E, H, W) uint8, 0 or 255: on their way to the host, or there."""
        if Download is None:
            return result.masks().astype(np.uint8) * 255
        return Download([(result.probabilities() > 0.5).byte().mul_(255)])

    def _write(self, clip: Iterable[tuple[int, Any]]) -> None:
        """Hand over the masks of a clip, see `_segment`."""
        for index, masks in clip:
            for number, mask in enumerate(masks if Download is None else masks.wait()[0]):
                path = self.folder / "masks" / str(number) / f"{index % FILES:05d}.png"
                self._writer.write(path, mask, encode_png)

    def clip_in_parts(self, count: bool = False) -> Clip:
        """`clip` with a table of parts, which on a GPU waits for every part; `count` also counts FLOPs (slow)."""
        from models.static_step import StaticStep  # earlier revisions, of which only whole clips are timed, lack it

        device, counter = self.model.device, flop_counter() if count else None
        names = ("wait for decode", "upload and normalise", "post-processing")
        wait, upload, post = outside = [Part() for _ in names]
        decoded, written = self.decode_seconds, self._writer.seconds
        with contextlib.ExitStack() as stack:
            parts = stack.enter_context(part_clock(self.model, counter))
            reading = parts["memory attention"]  # a static step runs its layers without the module
            stack.enter_context(timed(StaticStep, "_read_memory", reading, device, counter))
            stack.enter_context(timed(infer, "to_network_input", upload, device))
            stack.enter_context(timed(self, "_masks", post, device))
            stack.enter_context(self._timed_frames(wait))
            if counter is not None:
                stack.enter_context(counter)
            clip = self.clip(1)
        parts |= dict(zip(names, outside, strict=True))
        inside = sum(part.seconds for part in parts.values())
        counted = sum(part.flops for part in parts.values())
        total = counter.get_total_flops() if counter is not None else counted
        parts[REST] = Part(clip.seconds - inside, total - counted)
        parts["decode and resize"] = Part(self.decode_seconds - decoded)
        parts["write"] = Part(self._writer.seconds - written)
        return Clip(clip.frames, clip.seconds, parts)

    @contextlib.contextmanager
    def _timed_frames(self, wait: Part) -> Iterator[None]:
        """Measure how long the network waits for decoded frames."""
        frames = self._frames

        def waiting() -> Iterator[Any]:
            while True:
                start = time.perf_counter()
                frame = next(frames)
                wait.seconds += time.perf_counter() - start
                yield frame

        self._frames = waiting()  # type: ignore[assignment]
        try:
            yield
        finally:
            self._frames = frames


@contextlib.contextmanager
def plain_computation(pipeline: Pipeline) -> Iterator[None]:
    """Without what saves work: no memory of the padding, values of memory attention in their full width."""
    from models.sam2 import memory_attention

    fusing = memory_attention.can_fuse
    memory_attention.can_fuse = lambda x: False
    pipeline.session.padding_of = lambda clip: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        memory_attention.can_fuse = fusing
        del pipeline.session.padding_of
