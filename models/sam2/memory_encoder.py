"""Memory encoder: a frame's feature map and predicted mask become one memory (SAM 2, section 4).

Axes: B batch, C channels, H and W of the feature map, S = 16 H side of the mask, D memory channels, N = H * W.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.sam2.layers import LayerNorm2d, Linear, linear

MASK_CHANNELS = (1, 4, 16, 64, 256)


def pointwise(x: Tensor, convolution: nn.Module) -> Tensor:
    """A 1x1 convolution as a matrix product, which on a CPU does not depend on the number of threads.

    (B, C, H, W) -> (B, H, W, C').
    """
    assert isinstance(convolution, nn.Conv2d)
    return linear(x.permute(0, 2, 3, 1), convolution.weight.flatten(1), convolution.bias)


class MaskDownsampler(nn.Module):
    """Four stride-2 convolutions with normalisation and GELU, then a 1x1 convolution; parameters `encoder.{i}`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip(MASK_CHANNELS[:-1], MASK_CHANNELS[1:], strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), LayerNorm2d(after), nn.GELU()]
        layers.append(nn.Conv2d(MASK_CHANNELS[-1], dim, 1))
        self.encoder = nn.Sequential(*layers)

    def forward(self, mask: Tensor) -> Tensor:
        """(B, 1, S, S) -> (B, S / 16, S / 16, C)."""
        return pointwise(self.encoder[:-1](mask), self.encoder[-1])


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, normalisation, and an inverted bottleneck scaled by `gamma` (arXiv 2201.03545)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.pwconv1 = Linear(dim, 4 * dim)
        self.pwconv2 = Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        hidden = self.pwconv1(self.norm(self.dwconv(x)).permute(0, 2, 3, 1), "gelu")
        return x + (self.gamma * self.pwconv2(hidden)).permute(0, 3, 1, 2)


class Fuser(nn.Module):
    """Two ConvNeXt blocks under `layers.{i}`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(ConvNeXtBlock(dim), ConvNeXtBlock(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.layers(x)


class MemoryEncoder(nn.Module):
    """See the module's first line.

    Args:
        dim: channels of the feature map.
        memory_dim: D.
    """

    def __init__(self, dim: int, memory_dim: int) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownsampler(dim)
        self.pix_feat_proj = nn.Conv2d(dim, dim, 1)
        self.fuser = Fuser(dim)
        self.out_proj = nn.Conv2d(dim, memory_dim, 1)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """Encode one frame.

        Args:
            features: (B, C, H, W) feature map, not conditioned on memory.
            logits: (B, S, S) mask logits at the resolution of the network input.

        Returns:
            (B, N, D).
        """
        mask = self.mask_downsampler((logits.sigmoid() * 20 - 10)[:, None])
        x = self.fuser((pointwise(features, self.pix_feat_proj) + mask).permute(0, 3, 1, 2))
        return pointwise(x, self.out_proj).flatten(1, 2)
