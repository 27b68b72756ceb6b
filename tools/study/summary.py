"""Tables, curves and pictures of a study: summary.json, tables.md, tables/*.csv, curves.png, pictures/*.jpg.

    python3 tools/study/summary.py output/miniature
    python3 tools/study/summary.py output/miniature --document docs/miniature.md

Whatever has been run so far is in them. A document gets its tables between the lines `<!-- table: NAME -->` and
`<!-- end of table -->`; all else in it stays.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.scoring.tables import write_csv
from tools.data.make_refshapes import SUMMARY as FACTS
from tools.study.curves import draw_curves
from tools.study.pictures import draw_examples
from tools.study.places import BLIND, FRESH, VALID_U, Places, precision_run
from tools.study.runner import read_markers
from tools.study.scores import ALL, Groups, as_json, group_scores, mean_of, read_facts, read_scores
from tools.study.tables import (
    Table,
    ablation_tables,
    baseline_table,
    clause_table,
    precision_table,
    score_table,
    time_table,
)
from util.command_line import Parser
from util.errors import InputError, run_script
from util.paths import atomic_write, atomic_write_json, read_json_object

_SEED = re.compile(r"ablation-.+-seed(\d+)-valid_u")
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def read_inferences(places: Places) -> dict[str, Groups]:
    """Name of a run -> its scores by kind, of all runs that are through."""
    done = {marker["stage"] for marker in read_markers(places.out) if marker["done"]}
    facts = {folder: read_facts(folder / FACTS) for folder in (places.data, places.fresh) if folder.is_dir()}
    found = {}
    for path in sorted(places.runs.glob("*/scores.json")):
        name = path.parent.name
        data = places.fresh if name == FRESH else places.data
        if name in done and data in facts:
            found[name] = group_scores(read_scores(path), facts[data])
    return found


def all_tables(places: Places, inferences: Mapping[str, Groups]) -> list[Table]:
    """Every table that there is something for."""
    tables = []
    if VALID_U in inferences:
        tables += [score_table("valid_u", "valid_u", inferences[VALID_U]), clause_table(inferences[VALID_U])]
    if FRESH in inferences:
        tables.append(score_table("fresh", "valid_u of another seed", inferences[FRESH]))
    baselines = read_json_object(places.baselines)
    if baselines and VALID_U in inferences:
        blind = inferences[BLIND][ALL][ALL] if BLIND in inferences else None
        tables.append(baseline_table(inferences[VALID_U][ALL][ALL], baselines, blind))
    seeds = sorted({int(match[1]) for name in inferences if (match := _SEED.match(name))})
    tables += ablation_tables(inferences, seeds)
    kinds = {kind: inferences[run] for kind in ("fp32", "tf32", "bf16") if (run := precision_run(kind)) in inferences}
    if (precision := precision_table(kinds)) is not None:
        tables.append(precision)
    return [*tables, time_table(read_markers(places.out))]


def summarise(places: Places, tables: Sequence[Table], inferences: Mapping[str, Groups]) -> dict[str, Any]:
    """The content of summary.json."""
    baselines = read_json_object(places.baselines) or {}
    markers = read_markers(places.out)
    return {
        "minutes": sum(marker["seconds"] for marker in markers) / 60,
        "frozen": read_json_object(places.frozen),
        "scores": {name: as_json(groups) for name, groups in inferences.items()},
        "baselines": {name: mean_of(entries).as_dict() for name, entries in baselines.items() if entries},
        "tables": {table.name: asdict(table) for table in tables},
        "stages": markers,
    }


def frozen_sentence(places: Places) -> str:
    """What is known of the frozen weights."""
    found = read_json_object(places.frozen)
    if not found:
        return "Frozen weights: not compared yet."
    if not found["identical"]:
        return f"Frozen weights: {len(found['differing'])} of {found['tensors']} tensors were CHANGED by training."
    return (
        f"Frozen weights: all {found['tensors']} tensors of the stand-in ({found['parameters']:,} numbers) are "
        "bit-identical after training."
    )


def fill_in(document: Path, tables: Sequence[Table]) -> list[str]:
    """Put tables into their places in a document; returns the names of places that no table is there for.

    Raises:
        InputError: the document has no place for tables.
    """
    text = document.read_text("utf-8")
    found = {table.name: table.markdown() for table in tables}
    missing = [name for _, name, _ in _PLACE.findall(text) if name not in found]
    if not _PLACE.search(text):
        raise InputError(f"{document} has no place for tables: expected a line <!-- table: NAME -->")

    def filled(place: re.Match[str]) -> str:
        return f"{place[1]}{found[place[2]]}\n{place[3]}" if place[2] in found else place[0]

    with atomic_write(document, "w") as handle:
        handle.write(_PLACE.sub(filled, text))
    return missing


def write_summary(places: Places) -> list[Table]:
    """Write everything but the document; returns the tables."""
    inferences = read_inferences(places)
    tables = all_tables(places, inferences)
    for table in tables:
        write_csv(places.out / "tables" / f"{table.name}.csv", table.header, table.rows)
    sections = [f"## {table.title}\n\n{table.markdown()}\n" for table in tables]
    with atomic_write(places.out / "tables.md", "w") as handle:
        handle.write("\n".join(["# The study in tables\n", *sections, frozen_sentence(places)]) + "\n")
    atomic_write_json(places.out / "summary.json", summarise(places, tables, inferences))
    return tables


def main(argv: Sequence[str] | None = None) -> None:
    """Read what is there, write, print."""
    parser = Parser(description=__doc__)
    parser.add_argument("out", type=Path, help="the folder of tools/miniature.py")
    parser.add_argument("--stand_in", type=Path, help="its model folder, where it is none of OUT")
    parser.add_argument("--document", type=Path, help="a Markdown file that gets the tables, too")
    args = parser.parse_args(argv)
    if not args.out.is_dir():
        raise InputError(f"{args.out} does not exist: expected the folder of a study")
    places = Places(args.out, args.stand_in or args.out / "stand_in")
    tables = write_summary(places)
    pictures = [*draw_curves(places), *draw_examples(places)]
    if args.document is not None and (missing := fill_in(args.document, tables)):
        print(f"{args.document}: nothing yet for {', '.join(missing)}")
    print((args.out / "tables.md").read_text("utf-8"))
    print(f"{len(tables)} tables, {len(pictures)} pictures: {args.out}")


if __name__ == "__main__":
    run_script(main)
