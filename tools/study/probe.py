"""What a network of RefShapes knows: whether it chooses the right object, and what can be read from its features.

    python3 tools/study/probe.py pretrained/nano --data data/refshapes --out output/probe.json

On images of training scenes: the share of sentences whose mask overlaps the meant object most, and an object that the
noun fits; beside it what choosing among those by chance would give. On images and clips: R2 of linear probes, fitted on
three quarters of the scenes, from the features of every stage to place and motion of the object under them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.cli import natural_int, positive_int
from engine.scoring.tables import text_table
from models.samwise import SAMWISE
from tools.stand_in.lessons import look_up, object_motion, object_place, segment, shrink_labels
from tools.stand_in.scenes import SceneBatch, make_batch, read_scenes
from util.command_line import Parser
from util.errors import run_script
from util.paths import atomic_write_json

PLACE, MOTION = ("column", "row", "area"), ("right", "down", "growth")
_SHRINK = 1e-3  # of the probes' ridge regression, times the number of samples
_SENTENCES, _FRAMES = 6, 6


@dataclass
class Samples:
    """Features (N, C) of a stage, and what is to be read from them (N, 3), of one batch each."""

    features: list[Tensor]
    truth: list[Tensor]

    def r2(self) -> list[float]:
        """R2 of a linear probe on the last quarter of the batches; nothing if there are too few samples."""
        cut = max(1, len(self.features) * 3 // 4)
        seen, rest = (torch.cat(self.features[part]).double() for part in (slice(cut), slice(cut, None)))
        wanted, truth = (torch.cat(self.truth[part]).double() for part in (slice(cut), slice(cut, None)))
        if min(len(seen), len(rest)) < 2:
            return []
        mean, spread, middle = seen.mean(0), seen.std(0) + 1e-6, wanted.mean(0)
        seen, rest = (seen - mean) / spread, (rest - mean) / spread
        normal = seen.T @ seen + _SHRINK * len(seen) * torch.eye(seen.shape[1], dtype=seen.dtype)
        answer = rest @ torch.linalg.solve(normal, seen.T @ (wanted - middle)) + middle
        return (1 - (answer - truth).square().sum(0) / (truth - truth.mean(0)).square().sum(0)).tolist()


def collect(samples: dict[int, Samples], outputs: Sequence[Tensor], batch: SceneBatch, truth: Tensor) -> None:
    """Add the features under objects of every stage; truth (V, T, MAX_OBJECTS + 1, 3), NaN where unknown."""
    for stage, output in enumerate(outputs):
        x = output.unflatten(0, (-1, batch.frames.shape[1]))
        spread = batch.clip_of if x.shape[0] == len(batch.texts) else torch.arange(x.shape[0])
        labels = shrink_labels(batch.labels, x.shape[2])[spread]
        wanted = look_up(truth[spread].flatten(0, 1), labels.flatten(0, 1)).view(*labels.shape, 3)
        known = (labels > 0) & ~wanted.isnan().any(-1)
        found = samples.setdefault(stage, Samples([], []))
        found.features.append(x[known])
        found.truth.append(wanted[known])


def choices(masks: Tensor, batch: SceneBatch) -> Iterator[tuple[int, tuple[bool, bool, float]]]:
    """For every sentence with one target: is the object of most overlap meant, fits the noun it, and the chance.

    Args:
        masks: (B, S, S) bool.
    """
    for sample, mask in enumerate(masks):
        labels, (meant, fitted, _) = batch.labels[batch.clip_of[sample], 0], batch.members[sample] > 0
        overlaps = torch.zeros(len(meant))
        for label in labels.unique()[1:].tolist():
            item = labels == label
            overlaps[label] = (mask & item).sum() / (mask | item).sum()
        best = int(overlaps.argmax())
        if meant.sum() == 1:
            yield sample, (bool(meant[best]), bool(fitted[best]), 1 / float(fitted.sum()))


def probe(model: SAMWISE, data: Path, count: int, seed: int) -> dict[str, dict[str, float]]:
    """All figures of a network; see the module.

    Raises:
        InputError: the data is missing or broken.
    """
    assert model.tokenizer is not None
    side, rng = model.config.sam2.image_size, np.random.default_rng(seed)
    right: dict[str, list[tuple[bool, bool, float]]] = {"looks": [], "relation": []}
    places: dict[int, Samples] = {}
    motions: dict[int, Samples] = {}
    for split, frames, samples in (("image_train", 1, places), ("train", _FRAMES, motions)):
        scenes = read_scenes(data, split)
        order = rng.permutation(len(scenes))[:count]
        for index in tqdm(order, desc=split, unit="scene"):
            batch = make_batch([scenes[index]], side, frames, _SENTENCES if frames == 1 else 2, rng)
            outputs: list[Tensor] = []
            with torch.inference_mode():
                features = model.encode(batch.frames, model.tokenizer(batch.texts), batch.clip_of, outputs)
                place = object_place(batch.labels)
                collect(samples, outputs, batch, place if frames == 1 else object_motion(place))
                if frames == 1:
                    logits = segment(model, features)[0].logits[:, None]
                    masks = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)[:, 0] > 0
                    for sample, choice in choices(masks, batch):
                        right["relation" if batch.asked[sample].any() else "looks"].append(choice)
    result: dict[str, dict[str, float]] = {}
    for kind, found in right.items():
        if found:
            shares = np.mean(np.array(found, float), axis=0).tolist()
            result[f"choice, {kind}"] = dict(zip(("meant", "fits the noun", "chance"), shares, strict=True))
    for samples, names in ((places, PLACE), (motions, MOTION)):
        for stage, found_there in samples.items():
            result.setdefault(f"stage {stage}", {}).update(zip(names, found_there.r2(), strict=False))
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Probe a network, print and write what was found."""
    parser = Parser(description=__doc__)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--data", type=Path, default=Path("data/refshapes"), help="default: data/refshapes")
    parser.add_argument("--scenes", type=positive_int, default=80, help="images, and as many clips (80)")
    parser.add_argument("--seed", type=natural_int, default=0, help="of the choice of scenes (0)")
    parser.add_argument("--out", type=Path, default=Path("output/probe.json"), help="default: output/probe.json")
    args = parser.parse_args(argv)
    found = probe(SAMWISE.from_pretrained(args.model).eval(), args.data, args.scenes, args.seed)
    for names in (("meant", "fits the noun", "chance"), (*PLACE, *MOTION)):
        rows = [
            (key, *(f"{row[name]:.2f}" for name in names)) for key, row in found.items() if set(names) <= row.keys()
        ]
        if rows:
            print(text_table(("", *names), rows))
    atomic_write_json(args.out, found)


if __name__ == "__main__":
    run_script(main)
