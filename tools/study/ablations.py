"""What the ablation compares: networks with and without HSA and CME, and one network with other windows."""

from __future__ import annotations

from dataclasses import dataclass

from tools.study.places import Places
from tools.study.plan_parts import inference, pretrained, split_of, training
from tools.study.runner import Stage, shown
from tools.study.settings import Settings

GROUP = "ablation"
FULL = "hsa-cme"
CME_OFF = "cme-off"
_NEVER = "1000000"  # CME looks at frames after this one: longer than any video


@dataclass(frozen=True)
class Variant:
    """A row of a table: how it is called there, and the flags that make it."""

    title: str
    flags: tuple[str, ...] = ()


# Networks that are trained, from the same pre-trained adapters on the same stand-in.
TRAINED = {
    "adapters": Variant("adapters only"),
    "hsa": Variant("+ HSA", ("--HSA",)),
    FULL: Variant("+ HSA + CME", ("--HSA", "--use_cme_head")),
}
# What is changed when the last of them segments; it was trained with a decision window of 4 on clips of 8 frames.
CME_WINDOWS = {
    CME_OFF: Variant("CME never decides", ("--cme_decision_window", _NEVER)),
    "cme-1": Variant("CME decides every frame (1)", ("--cme_decision_window", "1")),
    "": Variant("CME window 4, as trained"),
    "cme-8": Variant("CME window 8", ("--cme_decision_window", "8")),
}
CLIP_WINDOWS = {
    "clip-1": Variant("clips of 1 frame", ("--eval_clip_window", "1", "--protocol", "fixed")),
    "clip-4": Variant("clips of 4 frames", ("--eval_clip_window", "4")),
    "": Variant("clips of 8 frames, as trained"),
}


def training_name(variant: str, seed: int) -> str:
    """The run that trains a variant."""
    return f"ablation-{variant}-seed{seed}"


def inference_name(variant: str, seed: int, change: str = "") -> str:
    """The run that segments with it, as trained or with a change."""
    return f"{training_name(variant, seed)}-valid_u" + (f"-{change}" if change else "")


def ablation_stages(places: Places, settings: Settings, seeds: tuple[int, ...]) -> list[Stage]:
    """Training and inference of every variant and every seed."""
    stages = []
    mevis = places.data / "MeViS_release"
    if settings.ablation_videos < settings.videos:
        mevis = places.out / "ablation_data"
        stages.append(split_of(places, GROUP, mevis, settings.ablation_videos, late=True))
    changes = {**CME_WINDOWS, **CLIP_WINDOWS}
    for seed in seeds:
        for variant, trained in TRAINED.items():
            run = training_name(variant, seed)
            begin = (*pretrained(places), *trained.flags, "--seed", str(seed))
            stages.append(training(places, settings, GROUP, run, settings.ablation_steps, begin))
            nano = ("--sam2_version", "nano", "--sam2_weights", shown(places.stand_in))
            weights = ("--resume", shown(places.last(run)), *nano)
            for change in changes if variant == FULL else ("",):
                flags = changes[change].flags
                name = inference_name(variant, seed, change)
                stages.append(inference(places, settings, GROUP, name, weights, mevis, flags))
    return stages
