"""Feature pyramid of SAM 2: what the memory, the decoder and its high-resolution inputs read.

Axes: B batch, C channels, H rows, W columns; levels count from the finest (stride 4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.sam2.layers import linear


class LateralConv(nn.Module):
    """A 1x1 convolution under the published key `conv`."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, dim, kernel_size=1)


class FeaturePyramid(nn.Module):
    """1x1 convolutions to a common width; the coarsest level is added, enlarged, to the one before it.

    Args:
        channels: width of each Hiera stage, finest first.
        dim: common width.
    """

    def __init__(self, channels: tuple[int, ...], dim: int) -> None:
        super().__init__()
        # Published order: coarsest first.
        self.convs = nn.ModuleList(LateralConv(width, dim) for width in reversed(channels))

    def feature_map(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """The stride-16 feature map from the last two stages.

        Args:
            fine: (B, H, W, C2), stage 2.
            coarse: (B, H / 2, W / 2, C3), stage 3.

        Returns:
            (B, H * W, dim).
        """
        top = self._project(0, coarse).permute(0, 3, 1, 2)
        enlarged = F.interpolate(top.float(), scale_factor=2.0, mode="nearest").to(top.dtype)
        return (self._project(1, fine) + enlarged.permute(0, 2, 3, 1)).flatten(1, 2)

    def _lateral(self, index: int) -> nn.Conv2d:
        block = self.convs[index]
        assert isinstance(block, LateralConv)
        return block.conv

    def _project(self, index: int, x: Tensor) -> Tensor:
        conv = self._lateral(index)
        return linear(x, conv.weight.flatten(1), conv.bias)

    def high_resolution(self, level: int, x: Tensor, reduction: nn.Conv2d) -> Tensor:
        """A fine level as the mask decoder reads it.

        The level's own convolution and the decoder's `reduction` are both 1x1 and nothing else reads what lies between,
        so they are applied as one: W = W2 W1, b = W2 b1 + b2.

        Args:
            level: 0 (stride 4) or 1 (stride 8).
            x: (B, H, W, C) output of that stage.
            reduction: the decoder's `conv_s0` or `conv_s1`.

        Returns:
            (B, H, W, C').
        """
        lateral = self._lateral(len(self.convs) - 1 - level)
        first, second = lateral.weight.flatten(1), reduction.weight.flatten(1)
        assert lateral.bias is not None
        assert reduction.bias is not None
        with torch.autocast(x.device.type, enabled=False):
            weight = second.float() @ first.float()
            bias = second.float() @ lateral.bias.float() + reduction.bias.float()
        return linear(x, weight.to(x.dtype), bias.to(x.dtype))
