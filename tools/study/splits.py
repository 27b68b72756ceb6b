"""Variants of a split of MeViS that share its frames and masks.

    python3 tools/study/splits.py first data/MeViS_release --videos 10 --out output/ten
    python3 tools/study/splits.py late data/MeViS_release --videos 10 --out output/ten --refshapes data/refshapes.json
    python3 tools/study/splits.py shuffle data/MeViS_release --seed 0 --out output/shuffled

`first` keeps the first videos, `late` does so too, but takes first those in which some object fits a sentence at first
and proves wrong later, a rare thing that CME is there for. `shuffle` gives every video the sentences of another one,
while the targets stay: the score of what a network makes of these sentences is what it reaches without knowing what is
asked for. Point --mevis_path of the scripts at OUT.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from configs.cli import natural_int, positive_int
from tools.study.scores import Facts, Key, read_facts
from util.command_line import Parser
from util.errors import InputError, run_script
from util.paths import atomic_write

META, MASKS, FRAMES = "meta_expressions.json", "mask_dict.json", "JPEGImages"
Videos = dict[str, dict[str, Any]]


def misleading_first(videos: Videos, facts: Mapping[Key, Facts]) -> Videos:
    """The same, those with a late distractor before the others."""
    late = {name for (name, _), fact in facts.items() if fact.late}
    return dict(sorted(videos.items(), key=lambda item: item[0] not in late))


def shuffled(videos: Videos, seed: int) -> Videos:
    """Every video with the sentences of another one (of one with fewer, again from its first), targets unchanged.

    Raises:
        InputError: there are fewer than two videos with sentences.
    """
    speaking = [name for name, video in videos.items() if video["expressions"]]
    if len(speaking) < 2:
        raise InputError(f"sentences can be exchanged between two or more videos; found {len(speaking)} with sentences")
    order = [speaking[place] for place in np.random.default_rng(seed).permutation(len(speaking))]
    donors = dict(zip(order, [*order[1:], order[0]], strict=True))
    result = {}
    for name, video in videos.items():
        given = [item["exp"] for item in videos[donors[name]]["expressions"].values()] if name in donors else []
        expressions = {
            key: {**item, "exp": given[number % len(given)]}
            for number, (key, item) in enumerate(video["expressions"].items())
        }
        result[name] = {**video, "expressions": expressions}
    return result


def write_split(source: Path, out: Path, videos: Videos) -> None:
    """Write the folder of a split with other metadata; the frames stay where they are."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / FRAMES, "w") as handle:
        handle.write(os.path.relpath((source / FRAMES).resolve(), out.resolve()))
    with atomic_write(out / MASKS) as masks:
        masks.write((source / MASKS).read_bytes())
    with atomic_write(out / META, "w") as handle:
        json.dump({"videos": videos}, handle)


def main(argv: Sequence[str] | None = None) -> None:
    """Read, change, write."""
    parser = Parser(description=__doc__)
    parser.add_argument("change", choices=("first", "late", "shuffle"))
    parser.add_argument("mevis_path", type=Path, help="the folder of the splits")
    parser.add_argument("--split", default="valid_u", help="one with ground truth (valid_u)")
    parser.add_argument("--videos", type=positive_int, default=10, help="how many `first` and `late` keep (10)")
    parser.add_argument("--refshapes", type=Path, help="refshapes.json of the data set, for `late`")
    parser.add_argument("--seed", type=natural_int, default=0, help="of `shuffle` (0)")
    parser.add_argument("--out", type=Path, required=True, help="gets a folder of the same name as the split")
    args = parser.parse_args(argv)
    if args.change == "late" and args.refshapes is None:
        parser.error("late needs --refshapes, the refshapes.json of the data set")
    source = args.mevis_path / args.split
    try:
        videos: Videos = json.loads((source / META).read_bytes())["videos"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{source / META} is damaged ({error!r}); tools/data/check_dataset.py says more") from error
    if args.change == "late":
        videos = misleading_first(videos, read_facts(args.refshapes))
    changed = shuffled(videos, args.seed) if args.change == "shuffle" else dict(list(videos.items())[: args.videos])
    write_split(source, args.out / args.split, changed)
    print(f"{args.out / args.split}: {len(changed)} videos")


if __name__ == "__main__":
    run_script(main)
