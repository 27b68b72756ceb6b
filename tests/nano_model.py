"""The nano network that comes with the repository, as programs find it where no weights are given."""

from __future__ import annotations

from pathlib import Path

import torch

from configs.loading import load_model_config
from models.build import build_model
from models.model_folder import require_shipped
from models.tokenizer import Tokenizer, byte_tokenizer
from util.errors import InputError


def nano_folder(folder: Path) -> Path:
    """Its model folder; in a copy without it one that is written to `folder`, of the same size with random weights."""
    try:
        shipped = require_shipped("nano")
        assert shipped is not None
        return shipped
    except InputError:
        torch.manual_seed(0)
        model = build_model(load_model_config("nano", hsa=True, use_cme_head=True))
        model.tokenizer = Tokenizer(byte_tokenizer(), model.config.text.max_positions - 2)
        model.save_pretrained(folder)
        return folder
