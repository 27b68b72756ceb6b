"""tools/train_tokenizer.py: vocabularies that the text encoder's tokenizer accepts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.tokenizer import Tokenizer, load_tokenizer
from tools.train_tokenizer import SMALLEST, main, read_sentences, train
from util.errors import InputError

SENTENCES = [f"the {colour} {shape} that moves" for colour in ("red", "green") for shape in ("disc", "square", "star")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary of the sentences above."""
    root = tmp_path_factory.mktemp("vocabulary")
    (root / "text.txt").write_text("\n".join(SENTENCES) + "\n", "utf-8")
    main(["--from", str(root / "text.txt"), "--out", str(root / "out"), "--vocab_size", "300"])
    return root / "out"


def test_the_layout_is_that_of_roberta(folder: Path) -> None:
    vocabulary = load_tokenizer(str(folder)).get_vocab()
    assert [vocabulary[name] for name in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert vocabulary["<mask>"] == len(vocabulary) - 1
    assert SMALLEST < len(vocabulary) <= 300


def test_frequent_words_are_one_token(folder: Path) -> None:
    tokenizer = Tokenizer(load_tokenizer(str(folder)), 128)
    batch = tokenizer(["the red disc", "the square"])
    assert torch.equal(tokenizer(["The RED disc"]).ids, batch.ids[:1])
    assert batch.words.sum(1).tolist() == [5, 4]
    assert batch.ids[0, 0] == 0
    assert batch.ids[1].tolist()[3:] == [2, 1]


@given(st.text())
def test_every_text_can_be_read(folder: Path, text: str) -> None:
    tokenizer = load_tokenizer(str(folder))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert all(0 <= token < len(tokenizer) for token in ids)
    if "<" not in text:
        assert 3 not in ids
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == "".join(letter.lower() for letter in text)


def test_the_order_of_the_sentences_does_not_count() -> None:
    result = train(SENTENCES, 300)
    assert result == train(reversed(SENTENCES), 300)
    assert len(train(SENTENCES * 50, 2000)[0]) < 400  # nothing more to merge


def test_sources(tmp_path: Path) -> None:
    meta = {"videos": {"a": {"expressions": {"0": {"exp": "The  Disc", "obj_id": [1]}, "1": {"exp": "a star"}}}}}
    (tmp_path / "meta_expressions.json").write_text(json.dumps(meta))
    coco = {"images": [{"caption": "left man", "file_name": "x.jpg"}], "annotations": [{"segmentation": [[1, 2]]}]}
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([{"sentences": [{"sent": "Right man", "raw": "x"}]}]))
    (tmp_path / "lines.txt").write_text("one two\n\n  three \n")
    names = ("meta_expressions.json", "instances.json", "refs(unc).p", "lines.txt")
    found = [sentence for name in names for sentence in read_sentences(tmp_path / name)]
    assert found == ["the disc", "a star", "left man", "right man", "one two", "three"]


def test_what_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "none.json").write_text('{"videos": {}}')
    (tmp_path / "half.json").write_text(r'[{"exp": "half of a \ud83d character"}]')
    for name, words in (
        ("absent.txt", "does not exist"),
        ("empty.txt", "holds no sentences"),
        ("none.json", "holds no sentences"),
        ("bytes.txt", "neither JSON nor UTF-8 text"),
        ("bad.json", "neither JSON nor UTF-8 text"),
        ("half.json", "neither JSON nor UTF-8 text"),
    ):
        with pytest.raises(InputError, match=words):
            main(["--from", str(tmp_path / name), "--out", str(tmp_path / "out")])
    for size in (200, 10**30):
        with pytest.raises(InputError, match=f"--vocab_size must be at least {SMALLEST} .* at most .* {size}$"):
            train(SENTENCES, size)
    assert not (tmp_path / "out").exists()
