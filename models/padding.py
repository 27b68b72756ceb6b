"""What lies in the padding of a clip, kept from one clip of a video for the next ones.

Frames stand in the upper left corner of the square network input, and all else is zero. A token that no pixel of the
frame has reached therefore has the same value in every clip: windows, HSA patches and the words that they read (up to
the first adapter the text has not seen the video) are the same each time. This ends with the first block that attends
over the whole map, or with the second adapter, whose text has read the video. Until then only the tokens that the
picture can have reached, a rectangle that grows to whole windows, are computed again.

Axes: n maps, H rows, W columns, C channels; R and Q are the rows and columns that the picture has reached.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.sam2.hiera import PATCH_STRIDE, Block

PATCH_REACH = 3  # pixels that a patch sees before its own first one

Extent = tuple[int, int]


class Padding:
    """The tokens of the padding, for clips of one length with the same sentences, frame size and weights.

    The first clip is computed whole and leaves the padding's tokens here; for the clips after it they are read. With a
    frame that fills the network input nothing is left out, and nothing is kept.

    Args:
        size: (h, w) of the frames in the network input, in pixels.
    """

    def __init__(self, size: Extent) -> None:
        self.size = size
        self.known = False
        self._strips: dict[str, tuple[Tensor, Tensor]] = {}
        self._full: Extent = (0, 0)
        self._live: Extent = (0, 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(strip.numel() * strip.element_size() for strips in self._strips.values() for strip in strips)

    def enter(self, frames: Tensor, window: int) -> Tensor:
        """Begin a clip.

        Args:
            frames: (V, T, 3, S, S), zero below and to the right of `size`.
            window: side of the windows of the first block.

        Returns:
            The frames, or as much of their upper left corner as has to be computed.
        """
        self._full = (frames.shape[-2] // PATCH_STRIDE, frames.shape[-1] // PATCH_STRIDE)
        rows, columns = ((pixels + PATCH_REACH - 1) // PATCH_STRIDE + 1 for pixels in self.size)
        self._live = (min(rows, self._full[0]), min(columns, self._full[1]))
        self._live = self._whole(window)
        if not self.known:
            return frames
        return frames[..., : self._live[0] * PATCH_STRIDE, : self._live[1] * PATCH_STRIDE]

    def leave(self) -> None:
        """End a clip: whatever lies in the padding is known now."""
        self.known = True

    def fit(self, place: str, x: Tensor, unit: int, shared: bool) -> Tensor:
        """Let the rectangle grow to whole windows before what mixes the tokens of a window.

        Args:
            place: names this point of the network.
            x: (n, H, W, C), or in later clips (n, R, Q, C).
            unit: side of the windows, 0 for a window over the whole map.
            shared: whether the padding is the same in all n maps.

        Returns:
            (n, H, W, C), or in later clips (n, R', Q', C).
        """
        wanted = self._whole(unit)
        x = self._surround(place, x, wanted, shared)
        self._live = wanted
        return x

    def complete(self, place: str, x: Tensor, shared: bool) -> Tensor:
        """The whole map for a reader beside the stream, as `fit`: (n, H, W, C) or (n, R, Q, C) -> (n, H, W, C)."""
        return self._surround(place, x, self._full, shared)

    def count_until_growth(self, blocks: Sequence[Block]) -> int:
        """How many of `blocks` run before the rectangle has to grow; the first one has been made room for."""
        for number, block in enumerate(blocks):
            if self._whole(block.attn.window) != self._live:
                return number
            if block.begins_stage:
                self._full = (self._full[0] // 2, self._full[1] // 2)
                self._live = (self._live[0] // 2, self._live[1] // 2)
        return len(blocks)

    def _whole(self, unit: int) -> Extent:
        """The rectangle in whole windows; a window that passes the border of the map ends there."""
        if unit == 0:
            return self._full
        rows, columns = (min(live + -live % unit, full) for live, full in zip(self._live, self._full, strict=True))
        return rows, columns

    def _surround(self, place: str, x: Tensor, wanted: Extent, shared: bool) -> Tensor:
        """Grow from the present rectangle to `wanted`; the first clip has it all and leaves a copy of what is added."""
        if wanted == self._live:
            return x
        rows, columns = self._live
        if not self.known:
            maps = x[:1] if shared else x
            right, below = maps[:, :rows, columns : wanted[1]], maps[:, rows : wanted[0], : wanted[1]]
            self._strips[place] = (right.clone(), below.clone())
            return x
        right, below = (strip.expand(x.shape[0], -1, -1, -1) for strip in self._strips[place])
        return torch.cat([torch.cat([x, right], dim=2), below], dim=1)
