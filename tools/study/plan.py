"""The stages of the study, from nothing to tables, as the commands that a user would type."""

from __future__ import annotations

from collections.abc import Sequence

from tools.data.make_refshapes import SUMMARY as FACTS
from tools.study.ablations import GROUP as ABLATION
from tools.study.ablations import ablation_stages
from tools.study.places import BLIND, FINETUNE, FRESH, PRETRAIN, SPLIT, VALID, VALID_U, Places, precision_run
from tools.study.plan_parts import inference, pretrained, schedule, split_of, training, training_results
from tools.study.runner import Stage, shown
from tools.study.settings import Settings

DATA, TOKENIZER, STAND_IN, MODEL, SUMMARY = "data", "tokenizer", "stand_in", "model", "summary"
EVALUATE, SUBMISSION, BASELINES, PRECISION = "evaluate", "submission", "baselines", "precision"
GROUPS = (DATA, TOKENIZER, STAND_IN, PRETRAIN, FINETUNE, MODEL, EVALUATE, SUBMISSION, BASELINES, PRECISION, ABLATION,
          SUMMARY)  # fmt: skip


def plan(places: Places, settings: Settings, seed: int, seeds: tuple[int, ...], cuda: bool) -> list[Stage]:
    """All stages in their order.

    Args:
        places: where everything goes; a stand-in that lies outside is used as it is, and none is trained.
        settings: sizes and steps.
        seed: of the data and of everything random but the ablation.
        seeds: of the ablation.
        cuda: whether there is a GPU.
    """
    own_stand_in = places.stand_in.resolve().is_relative_to(places.out.resolve())
    return [
        *data_stages(places, settings, seed),
        *(stand_in_stages(places, settings, seed, cuda) if own_stand_in else ()),
        *training_stages(places, settings, seed),
        *evaluation_stages(places, settings),
        *baseline_stages(places, settings, seed),
        *precision_stages(places, settings, cuda),
        *ablation_stages(places, settings, seeds),
        summary_stage(places),
    ]


def select(stages: Sequence[Stage], only: Sequence[str] | None, skip: Sequence[str]) -> list[Stage]:
    """The stages of some groups; without `only` those of all but `skip`."""
    return [stage for stage in stages if (not only or stage.group in only) and stage.group not in skip]


def data_stages(places: Places, settings: Settings, seed: int) -> list[Stage]:
    """RefShapes, and an evaluation split of another seed, which nobody has looked at."""
    workers = ("--workers", str(max(1, settings.num_workers)))
    frames = () if settings.frames is None else ("--frames", str(settings.frames))
    form = frames if settings.size is None else (*frames, "--size", *map(str, settings.size))
    program = "tools/data/make_refshapes.py"
    videos = ("--videos", str(settings.videos))
    command = (
        program, "--out", shown(places.data), "--seed", str(seed), *videos, "--train_videos",
        str(settings.train_videos), "--images", str(settings.images), "--layouts", "mevis", "coco", *form, *workers,
    )  # fmt: skip
    fresh = (
        program, "--out", shown(places.fresh), "--seed", str(seed + 1), *videos, "--train_videos", "1",
        "--layouts", "mevis", *form, *workers,
    )  # fmt: skip
    return [
        Stage("data", DATA, command, (places.data / FACTS,)),
        Stage("fresh-data", DATA, fresh, (places.fresh / FACTS,)),
    ]


def stand_in_stages(places: Places, settings: Settings, seed: int, cuda: bool) -> list[Stage]:
    """The vocabulary, and the stand-in for SAM 2 and RoBERTa."""
    sentences = (
        places.data / "MeViS_release" / "train" / "meta_expressions.json",
        *(places.data / "coco" / name / f"instances_{name}_train.json" for name in ("refcoco", "refcoco+", "refcocog")),
    )
    vocabulary = ("tools/train_tokenizer.py", "--from", *map(shown, sentences), "--out", shown(places.tokenizer))
    numbers = (settings.stand_in_image_steps, settings.stand_in_glance_steps, settings.stand_in_clip_steps)
    device = ("--device", "cuda") if cuda else ()
    steps = ("--steps", *map(str, numbers)) if all(numbers) else ()
    if settings.stand_in_sentence_steps:
        steps = ("--sentence_steps", str(settings.stand_in_sentence_steps), *steps)
    command = (
        "tools/train_stand_in.py", "--data", shown(places.data), "--roberta", shown(places.tokenizer),
        "--output", shown(places.stand_in), "--seed", str(seed), *steps, *device,
    )  # fmt: skip
    return [
        Stage("tokenizer", TOKENIZER, vocabulary, (places.tokenizer / "tokenizer.json",)),
        Stage("stand_in", STAND_IN, command, (places.stand_in / "model.safetensors",)),
    ]


