"""Tables of the study: Markdown for people, CSV for programs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tools.study.ablations import CLIP_WINDOWS, CME_OFF, CME_WINDOWS, FULL, TRAINED, Variant, inference_name
from tools.study.baselines import own_entries
from tools.study.scores import ALL, CLAUSE, KIND, KINDS, LATE, WITH, WITHOUT, Groups, Mean, label, mean_of
from tools.study.video_baselines import CHOSEN, DISJOINT, EVERYTHING, GRID, LARGEST, OTHER, Entry

Inferences = Mapping[str, Groups]


@dataclass(frozen=True)
class Table:
    """Something to show.

    Attributes:
        name: of its CSV file, and of its place in a document.
        title: above it.
        header: of the columns.
        rows: texts.
        note: one sentence below it, or "".
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """The table with its note, without the title."""
        lines = [
            f"| {' | '.join(row)} |" for row in (self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows)
        ]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


def percent(value: float) -> str:
    """A fraction, in percent with one decimal."""
    return f"{100 * value:.1f}"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, in percent; one value alone has no deviation."""
    if len(values) < 2:
        return percent(values[0]) if values else ""
    return f"{percent(statistics.mean(values))} ± {percent(statistics.stdev(values))}"


def _row(title: str, mean: Mean) -> list[str]:
    return [title, *map(percent, (mean.j_and_f, mean.j, mean.f)), str(mean.expressions)]


def score_table(name: str, title: str, groups: Groups) -> Table:
    """J&F, J and F of a run: all, by kind, with and without late distractors."""
    rows = [
        _row(label(grouping, group), mean) for grouping in (ALL, KIND, LATE) for group, mean in groups[grouping].items()
    ]
    return Table(name, title, ("sentences", "J&F", "J", "F", "number"), rows)


def clause_table(groups: Groups) -> Table:
    """J&F by what is said beyond looks, from the hardest to the easiest."""
    ordered = sorted(groups[CLAUSE].items(), key=lambda item: item[1].j_and_f)
    rows = [_row(family, mean) for family, mean in ordered]
    return Table("clauses", "valid_u by what is said", ("what is said", "J&F", "J", "F", "number"), rows)


def baseline_table(model: Mean, baselines: Mapping[str, Sequence[Entry]], blind: Mean | None) -> Table:
    """The model beside what needs no understanding; the loss is against the same sentences' own score."""
    rows = [["the model", percent(model.j_and_f), ""]]
    for name, title in ((OTHER, "another sentence of the video, with other targets"),
                        (DISJOINT, "another sentence of the video, with no target in common")):  # fmt: skip
        if entries := list(baselines[name]):
            mean, own = mean_of(entries).j_and_f, mean_of(own_entries(entries)).j_and_f
            rows.append([title, percent(mean), percent(own - mean)])
    others = {"a sentence of another video (text-blind)": blind}
    titles = {
        LARGEST: "the largest object, true masks",
        EVERYTHING: "all objects, true masks",
        CHOSEN: "the model's choice of object, true masks",
        GRID: "the truth at the resolution of the model's masks",
    }
    others |= {title: mean_of(baselines[name]) for name, title in titles.items() if name in baselines}
    rows += [
        [title, percent(mean.j_and_f), percent(model.j_and_f - mean.j_and_f)]
        for title, mean in others.items()
        if mean is not None
    ]
    note = "The loss of another sentence is taken over the sentences of videos that have one."
    return Table("baselines", "What the score is worth", ("valid_u", "J&F", "loss"), rows, note)


def collect(inferences: Inferences, variant: str, change: str, seeds: Sequence[int]) -> list[Groups]:
    """The runs of a variant, of those seeds for which it is there."""
    names = [inference_name(variant, seed, change) for seed in seeds]
    return [inferences[name] for name in names if name in inferences]


def _values(runs: Sequence[Groups], grouping: str, group: str) -> list[float]:
    return [run[grouping][group].j_and_f for run in runs if group in run[grouping]]


def _columns(runs: Sequence[Groups], columns: Sequence[tuple[str, str]]) -> list[str]:
    return [spread(_values(runs, *column)) for column in columns]


