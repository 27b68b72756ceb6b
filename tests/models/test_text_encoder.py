"""The text encoder against transformers' `RobertaModel` as a whole, and its treatment of padding."""

from __future__ import annotations

import functools
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import RobertaConfig, RobertaModel

from configs.schema import TextConfig
from models.text_encoder import TextEncoder
from models.tokenizer import END, PADDING, START, TokenBatch, pad_tokens

CONFIG = TextConfig(vocab_size=60, hidden_size=32, layers=4, heads=4, intermediate_size=48, max_positions=34)
LONGEST = CONFIG.max_positions - 2
SENTENCES = [[START, 7, 8, 9, 10, 11, END], [START, 59, END], [START, *range(4, 34), END]]


@functools.cache
def both() -> tuple[TextEncoder, RobertaModel]:
    """Our encoder and that of transformers with the same random weights."""
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=CONFIG.vocab_size,
        hidden_size=CONFIG.hidden_size,
        num_hidden_layers=CONFIG.layers,
        num_attention_heads=CONFIG.heads,
        intermediate_size=CONFIG.intermediate_size,
        max_position_embeddings=CONFIG.max_positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=PADDING,
    )
    theirs = RobertaModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for tensor in theirs.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
        theirs.embeddings.token_type_embeddings.weight.zero_()  # as published: there are no token types
    ours = TextEncoder(CONFIG).eval()
    loaded = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not loaded.missing_keys
    assert set(loaded.unexpected_keys) <= {"embeddings.token_type_embeddings.weight"}
    return ours, theirs


def run(tokens: TokenBatch, stops: tuple[int, ...] = (0, CONFIG.layers)) -> Tensor:
    """All layers of our encoder in groups that end at `stops`."""
    encoder = both()[0]
    x = encoder.embeddings(tokens)
    for start, stop in pairwise(stops):
        x = encoder.run_layers(x, tokens.words, start, stop)
    return x


@pytest.mark.parametrize("stops", [(0, 4), (0, 1, 4), (0, 1, 2, 3, 4), (0, 0, 3, 4, 4)], ids=str)
@torch.inference_mode()
def test_groups_of_layers_equal_the_whole_of_transformers(stops: tuple[int, ...]) -> None:
    tokens = pad_tokens(SENTENCES)
    expected = both()[1](input_ids=tokens.ids, attention_mask=tokens.words.long()).last_hidden_state
    torch.testing.assert_close(run(tokens, stops)[tokens.words], expected[tokens.words], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_embeddings_of_padding_are_zero() -> None:
    tokens = pad_tokens(SENTENCES)
    embedded = both()[0].embeddings(tokens)
    assert not embedded[~tokens.words].any()
    assert embedded[tokens.words].abs().sum(-1).min() > 0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(3, 59), min_size=1, max_size=LONGEST - 2), min_size=2, max_size=4))
@torch.inference_mode()
def test_sentences_of_different_length_in_one_batch_equal_each_alone(sentences: list[list[int]]) -> None:
    sentences = [[START, *words, END] for words in sentences]
    together = run(pad_tokens(sentences))
    for row, sentence in zip(together, sentences, strict=True):
        alone = run(pad_tokens([sentence]))[0]
        torch.testing.assert_close(row[: len(sentence)], alone, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_what_stands_in_the_padding_is_never_read() -> None:
    tokens = pad_tokens(SENTENCES)
    other = TokenBatch(tokens.ids.masked_fill(~tokens.words, 42), tokens.words)
    assert torch.equal(run(tokens)[tokens.words], run(other)[tokens.words])
