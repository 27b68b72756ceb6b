"""Streaming inference: open a session for (model, expressions), feed frames of any source, get masks per expression.

    for result in stream(model, ["the dog that jumps"], frames):
        masks = result.masks()

Axes: E expressions, T frames of a clip, H rows and W columns of a source frame, h and w of the resized frame.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.schema import PRECISIONS, PROTOCOLS
from datasets.transforms import ResizedFrame, prepare_frame, to_network_input
from engine.runtime import autocast, float32_arithmetic
from models.padding import Padding
from models.sam2.sam2 import SAM2
from models.samwise import SAMWISE
from models.static_step import FrameMasks
from models.stream import is_compiled, network_for, open_stream
from util.errors import InputError, one_line
from util.memory import keep_freed_memory
from util.paths import atomic_write, is_text
from util.torch_files import save_torch

Frame = np.ndarray
STATE_FORMAT = "samwise-session-1"
STATE_KEYS = {
    "model",
    "expressions",
    "window",
    "protocol",
    "precision",
    "frame_size",
    "frames_done",
    "waiting",
    "memory",
}


@dataclass(frozen=True)
class FrameResult:
    """The masks of one frame.

    Attributes:
        index: number of the frame in the video, from 0.
        logits: (E, h, w) float32 mask logits at network resolution, padding cropped away.
        frame_size: (H, W) of the source frame.
        object_scores: (E,) float32 object-score logits; plus infinity where scores are switched off.
        ious: (E,) float32 predicted IoU, 0 to 1.
    """

    index: int
    logits: Tensor
    frame_size: tuple[int, int]
    object_scores: Tensor
    ious: Tensor

    def probabilities(self) -> Tensor:
        """(E, H, W) float32: logits resized bilinearly to the source frame, then a sigmoid."""
        resized = F.interpolate(self.logits[:, None], self.frame_size, mode="bilinear", align_corners=False)
        return resized[:, 0].sigmoid()

    def masks(self, threshold: float = 0.5) -> np.ndarray:
        """(E, H, W) bool: where the probability is above `threshold`.

        Raises:
            InputError: the threshold is no number from 0 to 1.
        """
        if not isinstance(threshold, Real) or not 0 <= threshold <= 1:
            raise InputError(f"threshold={threshold!r}: expected a number from 0 to 1")
        return (self.probabilities() > threshold).cpu().numpy()


def open_session(
    model: SAMWISE,
    expressions: Sequence[str],
    *,
    window: int = 8,
    protocol: str = "fixed",
    precision: str = "fp32",
) -> VideoSession:
    """Begin a video.

    Args:
        model: the network; any number of sessions may use it at once.
        expressions: E sentences, segmented together; each gets what it would get alone.
        window: frames per clip. It is part of the function: another window gives other masks.
        protocol: `fixed`, or `paper` to treat a clip of exactly one frame as an image, as published numbers do.
        precision: `fp32`, `tf32` or `bf16`.

    Raises:
        InputError: no or empty expressions, sentences that are too long, or an unknown protocol.
    """
    return VideoSession(model, expressions, window=window, protocol=protocol, precision=precision)


def stream(
    model: SAMWISE,
    expressions: Sequence[str],
    frames: Iterable[Frame],
    *,
    window: int = 8,
    protocol: str = "fixed",
    precision: str = "fp32",
) -> Iterator[FrameResult]:
    """Segment an iterator of frames (camera, file, network) in clips of `window`, in constant memory.

    Args: as for `open_session`; frames: (H, W, 3) uint8 RGB, all of one size.

    Yields:
        One result per frame, in order.

    Raises:
        InputError: as `open_session` and `VideoSession.feed`. What it or an OSError of `frames` interrupts is segmented
            first: all frames before it have a result.
    """
    session = open_session(model, expressions, window=window, protocol=protocol, precision=precision)
    broken: Exception | None = None
    try:
        for frame in _checked_frames(frames):
            yield from session.feed([frame])
    except (InputError, OSError) as error:
        broken = error
    yield from session.flush()
    if broken is not None:
        raise broken


class VideoSession:
    """One video being segmented. Made by `open_session`; not for use by several threads at once."""

    def __init__(
        self, model: SAMWISE, expressions: Sequence[str], *, window: int, protocol: str, precision: str
    ) -> None:
        if type(window) is not int or window < 1:
            raise InputError(f"the clip window must be a whole number of at least 1 frame, found {window!r}")
        if protocol not in PROTOCOLS:
            raise InputError(f"protocol {protocol!r} is unknown: expected one of {', '.join(PROTOCOLS)}")
        if precision not in PRECISIONS:
            raise InputError(f"precision {precision!r} is unknown: expected one of {', '.join(PRECISIONS)}")
        self.expressions = _sentences(expressions)
        _check_model(model)
        if model.tokenizer is None:
            raise InputError("the model has no tokenizer: load it with `load`, or set its `tokenizer`")
        if model.device.type == "cpu":
            keep_freed_memory()
        self.model = model
        self.window = window
        self.protocol = protocol
        self.precision = precision
        self.tokens = model.tokenizer(self.expressions).to(model.device)
        self.network = network_for(model, precision)
        self.memory = open_stream(self.network, len(self.expressions))
        self.frame_size: tuple[int, int] | None = None
        self.frames_done = 0
        self._padding: Padding | None = None
        self._waiting: list[Frame] = []
        self._ready: list[FrameResult] = []

    @property
    def nbytes(self) -> int:
        """Bytes of state held, waiting frames included."""
        padding = self._padding.nbytes if self._padding is not None else 0
        return self.memory.nbytes + padding + sum(frame.nbytes for frame in self._waiting)

    def feed(self, frames: Iterable[Frame | ResizedFrame]) -> list[FrameResult]:
        """Take frames; return the results of the clips that they complete.

        Args:
            frames: (H, W, 3) uint8 RGB, all of one size, or what `prepare_frame` made of them for this network.

        Raises:
            InputError: a frame of another shape, kind or size. Frames before it are kept, and so are results that are
                already computed: the next call returns them.
        """
        for frame in _checked_frames(frames):
            self._waiting.append(self.checked(frame))
            while len(self._waiting) >= self.window:  # there are more where a clip has failed
                self._segment_clip()
        return self._take_ready()

    def flush(self) -> list[FrameResult]:
        """Segment the frames that wait as a last, shorter clip; nothing if none wait."""
        while self._waiting:
            self._segment_clip()
        return self._take_ready()

    def _take_ready(self) -> list[FrameResult]:
        ready, self._ready = self._ready, []
        return ready

    def _segment_clip(self) -> None:
        """Segment the clip that waits; if that fails (memory, Ctrl-C), it waits on and nothing has changed."""
        before, clip = self.memory.state_dict(), self._waiting[: self.window]
        try:
            results = self._segment(clip)
        except BaseException:
            self.memory.load_state_dict(before)
            raise
        del self._waiting[: len(clip)]
        self.frames_done += len(results)
        self._ready += results

    def checked(self, frame: Frame | ResizedFrame) -> Frame:
        """The frame (H, W, 3) at network size. Raises InputError for anything else or another size."""
        if not isinstance(frame, ResizedFrame):
            frame = prepare_frame(frame, self.model.config.sam2.image_size)
        size = frame.size
        if self.frame_size not in (None, size):
            assert self.frame_size is not None
            raise InputError(
                f"frame {self.frames_done + len(self._waiting)} is {size[1]}x{size[0]}, the frames before it are "
                f"{self.frame_size[1]}x{self.frame_size[0]}: open a session per size"
            )
        self.frame_size = size
        return frame.pixels

    @torch.inference_mode()
    def _segment(self, clip: list[Frame]) -> list[FrameResult]:
        if self.protocol == "paper" and len(clip) == 1:
            self.memory.reset()
        results = []
        with float32_arithmetic(self.precision), autocast(self.precision, self.model.device):
            frames = to_network_input(clip, self.model.config.sam2.image_size, self.model.device)
            features = self.network.encode(frames[None], self.tokens, padding=self.padding_of(clip))
            for t in range(len(clip)):
                masks = self.memory.step(features.frame(t))
                results.append(self.result_of(self.frames_done + t, masks, clip[t].shape[:2]))
        return results

    def padding_of(self, clip: list[Frame]) -> Padding | None:
        """What whole clips leave in the padding for those after them; a shorter last clip has none of its length.

        Nothing where the network is compiled: one graph then serves the first clip and all others, of any frame size.
        """
        if len(clip) != self.window or is_compiled(self.model):
            return None
        if self._padding is None:
            self._padding = Padding((clip[0].shape[0], clip[0].shape[1]))
        return self._padding

    def result_of(self, index: int, masks: FrameMasks, size: Sequence[int]) -> FrameResult:
        """What a frame brought: its number, the masks of all expressions, (h, w) of the frame in the network input."""
        assert self.frame_size is not None
        side = self.model.config.sam2.image_size
        logits = SAM2.enlarge(masks.logits.float(), side)[:, : size[0], : size[1]]
        return FrameResult(index, logits, self.frame_size, masks.scores.float(), masks.ious.float())

    def save(self, path: str | Path) -> None:
        """Write everything needed to go on later (not the weights), atomically."""
        state = {
            "format": STATE_FORMAT,
            "model": _fingerprint(self.model),
            "expressions": list(self.expressions),
            "window": self.window,
            "protocol": self.protocol,
            "precision": self.precision,
            "frame_size": self.frame_size,
            "frames_done": self.frames_done,
            "waiting": [torch.from_numpy(frame) for frame in self._waiting],
            "memory": self.memory.state_dict(),
            "ready": [vars(result) for result in self._ready],
        }
        assert state.keys() > STATE_KEYS
        with atomic_write(path) as handle:
            save_torch(state, handle)

    @classmethod
    def restore(cls, model: SAMWISE, path: str | Path) -> VideoSession:
        """Continue a saved session: the next frame fed is the one after the last that was fed before.

        Raises:
            InputError: not a saved session, or one of a model with another configuration or other weights.
            FileNotFoundError: no such file.
        """
        state = _read_state(Path(path))
        _check_model(model)
        if state["model"] != _fingerprint(model):
            raise InputError(
                f"{path} was saved with another model configuration or other weights: build the model with the same "
                "flags and checkpoint"
            )
        session = cls(
            model,
            state["expressions"],
            window=state["window"],
            protocol=state["protocol"],
            precision=state["precision"],
        )
        session.frame_size = state["frame_size"] and (state["frame_size"][0], state["frame_size"][1])
        session.frames_done = state["frames_done"]
        session._waiting = [frame.numpy() for frame in state["waiting"]]
        session.memory.load_state_dict(state["memory"])
        session._ready = [FrameResult(**result) for result in state.get("ready", [])]
        return session


def _sentences(expressions: Sequence[str]) -> tuple[str, ...]:
    """The sentences as plain strings: NumPy's, which are strings too, could be saved but not be read again."""
    listed = isinstance(expressions, Iterable) and not isinstance(expressions, str)
    texts = tuple(expressions) if listed else ()
    if not listed or not all(isinstance(text, str) for text in texts):
        raise InputError(f"expected a list of sentences, found {expressions!r}")
    if not all(map(is_text, texts)):
        raise InputError(f"expected sentences of valid Unicode text, found {list(texts)!a}")
    return tuple(map(str, texts))


def _check_model(model: SAMWISE) -> None:
    if not isinstance(model, SAMWISE):
        raise InputError(f"expected a network, found {type(model).__name__}: `load` gives one")


def _checked_frames(frames: Iterable[Any]) -> Iterable[Any]:
    if not isinstance(frames, Iterable):
        raise InputError(f"expected a list of frames, or any iterator of them, found {type(frames).__name__}")
    return frames


def _fingerprint(model: SAMWISE) -> str:
    """Configuration, and a digest of the sentence projection, which every training changes."""
    digest = hashlib.sha256()
    for tensor in model.sam.sam_prompt_encoder.project_text.state_dict().values():
        digest.update(tensor.float().cpu().numpy().tobytes())
    return json.dumps(dataclasses.asdict(model.config), sort_keys=True) + digest.hexdigest()


def _read_state(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"no saved session at {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for what is not its own
        raise InputError(f"{path} is not a saved session ({one_line(error)})") from error
    if not isinstance(state, dict) or state.get("format") != STATE_FORMAT or not state.keys() >= STATE_KEYS:
        raise InputError(f"{path} is not a saved session of format {STATE_FORMAT}")
    return state
