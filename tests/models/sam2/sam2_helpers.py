"""What the comparisons of our SAM 2 with other implementations share."""

from __future__ import annotations

import torch
from torch import Tensor

from models.sam2.hiera import PATCH_STRIDE, Hiera
from models.sam2.sam2 import SAM2


def run_stages(trunk: Hiera, frames: Tensor) -> list[Tensor]:
    """What leaves each stage, without fusion: (B, 3, H, W) -> (B, h, w, C) each."""
    position = trunk.position(frames.shape[-2] // PATCH_STRIDE, frames.shape[-1] // PATCH_STRIDE)
    stages = [trunk.run_blocks(trunk.stage_blocks(0), trunk.embed(frames, position))]
    for stage in range(1, len(trunk.stage_ends)):
        stages.append(trunk.run_blocks(trunk.stage_blocks(stage), stages[-1]))
    return stages


def run_encoder(model: SAM2, frames: Tensor) -> tuple[list[Tensor], tuple[Tensor, Tensor], Tensor]:
    """frames (B, 3, H, W) -> the stages, the two high-resolution features (B, c, h, w), and the map (B, N, C)."""
    neck, decoder = model.image_encoder.neck, model.sam_mask_decoder
    stages = run_stages(model.image_encoder.trunk, frames)
    fine = (
        neck.high_resolution(0, stages[0], decoder.conv_s0).permute(0, 3, 1, 2),
        neck.high_resolution(1, stages[1], decoder.conv_s1).permute(0, 3, 1, 2),
    )
    return stages, fine, neck.feature_map(stages[2], stages[3])


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Assert equal up to rounding."""
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest magnitude."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def random_weights(module: torch.nn.Module, seed: int = 0) -> None:
    """Seeded weights that let every part show: matrices keep variance, norms and biases differ from 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict(keep_vars=True).items():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim == 1:
                tensor.copy_(0.1 * noise + float(name.endswith("weight")))
            elif name.endswith(("weight", "conv.weight")) and "embed" not in name and "token" not in name:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            else:
                tensor.copy_(0.5 * noise)


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Seeded standard normal values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
