"""`SAMWISE.from_pretrained` and `save_pretrained`: networks as folders (`models.model_folder`) and as hub models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor

from models.model_folder import ModelFolder, find_folder, read_folder, write_folder
from models.tokenizer import Tokenizer, load_tokenizer
from util.errors import InputError, one_line

if TYPE_CHECKING:
    from models.samwise import SAMWISE

Network = TypeVar("Network", bound="HubMixin")


class HubMixin(ModelHubMixin):
    """What a network needs to be kept in folders and on the model hub.

    `save_pretrained(FOLDER)` and `push_to_hub(ID)` are those of huggingface_hub; a folder can be read without network.

    Attributes:
        training_facts: what is known about the training, for config.json and the model card: plain values under names
            for people (data, flags, scores, ...), nested at will. `from_pretrained` and `load_model` fill it in.
    """

    training_facts: Mapping[str, Any] = {}

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[Network],
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        device: torch.device | str = "cpu",
    ) -> Network:
        """The network of a folder, or of a hub model, exactly as it was saved; in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder, or the id `owner/name` of a hub model.
            force_download, token, cache_dir, local_files_only, revision: how a hub model is found, see
                `huggingface_hub.snapshot_download`.
            device: where the network goes.

        Raises:
            InputError: there is no such folder or hub model, or it is incomplete, damaged, or something else.
        """
        options = {"force_download": force_download, "token": token, "cache_dir": cache_dir}
        path = find_folder(
            pretrained_model_name_or_path, local_files_only=local_files_only, revision=revision, **options
        )
        return cast(Network, open_folder(read_folder(path)).to(device))

    def save_pretrained(
        self, save_directory: str | Path, *, repo_id: str | None = None, push_to_hub: bool = False, **options: Any
    ) -> str | None:
        """Write the network to a folder, whose files are replaced together.

        Args:
            save_directory: the folder.
            repo_id: the id of the hub model; the folder's name where it is None.
            push_to_hub: whether to upload it, too.
            options: further arguments of `push_to_hub`.

        Returns:
            the address of what was uploaded, if something was.

        Raises:
            InputError: the network has no tokenizer, or `training_facts` are no plain values.
        """
        write_folder(Path(save_directory), cast("SAMWISE", self), self.training_facts)
        return self.push_to_hub(repo_id or Path(save_directory).name, **options) if push_to_hub else None


def open_folder(folder: ModelFolder) -> SAMWISE:
    """The network that a folder holds, on the CPU, with its tokenizer.

    Raises:
        InputError: its files do not fit each other.
    """
    from models.build import build_model  # it imports the class that this module is a part of

    config, state = folder.config.model, folder.checkpoint.state
    types = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    try:
        with torch.device("meta"):
            model = build_model(config)
    except (RuntimeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{folder.path}: no network has the sizes in its config.json ({one_line(error)})") from error
    if len(types) == 1:
        model.to(types.pop())
    _compare(folder, model.state_dict(), state)
    # Copies, for memory that is aligned: kernels take other paths without, and round differently.
    model.load_state_dict({key: tensor.clone() for key, tensor in state.items()}, assign=True)
    model.tokenizer = folder_tokenizer(folder)
    model.training_facts = folder.config.training
    return model


def folder_tokenizer(folder: ModelFolder) -> Tokenizer:
    """The tokenizer of a model folder."""
    config = folder.config.model
    return Tokenizer(load_tokenizer(str(folder.path)), config.text.max_positions - 2, config.motion_prompt)


def _compare(folder: ModelFolder, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuse a file whose names, shapes or types are not those of the network."""
    faults = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another form": [
            key
            for key in sorted(expected.keys() & found.keys())
            if (found[key].shape, found[key].dtype) != (expected[key].shape, expected[key].dtype)
        ],
    }
    text = [f"{len(keys)} {kind}: {', '.join(keys[:3])}" for kind, keys in faults.items() if keys]
    if text:
        raise InputError(f"{folder.checkpoint.path} does not fit the config.json beside it: {'; '.join(text)}")
