"""Fixtures that many tests share: a small real network, and the folder of real data beside the repository."""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch and transformers are imported: nothing may be fetched, and idle threads must not spin on shared cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis
import pytest
import torch
import transformers.models.roberta.modeling_roberta  # noqa: F401 (once here, not in every fork)

from configs.loading import load_model_config
from configs.schema import ModelConfig
from models.build import build_model
from models.samwise import SAMWISE
from models.tokenizer import Tokenizer, byte_tokenizer

hypothesis.settings.register_profile("project", deadline=None)  # nothing is asserted about time
hypothesis.settings.load_profile("project")

# A shell's background job ignores Ctrl-C, and so would all that is forked here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The first backward pass starts a thread for every device, also for a GPU of tensors without content; nothing that is
# forked afterwards can learn. Now there is none.
torch.ones((), requires_grad=True).backward()

SHARED = Path(__file__).resolve().parents[2] / "shared"
DATA = Path(__file__).resolve().parent / "data"

MICRO = {
    "sam2__image_size": 64,
    "sam2__model_dim": 32,
    "sam2__memory_dim": 16,
    "sam2__memory_attention_layers": 2,
    "sam2__memory_attention_hidden": 64,
    "sam2__decoder_hidden": 64,
    "sam2__hiera__embed_dim": 16,
    "sam2__hiera__stages": (1, 2, 3, 1),
    "sam2__hiera__global_blocks": (4,),
    "text__vocab_size": 300,
    "text__hidden_size": 32,
    "text__layers": 3,
    "text__heads": 4,
    "text__intermediate_size": 64,
    "text__max_positions": 514,
    "fusion_stages_txt": (1, 2, 3),
    "adapter_dim": 32,
}

# As few layers as a network of this kind can have.
SHALLOW = {
    "sam2__hiera__stages": (1, 1, 1, 1),
    "sam2__hiera__global_blocks": (2,),
    "sam2__memory_attention_layers": 1,
}

# What makes it as small and fast as it can be.
SMALLEST = {**SHALLOW, "hsa_patch_size": (4, 2, 1), "sam2__image_size": 32}


@functools.cache
def micro_config(version: str = "tiny", **values: object) -> ModelConfig:
    """A network of a few hundred thousand parameters that differs from the real ones in its numbers only."""
    return load_model_config(version, **{**MICRO, "hsa": True, "use_cme_head": True, **values})


def build_micro(version: str = "tiny", seed: int = 0, **values: object) -> SAMWISE:
    """The micro network with seeded random weights, objects visible, and a byte-level tokenizer."""
    torch.manual_seed(seed)
    config = micro_config(version, **values)
    model = build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / max(parameter[0].numel(), 1) ** 0.5 if parameter.ndim > 1
                            else parameter + 0.05 * torch.randn_like(parameter))  # fmt: skip
        if config.pred_obj_score:
            model.sam.sam_mask_decoder.pred_obj_score_head.layers[2].bias.fill_(3.0)
    model.tokenizer = Tokenizer(byte_tokenizer(), config.text.max_positions - 2)
    return model


@pytest.fixture(scope="module", autouse=True)
def out_of_sight() -> None:
    """Take what earlier files imported out of the sight of the collector: a look takes a second, before every fork."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Scripts set up logging for their process; here every test starts without it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Convolutions round differently with another number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Path:
    """An empty folder to work in, on one thread."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def micro_model() -> SAMWISE:
    """One network for all tests that only read it."""
    return build_micro()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository; tests that ask for it are left out where it is not."""
    return SHARED


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """With `--dist loadgroup`, see tests/spread.py; for other ways nothing changes."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from tests.spread import FileScheduling  # the suite also runs without pytest-xdist

    config.option.loadscopereorder = False
    return FileScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what needs real data in a clone without it and, unless -m says something, what is slow."""
    left_out = set()
    if not SHARED.is_dir():
        left_out |= {item for item in items if "shared" in getattr(item, "fixturenames", ())}
    if not config.getoption("markexpr"):
        left_out |= {item for item in items if item.get_closest_marker("slow")}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
    if hasattr(config, "workerinput"):
        from tests.spread import sort_by_length

        sort_by_length(items)
