"""Draw the clip that ships with the repository: a video of RefShapes that no training set holds, and its truth.

    python3 tools/data/make_demo_clip.py
    python3 tools/data/make_demo_clip.py --out DIR --seed S --index I

Writes OUT/shapes.mp4, OUT/shapes.json (sentences of all kinds and their truth, as `inference_demo.py --truth` reads it)
and OUT/shapes.txt (a few of the sentences, one per line, for the web page). The seed is used for nothing else; a video
of the split test shows colours on shapes that no training split shows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.flags import natural_int
from datasets.video_index import fold
from engine.results import VideoFile
from tools.data.refshapes.files import encode_rle
from tools.data.refshapes.records import prepare_worker
from tools.data.refshapes.sentences import KINDS, Expression
from tools.data.refshapes.video import Clip, build_video
from util.command_line import Parser
from util.errors import run_script
from util.paths import atomic_write

SPLIT, SEED, INDEX = "test", 5005, 42
EXAMPLES = 3
FRAMES, SIZE, FPS = 40, (240, 320), Fraction(8)  # SIZE: (H, W)


def choose_sentences(clip: Clip) -> list[Expression]:
    """The first sentence of every kind, and those of the others that mean something that none of these means."""
    first = {item.kind: item for item in reversed(clip.expressions)}
    chosen = [first[kind] for kind in KINDS if kind in first]
    meant = {item.targets for item in chosen}
    return chosen + [item for item in clip.expressions if item.targets not in meant]


def truth_of(clip: Clip) -> dict[str, Any]:
    """Run lengths of all objects, and sentences with the numbers of those they mean."""
    chosen = choose_sentences(clip)
    return {
        "sentences": {fold(item.text): [str(target + 1) for target in item.targets] for item in chosen},
        "objects": {
            str(number): [encode_rle(np.asarray(labels == number)) for labels in clip.labels]
            for number in range(1, len(clip.scene.objects) + 1)
        },
    }


def examples(sentences: Mapping[str, Sequence[str]]) -> list[str]:
    """The first sentences that mean different objects, at most `EXAMPLES` of them."""
    chosen: dict[tuple[str, ...], str] = {}
    for sentence, objects in sentences.items():
        chosen.setdefault(tuple(objects), sentence)
    return list(chosen.values())[:EXAMPLES]


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the clip and write its files."""
    parser = Parser(description="draw the clip of `make demo`, with its sentences and their truth")
    parser.add_argument("--out", type=Path, default=Path("docs/demo"), help="folder (default: docs/demo)")
    parser.add_argument("--seed", type=natural_int, default=SEED, help=f"of RefShapes (default: {SEED})")
    parser.add_argument("--index", type=natural_int, default=INDEX, help=f"number of the test video (default: {INDEX})")
    args = parser.parse_args(argv)
    prepare_worker()
    clip = build_video(args.seed, SPLIT, args.index, FRAMES, SIZE)
    path = args.out / "shapes.mp4"
    video = VideoFile(path, FPS)
    for frame in clip.frames:
        video.add(frame)
    video.finish()
    truth = truth_of(clip)
    with atomic_write(path.with_suffix(".txt"), "w") as handle:
        handle.write("".join(f"{sentence}\n" for sentence in examples(truth["sentences"])))
    with atomic_write(path.with_suffix(".json"), "w") as handle:
        handle.write(json.dumps(truth) + "\n")
    print(f"{path}: {FRAMES} frames of {SIZE[1]}x{SIZE[0]}, {len(clip.scene.objects)} objects")
    for sentence, objects in truth["sentences"].items():
        print(f"  {', '.join(objects):<8} {sentence}")


if __name__ == "__main__":
    run_script(main)
