"""What a GPU is given to do, without a GPU: tensors that have a device, a shape and a type, and no content.

They refuse to work with tensors of another device and to say what they hold, which on a GPU would wait for it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from engine.infer import open_session
from engine.inference.download import Download
from engine.inference.together import segment_together
from engine.train.network import TrainingNetwork
from models.sam2 import hiera, position_encoding
from models.sam2.hiera import WindowAttention
from models.samwise import SAMWISE
from models.stream import GrowingStream, StaticStream, open_stream
from models.tokenizer import TokenBatch
from tests.conftest import SMALLEST, build_micro

SENTENCES = ("the red disc", "a square that moves to the left")
WINDOW, CLIPS = 4, 5  # the memory is full in the last clip


class Crossings(TorchDispatchMode):
    """Notes what goes from the GPU to the host, and what goes the other way (`arrivals`) while the host waits."""

    def __init__(self, *, arrivals: bool = True) -> None:
        super().__init__()
        self.arrivals = arrivals
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        found = [value for value in pytree.tree_leaves(out) if isinstance(value, Tensor)]
        leaves = any(value.is_cuda for value in given) and not all(value.is_cuda for value in found)
        arrives = any(value.is_cuda for value in found) and any(not value.is_cuda and value.ndim for value in given)
        if leaves or (self.arrivals and arrives and not _asynchronous(func, args, kwargs or {})):
            self.found.append(f"{func} {kwargs}\n{''.join(traceback.format_stack(limit=20))}")
        return out


def _asynchronous(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether an operation was given `non_blocking`."""
    named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
    return bool({**named, **kwargs}.get("non_blocking"))


class Casts(TorchDispatchMode):
    """Counts operations that write, and notes the parameters of products that are brought into another type."""

    def __init__(self, model: SAMWISE) -> None:
        super().__init__()
        layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
        self._known = {id(x): f"{name}.{kind}" for name, layer in layers for kind, x in layer.named_parameters()}
        self.names: list[str] = []
        self.operations = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += isinstance(out, Tensor) and out.untyped_storage()._cdata not in {
            x.untyped_storage()._cdata for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)
        }
        if isinstance(out, Tensor) and id(args[0]) in self._known and out.dtype != args[0].dtype:
            self.names.append(self._known[id(args[0])])
        return out


def clear_tables() -> None:
    for value in (*vars(position_encoding).values(), *vars(hiera).values()):
        if hasattr(value, "cache_clear"):
            value.cache_clear()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """A GPU that computes shapes."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_, **__: True)
    clear_tables()
    yield FakeTensorMode(allow_non_fake_inputs=True)
    clear_tables()


def on_gpu(mode: FakeTensorMode) -> SAMWISE:
    """The smallest network, moved there, with a tokenizer that has read `SENTENCES` on the host."""
    model = build_micro("tiny", seed=2, **SMALLEST)
    assert model.tokenizer is not None
    tokens = model.tokenizer(SENTENCES)
    model.tokenizer = lambda sentences: tokens  # type: ignore[assignment]
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            with mode:
                moved = mode.from_tensor(parameter.detach()).to("cuda")
            module.register_parameter(name, nn.Parameter(moved, parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            with mode:
                setattr(module, name, mode.from_tensor(buffer).to("cuda"))
    return model


def clip(seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 255, (WINDOW, 36, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(("precision", "clips"), [("fp32", 2), ("bf16", CLIPS)])
def test_nothing_waits_for_the_gpu_inside_a_clip(gpu: FakeTensorMode, precision: str, clips: int) -> None:
    """CME decides from the second clip on, and the memory is full in the last of `CLIPS`."""
    model = on_gpu(gpu)
    with gpu:
        session = open_session(model, SENTENCES, window=WINDOW, precision=precision)
    assert isinstance(session.memory, StaticStream)
    with gpu, Crossings() as crossings:
        for number in range(clips):
            results = session.feed(clip(number))
            assert len(results) == WINDOW
            for result in results:
                probabilities = result.probabilities()
                assert probabilities.is_cuda
                assert probabilities.shape == (len(SENTENCES), 36, 64)
                assert probabilities.dtype == torch.float32
    assert not crossings.found, crossings.found[0]


def test_no_weight_is_rounded_anew_for_every_frame(gpu: FakeTensorMode) -> None:
    """Autocast alone starts a kernel for each weight and bias of each product."""
    model = on_gpu(gpu)
    with gpu:
        session = open_session(model, SENTENCES, window=WINDOW, precision="bf16")
        with Casts(model) as rounded:
            session.feed(clip(0))
        session.network, session.memory = model, open_stream(model, len(SENTENCES))
        with Casts(model) as alone:
            session.feed(clip(1))
    assert {name for name in rounded.names if ".neck." not in name} == set()
    assert alone.names.count("sam.memory_encoder.out_proj.bias") == WINDOW
    assert rounded.operations < 0.75 * alone.operations


@pytest.mark.parametrize(
    ("halves", "traced", "most"),
    [(True, False, 1 << 14), (True, True, 1 << 14), (False, False, 1 << 14), (False, True, 1 << 17)],
)
def test_no_kernel_gets_more_windows_than_it_takes(
    gpu: FakeTensorMode, monkeypatch: pytest.MonkeyPatch, halves: bool, traced: bool, most: int
) -> None:
    """The first block of stage 2 at full size, for 16 sentences and 8 frames: 131,072 windows.

    In a graph in float32 nothing depends on their number: an exported one may run any.
    """
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: traced)
    attention = WindowAttention(16, 32, heads=4, window=4, pool=True)
    sizes: list[int] = []
    whole = torch.nn.functional.scaled_dot_product_attention

    def noted(query: Tensor, *others: Any, **keywords: Any) -> Tensor:
        sizes.append(query.shape[0])
        return whole(query, *others, **keywords)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    with gpu, torch.autocast("cuda", torch.bfloat16, enabled=halves):
        out = attention.to("cuda")(torch.empty(16 * 8, 128, 128, 16, device="cuda"))
    assert out.shape == (16 * 8, 64, 64, 32)
    assert sum(sizes) == 131_072
    assert max(sizes) == most


def test_masks_travel_without_being_waited_for(gpu: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU was given is marked behind the last copy, and only who asks for the masks waits for the mark."""
    calls: list[str] = []

    class Event:
        def record(self, stream: str) -> None:
            calls.append(f"mark in {stream} after {len(crossings.found)} copies")

        def synchronize(self) -> None:
            calls.append("wait")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    model = on_gpu(gpu)
    with gpu:
        session = open_session(model, SENTENCES, window=WINDOW)
    with gpu, Crossings() as crossings:
        results = session.feed(clip(0))
        assert not crossings.found
        download = Download([(result.probabilities() > 0.5).byte() for result in results])
        assert len(crossings.found) == WINDOW
        assert all("'non_blocking': True" in copy for copy in crossings.found)
        assert calls == [f"mark in the stream of cuda:0 after {WINDOW} copies"]
        monkeypatch.setattr(np, "asarray", lambda tensor: (str(tensor.device), tensor.shape))  # there is no content
        assert download.wait() == [("cpu", (len(SENTENCES), 36, 64))] * WINDOW
    assert calls[1:] == ["wait"]


