"""Small layers that several parts of SAM 2 share.

Axes: B batch, N queries, M keys, C channels, H rows, W columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.sam2.dropping import attend_and_drop

Activation = Literal["none", "relu", "gelu"]
FEW_ROWS = 64  # below, a fused product gains nothing
WIDE = 192  # channels of input and output from which it loses where there is no AVX-512, see `linear`
ROWS_AT_ONCE = 512  # of queries, see `attend_in_blocks`
WINDOWS_AT_ONCE = 1 << 14  # that a GPU attends in together, see `attend`
FEWEST_PARTS = 8  # of more windows, see `attend_in_parts`
BAND_TOKENS = 8192  # see `band_rows`
KEPT_TABLES = 32
Table = TypeVar("Table", bound=Callable[..., Any])


def kept(make: Table) -> Table:
    """A function of sizes and a device whose last results are kept; a graph that is compiled makes its own."""
    keeping = functools.lru_cache(KEPT_TABLES)(make)

    @functools.wraps(make)
    def table(*args: Any) -> Any:
        return make(*args) if torch.compiler.is_compiling() else keeping(*args)

    table.cache_clear = keeping.cache_clear  # type: ignore[attr-defined]
    return cast(Table, table)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> Tensor:
    """activation(x W^T + b); GELU is the exact one.

    On a CPU outside training one fused oneDNN kernel does it all: PyTorch's own path copies the bias into the result
    before the product and passes over it again for the activation. Without AVX-512 that kernel is slow at GELU, which
    then follows in place, and from `WIDE` channels on slower than MKL, which is PyTorch's own path
    (`python tools/benchmark.py linear` compares them).

    Args:
        x: (..., C).
        weight: (C', C), on a CPU outside training also in oneDNN's own order.
        bias: (C',) or None.
        activation: "none", "relu" or "gelu".

    Returns:
        (..., C').
    """
    if can_fuse(x) and (weight.is_mkldnn or gains_fused(x, weight)):  # last: an exported graph has no fixed sizes
        if torch.is_autocast_enabled("cpu"):
            bias = None if bias is None else bias.bfloat16()
            x, weight = (y.bfloat16().contiguous() for y in (x, weight))  # else oneDNN's reference kernel runs
        apart = activation == "gelu" and not fuses_gelu()
        x = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none" if apart else activation, [], "none")
        return torch.ops.aten.gelu_(x) if apart else x
    x = F.linear(x, weight, bias)
    if activation == "gelu":
        return F.gelu(x)
    return F.relu(x) if activation == "relu" else x


def can_fuse(x: Tensor) -> bool:
    """Whether oneDNN's fused kernels apply: on a CPU, without gradients, in no graph that is compiled.

    They take float32, and under autocast to bfloat16 what a CPU with instructions for it multiplies.
    """
    return (
        not torch.compiler.is_compiling()  # a compiler fuses by itself, and an exported graph may run anywhere
        and x.device.type == "cpu"
        and (multiplies_halves(x) if torch.is_autocast_enabled("cpu") else x.dtype == torch.float32)
        and not torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight"))
    )


def gains_fused(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's fused kernel is faster than PyTorch's own product of (..., C) with (C', C)."""
    return x.shape[:-1].numel() >= FEW_ROWS and not (prefers_mkl() and min(weight.shape) >= WIDE)


def multiplies_halves(x: Tensor) -> bool:
    """Whether autocast has this CPU multiply in bfloat16, and the CPU has instructions for it."""
    dtypes = (torch.float32, torch.bfloat16)
    return x.dtype in dtypes and torch.get_autocast_dtype("cpu") == torch.bfloat16 and has_bfloat16_products()


@functools.cache
def fuses_gelu() -> bool:
    """Whether the exact GELU costs less inside of oneDNN's product than behind it."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


@functools.cache
def prefers_mkl() -> bool:
    """Whether MKL multiplies matrices with many channels faster than oneDNN: on x86 without AVX-512."""
    return torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX2"


@functools.cache
def has_bfloat16_products() -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32 ones: avx512_bf16 or AMX."""
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # not in every version of PyTorch
    return any(getattr(torch.cpu, test, bool)() for test in tests)


def attend(query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention.

    A CPU drops weights in its own way, see `attend_and_drop`. Outside training, its fused kernel is no faster in
    bfloat16 than in float32; products in blocks are (`python tools/benchmark.py attention`).

    A GPU gets many windows in parts, see `attend_in_parts`.

    Args:
        query: (B, heads, N, d).
        key, value: (B, heads, M, d).
        keep: bool, broadcasts to (B, heads, N, M), the same for all N; False for keys not to read.
        dropout: probability of dropping an attention weight.

    Returns:
        (B, heads, N, d).
    """
    if dropout and keep is None and query.device.type == "cpu":
        return attend_and_drop(query, key, value, dropout)
    halves = keep is None and not dropout and query.dtype == torch.bfloat16 and can_fuse(query)
    if halves and min(query.shape[-2], key.shape[-2]) >= ROWS_AT_ONCE:  # last: an exported graph has no fixed sizes
        return attend_in_blocks(*(x.flatten(0, 1) for x in (query, key, value))).unflatten(0, query.shape[:2])
    as_one = keep is not None or (query.dtype == torch.float32 and torch.compiler.is_compiling())
    if query.device.type == "cuda" and not as_one and query.shape[0] > WINDOWS_AT_ONCE:  # last, as above
        return attend_in_parts(query, key, value, dropout)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=keep, dropout_p=dropout)


def attend_in_parts(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """`attend` for more windows than kernels on a GPU take: they refuse 65,536, some backward ones fewer.

    The first block of stage 2 has 1024 windows for each frame of each sentence. See PyTorch's issue 146704 and pull
    request 180718. In float32 PyTorch does the same by itself since its pull request 154029; compiled and exported
    graphs leave it to do so, and serve any number of windows.

    Up to 16 sentences of 8 frames there are equally many parts: their number is written into a graph that is compiled,
    which then serves all of these numbers of sentences.
    """
    size = min(-(-query.shape[0] // FEWEST_PARTS), WINDOWS_AT_ONCE)
    parts = zip(*(x.split(size) for x in (query, key, value)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(q, k, v, dropout_p=dropout) for q, k, v in parts])


def attend_in_blocks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention on a CPU, with values that may be narrower than the keys; `can_fuse` holds.

    PyTorch's fused attention wants equal widths. Here a block of queries at a time meets all keys, which are brought
    into oneDNN's own order once for all blocks (`python tools/benchmark.py attention` compares the two).

    Args:
        query: (B, N, C).
        key: (B, M, C).
        value: (B, M, D).

    Returns:
        (B, N, D).
    """
    query, key, value = query * query.shape[-1] ** -0.5, key.contiguous(), value.to(query.dtype).mT.contiguous()
    out = query.new_empty(*query.shape[:2], value.shape[1])
    keys, values = (_pack(x, query.shape[1]) for x in (key, value))
    for q, k, v, found in zip(query, keys, values, out, strict=True):
        for some, result in zip(q.split(ROWS_AT_ONCE), found.split(ROWS_AT_ONCE), strict=True):
            weights = linear(some, k, None)
            torch.softmax(weights, dim=-1, out=weights)
            result.copy_(linear(weights, v, None))
    return out


def _pack(matrices: Tensor, rows: int) -> Sequence[Tensor]:
    """Each of (B, C', C), where oneDNN's float32 product uses it for several blocks of `rows` in the order it wants."""
    if matrices.dtype != torch.float32 or rows <= ROWS_AT_ONCE:
        return matrices.unbind()
    return [torch.ops.mkldnn._reorder_linear_weight(matrix, ROWS_AT_ONCE) for matrix in matrices]


def in_bands(x: Tensor) -> bool:
    """Whether to compute a map in parts that its caches hold: a CPU outside training that runs as it reads."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def band_rows(x: Tensor, rows: int, unit: int, tokens_per_row: int) -> int:
    """In bands of how many rows to compute what treats `unit` rows without the others.

    A CPU outside training keeps what it works on in its caches; everything else takes all rows at once.

    Args:
        x: the input, for its device.
        rows: of the map.
        unit: 0 if all rows need each other.
        tokens_per_row: of all maps that are computed together.
    """
    if not in_bands(x) or unit == 0 or rows % unit:
        return rows
    return min(unit * max(BAND_TOKENS // (unit * tokens_per_row), 1), rows)


class Linear(nn.Linear):
    """`torch.nn.Linear` through `linear`."""

    def forward(self, x: Tensor, activation: Activation = "none") -> Tensor:
        """(..., C) -> (..., C')."""
        return linear(x, self.weight, self.bias, activation)


class MLP(nn.Module):
    """Linear layers with an activation between them; parameters `layers.{i}`.

    Args:
        widths: channels of the input, of each hidden layer and of the output.
        activation: applied between the layers.
    """

    def __init__(self, widths: tuple[int, ...], activation: Activation = "relu") -> None:
        super().__init__()
        self.layers = nn.ModuleList(Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.activation: Activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., widths[0]) -> (..., widths[-1])."""
        for layer in self.layers[:-1]:
            x = layer(x, self.activation)
        return self.layers[-1](x)


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of an image (B, C, H, W); eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        normed = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], self.weight, self.bias, eps=1e-6)
        return normed.permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Multi-head attention with separate projections; parameters `{q,k,v,out}_proj`.

    Args:
        dim: channels of the queries and of the output.
        inner_dim: channels inside, over all heads.
        heads: number of heads.
    """

    def __init__(self, dim: int, inner_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = Linear(dim, inner_dim)
        self.k_proj = Linear(dim, inner_dim)
        self.v_proj = Linear(dim, inner_dim)
        self.out_proj = Linear(inner_dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None = None) -> Tensor:
        """query (B, N, C), key and value (B, M, C), keep (B, M) bool, False for keys not to read -> (B, N, C)."""
        q, k, v = (
            rearrange(x, "b n (heads d) -> b heads n d", heads=self.heads)
            for x in (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        )
        mask = None if keep is None else keep[:, None, None, :]
        attended = attend(q, k, v, mask)
        return self.out_proj(rearrange(attended, "b heads n d -> b n (heads d)"))
