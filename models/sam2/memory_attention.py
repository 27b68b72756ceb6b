"""Memory attention: the current feature map reads the memories and object pointers of the past (SAM 2, section 4).

Axes: B batch, N = H * W tokens of the map, M memory tokens, P pointer tokens, C width, D memory channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.sam2.layers import Linear, attend, attend_in_blocks, can_fuse
from models.sam2.position_encoding import rotary_table, rotate, sine_2d


class RotaryAttention(nn.Module):
    """Single-head attention with a 2-D rotary encoding of queries and keys.

    Where values are narrower than queries, a CPU outside training attends over them unprojected and projects
    afterwards: out((A M) Wv) instead of out(A (M Wv)), the same algebra with fewer operations, because the weights A of
    a query add up to one.

    Args:
        dim: channels of queries and output.
        key_dim: channels of keys and values.
    """

    def __init__(self, dim: int, key_dim: int) -> None:
        super().__init__()
        self.q_proj = Linear(dim, dim)
        self.k_proj = Linear(key_dim, dim)
        self.v_proj = Linear(key_dim, dim)
        self.out_proj = Linear(dim, dim)
        self.dropout = nn.Dropout(0.1)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int], unrotated: int = 0) -> Tensor:
        """Attend.

        Args:
            query: (B, N, C).
            key, value: (B, M, D); all but the last `unrotated` tokens are whole maps of N tokens.
            grid: (H, W) with H * W = N.
            unrotated: number of keys at the end that have no place in the image.

        Returns:
            (B, N, C).
        """
        q, k = self.q_proj(query), self.k_proj(key)
        table = rotary_table(*grid, q.shape[-1], q.device)
        q = rotate(q, *table)
        placed = k.shape[1] - unrotated
        k = torch.cat([rotate(k[:, :placed], *table), k[:, placed:]], dim=1) if unrotated else rotate(k, *table)
        if value.shape[-1] < query.shape[-1] and can_fuse(q):
            return self.out_proj(self.v_proj(attend_in_blocks(q, k, value)))
        dropout = self.dropout.p if self.training else 0.0
        attended = attend(q[:, None], k[:, None], self.v_proj(value)[:, None], dropout=dropout)[:, 0]
        return self.out_proj(attended)


class MemoryAttentionLayer(nn.Module):
    """Pre-norm self-attention, cross-attention to memory, and a feed-forward block with ReLU.

    Args:
        dim: C.
        memory_dim: D.
        hidden: feed-forward width.
    """

    def __init__(self, dim: int, memory_dim: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = RotaryAttention(dim, dim)
        self.cross_attn_image = RotaryAttention(dim, memory_dim)
        self.linear1 = Linear(dim, hidden)
        self.linear2 = Linear(hidden, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int], pointer_tokens: int) -> Tensor:
        """x (B, N, C), key and value (B, M + P, D) -> (B, N, C)."""
        normed = self.norm1(x)
        x = x + self.dropout(self.self_attn(normed, normed, normed, grid))
        x = x + self.dropout(self.cross_attn_image(self.norm2(x), key, value, grid, unrotated=pointer_tokens))
        return x + self.dropout(self.linear2(self.dropout(self.linear1(self.norm3(x), "relu"))))


class MemoryAttention(nn.Module):
    """The stack of layers; 0.1 x the sine position encoding is added to the input.

    Args:
        layers: number of layers.
        dim: C.
        memory_dim: D.
        hidden: feed-forward width.
    """

    def __init__(self, layers: int, dim: int, memory_dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryAttentionLayer(dim, memory_dim, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, features: Tensor, memory: Tensor, position: Tensor, grid: tuple[int, int], pointer_tokens: int
    ) -> Tensor:
        """Condition a feature map on memory.

        Args:
            features: (B, N, C).
            memory: (B, M + P, D), maps of N tokens first, `pointer_tokens` = P tokens last.
            position: (B or 1, M + P, D), added to the keys.
            grid: (H, W).
            pointer_tokens: P.

        Returns:
            (B, N, C).
        """
        x = features + 0.1 * sine_2d(*grid, features.shape[-1], features.device).to(features.dtype)
        key = memory + position
        for layer in self.layers:
            x = layer(x, key, memory, grid, pointer_tokens)
        return self.norm(x)