def training_stages(places: Places, settings: Settings, seed: int) -> list[Stage]:
    """The recipe of the paper: images, then clips with HSA and CME; the result as a model folder.

    The adapters begin with those that the stand-in learned with, HSA included: fresh ones would need far longer. (The
    paper pre-trains without HSA; then what follows motion would have to be learned anew.)
    """
    folder = places.runs / PRETRAIN
    images = (
        "main_pretrain.py", "--sam2_version", "nano", "--resume", shown(places.stand_in), "--HSA",
        "--dataset_file", "all", "--coco_path", shown(places.data / "coco"), "--num_frames", "1",
        "--batch_size", str(settings.pretrain_batch), *schedule(settings.pretrain_steps, settings.pretrain_lr),
        "--clip_max_norm", "0.1", "--disable_pred_obj_score", "--seed", str(seed), "--output_dir", shown(places.runs),
        "--name_exp", PRETRAIN, "--num_workers", str(settings.num_workers),
    )  # fmt: skip
    save = (
        "tools/study/save_model.py", "--sam2_version", "nano", "--sam2_weights", shown(places.stand_in),
        "--resume", shown(places.last(FINETUNE)), "--output_dir", shown(places.model),
    )  # fmt: skip
    check = ("tools/study/frozen.py", shown(places.stand_in), shown(places.model), "--out", shown(places.frozen))
    flags = (*pretrained(places), "--HSA", "--use_cme_head", "--seed", str(seed))
    return [
        Stage(PRETRAIN, PRETRAIN, images, (places.last(PRETRAIN),), folder, lambda: training_results(folder)),
        training(places, settings, FINETUNE, FINETUNE, settings.finetune_steps, flags),
        Stage("model", MODEL, save, (places.model / "model.safetensors",)),
        Stage("frozen", MODEL, check, (places.frozen,)),
    ]


def evaluation_stages(places: Places, settings: Settings) -> list[Stage]:
    """Scores on valid_u, once more from the PNGs alone, on data of another seed; and a zip of valid."""
    mevis, weights = places.data / "MeViS_release", ("--resume", shown(places.model))
    workers = ("--num_workers", str(settings.num_workers))
    again = places.out / "evaluation"
    evaluate = (
        "tools/evaluate.py", "mevis", shown(places.masks(VALID_U)), "--mevis_path", shown(mevis), "--split", SPLIT,
        "--output_dir", shown(again), *workers,
    )  # fmt: skip
    page = ("tools/report.py", shown(places.runs / VALID_U), "--out", shown(places.out / "report.html"))
    packed = places.masks(VALID).with_suffix(".zip")
    check = ("tools/submission.py", "check", shown(packed), "--dataset_file", "mevis", "--mevis_path", shown(mevis))
    return [
        inference(places, settings, EVALUATE, VALID_U, weights, mevis),
        Stage("evaluate", EVALUATE, evaluate, (again / "scores.json",)),
        Stage("report", EVALUATE, page, (places.out / "report.html",)),
        inference(places, settings, EVALUATE, FRESH, weights, places.fresh / "MeViS_release"),
        inference(places, settings, SUBMISSION, VALID, weights, mevis, split="valid"),
        Stage("submission", SUBMISSION, check, (packed,)),
    ]


def baseline_stages(places: Places, settings: Settings, seed: int) -> list[Stage]:
    """What scores are worth: sentences of other videos, other sentences of the same video, and no model at all."""
    shuffled = places.out / "shuffled_data"
    mevis, weights = shown(places.data / "MeViS_release"), ("--resume", shown(places.model))
    shuffle = ("tools/study/splits.py", "shuffle", mevis, "--seed", str(seed), "--out", shown(shuffled))
    command = (
        "tools/study/baselines.py", shown(places.data), shown(places.masks(VALID_U)), "--out",
        shown(places.baselines), "--num_workers", str(settings.num_workers),
    )  # fmt: skip
    return [
        Stage("baselines", BASELINES, command, (places.baselines,)),
        Stage("shuffled-data", BASELINES, shuffle, (shuffled / SPLIT / "meta_expressions.json",)),
        inference(places, settings, BASELINES, BLIND, weights, shuffled),
    ]


def precision_stages(places: Places, settings: Settings, cuda: bool) -> list[Stage]:
    """The same videos in each kind of arithmetic."""
    few, weights = places.out / "precision_data", ("--resume", shown(places.model))
    kinds = ("fp32", "tf32", "bf16") if cuda else ("fp32", "bf16")
    return [
        split_of(places, PRECISION, few, settings.precision_videos),
        *(
            inference(places, settings, PRECISION, precision_run(kind), weights, few, ("--precision", kind))
            for kind in kinds
        ),
    ]


def summary_stage(places: Places) -> Stage:
    """Tables, curves and pictures of whatever is there."""
    command = ("tools/study/summary.py", shown(places.out), "--stand_in", shown(places.stand_in))
    return Stage("summary", SUMMARY, command, (places.out / "tables.md",), repeated=True)
