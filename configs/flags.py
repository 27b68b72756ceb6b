"""The one table of command-line flags. A script names the groups that it understands; a new flag is a new row."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from configs.loading import network_versions
from configs.schema import FRAME_RATES, PRECISIONS, PROTOCOLS, SWITCH_MODES
from util.command_line import filled_text

VIDEO_SETS = ("ytvos", "mevis", "davis")
IMAGE_SETS = ("refcoco", "refcoco+", "refcocog", "all")
GROUPS = {
    "model": "model (must be as in the training of the checkpoint)",
    "weights": "weights",
    "run": "run",
    "demo": "input",
    "mevis": "MeViS",
    "ytvos": "Ref-YouTube-VOS",
    "davis": "Ref-DAVIS17",
    "split": "split",
    "partial": "incomplete data",
    "coco": "RefCOCO, RefCOCO+, RefCOCOg",
    "train": "training",
    "safety": "checkpoints",
    "benchmark": "benchmark run",
    "array": "parts of a run",
    "web": "web page",
}


_MOST = 2**63  # what counts in 64 bits
_MOST_FLOAT = 1e30  # what float32 holds also after a few products


def _number(kind: type[int] | type[float], accepts: Callable[[float], bool], expected: str) -> Callable[[str], Any]:
    """A converter that says what it expected where it refuses."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or (kind is float and not math.isfinite(value)) or not accepts(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
        if value >= (_MOST if kind is int else _MOST_FLOAT):
            most = f"a whole number below {_MOST}" if kind is int else f"a number below {_MOST_FLOAT:g}"
            raise argparse.ArgumentTypeError(f"expected {most}, found {text!r}")
        return value

    return convert


positive_int = _number(int, lambda value: value >= 1, "a whole number of at least 1")
natural_int = _number(int, lambda value: value >= 0, "a whole number of at least 0")
port_number = _number(int, lambda value: 0 < value < 65536, "a port number, 1 to 65535")
natural_float = _number(float, lambda value: value >= 0, "a number of at least 0")
positive_float = _number(float, lambda value: value > 0, "a number above 0")
frame_rate = _number(
    float,
    lambda value: FRAME_RATES[0] <= value <= FRAME_RATES[1],
    "{} to {} frames per second".format(*FRAME_RATES),
)
probability = _number(float, lambda value: 0 < value < 1, "a number between 0 and 1, both excluded")


def folder_name(text: str) -> str:
    """The name of a folder, or of one in a folder, that lies below another."""
    path = PurePath(filled_text(text))
    if path.is_absolute() or ".." in path.parts:
        raise argparse.ArgumentTypeError(f"expected the name of a folder inside another, found {text!r}")
    return text


def shard(text: str) -> tuple[int, int]:
    """ "2/8" as (1, 8): the number counts from 0."""
    number, slash, parts = text.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f"expected i/n with i from 1 to n, found {text!r}")
    return int(number) - 1, int(parts)


@dataclass(frozen=True)
class Flag:
    """One row of the table.

    Attributes:
        name: without the two hyphens; also the attribute of the parsed arguments.
        group: key of `GROUPS`.
        default: value where the flag is not given. False makes the flag a switch without a value.
        help: one sentence, without the default.
        convert: from text to a value.
        several: whether it takes one or more values.
        choices: returns the allowed values.
        required: whether it must be given.
        default_help: what `--help` gives as the default where None stands for something that depends on other flags.
    """

    name: str
    group: str
    default: Any
    help: str
    convert: Callable[[str], Any] = filled_text
    several: bool = False
    choices: Callable[[], Sequence[str]] | None = None
    required: bool = False
    default_help: str = ""


