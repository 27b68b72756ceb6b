"""Does it learn? A small network with random adapters fits four clips: its J&F on them has to pass 90.

    python tools/overfit.py --out output/overfit

Draws four videos of moving shapes in the layout of MeViS, trains with the engine of main.py, and evaluates as
inference_mevis.py does, before and after. SAM 2 and the text encoder are random and stay frozen. Takes half a minute.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pycocotools.mask
import torch
from PIL import Image

from configs.flags import natural_int, positive_int
from configs.loading import load_model_config
from datasets.mevis import open_mevis
from datasets.training import open_training_set
from engine.inference.benchmarks import ExpressionBenchmark
from engine.inference.options import InferenceOptions
from engine.inference.run import run_benchmark
from engine.train.loop import Training
from engine.train.options import TrainOptions
from models.build import load_model
from models.samwise import SAMWISE
from util.command_line import Parser
from util.errors import InputError, run_script
from util.logging import setup_logging
from util.paths import atomic_write_json

SIDE, FRAMES = 64, 3
MADE = ("scores.json", "after", "training", "before", "data")  # in the folder of results; data is removed last
NETWORK: dict[str, Any] = {
    "sam2__image_size": SIDE,
    "sam2__model_dim": 64,
    "sam2__memory_attention_hidden": 128,
    "sam2__decoder_hidden": 128,
    "sam2__hiera__embed_dim": 16,
    "adapter_dim": 64,
}
# A random mask decoder gives logits near zero, which no adapter can make large; a trained one gives about +-10.
LOGIT_SCALE = 40.0
SENTENCES = ("the red disc that moves right", "the blue square going down", "the disc moving along", "the blue box")


def draw_clip(number: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames (H, W, 3) uint8 and masks (H, W) bool of the target: a disc and a square over a smooth background."""
    rng = np.random.default_rng(number)
    blurred = Image.fromarray(rng.integers(60, 190, (8, 8, 3), dtype=np.uint8)).resize((SIDE, SIDE))
    y, x = np.mgrid[:SIDE, :SIDE]
    frames, masks = [], []
    for t in range(FRAMES):
        along = (0.2 + 0.12 * t) if number % 2 == 0 else (0.8 - 0.12 * t)
        disc = (x - along * SIDE) ** 2 + (y - (0.3 + 0.1 * number) * SIDE) ** 2 < (0.18 * SIDE) ** 2
        down = (0.2 + 0.12 * t) if number < 2 else (0.8 - 0.12 * t)
        square = (abs(x - 0.75 * SIDE) < 0.16 * SIDE) & (abs(y - down * SIDE) < 0.16 * SIDE)
        frame = np.array(blurred)
        frame[disc] = (225, 40, 40)
        frame[square] = (40, 60, 225)
        frames.append(frame)
        masks.append(disc & ~square if number % 2 == 0 else square)
    return frames, masks


def make_room(folder: Path) -> None:
    """Remove from a folder what an earlier run made there, and nothing else.

    Raises:
        InputError: the folder holds something, and no run of this program made it.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / "data" / "train" / "JPEGImages" / "clip0").is_dir():
        raise InputError(f"--out {folder}: expected a new or empty folder, or one that this program made")
    for path in (folder / name for name in MADE):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_clips(root: Path) -> None:
    """The four clips as MeViS's train and valid_u."""
    videos, masks = {}, {}
    for number, sentence in enumerate(SENTENCES):
        name, names = f"clip{number}", [f"{t:05d}" for t in range(FRAMES)]
        frames, targets = draw_clip(number)
        folder = root / "train" / "JPEGImages" / name
        folder.mkdir(parents=True)
        for frame, file in zip(frames, names, strict=True):
            Image.fromarray(frame).save(folder / f"{file}.jpg", quality=95)
        expression = {"exp": sentence, "obj_id": [0], "anno_id": [number]}
        videos[name] = {"expressions": {"0": expression}, "frames": names}
        encoded = [pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in targets]
        masks[str(number)] = [{**rle, "counts": rle["counts"].decode()} for rle in encoded]
    atomic_write_json(root / "train" / "meta_expressions.json", {"videos": videos})
    atomic_write_json(root / "train" / "mask_dict.json", masks)
    shutil.copytree(root / "train", root / "valid_u")


def random_network(seed: int) -> SAMWISE:
    """A network of tiny's structure with HSA, far smaller, and a byte-level tokenizer."""
    config = load_model_config("nano", hsa=True, pred_obj_score=False, **NETWORK)
    model, _ = load_model(config, untrained=True, seed=seed)
    kernel = model.get_parameter("sam.sam_mask_decoder.output_hypernetworks_mlps.0.layers.2.weight")
    with torch.no_grad():
        kernel.mul_(LOGIT_SCALE)
    return model


def score(model: SAMWISE, data: Path, folder: Path) -> float:
    """J&F on the clips, in percent."""
    options = InferenceOptions(eval_clip_window=FRAMES, num_workers=0)
    scores = run_benchmark(model, ExpressionBenchmark(open_mevis(data, "valid_u"), folder), options)
    assert scores is not None
    return 100 * float(scores["official"]["J&F"])


def main(argv: Sequence[str] | None = None) -> None:
    """Train and score."""
    parser = Parser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("output/overfit"), help="folder; results of an earlier run go")
    parser.add_argument("--steps", type=positive_int, default=80, help="steps of all four clips (default 80)")
    parser.add_argument("--seed", type=natural_int, default=0)
    options = parser.parse_args(argv)
    setup_logging()
    make_room(options.out)
    data = options.out / "data"
    write_clips(data)
    model = random_network(options.seed)
    before = score(model, data, options.out / "before")
    paths = {"ytvos_path": "", "davis_path": "", "coco_path": "", "mevis_path": data}
    clips = open_training_set("mevis", **paths, num_frames=FRAMES, side=SIDE, augment=False, seed=options.seed)
    recipe = TrainOptions(
        dataset_file="mevis", num_frames=FRAMES, batch_size=len(SENTENCES), epochs=options.steps, lr=6e-3,
        lr_drop=(options.steps * 4 // 5,), num_workers=0, seed=options.seed, checkpoint_iterations=10**9,
    )  # fmt: skip
    Training(model, clips, recipe, options.out / "training").run()
    after = score(model, data, options.out / "after")
    atomic_write_json(options.out / "scores.json", {"before": before, "after": after})
    print(f"J&F on the four clips: {before:.1f} before, {after:.1f} after {options.steps} steps")


if __name__ == "__main__":
    run_script(main)
