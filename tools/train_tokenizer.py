"""Train the vocabulary of a small text encoder: byte-level BPE with RoBERTa's special tokens.

    python tools/train_tokenizer.py --from data/refshapes/MeViS_release/train/meta_expressions.json --out data/nano

Sources are text files (a sentence per line), JSON files of sentences (`meta_expressions.json` of the video benchmarks,
or converted RefCOCO files), and RefCOCO's own `refs(...).p`. The result is a tokenizer.json with the special tokens of
roberta-base: <s>, <pad>, </s> and <unk> are 0 to 3, <mask> is the last. It depends on nothing but the sentences, their
order excepted. All 256 bytes are in it, so that any text can be read with it; capital letters are read as small ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.video_index import fold
from models.tokenizer import SPECIAL, TOKENIZER_FILE, byte_level_tokenizer, load_tokenizer, tokenizer_text
from tools.data.convert_refexp_to_coco import load_refs
from util.command_line import Parser
from util.errors import InputError, run_script
from util.paths import atomic_write

MASK = "<mask>"
SMALLEST = len(SPECIAL) + 256 + 1
LARGEST = 1 << 20  # RoBERTa has 50,265; room for all of them is kept
_SENTENCE_KEYS = ("exp", "caption", "sent")
Merge = tuple[str, str]


def main(argv: Sequence[str] | None = None) -> None:
    """Read the sentences, train, write, and read the result again."""
    parser = Parser(description="train a byte-level BPE vocabulary from sentences")
    parser.add_argument("--from", dest="sources", nargs="+", type=Path, required=True, metavar="FILE", help="sentences")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tokenizer.json")
    parser.add_argument("--vocab_size", type=int, default=1024, help="tokens at most, special ones included (1024)")
    args = parser.parse_args(argv)
    sentences = [sentence for source in args.sources for sentence in read_sentences(source)]
    vocabulary, merges = train(sentences, args.vocab_size)
    with atomic_write(args.out / TOKENIZER_FILE, "w") as handle:
        handle.write(tokenizer_text(byte_level_tokenizer(vocabulary, merges, lower_case=True)))
    tokenizer = load_tokenizer(str(args.out))
    lengths = sorted(len(ids) for ids in tokenizer(sorted(set(sentences)))["input_ids"])
    print(
        f"wrote {args.out}: {len(vocabulary)} tokens from {len(sentences)} sentences ({len(lengths)} different), which "
        f"have {lengths[len(lengths) // 2]} tokens in the median and {lengths[-1]} at most"
    )


def read_sentences(source: Path) -> Iterator[str]:
    """The sentences of a file, in lower case with white space folded, as the network reads them in training.

    Raises:
        InputError: the file is missing or damaged, or has no sentence.
    """
    if not source.is_file():
        raise InputError(f"{source} does not exist: expected a text file, a JSON file, or refs(...).p")
    if source.suffix == ".p":
        found: Iterable[str] = _sentences_in(load_refs(source))
    else:
        try:
            text = source.read_text("utf-8")
            found = [*_sentences_in(json.loads(text))] if source.suffix == ".json" else text.splitlines()
            "".join(found).encode()  # JSON can spell halves of characters
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source} is neither JSON nor UTF-8 text, as its name says ({error})") from error
    sentences = [folded for sentence in found if (folded := fold(sentence))]
    if not sentences:
        raise InputError(f"{source} holds no sentences: expected lines, or JSON with {' or '.join(_SENTENCE_KEYS)}")
    yield from sentences


def _sentences_in(tree: Any) -> Iterator[str]:
    """The texts under the keys of sentences, at any depth."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in _SENTENCE_KEYS and isinstance(value, str):
                yield value
            else:
                yield from _sentences_in(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _sentences_in(value)


def train(sentences: Iterable[str], vocab_size: int) -> tuple[dict[str, int], list[Merge]]:
    """Train byte-level BPE.

    Args:
        sentences: the texts; how often a word occurs counts, the order does not.
        vocab_size: tokens at most; fewer if the sentences have no more to merge.

    Returns:
        tokens with their ids, and merges in their order.

    Raises:
        InputError: a vocabulary that has no place for the special tokens and the bytes, or is larger than any.
    """
    if not SMALLEST <= vocab_size <= LARGEST:
        raise InputError(
            f"--vocab_size must be at least {SMALLEST} (special tokens and 256 bytes) and at most {LARGEST}, found "
            f"{vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(sentences), trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    vocabulary = dict(sorted(trained["vocab"].items(), key=lambda item: item[1]))
    vocabulary[MASK] = len(vocabulary)
    return vocabulary, [(left, right) for left, right in trained["merges"]]


if __name__ == "__main__":
    run_script(main)
