"""The whole of it for Python programs: load a network, segment a video by sentences, look at the masks or save them.

>>> from engine.segmentation import load, segment
>>> model = load("pretrained/nano")
>>> result = segment(model, "video.mp4", ["the red disc", "the blue square"])
>>> result.masks.shape  # frames, sentences, height, width
(6, 2, 48, 64)

Axes: T frames, E sentences, H rows and W columns of a source frame.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import zlib
from array import array
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from configs.schema import ModelConfig
from datasets.media import Frame, LiveSource, Media, open_source
from datasets.media_base import exact_rate
from datasets.media_frames import FRAMES_FPS, Picture, once, open_frames
from engine.demo import conclude, describe_input
from engine.infer import open_session, stream
from engine.results import ResultFolder
from engine.runtime import resolve_device
from models.build import load_model
from models.checkpoint import read_checkpoint
from models.samwise import SAMWISE
from util.background import prefetch
from util.drawing import draw_overlay, palette
from util.errors import InputError
from util.locks import exclusive_folder
from util.paths import hide_secrets, is_url

_WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_BYTES_IN_MEMORY = 64 << 20  # of compressed masks; more go to a temporary file

Video = str | Path | Media | LiveSource | Frame | Image.Image | Iterable[Picture]


def load(
    source: str | Path | SAMWISE, *, device: torch.device | str | None = None, config: ModelConfig | None = None
) -> SAMWISE:
    """A network that is ready to segment.

    Args:
        source: a folder that `save_pretrained` wrote, the id of such a model on the hub, a checkpoint (file or URL),
            or a network.
        device: where it goes, the CPU where the computer has none of that kind; None for the GPU if there is one.
        config: the architecture, for a checkpoint of the published kind; all others know their own.

    Raises:
        InputError: no model, no such model or device, or files that are damaged or do not fit.
    """
    if not isinstance(source, (str, Path, SAMWISE)) or not str(source):
        raise InputError(f"expected a model folder, the id of a hub model, a checkpoint or a network, found {source!r}")
    resolved = resolve_device(str(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    if isinstance(source, SAMWISE):
        model = source
    elif is_url(source) or Path(source).suffix in _WEIGHT_SUFFIXES or Path(source).is_file():
        config = config or read_checkpoint(source).config
        if config is None:
            raise InputError(f"{hide_secrets(str(source))} does not hold its whole architecture: give it as `config`")
        model = load_model(config, resume=str(source))[0]
    else:
        model = SAMWISE.from_pretrained(source)
    return model.to(resolved).eval()


def segment(
    model: SAMWISE,
    video: Video,
    sentences: str | Sequence[str],
    *,
    window: int = 8,
    threshold: float = 0.5,
    precision: str = "fp32",
    fps: float | None = None,
) -> Segmentation:
    """Segment what sentences describe. Returns at once: frames are decoded and segmented when they are asked for.

    Args:
        model: from `load`.
        video: path or URL of an image, a video or a folder of frames; a live source (`camera:0`, an rtsp address, `-`);
            or frames as (H, W, 3) uint8 RGB arrays, Pillow's images or paths of image files: a single one, a list, any
            iterator, or an array (T, H, W, 3).
        sentences: E sentences.
        window: frames that are processed together; part of the function.
        threshold: probability above which a pixel belongs to the object.
        precision: `fp32`, `tf32` or `bf16`.
        fps: frames per second to use of a video; what other frames stand for when they are saved (default 10).

    Raises:
        InputError: no network, a video that cannot be opened, frames of another kind (of an iterator, the first one is
            looked at), or sentences or numbers that cannot be used.
    """
    if not isinstance(model, SAMWISE):
        raise InputError(f"expected a network as the first argument, found {model!r}: `load` gives one")
    if not isinstance(threshold, Real) or not 0 < threshold < 1:
        raise InputError(f"threshold={threshold!r}: expected a number between 0 and 1, both excluded")
    if not isinstance(sentences, Iterable):
        raise InputError(f"expected a sentence or a list of them, found {sentences!r}")
    texts = [sentences] if isinstance(sentences, str) else list(sentences)
    texts = [" ".join(text.split()) if isinstance(text, str) else text for text in texts]
    open_session(model, texts, window=window, precision=precision)  # refuses what it cannot use before work begins
    return Segmentation(model, _open(video, fps, window), texts, window, threshold, precision)


@dataclass(frozen=True)
class SegmentedFrame:
    """One frame with its masks.

    Attributes:
        index: number of the frame, from 0.
        name: what its files are called.
        frame: (H, W, 3) uint8 RGB.
        masks: (E, H, W) bool.
        object_scores: E object-score logits, above 0 where the object is thought to be visible.
        sentences: E sentences.
    """

    index: int
    name: str
    frame: Frame
    masks: np.ndarray
    object_scores: tuple[float, ...]
    sentences: Sequence[str]

    def overlay(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB: the frame with its masks in colour, and a legend."""
        return draw_overlay(self.frame, list(self.masks), palette(len(self.masks)), self.sentences)


