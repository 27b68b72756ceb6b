"""What HSA patches of a size can know of motion: R2 of a linear probe from true masks inside a patch to velocities.

    python3 tools/study/reach.py --data data/refshapes --patches 24 8 24 24 12 12 --out output/reach.json

A pair of numbers is the side of the map and of its patches, in tokens. The probe sees what HSA could see at best: where
in its patch an object lies, and how much of it, one and two frames before and after and now. An object that crosses
patches is lost to it. Fitted on three quarters of the clips, measured on the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.cli import natural_int, positive_int
from engine.scoring.tables import text_table
from tools.stand_in.lessons import label_shares, object_motion, object_place
from tools.stand_in.scenes import choose_frames, read_scene, read_scenes
from tools.study.probe import MOTION, Samples
from util.command_line import Parser
from util.errors import InputError, run_script
from util.paths import atomic_write_json

_SIDE, _FRAMES = 192, 6
_SHIFTS = (-2, -1, 0, 1, 2)
_LEAST = 1e-3  # share of a patch that counts as being there


def inside_patches(shares: Tensor, patch: int) -> Tensor:
    """Where objects lie in each patch, and how much of them, in frames around each.

    Args:
        shares: (T, side, side, N), the share of every token that each object covers.
        patch: side of a patch in tokens.

    Returns:
        (patches, T, N, len(_SHIFTS) * 3): row and column in patches, share of the patch; zeros where it is not.
    """
    tokens = rearrange(shares, "t (h p) (w q) n -> (h w) t (p q) n", p=patch, q=patch)
    grid = torch.cartesian_prod(*[torch.arange(patch) / patch] * 2)
    amount = tokens.sum(2)
    middle = torch.einsum("btpn,pc->btnc", tokens, grid) / amount.clamp(min=1e-6)[..., None]
    there = amount[..., None] / patch**2 > _LEAST
    seen = torch.cat([middle * there, amount[..., None] / patch**2], dim=-1)
    frames = torch.arange(shares.shape[0])
    return torch.cat([seen[:, (frames + shift).clamp(0, len(frames) - 1)] for shift in _SHIFTS], dim=-1)


def measure(data: Path, sizes: Sequence[tuple[int, int]], count: int, seed: int) -> dict[str, dict[str, float]]:
    """R2 of velocities and growth for every size of map and patch.

    Raises:
        InputError: the data is missing or broken.
    """
    scenes, rng = read_scenes(data, "train"), np.random.default_rng(seed)
    samples = {size: Samples([], []) for size in sizes}
    for index in tqdm(rng.permutation(len(scenes))[:count], desc="clips", unit="clip"):
        scene = scenes[index]
        labels = torch.from_numpy(read_scene(scene, choose_frames(len(scene.frames), _FRAMES, rng), _SIDE)[1])[None]
        motion = object_motion(object_place(labels))[0, :, 1:]
        for (side, patch), found in samples.items():
            seen = inside_patches(label_shares(labels, side)[0, ..., 1:], patch)
            now = seen[..., 3 * _SHIFTS.index(0) + 2] > _LEAST
            known = now & ~motion.isnan().any(-1)
            found.features.append(seen[known])
            found.truth.append(motion.expand(*known.shape, -1)[known])
    return {
        f"{patch} of {side}": dict(zip(MOTION, found.r2(), strict=False)) for (side, patch), found in samples.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/refshapes"), help="default: data/refshapes")
    parser.add_argument("--patches", type=positive_int, nargs="+", default=[24, 8, 24, 24, 12, 12], metavar="N",
                        help="sides of a map and of its patches, in turns (24 8 24 24 12 12)")  # fmt: skip
    parser.add_argument("--scenes", type=positive_int, default=150, help="clips (150)")
    parser.add_argument("--seed", type=natural_int, default=3, help="of the choice of clips (3)")
    parser.add_argument("--out", type=Path, default=Path("output/reach.json"), help="default: output/reach.json")
    args = parser.parse_args(argv)
    sizes = list(zip(args.patches[::2], args.patches[1::2], strict=False))
    if len(args.patches) % 2 or any(_SIDE % side or side % patch for side, patch in sizes):
        raise InputError(f"--patches: expected pairs of divisors, of {_SIDE} and of the first; found {args.patches}")
    found = measure(args.data, sizes, args.scenes, args.seed)
    rows = [(key, *(f"{row[name]:.2f}" for name in MOTION)) for key, row in found.items() if row]
    print(text_table(("patch", *MOTION), rows))
    atomic_write_json(args.out, found)


if __name__ == "__main__":
    run_script(main)