def ablation_table(inferences: Inferences, seeds: Sequence[int]) -> Table | None:
    """Adapters, HSA, CME: all sentences and each kind; None if nothing is there."""
    found = {name: runs for name in TRAINED if (runs := collect(inferences, name, "", seeds))}
    if not found:
        return None
    kinds = [kind for kind in KINDS if any(kind in run[KIND] for runs in found.values() for run in runs)]
    columns = [(ALL, ALL), *((KIND, kind) for kind in kinds)]
    rows = [[TRAINED[name].title, str(len(runs)), *_columns(runs, columns)] for name, runs in found.items()]
    header = ("trained", "seeds", *(label(*column) for column in columns))
    note = "J&F on valid_u, mean and standard deviation over seeds. All begin with the same pre-trained adapters."
    return Table("ablation", "Adapters, HSA, CME", header, rows, note)


_LATE_COLUMNS = ((ALL, ALL), (KIND, "appearance"), (KIND, "motion"), (LATE, WITH), (LATE, WITHOUT))


def window_table(
    name: str, title: str, windows: Mapping[str, Variant], inferences: Inferences, seeds: Sequence[int]
) -> Table | None:
    """The network with HSA and CME, used with other windows; None if nothing is there."""
    found = {change: runs for change in windows if (runs := collect(inferences, FULL, change, seeds))}
    if not found:
        return None
    rows = [[windows[change].title, str(len(runs)), *_columns(runs, _LATE_COLUMNS)] for change, runs in found.items()]
    header = ("used with", "seeds", *(label(*column) for column in _LATE_COLUMNS))
    note = "J&F on valid_u of + HSA + CME, mean and standard deviation over seeds; only the inference differs."
    return Table(name, title, header, rows, note)


def late_table(inferences: Inferences, seeds: Sequence[int]) -> Table | None:
    """What CME does where something misleads at first; None if nothing is there."""
    compared = {
        "trained without CME": collect(inferences, "hsa", "", seeds),
        "trained with CME, which never decides": collect(inferences, FULL, CME_OFF, seeds),
        "trained with CME, which decides": collect(inferences, FULL, "", seeds),
    }
    columns = ((LATE, WITH), (LATE, WITHOUT))
    rows = [[title, str(len(runs)), *_columns(runs, columns)] for title, runs in compared.items() if runs]
    if not rows:
        return None
    header = ("with HSA", "seeds", *(label(*column) for column in columns))
    return Table("late", "Late distractors with and without CME", header, rows)


def ablation_tables(inferences: Inferences, seeds: Sequence[int]) -> list[Table]:
    """All tables of the ablation that there is something for."""
    tables = (
        ablation_table(inferences, seeds),
        window_table("cme_window", "How often CME decides", CME_WINDOWS, inferences, seeds),
        window_table("clip_window", "Frames that are segmented together", CLIP_WINDOWS, inferences, seeds),
        late_table(inferences, seeds),
    )
    return [table for table in tables if table is not None]


def precision_table(runs: Mapping[str, Groups]) -> Table | None:
    """fp32, tf32 and bf16 on the same videos; None without fp32."""
    if "fp32" not in runs:
        return None
    exact = runs["fp32"][ALL][ALL]
    rows = []
    for kind in ("fp32", "tf32", "bf16"):
        if kind in runs:
            mean = runs[kind][ALL][ALL]
            difference = f"{100 * (mean.j_and_f - exact.j_and_f):+.2f}" if kind != "fp32" else ""
            rows.append([kind, f"{100 * mean.j_and_f:.2f}", difference, str(mean.expressions)])
        else:
            rows.append([kind, "needs a GPU" if kind == "tf32" else "not run", "", ""])
    return Table("precision", "Arithmetic", ("--precision", "J&F", "difference", "sentences"), rows)


def time_table(markers: Sequence[Mapping[str, object]]) -> Table:
    """The time that each group of stages took."""
    seconds: dict[str, float] = {}
    for marker in markers:
        if marker["done"]:
            seconds[str(marker["group"])] = seconds.get(str(marker["group"]), 0.0) + float(str(marker["seconds"]))
    rows = [[group, f"{value / 60:.1f}"] for group, value in seconds.items()]
    return Table("time", "Time", ("stages", "minutes"), [*rows, ["all", f"{sum(seconds.values()) / 60:.1f}"]])
