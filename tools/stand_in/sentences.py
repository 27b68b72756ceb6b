"""Sentences alone, hundreds in a step: what they ask for beyond looks, told without a look at any picture.

A sentence costs next to nothing beside the clip that it belongs to, and clips come few at a time: words for motion were
still mixed up ("fastest" with "slowest") when the network had long been able to see motion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.samwise import SAMWISE
from tools.stand_in.scenes import OVER_TIME, QUANTITIES, as_row, read_clause, read_records

# Of the clauses in refshapes.json.
CLAUSE_WORDS = (
    "above", "anticlockwise", "appears_last", "appears_later", "back_and_forth", "below", "bottom", "bottommost",
    "bounces", "circles", "clockwise", "down", "down-left", "down-right", "ends", "fastest", "gets_hidden", "goes_on",
    "goes_then_stops", "grows", "is", "keeps_moving", "largest", "leaves", "leaves_and_returns", "leaves_first", "left",
    "leftmost", "moves", "moves_first", "moves_last", "of", "right", "rightmost", "shrinks", "slowest", "smallest",
    "spins", "starts", "stays_in_picture", "stays_still", "stops", "stops_first", "stops_last", "stops_then_goes",
    "top", "topmost", "turns", "turns_aside", "turns_back", "up", "up-left", "up-right", "zigzags",
)  # fmt: skip
ASKED_WEIGHT, CLAUSE_WEIGHT = 4.0, 0.3


@dataclass(frozen=True)
class SentenceBatch:
    """Some sentences and what their clauses say.

    Attributes:
        texts: B sentences in lower case.
        asked: (B, len(QUANTITIES)), see `tools.stand_in.scenes.SceneBatch`.
        clauses: (B, len(CLAUSE_WORDS)) in {0, 1}, the words of the clauses.
    """

    texts: list[str]
    asked: Tensor
    clauses: Tensor


def describe(expressions: Sequence[Mapping[str, Any]]) -> SentenceBatch:
    """Expressions of refshapes.json as a batch."""
    asked = torch.tensor([as_row(read_clause(expression["clause"])[0]) for expression in expressions])
    clauses = torch.zeros(len(expressions), len(CLAUSE_WORDS))
    for row, expression in enumerate(expressions):
        for word in set(expression["clause"].split()) & set(CLAUSE_WORDS):
            clauses[row, CLAUSE_WORDS.index(word)] = 1
    return SentenceBatch([expression["exp"].lower() for expression in expressions], asked, clauses)


def asked_loss(answers: Tensor, truth: Tensor) -> Tensor:
    """Of what sentences ask for, both (B, len(QUANTITIES))."""
    return ASKED_WEIGHT * F.smooth_l1_loss(answers, truth, beta=0.3)


class SentenceSource:
    """The sentences of all training splits.

    Args:
        root: what tools/data/make_refshapes.py made.

    Raises:
        InputError: there are none.
    """

    def __init__(self, root: Path) -> None:
        records = read_records(root, ("train", "image_train"))
        self._all = [expression for record in records for expression in record["expressions"]]
        self._over_time = [expression for expression in self._all if expression["kind"] in OVER_TIME]

    def draw(self, count: int, rng: np.random.Generator) -> SentenceBatch:
        """`count` sentences, half of them of `OVER_TIME` where there are any."""
        pools = (self._all, self._over_time or self._all)
        return describe([pools[place % 2][int(rng.integers(len(pools[place % 2])))] for place in range(count)])


class SentenceLessons(nn.Module):
    """Heads on the sentence token, after each part of the text encoder.

    Args:
        model: the network that learns; not registered.
    """

    def __init__(self, model: SAMWISE) -> None:
        super().__init__()
        text = model.config.text
        self.stops = sorted({*model.config.fusion_stages_txt, text.layers})
        self.heads = nn.ModuleList(nn.Linear(text.hidden_size, len(QUANTITIES) + len(CLAUSE_WORDS)) for _ in self.stops)

    def forward(self, model: SAMWISE, batch: SentenceBatch) -> Tensor:
        """The loss of a batch."""
        assert model.tokenizer is not None
        tokens = model.tokenizer(batch.texts).to(model.device)
        text, start, losses = model.text_encoder.embeddings(tokens), 0, []
        for stop, head in zip(self.stops, self.heads, strict=True):
            text, start = model.text_encoder.run_layers(text, tokens.words, start, stop), stop
            asked, clauses = head(text[:, 0]).split((len(QUANTITIES), len(CLAUSE_WORDS)), dim=1)
            losses.append(asked_loss(asked, batch.asked.to(asked.device)))
            truth = batch.clauses.to(clauses.device)
            losses.append(CLAUSE_WEIGHT * F.binary_cross_entropy_with_logits(clauses, truth) * len(CLAUSE_WORDS))
        return torch.stack(losses).sum() / len(self.stops)
