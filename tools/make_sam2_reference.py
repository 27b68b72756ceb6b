"""Store what the PyPI package `sam2` computes, for tests/models/sam2/test_sam2_against_package.py.

    python tools/make_sam2_reference.py [--out FILE]

Run it in an environment of its own that has `sam2` (made with 1.1.0; `SAM2_BUILD_CUDA=0` while installing it). Nothing
else needs the package. The networks have the package's own configurations with fewer and narrower layers, their weights
and inputs come from tests/models/sam2/sam2_recipe.py, and the file holds strided slices of what leaves each part.

SAMWISE has no conditioning frame and one prompt more than the package: the sentence. So the tracker gets an empty set
of conditioning frames, and the sentence's token joins the output of the prompt encoder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.models.sam2.sam2_recipe import recipe_frames, recipe_prompts, recipe_state
from util.command_line import Parser
from util.errors import InputError, run_script
from util.paths import atomic_write

OUT = Path(__file__).resolve().parents[1] / "tests" / "data" / "sam2_reference.npz"
PACKAGE_CONFIGS = {
    "tiny": "configs/sam2/sam2_hiera_t.yaml",
    "small": "configs/sam2/sam2_hiera_s.yaml",
    "base": "configs/sam2/sam2_hiera_b+.yaml",
    "large": "configs/sam2/sam2_hiera_l.yaml",
    "tiny_2.1": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "small_2.1": "configs/sam2.1/sam2.1_hiera_s.yaml",
    "base_2.1": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "large_2.1": "configs/sam2.1/sam2.1_hiera_l.yaml",
}
# Sizes of the reduced networks; heads, windows and the background grid stay those of the version.
SIZES: dict[str, Any] = {
    "image_size": 256,
    "embed_dim": 32,
    "stages": [1, 2, 4, 2],
    "global_blocks": [4, 6],
    "memory_attention_layers": 2,
    "memory_attention_hidden": 128,
}
SAMPLES, FRAMES = 2, 18  # the pointers of 15 frames are read from frame 15 on
ENCODED = ("tiny", "base_2.1", "large_2.1")  # between them every window and background grid there is
# SAM 2 and 2.1, each with a last bias of the object-score head with which objects come and go.
TRACKED = {"tiny": 0.0, "base_2.1": 0.9}
SCORE_HEAD = "sam_mask_decoder.pred_obj_score_head.layers.2."
SCORE_GAIN = 10.0  # spreads the scores
LEAST_SCORE = 0.05  # no object score may be so near to 0 that rounding decides


class NoConditioning(dict[int, Any]):
    """No conditioning frame, but not refused by the package, which asks only for the number of frames."""

    def __len__(self) -> int:
        return 1


class Sentence(nn.Module):
    """The package's prompt encoder with one token more."""

    def __init__(self, encoder: Any, tokens: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokens = tokens

    def get_dense_pe(self) -> Tensor:
        """Position encoding of the feature map."""
        return self.encoder.get_dense_pe()

    def forward(self, **prompts: Any) -> tuple[Tensor, Tensor]:
        """Sparse tokens (B, 3, C) and the dense prompt."""
        sparse, dense = self.encoder(**prompts)
        return torch.cat([sparse, self.tokens[:, None]], dim=1), dense


def build(name: str, reduced: bool) -> Any:
    """The package's network of one of our versions, with its own configuration or reduced."""
    from sam2.build_sam import build_sam2

    overrides = []
    if reduced:
        dim = SIZES["embed_dim"]
        overrides = [
            f"model.image_size={SIZES['image_size']}",
            f"model.image_encoder.trunk.embed_dim={dim}",
            f"++model.image_encoder.trunk.stages={SIZES['stages']}",
            f"++model.image_encoder.trunk.global_att_blocks={SIZES['global_blocks']}",
            f"model.image_encoder.neck.backbone_channel_list={[dim << stage for stage in (3, 2, 1, 0)]}",
            f"model.memory_attention.num_layers={SIZES['memory_attention_layers']}",
            f"model.memory_attention.layer.dim_feedforward={SIZES['memory_attention_hidden']}",
            "model.multimask_output_in_sam=false",
        ]
    return build_sam2(PACKAGE_CONFIGS[name], device="cpu", hydra_overrides_extra=overrides, apply_postprocessing=False)


def shapes_of(model: nn.Module) -> dict[str, list[int]]:
    """{key: shape} of a network's state."""
    return {key: list(value.shape) for key, value in model.state_dict().items()}


def reduced(name: str) -> Any:
    """The reduced network of a version with the recipe's weights."""
    model = build(name, reduced=True)
    state = recipe_state(shapes_of(model))
    state[SCORE_HEAD + "weight"] *= SCORE_GAIN
    state[SCORE_HEAD + "bias"].fill_(TRACKED.get(name, 0.0))
    model.load_state_dict(state)
    return model


def encode(name: str) -> dict[str, np.ndarray]:
    """Slices of what the image encoder computes for the first frame."""
    model = reduced(name)
    frames = recipe_frames(name, SAMPLES, 1, SIZES["image_size"])[:, 0]
    stages = model.image_encoder.trunk(frames)
    _, levels, _, _ = model._prepare_backbone_features(model.forward_image(frames))
    return {
        **{f"stage{index}": x[:, ::5, ::5, ::5].numpy() for index, x in enumerate(stages)},
        **{f"level{index}": x.permute(1, 2, 0)[:, ::7, ::61].numpy() for index, x in enumerate(levels)},
    }


def watch(model: Any) -> dict[str, Tensor]:
    """A dictionary that holds what the last run of the mask decoder read and said: image, early token, IoU."""
    seen: dict[str, Tensor] = {}
    decoder = model.sam_mask_decoder
    decoder.register_forward_pre_hook(
        lambda _module, _inputs, named: seen.update(conditioned=named["image_embeddings"]), with_kwargs=True
    )
    decoder.transformer.layers[0].register_forward_hook(
        lambda _module, _inputs, output: seen.update(early=output[0][:, 2])
    )
    decoder.register_forward_hook(lambda _module, _inputs, output: seen.update(iou=output[1][:, 0]))
    return seen


def track(name: str) -> dict[str, np.ndarray]:
    """Slices of what the whole network computes in each frame."""
    model = reduced(name)
    frames = recipe_frames(name, SAMPLES, FRAMES, SIZES["image_size"])
    model.sam_prompt_encoder = Sentence(model.sam_prompt_encoder, recipe_prompts(name, SAMPLES, model.hidden_dim))
    seen = watch(model)
    kept: dict[str, np.ndarray] = {}
    past: dict[str, dict[int, Any]] = {"cond_frame_outputs": NoConditioning(), "non_cond_frame_outputs": {}}
    for t in range(FRAMES):
        _, features, positions, grids = model._prepare_backbone_features(model.forward_image(frames[:, t]))
        out = model.track_step(
            frame_idx=t,
            is_init_cond_frame=t == 0,
            current_vision_feats=features,
            current_vision_pos_embeds=positions,
            feat_sizes=grids,
            point_inputs=None,
            mask_inputs=None,
            output_dict=past,
            num_frames=10 * FRAMES,
        )
        past["non_cond_frame_outputs"][t] = out
        kept |= {
            f"{t}/conditioned": seen["conditioned"][:, ::11, ::6, ::6].numpy(),
            f"{t}/early": seen["early"][:, ::4].numpy(),
            f"{t}/iou": seen["iou"].numpy(),
            f"{t}/score": out["object_score_logits"][:, 0].numpy(),
            f"{t}/logits": out["pred_masks"][:, 0, ::6, ::6].numpy(),
            f"{t}/pointer": out["obj_ptr"][:, ::4].numpy(),
            f"{t}/memory": out["maskmem_features"][:, ::5, ::5, ::5].numpy(),
        }
    scores = np.stack([kept[f"{t}/score"] for t in range(FRAMES)])
    print(f"{name}: {int((scores > 0).sum())} of {scores.size} visible, least {np.abs(scores).min():.3f} from 0")
    assert 0 < (scores > 0).sum() < scores.size, "objects must come and go: choose another bias"
    assert np.abs(scores).min() > LEAST_SCORE, "a score is too near to 0: choose another bias"
    return kept


def main(argv: Sequence[str] | None = None) -> None:
    """Write the reference file.

    Raises:
        InputError: the package is not installed.
    """
    parser = Parser(description="store what the PyPI package sam2 computes, for the tests")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    try:
        package = f"sam2 {version('sam2')}, torch {version('torch')}"
    except PackageNotFoundError as error:
        raise InputError("the package sam2 is not installed: run this in an environment that has it") from error
    with torch.inference_mode():
        cases = [(name, encode(name)) for name in ENCODED] + [(name, track(name)) for name in TRACKED]
    arrays = {f"{name}/{key}": values for name, kept in cases for key, values in kept.items()}
    meta = {
        "package": package,
        "sizes": SIZES,
        "samples": SAMPLES,
        "frames": FRAMES,
        "score_gain": SCORE_GAIN,
        "score_biases": TRACKED,
        "keys": {name: shapes_of(build(name, reduced=False)) for name in PACKAGE_CONFIGS},
    }
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    with atomic_write(args.out) as handle:
        np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]
    print(f"wrote {args.out}, {args.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    run_script(main)
