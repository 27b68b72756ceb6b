"""Train a small network from nothing on RefShapes: a stand-in for SAM 2 and RoBERTa, to be frozen afterwards.

    python3 tools/train_stand_in.py --data data/refshapes --roberta pretrain/nano-tokenizer --output output/stand-in
    python3 main_pretrain.py --sam2_version nano --sam2_weights output/stand-in ...

Every parameter learns: words first, from sentences alone, then all else in images, then from glances at clips (two
frames of each are segmented, without memory, which costs most), then in clips. What is learned beside masks:
tools/stand_in/lessons.py.

OUTPUT becomes a model folder; OUTPUT/training holds log.jsonl and, until the end, the state from which the same command
goes on after an interruption. The data comes from tools/data/make_refshapes.py (layouts mevis and coco), the tokenizer
from tools/train_tokenizer.py. With torchrun every process computes batches of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs.flags import natural_int, positive_float
from configs.loading import load_model_config
from engine.runtime import resolve_device
from engine.train.sealed import load_content, plain, write_sealed
from models.build import load_model
from models.samwise import SAMWISE
from tools.stand_in.lessons import Lessons, Outcome
from tools.stand_in.products import HalfProducts
from tools.stand_in.scenes import SceneBatch, batches, read_scenes
from tools.stand_in.sentences import SentenceBatch, SentenceSource
from tools.stand_in.tracking import adapters_over_the_frame, begin_with_time
from util.command_line import Parser, filled_text
from util.distributed import Processes, joined_processes
from util.errors import InputError, run_script
from util.interrupts import StopRequest
from util.paths import atomic_write, writable_folder
from util.seal import DamagedFileError
from util.torch_files import save_torch

HEADS = Path("training/heads.pth")  # in a folder of results
WARM_UP, LEAST_LR = 100, 0.02  # steps; share of the learning rate that is left at the end
WEIGHT_DECAY, BETAS, MAX_NORM = 0.01, (0.9, 0.98), 1.0
POSITION_SCALE = 0.5  # of the ramps that the position embedding begins with
_LOGGED = 50  # steps between two lines of the log
_SENTENCES = 128  # of a process's step, learned alone
_GLANCES = 2  # frames of a clip that are segmented in a glance
_SHOWN = ("iou", "dice", "velocity1", "tracking1")  # beside the bar


@dataclass(frozen=True)
class Stage:
    """One part of the training: which scenes, frames of each, scenes in a step, sentences for each, and steps.

    Attributes:
        split: "": no scenes, sentences alone.
        alone: how many of the frames are segmented, each without memory; 0: all, with memory.
    """

    name: str
    split: str
    frames: int
    scenes: int
    sentences: int
    steps: int
    alone: int = 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/refshapes"), help="default: data/refshapes")
    parser.add_argument(
        "--roberta", type=filled_text, required=True, help="folder of the tokenizer (tools/train_tokenizer.py makes it)"
    )
    parser.add_argument("--output", type=Path, default=Path("output/stand-in"), help="default: output/stand-in")
    parser.add_argument("--init", type=Path, help="OUTPUT of an earlier training to begin from (default: random)")
    parts = ("IMAGES", "GLANCES", "CLIPS")
    parser.add_argument("--steps", type=int, nargs=3, default=(1500, 600, 600), metavar=parts,
                        help="steps with images, glances at clips, and clips (default: 1500 600 600)")  # fmt: skip
    parser.add_argument("--sentence_steps", type=int, default=800,
                        help=f"steps before these, with {_SENTENCES} sentences alone (default: 800)")  # fmt: skip
    parser.add_argument("--scenes", type=int, nargs=3, default=(8, 6, 2), metavar=parts,
                        help="images and clips in a step (default: 8 6 2)")  # fmt: skip
    parser.add_argument("--sentences", type=int, nargs=3, default=(4, 2, 4), metavar=parts,
                        help="for each image and clip of a step (default: 4 2 4)")  # fmt: skip
    parser.add_argument("--frames", type=int, default=6, help="of a clip (default: 6)")
    parser.add_argument("--over_time", type=float, default=0.5, metavar="SHARE",
                        help="of clips whose sentences about motion and order come first (default: 0.5)")  # fmt: skip
    parser.add_argument("--image_size", type=int, help="side of the network input (default: that of nano)")
    parser.add_argument("--lr", type=positive_float, default=1e-3, help="largest learning rate (default: 1e-3)")
    parser.add_argument("--half_products", action="store_true",
                        help="multiply matrices in bfloat16, for CPUs with avx512_bf16 or amx_bf16")  # fmt: skip
    parser.add_argument("--seed", type=natural_int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or mps (default: cpu)")
    parser.add_argument("--checkpoint_minutes", type=float, default=3, help="default: 3")
    args = parser.parse_args(argv)
    for name, least in (("scenes", 1), ("steps", 0), ("sentence_steps", 0), ("sentences", 1), ("frames", 2)):
        value = getattr(args, name)
        if min(value if isinstance(value, (list, tuple)) else [value]) < least:
            parser.error(f"--{name}: expected at least {least}")
    if not 0 <= args.over_time <= 1:
        parser.error(f"--over_time is {args.over_time}, expected a share between 0 and 1")
    args.device = resolve_device(args.device)
    return args


def stages_of(args: argparse.Namespace) -> list[Stage]:
    """Sentences, images, glances, clips; without those that have no steps."""
    parts = (
        ("images", "image_train", 1, 0),
        ("glances", "train", args.frames, _GLANCES),
        ("clips", "train", args.frames, 0),
    )
    numbers = zip(parts, args.scenes, args.sentences, args.steps, strict=True)
    stages = [Stage("sentences", "", 0, 0, 0, args.sentence_steps)]
    stages += [
        Stage(name, split, frames, scenes, sentences, steps, alone)
        for (name, split, frames, alone), scenes, sentences, steps in numbers
    ]
    return [stage for stage in stages if stage.steps]


def build(args: argparse.Namespace) -> SAMWISE:
    """The network, whose parameters all learn and of which nothing is dropped at random."""
    size = {} if args.image_size is None else {"sam2__image_size": args.image_size}
    config = load_model_config("nano", hsa=True, **size)
    model, _ = load_model(config, untrained=True, roberta=args.roberta, seed=args.seed)
    if args.init is not None:
        load_init(model, SAMWISE.from_pretrained(args.init).state_dict(), args.init)
    else:
        begin_with_position(model)
        for adapter in adapters_over_the_frame(model).values():
            begin_with_time(adapter)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.to(args.device).requires_grad_(True).train()


def load_init(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load what `--init` holds of a module.

    Raises:
        InputError: it is of another shape, or of another kind of module.
    """
    own = module.state_dict()
    odd = sorted(own.keys() ^ state.keys()) or [key for key, value in own.items() if value.shape != state[key].shape]
    if odd:
        raise InputError(
            f"--init {source} does not fit: {len(odd)} tensors differ in name or shape, such as {odd[0]}; expected "
            "the OUTPUT of a training of this program, with the same --image_size"
        )
    module.load_state_dict(state)