FLAGS = (
    Flag(
        "sam2_version",
        "model",
        "base",
        "which SAM 2; nano is small, and its trained weights are part of the repository",
        choices=network_versions,
        default_help="base; nano where inference_demo.py and app.py get neither --resume nor --sam2_weights",
    ),
    Flag("HSA", "model", False, "hierarchical selective attention in the adapters"),
    Flag(
        "HSA_patch_size",
        "model",
        [8, 4, 2],
        "side of its patches in each adapter, in tokens",
        positive_int,
        True,
        default_help="8 4 2; 8 12 6 for nano",
    ),
    Flag("use_cme_head", "model", False, "conditional memory encoder: notice when another object fits better"),
    Flag("switch_mem", "model", "reweight", "what enters memory at such a switch", choices=lambda: SWITCH_MODES),
    Flag(
        "cme_decision_window",
        "model",
        4,
        "N: it looks at all frames from N + 1 on (counted from 0), but waits N - 1 frames after a switch",
        positive_int,
    ),
    Flag("disable_pred_obj_score", "model", False, "no object scores: the object counts as visible in every frame"),
    Flag("motion_prompt", "model", False, "verbs of the sentence become further prompts (needs spaCy)"),
    Flag("adapter_dim", "model", 256, "width inside the adapters", positive_int, default_help="256; 96 for nano"),
    Flag("fusion_stages", "model", [1, 2, 3], "image stages that end with an adapter", positive_int, True),
    Flag(
        "fusion_stages_txt",
        "model",
        [4, 8, 12],
        "text layers that have run at each adapter",
        positive_int,
        True,
        default_help="4 8 12; 1 2 3 for nano",
    ),
    Flag(
        "resume",
        "weights",
        None,
        "SAMWISE checkpoint (file or URL) or model folder; in training, auto goes on with the last one",
        default_help="none; for nano pretrained/nano with its flags, in training only its frozen parts",
    ),
    Flag(
        "sam2_weights",
        "weights",
        None,
        "for what the checkpoint lacks: a SAM 2 file, or a model folder, whose text encoder is used as well",
        default_help="pretrain/<official file name>; pretrained/nano for nano",
    ),
    Flag(
        "roberta",
        "weights",
        None,
        "folder or hub id of RoBERTa: its tokenizer, and its weights if the checkpoint lacks them",
        default_help="pretrain/roberta-base, or the model folder",
    ),
    Flag("untrained", "weights", False, "random weights from --seed, to try the program: the masks mean nothing"),
    Flag("device", "run", "cuda", "cuda, cuda:N, mps or cpu; the CPU where the device is missing"),
    Flag("seed", "run", 0, "of everything random", natural_int),
    Flag("threshold", "run", 0.5, "probability above which a pixel belongs to the object", probability),
    Flag("eval_clip_window", "run", 8, "frames that are processed together", positive_int),
    Flag("precision", "run", "fp32", "arithmetic", choices=lambda: PRECISIONS),
    Flag("compile", "run", False, "torch.compile the network; the first clips or training steps take minutes"),
    Flag("output_dir", "run", "output", "folder of the results"),
    Flag(
        "input_path",
        "demo",
        None,
        "image, video, folder of frames, URL, camera:N, rtsp address, or - for a stream on standard input",
        required=True,
    ),
    Flag(
        "text_prompts",
        "demo",
        None,
        "one or more sentences, each in quotes",
        str,  # which sentence is empty, is said later
        several=True,
        default_help="required, but with --truth its sentences",
    ),
    Flag(
        "truth",
        "demo",
        None,
        "JSON file of true masks (docs/demo/shapes.json): print J and F, and draw a sheet of results beside the truth",
    ),
    Flag("live", "demo", False, "the input is a live stream: show delay and frames per second every second"),
    Flag("drop", "demo", False, "throw frames of a live source away rather than fall behind"),
    Flag("save_masks", "demo", False, "also write mask PNGs of a live source (those of files are always written)"),
    Flag(
        "fps",
        "demo",
        None,
        "frames per second to use of a video, or that a folder of frames stands for",
        frame_rate,
        default_help="all frames of a video; 10",
    ),
    Flag("mevis_path", "mevis", "data/MeViS_release", "folder that holds the splits"),
    Flag(
        "mevis_version",
        "mevis",
        None,
        "which metadata, where both are there: 2 has expressions without a target",
        _number(int, lambda value: value in (1, 2), "1 or 2"),
        default_help="1 if it is there",
    ),
    Flag("ytvos_path", "ytvos", "data/ref-youtube-vos", "folder that holds meta_expressions and the splits"),
    Flag("davis_path", "davis", "data/ref-davis", "folder that tools/data/convert_davis_to_ytvos.py has made"),
    Flag("set", "davis", "val", "which sequences are scored: the name of a list in DAVIS/ImageSets/2017"),
    Flag("task", "davis", "unsupervised", "how they are scored", choices=lambda: ("unsupervised", "semi-supervised")),
    Flag(
        "results_path",
        "davis",
        None,
        "folder of the palette PNGs",
        default_help="eval_davis/valid in the folder of the results",
    ),
    Flag("split", "split", "valid", "which part of the data set", choices=lambda: ("valid", "valid_u", "test")),
    Flag("allow_partial", "partial", False, "go on with another number of videos than the benchmark has"),
    Flag("coco_path", "coco", "data/coco", "folder that tools/data/convert_refexp_to_coco.py has made"),
    Flag(
        "eval_sets",
        "coco",
        None,
        "what to evaluate: refcoco/val, refcoco+/testA, ...",
        several=True,
        default_help="the val set of --dataset_file; with all, every val set that is there",
    ),
    Flag("dataset_file", "train", "ytvos", "training data", choices=lambda: (*VIDEO_SETS, *IMAGE_SETS)),
    Flag("eval", "train", False, "evaluate --resume instead of training"),
    Flag("num_frames", "train", 8, "frames of a training clip", positive_int),
    Flag("batch_size", "train", 2, "clips of one step, over all processes", positive_int),
    Flag("accumulate", "train", 1, "parts in which a step's batch is computed one after the other", positive_int),
    Flag("epochs", "train", 6, "passes over the training data", positive_int),
    Flag("max_iterations", "train", None, "stop after so many steps", positive_int, default_help="all of --epochs"),
    Flag("lr", "train", 1e-5, "learning rate of AdamW", positive_float),
    Flag("lr_drop", "train", [60000], "steps after which the learning rate is divided by 10", positive_int, True),
    Flag("weight_decay", "train", 0.0, "of AdamW", natural_float),
    Flag("clip_max_norm", "train", 1.0, "largest norm of the gradient; 0 does not clip", natural_float),
    Flag("augm_resize", "train", False, "random sizes and colours of the training frames"),
    Flag("activation_checkpointing", "train", False, "less memory for more time: recompute in the backward pass"),
    Flag("no_evaluation", "train", False, "do not evaluate after each epoch"),
    Flag("resume_optimizer", "safety", False, "take optimizer and schedule from --resume too"),
    Flag("start_epoch", "safety", 0, "number of the first epoch; --resume auto knows its own", natural_int),
    Flag("checkpoint_minutes", "safety", 15.0, "minutes between two checkpoints at most", positive_float),
    Flag("checkpoint_iterations", "safety", 1000, "steps between two checkpoints at most", positive_int),
    Flag("keep_checkpoints", "safety", 3, "latest checkpoints to keep; the best one stays too", positive_int),
    Flag("max_bad_samples", "safety", 0, "unreadable samples to pass over before stopping", natural_int),
    Flag("name_exp", "benchmark", "default", "name of the folder of the results, in --output_dir", folder_name),
    Flag(
        "protocol",
        "benchmark",
        "paper",
        "paper gives the published numbers: a clip of one frame forgets the video; fixed segments it as any other",
        choices=lambda: PROTOCOLS,
    ),
    Flag(
        "expressions_per_batch",
        "benchmark",
        None,
        "expressions of a video that run together at most",
        positive_int,
        default_help="as many as memory allows, up to 16 on a GPU and 4 on a CPU",
    ),
    Flag(
        "videos_per_batch",
        "benchmark",
        None,
        "videos that run together at most, as long as --expressions_per_batch holds all their expressions",
        positive_int,
        default_help="4 on a GPU, 1 on a CPU",
    ),
    Flag("batch_size_val", "benchmark", 1, "above 1: the same as --expressions_per_batch", positive_int),
    Flag(
        "max_size", "benchmark", 1024, "long side of resized frames; can only be what the network takes", positive_int
    ),
    Flag("num_workers", "benchmark", 4, "processes that score, threads that read and threads that write", natural_int),
    Flag("overwrite", "benchmark", False, "start anew instead of going on with what is finished"),
    Flag("cuda_graphs", "benchmark", False, "with --compile, on a GPU: replay what was compiled as CUDA graphs"),
    Flag("shard", "array", None, "i/n: only the i-th of n parts of the videos; --merge joins them", shard),
    Flag("merge", "array", False, "segment nothing: check, score and pack what the shards have made"),
    Flag("visualize", "benchmark", False, "also draw overlays and one contact sheet per video"),
    Flag("no_distributed", "benchmark", False, "run alone, whatever launcher has started this process"),
    Flag("host", "web", "127.0.0.1", "where to listen; 0.0.0.0 lets other computers in"),
    Flag("port", "web", 7860, "port to listen at", port_number),
    Flag("max_frames", "web", 1000, "frames of a video at most", positive_int),
)