class Segmentation:
    """The result for one video, computed as far as it was asked for. Made by `segment`.

    Iterating gives one `SegmentedFrame` after the other. The network sees every frame once: masks are kept, compressed,
    in memory and beyond 64 MiB in a temporary file, and a second look at a frame only decodes it again. Frames of an
    iterator or of a live source cannot be decoded again; their masks can be asked for as often as wanted. For one
    thread at a time; `close`, or the end of a `with` block, frees everything, and then only the attributes are left.

    Attributes:
        sentences: E sentences.
        media: where the frames come from: `frame_size` (H, W), `fps`, `length` (None if unknown).
    """

    def __init__(
        self, model: SAMWISE, media: Media, sentences: Sequence[str], window: int, threshold: float, precision: str
    ) -> None:
        self.sentences = tuple(sentences)
        self.media = media
        self._window = window
        self._kept = _MaskStore(len(sentences), media.frame_size)
        self._computing = _compute(model, media, self.sentences, self._kept, window, threshold, precision)
        self._error: Exception | None = None
        self._closed = False

    def __iter__(self) -> Iterator[SegmentedFrame]:
        """Yield the frames from the first one on.

        Raises:
            InputError: a frame cannot be decoded; those before it were yielded. Or the result was closed.
        """
        again: Iterator[Frame] | None = None
        for index in itertools.count():
            self._check_open()
            if index == len(self._kept):
                computed = self._advance()
                if computed is None:
                    return
                yield computed
                if again is not None:
                    next(again, None)
                continue
            if again is None:
                again = itertools.islice(iter(self.media), index, None)
            yield _segmented(self.media, self.sentences, index, next(again), *self._kept[index])

    @property
    def masks(self) -> np.ndarray:
        """(T, E, H, W) bool: the masks of all frames; T x E x H x W bytes."""
        self._check_open()
        while self._advance() is not None:
            pass
        height, width = self.media.frame_size
        empty = np.zeros((0, len(self.sentences), height, width), bool)
        return np.stack([self._kept[index][0] for index in range(len(self._kept))]) if len(self._kept) else empty

    def overlay(self) -> Iterator[np.ndarray]:
        """Yield, for every frame, (H, W, 3) uint8 RGB: the frame with its masks in colour, and a legend."""
        return (segmented.overlay() for segmented in self)

    def save(self, folder: str | Path) -> Path:
        """Write what `inference_demo.py` writes: masks, overlays and videos per sentence, all_prompts.mp4, result.json.

        Returns:
            the path of result.json.

        Raises:
            InputError: a frame cannot be decoded (what comes before it is written), the folder cannot be written to,
                another run is doing so, the results would replace the video, or the result was closed.
            OSError: a file that cannot be written.
        """
        self._check_open()
        with exclusive_folder(folder) as root:
            return self._save(root)

    def _save(self, root: Path) -> Path:
        media, timed = self.media, not self.media.steady
        results = ResultFolder(root, self.sentences, media.fps, self._window, media.path, timed=timed)
        error: BaseException | None = None
        try:
            for segmented in self:
                time = media.time_of(segmented.index)
                results.add(segmented.name, segmented.frame, segmented.masks, segmented.object_scores, time)
        except BaseException as caught:  # also Ctrl-C: what is done is completed first
            error = caught
        return conclude(results, error, lambda complete: {"input": describe_input(media), "complete": complete})

    def close(self) -> None:
        """Stop decoding and forget the masks. Asking for them, or for frames, raises InputError from then on."""
        self._closed = True
        self._computing.close()
        self._kept.close()

    def __enter__(self) -> Segmentation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this result is closed: call segment again")

    def _advance(self) -> SegmentedFrame | None:
        """Compute the next frame; None after the last. An error is raised again at every further call."""
        if self._error is not None:
            raise self._error
        try:
            return next(self._computing, None)
        except BaseException as error:
            interrupted = InputError(f"stopped after {len(self._kept)} frames: call segment again")
            self._error = error if isinstance(error, Exception) else interrupted
            raise


