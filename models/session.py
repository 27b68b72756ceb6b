"""What is remembered between the frames of one video: bounded, explicit, and nothing else anywhere.

Axes: E expressions, N tokens of the stride-16 map, D memory channels, C width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Session:
    """Streaming state of one video for a batch of expressions.

    Args:
        max_memories: memories kept, one per frame.
        max_pointers: object pointers kept, one per frame.
    """

    def __init__(self, max_memories: int, max_pointers: int) -> None:
        self.frame_index = 0
        self._memories: deque[Tensor] = deque(maxlen=max_memories)
        self._pointers: deque[Tensor] = deque(maxlen=max_pointers)
        self._last_switch: Tensor | None = None

    @property
    def memories(self) -> tuple[Tensor, ...]:
        """(E, N, D) each, oldest first."""
        return tuple(self._memories)

    @property
    def pointers(self) -> tuple[Tensor, ...]:
        """(E, C) each, newest first."""
        return tuple(self._pointers)

    def remember(self, memory: Tensor, pointer: Tensor) -> None:
        """Store what the current frame leaves behind, and go on to the next.

        Args:
            memory: (E, N, D).
            pointer: (E, C).
        """
        self._memories.append(memory)
        self._pointers.appendleft(pointer)
        self.frame_index += 1

    def expressions_to_check(self, window: int) -> list[int]:
        """Expressions at which CME looks in the current frame: t > window and t - last switch >= window - 1."""
        if self.frame_index <= window or not self._pointers:
            return []
        if self._last_switch is None:
            return list(range(self._pointers[0].shape[0])) if self.frame_index >= window - 1 else []
        return (self.frame_index - self._last_switch >= window - 1).nonzero().flatten().tolist()

    def note_switches(self, expressions: Tensor) -> None:
        """Record that CME switched in the current frame.

        Args:
            expressions: (k,) int64 indices.
        """
        if self._last_switch is None:
            self._last_switch = torch.zeros(self._pointers[0].shape[0], dtype=torch.long)
        self._last_switch = self._last_switch.clone()  # a snapshot may hold the old one
        self._last_switch[expressions.cpu()] = self.frame_index

    def reset(self) -> None:
        """Forget everything."""
        self.frame_index = 0
        self._memories.clear()
        self._pointers.clear()
        self._last_switch = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self._memories, *self._pointers))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on later, as plain containers and tensors."""
        return {
            "frame_index": self.frame_index,
            "memories": list(self._memories),
            "pointers": list(self._pointers),
            "last_switch": self._last_switch,
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str) -> None:
        """Continue from what `state_dict` returned."""
        self.reset()
        self.frame_index = state["frame_index"]
        self._memories.extend(memory.to(device) for memory in state["memories"])
        self._pointers.extend(pointer.to(device) for pointer in state["pointers"])
        switch = state["last_switch"]
        self._last_switch = None if switch is None else switch.cpu()
