"""Whether training left the frozen weights alone: they must be those of the stand-in, bit for bit.

    python3 tools/study/frozen.py output/miniature/stand_in output/miniature/model --out frozen.json

Exit status 2 if a tensor differs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor

from models.checkpoint_keys import is_trainable
from models.model_folder import read_folder
from util.command_line import Parser
from util.errors import InputError, run_script
from util.paths import atomic_write_json


@dataclass(frozen=True)
class Comparison:
    """Frozen tensors of two model folders.

    Attributes:
        tensors, parameters: how many there are, and the numbers in them.
        differing: names of those that are not the same, or only in one of the folders.
    """

    tensors: int
    parameters: int
    differing: tuple[str, ...]


def same_bits(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether two tensors are there and have the same type, shape and bits."""
    if first is None or second is None or (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    return torch.equal(*(value.contiguous().reshape(-1).view(torch.uint8) for value in (first, second)))


def compare(stand_in: Path, model: Path) -> Comparison:
    """Compare what training keeps frozen.

    Raises:
        InputError: a folder is no model folder, or is damaged.
    """
    before, after = (read_folder(folder).checkpoint.state for folder in (stand_in, model))
    names = sorted(name for name in {*before, *after} if not is_trainable(name))
    differing = tuple(name for name in names if not same_bits(before.get(name), after.get(name)))
    return Comparison(len(names), sum(before[name].numel() for name in names if name in before), differing)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, write, and complain."""
    parser = Parser(description=__doc__)
    parser.add_argument("stand_in", type=Path, help="model folder that training began with")
    parser.add_argument("model", type=Path, help="model folder of its result")
    parser.add_argument("--out", type=Path, help="also write the result as JSON")
    args = parser.parse_args(argv)
    found = compare(args.stand_in, args.model)
    if args.out is not None:
        atomic_write_json(args.out, {**asdict(found), "identical": not found.differing})
    if found.differing:
        raise InputError(
            f"{len(found.differing)} of {found.tensors} frozen tensors of {args.model} are not those of "
            f"{args.stand_in}: {', '.join(found.differing[:3])}; was it trained on another stand-in?"
        )
    print(f"{found.tensors} frozen tensors ({found.parameters:,} numbers) are bit-identical")


if __name__ == "__main__":
    run_script(main)