def test_nothing_waits_for_the_gpu_between_several_videos(gpu: FakeTensorMode) -> None:
    model = on_gpu(gpu)
    with gpu:
        sessions = [open_session(model, SENTENCES, window=WINDOW) for _ in range(2)]
    with gpu, Crossings() as crossings:
        for number in range(2):
            found = segment_together(sessions, [clip(number)] * 2)
            assert [len(results) for results in found] == [WINDOW] * 2
    assert not crossings.found, crossings.found[0]


def test_a_way_that_decides_on_the_host_is_noticed(gpu: FakeTensorMode) -> None:
    """What a CPU does: it looks which sentences switch."""
    model = on_gpu(gpu)
    with gpu, Crossings():
        session = open_session(model, SENTENCES, window=WINDOW)
        session.memory = GrowingStream(model)
        with pytest.raises(DynamicOutputShapeException):
            session.feed(clip(0) + clip(1))


def test_copies_that_are_waited_for_are_noticed(gpu: FakeTensorMode) -> None:
    with gpu, Crossings() as crossings:
        torch.ones(3, device="cuda").cpu()
        torch.tensor([1.0, 2.0], device="cuda")
        torch.ones(3).to("cuda")
        torch.ones(3).to("cuda", non_blocking=True)
    assert len(crossings.found) == 3


def test_verbs_are_counted_before_they_travel(gpu: FakeTensorMode) -> None:
    words = torch.ones(2, 5, dtype=torch.bool)
    verbs = torch.tensor([[False, True, False, False, False], [False, True, True, False, False]])
    tokens = TokenBatch(words.long(), words, verbs)
    with gpu:
        moved = tokens.to("cuda")
    assert moved.verbs is not None
    assert moved.verbs.is_cuda
    assert moved.most_verbs == tokens.most_verbs == 2


def test_losses_are_computed_on_the_gpu(gpu: FakeTensorMode) -> None:
    """The backward pass needs a real one. The numbers of the sentences at which CME looks come from the host."""
    model = on_gpu(gpu).train()
    side = model.config.sam2.image_size
    assert model.tokenizer is not None
    with gpu:
        tokens = model.tokenizer(SENTENCES).to("cuda")
        frames, targets = torch.zeros(2, 8, 3, side, side, device="cuda"), torch.zeros(2, 8, 36, 64, device="cuda")
    with gpu, Crossings(arrivals=False) as crossings, torch.autocast("cuda", torch.bfloat16):
        losses = TrainingNetwork(model)(frames, tokens.ids, tokens.words, targets)
    assert all(loss.is_cuda and loss.dtype == torch.float32 and loss.requires_grad for loss in losses.values())
    assert not crossings.found, crossings.found[0]
