"""J and F of RefShapes by what the sentences speak of: appearance, motion, ... and whether something misleads at first.

    python3 tools/study/scores.py output/X/scores.json data/refshapes/refshapes.json

The first file is what inference_mevis.py and tools/evaluate.py write. Means are over expressions, as MeViS has them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.scoring.tables import text_table
from util.command_line import Parser
from util.errors import InputError, run_script
from util.paths import atomic_write_json

KINDS = ("appearance", "motion", "relation", "order", "several", "late_distractor", "none")
ALL, KIND, LATE, CLAUSE = "all", "kind", "late distractor", "clause"
WITH, WITHOUT = "with", "without"
_SIDES = ("left", "right", "top", "bottom")
_OUTERMOST = tuple(f"{side}most" for side in _SIDES)
Key = tuple[str, str]


@dataclass(frozen=True)
class Facts:
    """What the generator says of an expression.

    Attributes:
        text: the sentence.
        kind: one of `KINDS`.
        family: of what it says beyond looks, see `family_of`.
        late: some object fits it at first and proves wrong later.
    """

    text: str
    kind: str
    family: str
    late: bool


@dataclass(frozen=True)
class Mean:
    """Means over expressions: J and F from 0 to 1, and how many expressions there are."""

    j: float
    f: float
    expressions: int

    @property
    def j_and_f(self) -> float:
        """The mean of J and F."""
        return (self.j + self.f) / 2

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"J": self.j, "F": self.f, "J&F": self.j_and_f, "expressions": self.expressions}


Groups = dict[str, dict[str, Mean]]


def family_of(clause: str) -> str:
    """A clause without what it fills in: "keeps_moving left" and "keeps_moving up" are both "keeps moving"."""
    words = clause.split()
    if not words:
        return "looks alone"
    if words[-1].isdecimal():
        return "place beside another object"
    if len(words) == 2 and words[0] in ("is", "starts", "ends"):
        return "outermost place" if words[1] in _OUTERMOST else "place in the picture"
    return words[0].replace("_", " ")


def read_facts(refshapes: Path) -> dict[Key, Facts]:
    """(video, expression id) -> facts, of all MeViS splits of a generated data set.

    Raises:
        InputError: the file is not the refshapes.json of the generator.
    """
    facts = {}
    try:
        for video in json.loads(refshapes.read_bytes())["videos"]:
            for number, item in enumerate([*video["expressions"], *video.get("no_target", ())]):
                late = bool(item.get("distractors"))
                key = (video["name"], str(number))
                facts[key] = Facts(item["exp"], item["kind"], family_of(item["clause"]), late)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{refshapes} is not what tools/data/make_refshapes.py writes ({error!r})") from error
    return facts


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The entries of a scores.json: a mapping with video, expression_id, J and F for every expression.

    Raises:
        InputError: the file holds none.
    """
    try:
        entries = json.loads(path.read_bytes())["expressions"]
        assert all({"video", "expression_id", "J", "F"} <= entry.keys() for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise InputError(f"{path} is no scores.json of expressions, as inference_mevis.py writes it") from error
    return entries


def facts_of(entry: Mapping[str, Any], facts: Mapping[Key, Facts]) -> Facts:
    """What the generator says of the expression of one entry.

    Raises:
        InputError: nothing: the scores belong to other data.
    """
    key = (entry["video"], entry["expression_id"])
    if key not in facts:
        raise InputError(f"the data set has no expression {'/'.join(key)}: do the scores belong to other data?")
    return facts[key]


def mean_of(entries: Sequence[Mapping[str, Any]]) -> Mean:
    """Means over entries, of which there is at least one."""
    count = len(entries)
    return Mean(sum(entry["J"] for entry in entries) / count, sum(entry["F"] for entry in entries) / count, count)


def group_scores(entries: Sequence[Mapping[str, Any]], facts: Mapping[Key, Facts]) -> Groups:
    """Means of all, of each kind, with and without late distractors, and of each family of clauses.

    Args:
        entries: with video, expression_id, J and F.
        facts: from `read_facts`.

    Raises:
        InputError: there are no entries, or they belong to other data.
    """
    if not entries:
        raise InputError("there are no expressions to average over")
    members: dict[str, dict[str, list[Mapping[str, Any]]]] = {ALL: {ALL: list(entries)}, KIND: {}, LATE: {}, CLAUSE: {}}
    for entry in entries:
        own = facts_of(entry, facts)
        for grouping, group in ((KIND, own.kind), (LATE, WITH if own.late else WITHOUT), (CLAUSE, own.family)):
            members[grouping].setdefault(group, []).append(entry)
    order = [*KINDS, WITH, WITHOUT]  # families have no order but the alphabet's
    return {
        grouping: {
            group: mean_of(groups[group])
            for group in sorted(groups, key=lambda name: (order.index(name) if name in order else 0, name))
        }
        for grouping, groups in members.items()
    }


def as_json(groups: Groups) -> dict[str, dict[str, dict[str, float]]]:
    """For JSON."""
    return {name: {group: mean.as_dict() for group, mean in own.items()} for name, own in groups.items()}


def label(grouping: str, group: str) -> str:
    """A group as tables name it."""
    return group.replace("_", " ") if grouping in (ALL, KIND) else f"{grouping}: {group}"


def main(argv: Sequence[str] | None = None) -> None:
    """Read, group, print."""
    parser = Parser(description=__doc__)
    parser.add_argument("scores", type=Path, help="scores.json of a run on RefShapes in the layout of MeViS")
    parser.add_argument("refshapes", type=Path, help="refshapes.json of the data set")
    parser.add_argument("--out", type=Path, help="also write the means as JSON")
    args = parser.parse_args(argv)
    groups = group_scores(read_scores(args.scores), read_facts(args.refshapes))
    rows = [
        [label(grouping, group), *(f"{100 * value:.1f}" for value in (m.j_and_f, m.j, m.f)), str(m.expressions)]
        for grouping, own in groups.items()
        for group, m in own.items()
    ]
    print(text_table(("", "J&F", "J", "F", "expressions"), rows))
    if args.out is not None:
        atomic_write_json(args.out, as_json(groups))


if __name__ == "__main__":
    run_script(main)
