"""Verbs of a sentence, for `--motion_prompt`."""

from __future__ import annotations

import functools
from typing import Any

from util.errors import InputError

SPACY_MODEL = "en_core_web_sm"


@functools.lru_cache(maxsize=1)
def _language_model() -> Any:
    try:
        import spacy

        return spacy.load(SPACY_MODEL)
    except (ImportError, OSError):
        raise InputError(
            f"--motion_prompt needs spaCy with {SPACY_MODEL}, which is not installed: run "
            f"`pip install spacy` and `python -m spacy download {SPACY_MODEL}`"
        ) from None


def find_verbs(sentence: str) -> list[tuple[int, int]]:
    """Character spans [start, end) of the verbs of a sentence.

    Raises:
        InputError: spaCy or its English model is not installed.
    """
    return [(token.idx, token.idx + len(token.text)) for token in _language_model()(sentence) if token.pos_ == "VERB"]
