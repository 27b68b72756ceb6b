"""Score predicted masks on disk without a model: a folder or zip of PNGs, or COCO results of RefCOCO.

    python3 tools/evaluate.py mevis output/X/Annotations.zip --split valid_u
    python3 tools/evaluate.py ytvos output/X/Annotations
    python3 tools/evaluate.py davis output/X/eval_davis/valid
    python3 tools/evaluate.py refcoco results.json --dataset_file refcocog --split val

Writes scores.json and CSV tables into --output_dir and prints the scores beside the published ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datasets.mevis import open_mevis
from datasets.ref_ytvos import open_ref_ytvos
from datasets.refcoco import SPLITS, open_refcoco
from engine.evaluate_masks import evaluate_davis, evaluate_expressions, evaluate_refcoco
from engine.published_figures import davis_table, expressions_table, refcoco_table
from engine.scoring.davis import TASKS, annotator_stores, davis_sequences
from util.command_line import Parser
from util.errors import run_script


def build_parser() -> argparse.ArgumentParser:
    """The command line: one sub-command per benchmark."""
    parser = Parser(description=__doc__)
    common = Parser(add_help=False)
    common.add_argument("--output_dir", type=Path, default=Path("output/evaluation"), help="gets scores.json and CSVs")
    workers = Parser(add_help=False)
    workers.add_argument("--num_workers", type=int, default=4, help="scoring processes, 0: none but this one")
    partial = Parser(add_help=False)
    partial.add_argument("--allow_partial", action="store_true", help="score a part of the benchmark")
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)

    def add(name: str, parents: list[Parser], what: str) -> Parser:
        formatter = argparse.ArgumentDefaultsHelpFormatter
        sub = benchmarks.add_parser(name, parents=parents, help=what, description=what, formatter_class=formatter)
        sub.add_argument("predictions", type=Path, help="what to score")
        return sub

    mevis = add("mevis", [workers, common], "MeViS: folder or zip of VIDEO/EXPRESSION/FRAME.png")
    mevis.add_argument("--mevis_path", type=Path, default=Path("data/MeViS_release"), help="folder of the splits")
    mevis.add_argument("--split", default="valid_u", help="a split with mask_dict.json")
    mevis.add_argument("--version", type=int, choices=(1, 2), help="of the metadata; 1 if both are there")
    ytvos = add("ytvos", [workers, partial, common], "Ref-YouTube-VOS: as MeViS; needs valid/Annotations")
    ytvos.add_argument("--ytvos_path", type=Path, default=Path("data/ref-youtube-vos"), help="the data set's folder")
    ytvos.add_argument("--split", default="valid", help="valid, test or train")
    davis = add("davis", [workers, partial, common], "DAVIS-2017: [anno_0 ... anno_3/]SEQUENCE/FRAME.png, palette PNGs")
    davis.add_argument("--davis_path", type=Path, default=Path("data/ref-davis"), help="it, or DAVIS's own folder")
    davis.add_argument("--task", choices=TASKS, default=TASKS[0], help="matched objects, or fixed identities")
    davis.add_argument("--set", default="val", help="list of sequences: ImageSets/2017/SET.txt")
    refcoco = add("refcoco", [common], "RefCOCO/+/g: a JSON list of COCO results (image_id, segmentation, score)")
    refcoco.add_argument("--coco_path", type=Path, default=Path("data/coco"), help="folder of train2014 and refcoco...")
    refcoco.add_argument("--dataset_file", choices=tuple(SPLITS), default="refcoco", help="which of the three")
    refcoco.add_argument("--split", default="val", help="val, testA, testB, test or train")
    return parser


def evaluate(args: argparse.Namespace) -> str:
    """Score, write, and return the table to print."""
    if args.benchmark == "davis":
        sequences = davis_sequences(args.davis_path, args.task, args.set, args.allow_partial)
        stores = annotator_stores(args.predictions, sequences)
        folders = {name: args.output_dir / (name if len(stores) > 1 else "") for name in stores}
        results = evaluate_davis(sequences, stores, args.set, folders, args.output_dir, args.num_workers)
        return davis_table(args.set, args.task, results)
    if args.benchmark == "refcoco":
        split = open_refcoco(args.coco_path, args.dataset_file, args.split)
        measures = evaluate_refcoco(split, args.predictions, args.output_dir)
        return refcoco_table(args.dataset_file, args.split, measures)
    if args.benchmark == "mevis":
        dataset = open_mevis(args.mevis_path, args.split, args.version)
    else:
        dataset = open_ref_ytvos(args.ytvos_path, args.split, args.allow_partial)
    summary = evaluate_expressions(dataset, args.predictions, args.output_dir, args.num_workers)
    return expressions_table(dataset, summary)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, score, print."""
    args = build_parser().parse_args(argv)
    print(evaluate(args))
    print(f"written to {args.output_dir}")


if __name__ == "__main__":
    run_script(main)
