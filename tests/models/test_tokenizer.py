"""Tokenisation: real vocabularies where they are at hand, the byte-level one everywhere, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.base_weights import is_hub_id
from models.motion_prompts import SPACY_MODEL, find_verbs
from models.tokenizer import Tokenizer, byte_tokenizer, load_tokenizer, pad_tokens
from tests.weight_files import save_vocabulary
from util.errors import InputError

BYTES = byte_tokenizer()


@pytest.mark.parametrize("folder", ["roberta-base", "fairseq_gpt2_bpe"])
def test_real_vocabularies_give_the_recorded_ids(shared: Path, folder: str) -> None:
    recorded = json.loads((shared / "data" / "tokenizer" / "golden_ids.json").read_text("utf-8"))
    tokenizer = load_tokenizer(str(shared / "data" / "tokenizer" / folder))
    found = tokenizer([case["text"] for case in recorded])["input_ids"]
    assert len(recorded) > 2000
    assert [case["text"] for ids, case in zip(found, recorded, strict=True) if ids != case["ids"]] == []


def test_folder_with_vocabulary_and_merges(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(save_vocabulary(tmp_path / "roberta")))
    assert tokenizer("ab")["input_ids"] == [0, 297, 2]


@pytest.mark.parametrize("case", ["missing", "default", "empty", "no merges", "config alone", "damaged"])
def test_no_tokenizer_is_an_error_and_never_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "roberta"
    if case not in ("missing", "default"):
        save_vocabulary(folder)
        keep = {"no merges": ["vocab.json"], "damaged": ["vocab.json", "merges.txt"]}.get(case, [])
        for path in folder.iterdir():
            if path.name not in keep:
                path.unlink()
    if case == "config alone":
        (folder / "config.json").write_text('{"model_type": "roberta"}')
    if case == "damaged":
        (folder / "vocab.json").write_text('{"a": 0')
    source = "pretrain/roberta-base" if case == "default" else str(folder)
    with pytest.raises(InputError, match=r"download_weights\.py roberta-base"):
        load_tokenizer(source)


@given(st.lists(st.text(min_size=1, max_size=20).filter(str.strip), min_size=1, max_size=4))
def test_any_text_becomes_ids_between_the_marks(sentences: list[str]) -> None:
    batch = Tokenizer(BYTES, 512)(sentences)
    assert (batch.ids[:, 0] == 0).all()
    for ids, words in zip(batch.ids, batch.words, strict=True):
        length = int(words.sum())
        assert words[:length].all()
        assert ids[length - 1] == 2
        assert (ids[length:] == 1).all()


def test_ids_are_padded_and_marked() -> None:
    batch = pad_tokens([[0, 5, 2], [0, 2]])
    assert batch.ids.tolist() == [[0, 5, 2], [0, 2, 1]]
    assert batch.words.tolist() == [[True, True, True], [True, True, False]]


def test_the_longest_possible_sentence() -> None:
    tokenizer = Tokenizer(BYTES, 512)
    assert tokenizer(["a" * 510]).ids.shape == (1, 512)
    with pytest.raises(InputError, match="513 tokens, at most 512"):
        tokenizer(["a" * 511])


def test_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    assert is_hub_id("FacebookAI/roberta-base")
    for path in ("pretrain/roberta-base", "weights", "weights/absent", "/absent/roberta", "a/b/c"):
        assert not is_hub_id(path)


def test_motion_prompts_without_spacy_name_both_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not spaCy is installed: without its model the message says how to get it."""
    import models.motion_prompts as motion_prompts

    motion_prompts._language_model.cache_clear()
    monkeypatch.setattr(motion_prompts, "SPACY_MODEL", "no_such_model")
    with pytest.raises(InputError, match=r"pip install spacy.*python -m spacy download no_such_model"):
        find_verbs("the dog that jumps")
    assert SPACY_MODEL == "en_core_web_sm"


def test_verbs_are_marked_by_their_place_in_the_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token that overlaps a verb's characters, and no other."""
    import models.tokenizer as tokenizer_module

    sentence = "the dog that jumps"
    monkeypatch.setattr(tokenizer_module, "find_verbs", lambda text: [(text.index("jumps"), len(text))])
    batch = Tokenizer(BYTES, 512, motion_prompt=True)([sentence, "it jumps"])
    assert batch.verbs is not None
    expected = torch.zeros_like(batch.words)
    expected[0, 14:19] = True
    expected[1, 4:9] = True
    torch.testing.assert_close(batch.verbs, expected)
