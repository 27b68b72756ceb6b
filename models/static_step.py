"""One frame with static shapes: the numbers of `SAMWISE.step`, for graphs that are compiled or exported once.

The state is four tensors with room for all memories and pointers from the first frame on; places that are still empty
are masked, and CME's decisions are taken without leaving the device. Nothing depends on values or on the frame's number
but the values themselves, so one graph serves every frame; a second one, without masks, serves those that find the
memory full.

Axes: E expressions, N = H * W tokens of the stride-16 map, M memories, P pointers, K keys, C width, D memory channels,
S side of the network input.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.conditional_memory_encoder import switched_logits
from models.sam2.mask_decoder import DecodedMask
from models.sam2.memory_attention import MemoryAttentionLayer, RotaryAttention
from models.sam2.position_encoding import rotary_table, rotate, sine_2d
from models.sam2.prompt_encoder import SENTENCE_TOKENS
from models.sam2.sam2 import FEATURE_STRIDE, SAM2
from models.samwise import SAMWISE, FrameFeatures, Prompts


class StreamState(NamedTuple):
    """What is remembered between the frames of one video.

    Attributes:
        memories: (E, M, N, D), oldest first; the last one is a frame old.
        pointers: (E, P, C), newest first; the first one is a frame old.
        last_switch: (E,) int64, the frame of CME's last switch, 0 before the first.
        frame_index: () int64, frames seen.
    """

    memories: Tensor
    pointers: Tensor
    last_switch: Tensor
    frame_index: Tensor


class FrameMasks(NamedTuple):
    """The result of one frame.

    Attributes:
        logits: (E, S / 4, S / 4) mask logits.
        scores: (E,) object-score logits; plus infinity where scores are switched off.
        ious: (E,) predicted IoU, 0 to 1.
    """

    logits: Tensor
    scores: Tensor
    ious: Tensor


def _twice(x: Tensor) -> Tensor:
    """The samples, and once more: (E, ...) -> (2 E, ...), without a copy for E = 1."""
    return x[None].expand(2, *x.shape).flatten(0, 1)


def without_parts(module: nn.Module, names: set[str]) -> nn.Module:
    """A copy of a module that shares everything but lacks some children: they do not follow it into an export."""
    shallow = copy.copy(module)
    shallow._modules = {name: child for name, child in module._modules.items() if name not in names}
    return shallow


class StaticStep(nn.Module):
    """See the module's first line. Evaluation only.

    Args:
        model: the network; its parameters are shared.
    """

    place: Tensor
    memory_place: Tensor
    cosines: Tensor
    sines: Tensor

    def __init__(self, model: SAMWISE) -> None:
        super().__init__()
        self.config = model.config
        sam = without_parts(model.sam, {"image_encoder"})
        assert isinstance(sam, SAM2)
        self.sam = sam
        self.conditional_memory_encoder = model.conditional_memory_encoder
        self.side = model.config.sam2.image_size // FEATURE_STRIDE
        dim, memory_dim, device = model.config.sam2.model_dim, model.config.sam2.memory_dim, model.device
        tables = {"place": sine_2d(self.side, self.side, dim, device)}
        tables["memory_place"] = sine_2d(self.side, self.side, memory_dim, device)
        tables["cosines"], tables["sines"] = rotary_table(self.side, self.side, dim, device)
        for name, table in tables.items():
            self.register_buffer(name, table.to(self.sam.no_mem_embed.dtype), persistent=False)
        self.eval()

    def empty(self, expressions: int) -> StreamState:
        """The state before the first frame, for E expressions."""
        sam2, like = self.config.sam2, self.sam.no_mem_embed
        return StreamState(
            like.new_zeros(expressions, sam2.max_memories, self.side * self.side, sam2.memory_dim),
            like.new_zeros(expressions, sam2.max_pointers, sam2.model_dim),
            torch.zeros(expressions, dtype=torch.long, device=like.device),
            torch.zeros((), dtype=torch.long, device=like.device),
        )

    @property
    def frames_until_full(self) -> int:
        """After how many frames no place of the state is empty."""
        return max(self.config.sam2.max_memories, self.config.sam2.max_pointers)

    def forward(self, frame: FrameFeatures, state: StreamState, full: bool = False) -> tuple[FrameMasks, StreamState]:
        """Segment one frame and remember it.

        Args:
            frame: of E expressions; high-resolution features that all of them share may be there once.
            state: of the video.
            full: says that at least `frames_until_full` frames were seen: nothing is masked then, which lets a GPU use
                its fastest attention.

        Returns:
            The result, and the state for the next frame.
        """
        features, prompts, grid = frame.map, frame.prompts, (self.side, self.side)
        fine, middle = (x.expand(features.shape[0], -1, -1, -1) for x in frame.fine)
        conditioned, last_switch = self._read_memory(features, state, full), state.last_switch
        if self.conditional_memory_encoder is None:
            decoded, memoryless = self.sam.decode(conditioned, prompts, (fine, middle), grid), None
        else:
            decoded, memoryless = self._decode_twice(conditioned, features, prompts, (fine, middle))
        pointer = self.sam.object_pointer(decoded)
        logits = self.sam.enlarge(decoded.logits, self.config.sam2.image_size)
        if memoryless is not None:
            chosen = self._choose(pointer, memoryless, state)
            other = self.sam.enlarge(memoryless.logits, self.config.sam2.image_size)
            switched = switched_logits(self.config.switch_mem, logits, other)
            logits = torch.where(chosen[:, None, None], switched, logits)
            last_switch = torch.where(chosen, state.frame_index, last_switch)
        memory = self.sam.memorize(features, logits, decoded.visible, grid)
        after = StreamState(
            torch.cat([state.memories[:, 1:], memory[:, None]], dim=1),
            torch.cat([pointer[:, None], state.pointers[:, :-1]], dim=1),
            last_switch,
            state.frame_index + 1,
        )
        return FrameMasks(decoded.logits, decoded.score, decoded.iou), after

    def _decode_twice(
        self, conditioned: Tensor, features: Tensor, prompts: Prompts, fine: tuple[Tensor, Tensor]
    ) -> tuple[DecodedMask, DecodedMask]:
        """With memory and without (and then without verbs), as one batch: a GPU starts half as many kernels."""
        images = torch.cat([conditioned, self.sam.without_memory(features)])
        sparse, keep = prompts
        if keep is not None:
            sentence = torch.arange(keep.shape[1], device=keep.device) < SENTENCE_TOKENS
            keep = torch.cat([keep, sentence.expand_as(keep)])
        both = (_twice(sparse), keep)
        return self.sam.decode(images, both, (_twice(fine[0]), _twice(fine[1])), (self.side, self.side)).halves()

    def _choose(self, pointer: Tensor, memoryless: DecodedMask, state: StreamState) -> Tensor:
        """(E,) bool: where CME looks (see `Session.expressions_to_check`) and sees another object."""
        assert self.conditional_memory_encoder is not None
        window = self.config.cme_decision_window
        decision = self.conditional_memory_encoder(pointer, memoryless.early_token)
        due = (state.frame_index > window) & (state.frame_index - state.last_switch >= window - 1)
        return due & (decision[:, 1] > decision[:, 0])

    def _read_memory(self, features: Tensor, state: StreamState, full: bool) -> Tensor:
        """`SAM2.read_memory` with masked places, unless all are `full`: (E, N, C) -> (E, N, C)."""
        attention = self.sam.memory_attention
        tokens = state.pointers.unflatten(-1, (-1, state.memories.shape[-1]))  # (E, P, parts, D)
        ages = range(state.memories.shape[1], 0, -1)
        position = [self.memory_place + self.sam.maskmem_tpos_enc[age - 1].flatten(0, 1) for age in ages]
        position.append(self.sam._pointer_position(tokens))
        memory = torch.cat([state.memories.flatten(1, 2), tokens.flatten(1, 2)], dim=1)
        key, keep = memory + torch.cat(position), None if full else self._keep(state, tokens.shape[2])
        x = features + 0.1 * self.place
        unplaced = tokens.shape[1] * tokens.shape[2]
        for layer in attention.layers:
            assert isinstance(layer, MemoryAttentionLayer)
            normed = layer.norm1(x)
            x = x + self._attend(layer.self_attn, normed, normed, normed)
            x = x + self._attend(layer.cross_attn_image, layer.norm2(x), key, memory, unplaced, keep)
            x = x + layer.linear2(layer.linear1(layer.norm3(x), "relu"))
        x = attention.norm(x)
        return x if full else torch.where(state.frame_index > 0, x, self.sam.without_memory(features))

    def _keep(self, state: StreamState, parts: int) -> Tensor:
        """(K,) bool: keys of frames that there were. One map is always kept, since nothing to read gives no number."""
        most_memories, most_pointers = state.memories.shape[1], state.pointers.shape[1]
        device = state.memories.device
        ages = torch.arange(most_memories, 0, -1, device=device).repeat_interleave(state.memories.shape[2])
        pointer_ages = torch.arange(1, most_pointers + 1, device=device).repeat_interleave(parts)
        return torch.cat([ages, pointer_ages]) <= state.frame_index.clamp(min=1)

    def _attend(
        self,
        attention: RotaryAttention,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        unplaced: int = 0,
        keep: Tensor | None = None,
    ) -> Tensor:
        """`RotaryAttention` that leaves out keys where `keep` (K,) is False: (E, N, C), (E, K, D) -> (E, N, C)."""
        q, k = rotate(attention.q_proj(query), self.cosines, self.sines), attention.k_proj(key)
        placed = k.shape[1] - unplaced
        k = torch.cat([rotate(k[:, :placed], self.cosines, self.sines), k[:, placed:]], dim=1)
        v, mask = attention.v_proj(value), None if keep is None else keep[None, None, None]
        return attention.out_proj(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], mask)[:, 0])