def _compute(
    model: SAMWISE,
    media: Media,
    sentences: Sequence[str],
    kept: _MaskStore,
    window: int,
    threshold: float,
    precision: str,
) -> Generator[SegmentedFrame]:
    """Segment and keep frame by frame. No method, so that it ends at once with a result that nobody has any more."""
    waiting: deque[Frame] = deque()

    def remembered(frames: Iterable[Frame]) -> Iterator[Frame]:
        for frame in frames:
            waiting.append(frame)
            yield frame

    with contextlib.closing(prefetch(media, window)) as decoded:
        for result in stream(model, sentences, remembered(decoded), window=window, precision=precision):
            masks, scores = result.masks(threshold), tuple(result.object_scores.tolist())
            kept.append(masks, scores)
            yield _segmented(media, sentences, result.index, waiting.popleft(), masks, scores)


def _segmented(
    media: Media, sentences: Sequence[str], index: int, frame: Frame, masks: np.ndarray, scores: tuple[float, ...]
) -> SegmentedFrame:
    return SegmentedFrame(index, media.frame_name(index), frame, masks, scores, sentences)


class _MaskStore:
    """Masks and scores by frame number; few bytes per frame in memory."""

    def __init__(self, sentences: int, frame_size: tuple[int, int]) -> None:
        self._shape = (sentences, *frame_size)
        self._file = tempfile.SpooledTemporaryFile(_BYTES_IN_MEMORY)  # noqa: SIM115 (closed by `close`)
        self._ends = array("q", [0])
        self._scores = array("f")

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, masks: np.ndarray, scores: Sequence[float]) -> None:
        """Keep the masks (E, H, W) bool and E scores of the next frame."""
        data = zlib.compress(np.packbits(masks).tobytes(), 1)
        self._file.seek(self._ends[-1])
        self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))
        self._scores.extend(scores)

    def __getitem__(self, index: int) -> tuple[np.ndarray, tuple[float, ...]]:
        self._file.seek(self._ends[index])
        bits = np.frombuffer(zlib.decompress(self._file.read(self._ends[index + 1] - self._ends[index])), np.uint8)
        masks = np.unpackbits(bits, count=int(np.prod(self._shape))).astype(bool).reshape(self._shape)
        sentences = self._shape[0]
        return masks, tuple(self._scores[index * sentences : (index + 1) * sentences])

    def close(self) -> None:
        """Forget everything."""
        self._file.close()


def _open(video: Video, fps: float | None, window: int) -> Media:
    """Anything that `segment` takes, as `Media`."""
    if isinstance(video, Media) and fps is not None:
        raise InputError(f"fps={fps!r}: the video is open already: give the number to open_media")
    if isinstance(video, (str, Path)):
        video = open_source(str(video), fps)
    if isinstance(video, Media):
        return video
    rate = exact_rate(fps)
    if isinstance(video, LiveSource):
        frames = once(_read_live(video, window))
        return Media(video.path, "video", video.frame_size, rate or FRAMES_FPS, None, None, frames)
    return open_frames(video, rate)


def _read_live(source: LiveSource, window: int) -> Iterator[Frame]:
    with source.read(window, drop=False) as reader:
        for frame in reader:
            yield frame.pixels
