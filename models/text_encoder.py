"""RoBERTa text encoder, run in groups of layers so that vision can enter between them.

Axes: B sentences, L tokens of the longest sentence, D text channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import RobertaConfig

from configs.schema import TextConfig
from models.tokenizer import PADDING, TokenBatch


class TextEmbeddings(nn.Module):
    """Token plus learned position embedding, LayerNorm, dropout; keys as in transformers' RoBERTa.

    Positions count from PADDING + 1. There are no token-type embeddings.
    """

    def __init__(self, config: TextConfig, eps: float, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=PADDING)
        self.position_embeddings = nn.Embedding(config.max_positions, config.hidden_size, padding_idx=PADDING)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: TokenBatch) -> Tensor:
        """-> (B, L, D), zero where there is padding."""
        positions = torch.where(tokens.words, tokens.words.long().cumsum(1) + PADDING, PADDING)
        embedded = self.word_embeddings(tokens.ids) + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(embedded)) * tokens.words[..., None]


class TextLayers(nn.Module):
    """The transformer layers, under transformers' key `layer`."""

    def __init__(self, config: RobertaConfig) -> None:
        # Not above: it takes a third of all imports' time, and --help or a wrong flag is answered without it.
        from transformers.models.roberta.modeling_roberta import RobertaLayer

        super().__init__()
        self.layer = nn.ModuleList(RobertaLayer(config) for _ in range(config.num_hidden_layers))


class TextEncoder(nn.Module):
    """RoBERTa (arXiv 1907.11692) without head or pooler; parameters as in transformers' `RobertaModel`.

    Args:
        config: sizes.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        roberta = RobertaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_positions,
            layer_norm_eps=1e-5,
        )
        roberta._attn_implementation = "sdpa"
        self.embeddings = TextEmbeddings(config, roberta.layer_norm_eps, roberta.hidden_dropout_prob)
        self.encoder = TextLayers(roberta)

    def run_layers(self, x: Tensor, words: Tensor, start: int, stop: int) -> Tensor:
        """Run layers start ... stop - 1.

        Args:
            x: (B, L, D).
            words: (B, L) bool, False for padding.

        Returns:
            (B, L, D).
        """
        mask = words[:, None, None, :]
        for layer in self.encoder.layer[start:stop]:
            out = layer(x, mask)
            x = out[0] if isinstance(out, tuple) else out  # a tuple in transformers 4
        return x
