"""A network in a folder: what `SAMWISE.save_pretrained` writes, and what `--resume` and `--sam2_weights` accept.

    config.json          the architecture, the hashes of the other files, and what is known about the training
    model.safetensors    all tensors, under the network's own names
    tokenizer.json       the tokenizer of the text encoder
    README.md            the same for people (`models.model_card`)

Nothing here builds a network; `models.hub` does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save
from torch import Tensor

from configs.schema import ModelConfig, check_model_config, from_dict, shipped_folder
from models.base_weights import is_hub_id
from models.checkpoint_formats import Checkpoint, read_checkpoint
from models.model_card import model_card
from models.tokenizer import TOKENIZER_FILE, tokenizer_text
from util.errors import InputError, one_line
from util.paths import atomic_write, is_url, sha256_of

if TYPE_CHECKING:
    from models.samwise import SAMWISE

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
FORMAT, FORMAT_VERSION = "samwise-folder", 1
_HASHED = (WEIGHTS_FILE, TOKENIZER_FILE)


@dataclass(frozen=True)
class FolderConfig:
    """The contents of a config.json.

    Attributes:
        model: the architecture.
        files: SHA-256 of the other files, by name.
        training: what is known about the training; plain values.
    """

    model: ModelConfig
    files: Mapping[str, str]
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelFolder:
    """A folder that was read.

    Attributes:
        path: the folder, which also holds the tokenizer.
        config: see `FolderConfig`.
        checkpoint: its tensors.
    """

    path: Path
    config: FolderConfig
    checkpoint: Checkpoint


def is_folder(source: str | Path) -> bool:
    """Whether a value of `--resume` or `--sam2_weights` means a model folder."""
    return not is_url(source) and Path(source).expanduser().is_dir()


def require_shipped(sam2_version: str) -> Path | None:
    """The model folder of a version whose weights are part of the repository; None for the official SAM 2s.

    Raises:
        InputError: the folder is not there.
    """
    folder = shipped_folder(sam2_version)
    if folder is not None and not folder.is_dir():
        raise InputError(
            f"--sam2_version {sam2_version}: {folder} does not exist, which is a part of the repository: restore it "
            "(git checkout), give --resume or --sam2_weights, or try the program with --untrained (random weights)"
        )
    return folder


def find_folder(source: str | Path, **download: Any) -> Path:
    """The local folder that a path or the id of a hub model means; a hub model is downloaded on its first use.

    Args:
        source: folder, or `owner/name`.
        download: further arguments of `huggingface_hub.snapshot_download`.

    Raises:
        InputError: there is no such folder, or the hub model cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{path} is a file: expected a model folder, as save_pretrained writes it")
    if isinstance(source, Path) or source.startswith("pretrained/") or not is_hub_id(source):
        raise InputError(f"{path} does not exist: expected a model folder or the id of a hub model; check the path")
    from huggingface_hub import snapshot_download

    names = [CONFIG_FILE, CARD_FILE, *_HASHED]
    try:
        return Path(snapshot_download(source, allow_patterns=names, **download))
    except Exception as error:  # offline, refused, no such model: each its own class
        raise InputError(
            f"{source} is no folder, and the hub model of that name cannot be read ({one_line(error)}); give a folder"
        ) from error


def read_folder_config(folder: Path) -> FolderConfig:
    """Read and check the config.json of a model folder.

    Raises:
        InputError: it is missing, damaged, or of another kind.
    """
    file = folder / CONFIG_FILE
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist: expected a model folder, as save_pretrained writes it")
    if not file.is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:4]) or "nothing"
        raise InputError(f"{folder} is no model folder: it holds no {CONFIG_FILE} (found {found})")
    try:
        content = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged ({error}); copy or download the folder again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{file} describes no SAMWISE network: expected a folder that save_pretrained wrote")
    if content.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{file} is of version {content.get('format_version')}, this program reads version {FORMAT_VERSION}"
        )
    known = {"format", "format_version", *(item.name for item in dataclasses.fields(FolderConfig))}
    if unknown := set(content) - known:
        raise InputError(f"{file} has unknown fields: {', '.join(sorted(unknown))}; is it of a newer program?")
    try:
        model = from_dict(ModelConfig, content.get("model"))
        check_model_config(model)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    files, training = content.get("files"), content.get("training")
    if not isinstance(files, dict) or set(files) != set(_HASHED) or not isinstance(training, dict):
        raise InputError(f"{file} is damaged: expected the hashes of {', '.join(_HASHED)}, and facts of the training")
    return FolderConfig(model, files, training)


def read_folder(folder: str | Path) -> ModelFolder:
    """Read a model folder, comparing its files with the hashes in its config.json.

    Raises:
        InputError: it is incomplete, damaged, or something else.
    """
    folder = Path(folder).expanduser()
    config = read_folder_config(folder)
    for name, digest in config.files.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{folder} is incomplete: it holds no {name}; copy or download it again")
        if sha256_of(file) != digest:
            reason = "a Git LFS pointer: run git lfs pull" if _is_pointer(file) else "damaged, truncated or replaced"
            raise InputError(f"{file} is not the file that {folder / CONFIG_FILE} describes ({reason})")
    checkpoint = dataclasses.replace(read_checkpoint(folder / WEIGHTS_FILE), config=config.model)
    return ModelFolder(folder, config, checkpoint)


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as handle:
        return handle.read(24).startswith(b"version https://git-lfs")


def write_folder(folder: Path, model: SAMWISE, training: Mapping[str, Any]) -> None:
    """Write a network with its tokenizer; on an error the folder stays as it was.

    Args:
        folder: is made where it is missing; files of an earlier network are replaced.
        model: the network.
        training: what is known about its training: plain values, by names for people.

    Raises:
        InputError: the network has no tokenizer, or a fact is no plain value.
    """
    if model.tokenizer is None:
        raise InputError("the network has no tokenizer: load it with one before it is saved")
    try:
        facts = json.loads(json.dumps(dict(training), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"facts of the training must be plain values of JSON ({error})") from error
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    contents = {
        WEIGHTS_FILE: save(state, {"format": "pt"}),
        TOKENIZER_FILE: tokenizer_text(model.tokenizer.tokenizer).encode(),
    }
    files = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    described = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **dataclasses.asdict(FolderConfig(model.config, files, facts)),
    }
    contents[CARD_FILE] = model_card(model.config, parameter_count(state), files[WEIGHTS_FILE], facts).encode()
    contents[CONFIG_FILE] = (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode()
    with contextlib.ExitStack() as written:
        for name, data in contents.items():
            written.enter_context(atomic_write(folder / name)).write(data)


def parameter_count(state: Mapping[str, Tensor]) -> int:
    """Numbers in floating-point tensors."""
    return sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())
