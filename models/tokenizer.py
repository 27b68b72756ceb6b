"""Tokenisation of sentences for RoBERTa. Axes: B sentences, L tokens of the longest one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, RobertaTokenizerFast

from models.base_weights import is_hub_id
from models.motion_prompts import find_verbs
from util.errors import InputError, one_line

START, PADDING, END = 0, 1, 2
FAIRSEQ_FILES = ("encoder.json", "vocab.bpe", "dict.txt")
TRANSFORMERS_FILES = ("vocab.json", "merges.txt")
TOKENIZER_FILE = "tokenizer.json"
SPECIAL = {"<s>": START, "<pad>": PADDING, "</s>": END, "<unk>": 3}


@dataclass(frozen=True)
class TokenBatch:
    """Tokenised sentences.

    Attributes:
        ids: (B, L) int64 token ids; `<s>` first, `</s>` last, then padding.
        words: (B, L) bool, False for padding.
        verbs: (B, L) bool, True for the tokens of verbs; None without motion prompts.
        most_verbs: tokens of verbs of the sentence that has most, counted where it is not given. It goes along to
            another device, so that nobody has to ask one.
    """

    ids: Tensor
    words: Tensor
    verbs: Tensor | None = None
    most_verbs: int = -1

    def __post_init__(self) -> None:
        if self.most_verbs < 0:
            object.__setattr__(self, "most_verbs", 0 if self.verbs is None else int(self.verbs.sum(1).max()))

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same on another device."""
        verbs = None if self.verbs is None else self.verbs.to(device)
        return replace(self, ids=self.ids.to(device), words=self.words.to(device), verbs=verbs)


def pad_tokens(sentences: Sequence[Sequence[int]]) -> TokenBatch:
    """Batch token ids of sentences of different length."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(list(s)) for s in sentences], True, float(PADDING)).long()
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    return TokenBatch(ids, torch.arange(ids.shape[1]) < lengths[:, None])


class Tokenizer:
    """Turns sentences into a `TokenBatch`, refusing what the text encoder cannot read.

    Args:
        tokenizer: a fast RoBERTa tokenizer of transformers.
        max_tokens: longest sentence in tokens, `<s>` and `</s>` included.
        motion_prompt: whether verbs are marked (needs spaCy's `en_core_web_sm`).
    """

    def __init__(self, tokenizer: Any, max_tokens: int, motion_prompt: bool = False) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.motion_prompt = motion_prompt

    @property
    def digest(self) -> str:
        """SHA-256 of the vocabulary: tokens and their ids."""
        return hashlib.sha256(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode()).hexdigest()

    def __call__(self, sentences: Sequence[str]) -> TokenBatch:
        """Tokenise.

        Raises:
            InputError: no sentence, an empty one, or one that is too long.
        """
        if not sentences:
            raise InputError("expected at least one sentence, found none")
        for number, sentence in enumerate(sentences):
            if not sentence.strip():
                raise InputError(f"sentence {number + 1} is empty: give a few words that describe the object")
        encoded = self.tokenizer(list(sentences), padding="longest", return_tensors="pt", verbose=False)
        words = encoded["attention_mask"].bool()
        for sentence, length in zip(sentences, words.sum(1).tolist(), strict=True):
            if length > self.max_tokens:
                raise InputError(
                    f"sentence {sentence[:40]!r}... has {length} tokens, at most {self.max_tokens} are possible: "
                    "shorten it"
                )
        verbs = self._mark_verbs(sentences, words.shape[1]) if self.motion_prompt else None
        return TokenBatch(encoded["input_ids"], words, verbs)

    def _mark_verbs(self, sentences: Sequence[str], length: int) -> Tensor:
        """(B, L) bool: tokens that overlap a verb."""
        marks = torch.zeros(len(sentences), length, dtype=torch.bool)
        for row, sentence in enumerate(sentences):
            offsets = self.tokenizer(sentence, return_offsets_mapping=True)["offset_mapping"]
            for start, end in find_verbs(sentence):
                for column, (first, last) in enumerate(offsets):
                    marks[row, column] |= first < end and last > start
        return marks


def load_tokenizer(source: str) -> Any:
    """The RoBERTa tokenizer of a folder (transformers' or fairseq's files) or of a hub id.

    Raises:
        InputError: there is none.
    """
    folder = Path(source).expanduser()
    folder = folder.parent if folder.is_file() else folder  # a weight file: its tokenizer lies beside it
    tokenizer, reason = None, "no such files"
    try:
        if all((folder / name).is_file() for name in FAIRSEQ_FILES):
            tokenizer = _fairseq_tokenizer(folder)
        elif (folder / TOKENIZER_FILE).is_file():
            tokenizer = _as_roberta(Backend.from_file(str(folder / TOKENIZER_FILE)))
        elif all((folder / name).is_file() for name in TRANSFORMERS_FILES):
            tokenizer = RobertaTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        elif is_hub_id(source):
            tokenizer = RobertaTokenizerFast.from_pretrained(source)
    except Exception as error:  # transformers and tokenizers raise many kinds, some of them Rust's
        reason = one_line(error)
    # A tokenizer without its files can come back empty instead of not at all.
    if tokenizer is None or tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>"]) != [START, PADDING, END]:
        raise InputError(
            f"no RoBERTa tokenizer at {source} (expected vocab.json and merges.txt, or tokenizer.json; {reason}): give "
            "its folder with --roberta, or run `python tools/download_weights.py roberta-base`"
        )
    return tokenizer


def _fairseq_tokenizer(folder: Path) -> Any:
    """From `encoder.json`, `vocab.bpe` and `dict.txt`: the dictionary's lines number the byte-pair ids."""
    names = {number: token for token, number in json.loads((folder / "encoder.json").read_text("utf-8")).items()}
    vocabulary = dict(SPECIAL)
    for line in (folder / "dict.txt").read_text("utf-8").splitlines():
        word = line.split()[0]
        vocabulary[names[int(word)] if word.isdecimal() else word] = len(vocabulary)
    vocabulary["<mask>"] = len(vocabulary)
    lines = (folder / "vocab.bpe").read_text("utf-8").splitlines()
    merges = [(line.split()[0], line.split()[1]) for line in lines[1:] if line]
    return byte_level_tokenizer(vocabulary, merges)


def byte_tokenizer() -> Any:
    """A tokenizer without merges (256 bytes and the special tokens), for weights that no vocabulary was made for."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return byte_level_tokenizer(SPECIAL | {letter: len(SPECIAL) + index for index, letter in enumerate(alphabet)}, [])


def byte_level_tokenizer(vocabulary: Mapping[str, int], merges: list[tuple[str, str]], lower_case: bool = False) -> Any:
    """RoBERTa's tokenizer with another vocabulary.

    Args:
        vocabulary: tokens with their ids.
        merges: of byte-pair encoding, in their order.
        lower_case: whether it reads capital letters as small ones.
    """
    backend = Backend(models.BPE(dict(vocabulary), merges, unk_token="<unk>"))
    if lower_case:
        backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", END), ("<s>", START), add_prefix_space=False)
    tokenizer = _as_roberta(backend)
    if "<mask>" in vocabulary:
        tokenizer.add_special_tokens({"mask_token": AddedToken("<mask>", lstrip=True)})
    return tokenizer


def _as_roberta(backend: Backend) -> Any:
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def tokenizer_text(tokenizer: Any) -> str:
    """All of a tokenizer as the text of a `tokenizer.json`, from which `load_tokenizer` makes the same again."""
    backend = Backend.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    return backend.to_str() + "\n"