def begin_with_position(model: SAMWISE) -> None:
    """Add ramps to the position embedding: every channel says something of the row and the column.

    SAM 2 has learned where things are from a billion masks. A short training leaves the small random values as they
    are, and a network that cannot say where an object is never learns what "leftmost" means.
    """
    embedding = model.sam.image_encoder.trunk.pos_embed
    channels, rows, columns = embedding.shape[1:]
    grid = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    with torch.no_grad():
        embedding.add_(POSITION_SCALE * torch.einsum("cd,dhw->chw", torch.randn(channels, 2), torch.stack(grid)))


class StandInTraining:
    """The training, from its first or any later step to the end.

    Args:
        args: the command line.
        processes: those that train together, each with batches of its own.
    """

    def __init__(self, args: argparse.Namespace, processes: Processes) -> None:
        self.args = args
        self.processes = processes
        torch.manual_seed(args.seed)
        self.model = build(args)
        self.lessons = Lessons(self.model).to(args.device)
        if args.init is not None and (args.init / HEADS).is_file():
            load_init(self.lessons, self._read(args.init / HEADS), args.init)
        self.parameters = [*self.model.parameters(), *self.lessons.parameters()]
        self.stages = stages_of(args)
        self.sentences = SentenceSource(args.data)
        self.folder = writable_folder(args.output / "training", "--output")
        self.state_file = self.folder / "state.pth"
        self.number = self.done = 0
        self.optimizer = self._new_optimizer()
        self.settings = {key: str(value) for key, value in vars(args).items() if key != "checkpoint_minutes"}
        self.settings["processes"] = str(processes.size)
        self.restore()

    def _new_optimizer(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.parameters, lr=self.args.lr, betas=BETAS, weight_decay=WEIGHT_DECAY)

    def restore(self) -> None:
        """Go on from the state in the folder, if there is one.

        Raises:
            InputError: it is damaged, or of a training with other settings.
        """
        if not self.state_file.is_file():
            return
        state = self._read(self.state_file)
        if state["settings"] != self.settings:
            differing = [key for key, value in self.settings.items() if state["settings"].get(key) != value]
            what = "number of processes" if differing[0] == "processes" else f"--{differing[0]}"
            raise InputError(
                f"{self.state_file} is of a training with another {what}: give the same to go on, or another --output"
            )
        self.model.load_state_dict(state["model"])
        self.lessons.load_state_dict(state["lessons"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.number, self.done = state["stage"], state["done"]

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            return load_content(file)
        except DamagedFileError as error:
            raise InputError(f"{file}: {error}; remove it to start anew") from error

    def save(self) -> None:
        """Write the state."""
        if not self.processes.is_main:
            return
        state = {
            "settings": self.settings, "stage": self.number, "done": self.done, "model": self.model.state_dict(),
            "lessons": self.lessons.state_dict(), "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        write_sealed(self.state_file, plain(state), {"step": self.done})

    def run(self) -> None:
        """All stages; then the model folder is written, and the state removed.

        Raises:
            InputError: the data is missing or broken, or the training was told to stop.
        """
        with StopRequest() as stop:
            while self.number < len(self.stages):
                self._run_stage(self.stages[self.number], stop)
                self.number, self.done = self.number + 1, 0
                self.optimizer = self._new_optimizer()
                self.save()
        if self.processes.is_main:
            self._finish()

    def _finish(self) -> None:
        self.model.eval()
        steps = {stage.name: stage.steps for stage in self.stages}
        self.model.training_facts = {"data": "RefShapes", "role": "stand-in for SAM 2 and RoBERTa", "steps": steps}
        with atomic_write(self.args.output / HEADS) as handle:
            save_torch(self.lessons.state_dict(), handle)
        self.model.save_pretrained(self.args.output)
        self.state_file.unlink(missing_ok=True)  # no step, no state

    def _run_stage(self, stage: Stage, stop: StopRequest) -> None:
        saved = time.monotonic()
        sums: dict[str, float] = {}
        summed = 0  # steps in them: fewer than `_LOGGED` after an interruption
        bar = tqdm(
            self._batches(stage), desc=stage.name, unit="step", total=stage.steps, initial=self.done,
            disable=not self.processes.is_main,
        )  # fmt: skip
        for batch in bar:
            rng = np.random.default_rng([self.args.seed, 2, self.done, self.processes.rank])
            drawn = self.sentences.draw(_SENTENCES, rng)
            for key, value in self._step(batch, drawn, stage).items():
                sums[key] = sums.get(key, 0.0) + value
            self.done, summed = self.done + 1, summed + 1
            if self.done % _LOGGED == 0:
                means = {key: value / summed for key, value in sums.items()}
                self._log(stage, means)
                bar.set_postfix({key: f"{means[key]:.3f}" for key in _SHOWN if key in means})
                sums, summed = {}, 0
            signal = stop.agreed(self.processes)
            if signal or time.monotonic() - saved > 60 * self.args.checkpoint_minutes:
                self.save()
                saved = time.monotonic()
            if signal:
                raise InputError(
                    f"stopped by {signal} after {self.done} steps of {stage.name}: the same command goes on"
                )

    def _batches(self, stage: Stage) -> Iterable[SceneBatch | None]:
        """What is left of a stage."""
        steps = range(self.done, stage.steps)
        if not stage.split:
            return [None] * len(steps)
        return batches(
            read_scenes(self.args.data, stage.split), self.model.config.sam2.image_size, stage.frames, stage.scenes,
            stage.sentences, seed=self.args.seed, steps=steps, processes=self.processes,
            over_time=self.args.over_time if stage.frames > 1 else 0.0,
        )  # fmt: skip

    def _losses(self, batch: SceneBatch | None, sentences: SentenceBatch, stage: Stage) -> Outcome:
        words = {"sentences": self.lessons.words(self.model, sentences)}
        if batch is None:
            return Outcome(words)
        alone = [(self.done + place * stage.frames // stage.alone) % stage.frames for place in range(stage.alone)]
        outcome = self.lessons(self.model, batch.to(self.args.device), alone)
        return Outcome(outcome.losses | words, outcome.iou)

    def _step(self, batch: SceneBatch | None, sentences: SentenceBatch, stage: Stage) -> dict[str, float]:
        rate = learning_rate(self.done, stage.steps) * self.args.lr
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with HalfProducts() if self.args.half_products else contextlib.nullcontext():
            outcome = self._losses(batch, sentences, stage)
        self.optimizer.zero_grad()
        torch.stack(list(outcome.losses.values())).sum().backward()
        self._share_gradients(stage)
        norm = nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        self.optimizer.step()
        values = {key: float(value.detach()) for key, value in outcome.losses.items()}
        found = {} if outcome.iou is None else {"iou": outcome.iou}
        return values | found | {"grad_norm": float(norm)}

    def _share_gradients(self, stage: Stage) -> None:
        """The mean over processes."""
        if self.processes.size == 1:
            return
        for parameter in self.parameters if stage.split else ():  # sentences teach the same in every process
            if parameter.grad is None:  # what did not take part, perhaps in this process alone
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        mean = nn.utils.parameters_to_vector(gradients).cpu() / self.processes.size
        dist.all_reduce(mean, group=self.processes.group)
        nn.utils.vector_to_parameters(mean.to(self.args.device), gradients)

    def _log(self, stage: Stage, values: dict[str, float]) -> None:
        if not self.processes.is_main:
            return
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"stage": stage.name, "step": self.done, **values}) + "\n")


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine; a share of the largest."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * step / steps)
    return min(1.0, (step + 1) / WARM_UP) * (LEAST_LR + (1 - LEAST_LR) * cosine)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, or say that it is done already."""
    args = parse_args(argv)
    if (args.output / "model.safetensors").is_file() and not (args.output / "training" / "state.pth").is_file():
        print(f"{args.output}: complete already")
        return
    with joined_processes() as processes:
        training = StandInTraining(args, processes)
        training.run()
    if not processes.is_main:
        return
    count = sum(parameter.numel() for parameter in training.model.parameters())
    print(f"{args.output}: a stand-in of {count / 1e6:.2f} M parameters; give it to --sam2_weights")


if __name__ == "__main__":
    run_script(main)
