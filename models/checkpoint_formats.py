"""Reading weight files of every supported kind, and writing the compact one.

Nothing here knows a network: a file becomes a `Checkpoint`, a flat mapping of names to tensors with what the file
says about its architecture. Tensors are mapped into memory where the format allows it, so that reading a file costs
what is used of it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from configs.schema import HieraConfig, ModelConfig, Sam2Config, TextConfig
from models.checkpoint_keys import is_trainable
from util.errors import InputError, one_line
from util.paths import atomic_write, kept_if_usable, local_path
from util.seal import read_seal, verify

Kind = Literal["samwise", "compact", "sam2", "roberta", "fairseq roberta"]

COMPACT_FORMAT = "samwise-compact"
COMPACT_VERSION = "1"

# A key that only one kind of file has, after "module." is removed.
_MARKS: tuple[tuple[str, Kind], ...] = (
    (r"(sam|cmt_adapters|conditional_memory_encoder|text_encoder)\.", "samwise"),
    (r"image_encoder\.trunk\.", "sam2"),
    (r"(roberta\.)?embeddings\.word_embeddings\.", "roberta"),
    (r"(\w+\.)?(de|en)coder\.sentence_encoder\.", "fairseq roberta"),
)


@dataclass(frozen=True)
class Checkpoint:
    """The contents of one weight file.

    Attributes:
        path: the file.
        kind: "samwise" (a published or training checkpoint), "compact" (ours), "sam2", "roberta" (transformers) or
            "fairseq roberta".
        state: tensors under the names they have in the file, without a `module.` prefix.
        arguments: the command-line arguments stored in the file, if any.
        config: the configuration stored in a compact file.
    """

    path: Path
    kind: Kind
    state: Mapping[str, Tensor]
    arguments: Mapping[str, Any] | None = None
    config: ModelConfig | None = None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a weight file, without running code that it may contain.

    Args:
        path: a .pt, .pth, .bin or .safetensors file (recognised by content), or a URL of one.

    Raises:
        InputError: a missing, damaged or truncated file (a training's seal shows any change), or one that holds none of
            the known kinds of weights.
    """
    file = local_path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise InputError(f"{file}: expected a file of weights, but it {what}; check the path")
    with file.open("rb") as handle:
        head = handle.read(512)
    with kept_if_usable(path, file):
        return _read_safetensors(file) if head[8:9] == b"{" else _read_torch(file, head)


def _read_safetensors(file: Path) -> Checkpoint:
    try:
        with safe_open(file, framework="pt") as handle:
            metadata = handle.metadata() or {}
            state = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 (not a mapping)
    except Exception as error:  # SafetensorError is no public name in every version
        raise InputError(f"{file} is damaged or truncated ({one_line(error)}); copy or download it again") from error
    if metadata.get("format") != COMPACT_FORMAT:
        return Checkpoint(file, _kind_of(state, file), state)
    if metadata.get("format_version") != COMPACT_VERSION:
        raise InputError(
            f"{file} is a compact checkpoint of version {metadata.get('format_version')}, this program reads version "
            f"{COMPACT_VERSION}; use the program that wrote it to convert it to the published format"
        )
    return Checkpoint(file, "compact", state, config=_parse_config(metadata.get("config", ""), file))


def _read_torch(file: Path, head: bytes) -> Checkpoint:
    if not head.startswith((b"PK", b"\x80")):
        raise InputError(f"{file} holds no weights: {_describe(head)}; expected a .pt, .pth or .safetensors file")
    try:
        if read_seal(file):
            verify(file)
        with safe_namespace():
            content = torch.load(str(file), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged pickle raises anything
        if match := re.search(r"(?:Unsupported global: GLOBAL|Unsupported class|Trying to load) (\S+)", str(error)):
            raise InputError(f"{file} holds Python objects ({match[1]}), which are not loaded for safety") from error
        raise InputError(f"{file} is damaged or truncated ({one_line(error)}); copy or download it again") from error
    arguments = None
    state = content
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        state = content["model"]
        stored = content.get("args")
        arguments = vars(stored) if isinstance(stored, argparse.Namespace) else stored
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{file} holds no weights: expected a mapping of names to tensors, or one under 'model'")
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    return Checkpoint(file, _kind_of(state, file), state, arguments if isinstance(arguments, dict) else None)


def safe_namespace() -> contextlib.AbstractContextManager[Any]:
    """A context in which torch.load accepts an `argparse.Namespace` (torch 2.4 can only allow it for good)."""
    if hasattr(torch.serialization, "safe_globals"):
        return torch.serialization.safe_globals([argparse.Namespace])
    torch.serialization.add_safe_globals([argparse.Namespace])
    return contextlib.nullcontext()


def _kind_of(state: Mapping[str, Tensor], file: Path) -> Kind:
    for mark, kind in _MARKS:
        if any(re.match(mark, key) for key in state):
            return kind
    first = ", ".join(list(state)[:3]) or "nothing"
    raise InputError(f"{file} holds weights of an unknown network ({first}); expected SAMWISE, SAM 2 or RoBERTa")


def _describe(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself (run git lfs pull)"
    if head.lstrip()[:1] == b"<":
        return "it is a web page (a download that needs a browser?)"
    printable = all(byte >= 32 or byte in b"\t\n\r" for byte in head)
    return "it is a text file" if printable else "its format is unknown"


def save_compact(path: str | Path, model: nn.Module) -> None:
    """Write the trainable tensors and the BatchNorm buffers of a SAMWISE network, with its configuration (safetensors).

    Args:
        path: the file; it is replaced atomically.
        model: a network with a `config: ModelConfig`.
    """
    config = model.config
    assert isinstance(config, ModelConfig)
    state = {key: value.cpu().contiguous() for key, value in model.state_dict().items() if is_trainable(key)}
    metadata = {
        "format": COMPACT_FORMAT,
        "format_version": COMPACT_VERSION,
        "config": json.dumps(dataclasses.asdict(config)),
    }
    data = save(state, metadata)
    with atomic_write(path) as handle:
        handle.write(data)


def _parse_config(text: str, file: Path) -> ModelConfig:
    def tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}

    try:
        data = tuples(json.loads(text))
        sam2 = tuples(data.pop("sam2"))
        hiera = HieraConfig(**tuples(sam2.pop("hiera")))
        text_encoder = TextConfig(**data.pop("text"))
        return ModelConfig(sam2=Sam2Config(hiera=hiera, **sam2), text=text_encoder, **data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{file}: its stored configuration cannot be read ({one_line(error)})") from error


def arguments_of(config: ModelConfig) -> dict[str, Any]:
    """The command-line arguments that choose `config`'s architecture, under their published names."""
    return {
        "sam2_version": config.sam2.name,
        "HSA": config.hsa,
        "HSA_patch_size": list(config.hsa_patch_size),
        "adapter_dim": config.adapter_dim,
        "fusion_stages": list(config.fusion_stages),
        "fusion_stages_txt": list(config.fusion_stages_txt),
        "use_cme_head": config.use_cme_head,
        "switch_mem": config.switch_mem,
        "cme_decision_window": config.cme_decision_window,
        "disable_pred_obj_score": not config.pred_obj_score,
        "motion_prompt": config.motion_prompt,
    }


def stored_arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a file says about its architecture, as command-line arguments; empty if it says nothing.

    Published checkpoints may hold all arguments of their training; compact ones hold a configuration.
    """
    if checkpoint.config is not None:
        return arguments_of(checkpoint.config)
    return dict(checkpoint.arguments or {})
