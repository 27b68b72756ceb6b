"""Clips of several videos at once: each is encoded alone, then every frame is one step for all their expressions.

What is encoded alone is what a single run computes, whatever the neighbours' sizes and the lengths of their sentences;
a step treats its samples alone, so that videos do not see each other. What remains is rounding.

Axes: B samples of one video, E samples of all videos, P prompt tokens, C width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from datasets.transforms import ResizedFrame, to_network_input
from engine.infer import Frame, FrameResult, VideoSession
from engine.runtime import autocast, float32_arithmetic
from models.samwise import FrameFeatures, Prompts
from models.static_step import FrameMasks
from models.stream import open_stream


def segment_together(
    sessions: Sequence[VideoSession], clips: Sequence[Sequence[Frame | ResizedFrame]]
) -> list[list[FrameResult]]:
    """Segment the next clip of several videos.

    Clips of the same length run together. A clip shorter than the window is a video's last.

    Args:
        sessions: of videos that have advanced together from their first frames on, with the same options.
        clips: of each video 1 to `window` frames.

    Returns:
        For each video one result per frame.
    """
    found: dict[int, list[FrameResult]] = {}
    for length in sorted({len(clip) for clip in clips}):
        numbers = [number for number, clip in enumerate(clips) if len(clip) == length]
        if len(numbers) == 1:
            session = sessions[numbers[0]]
            results = [[*session.feed(clips[numbers[0]]), *session.flush()]]
        else:
            results = _segment([sessions[number] for number in numbers], [clips[number] for number in numbers])
        found.update(zip(numbers, results, strict=True))
    return [found[number] for number in range(len(clips))]


@torch.inference_mode()
def _segment(
    sessions: Sequence[VideoSession], clips: Sequence[Sequence[Frame | ResizedFrame]]
) -> list[list[FrameResult]]:
    """Clips of one length. If it fails, nothing has changed."""
    first, length = sessions[0], len(clips[0])
    model = first.network
    resized = [[own.checked(frame) for frame in clip] for own, clip in zip(sessions, clips, strict=True)]
    bounds = _bounds([len(own.expressions) for own in sessions])
    as_images = first.protocol == "paper" and length == 1
    memory = open_stream(model, sum(len(own.expressions) for own in sessions))
    if not as_images:
        memory.load_state_dict(_join([own.memory.state_dict() for own in sessions]))
    results: list[list[FrameResult]] = [[] for _ in sessions]
    with float32_arithmetic(first.precision), autocast(first.precision, model.device):
        encoded = []
        for own, clip in zip(sessions, resized, strict=True):
            frames = to_network_input(clip, model.config.sam2.image_size, model.device)
            encoded.append(model.encode(frames[None], own.tokens, padding=own.padding_of(clip)))
        for t in range(length):
            frame = _join_frames([features.frame(t) for features in encoded])
            masks = memory.step(frame)
            for own, clip, rows, found in zip(sessions, resized, bounds, results, strict=True):
                found.append(own.result_of(own.frames_done + t, _part(masks, rows), clip[t].shape[:2]))
    state = memory.state_dict()
    for own, rows in zip(sessions, bounds, strict=True):
        own.memory.load_state_dict(_select(state, rows))
        own.frames_done += length
    return results


def _bounds(counts: Sequence[int]) -> list[slice]:
    """Which of all samples are each video's."""
    ends = [sum(counts[: number + 1]) for number in range(len(counts))]
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]


def _join(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The memories of all videos as those of one."""
    assert len({state["frame_index"] for state in states}) == 1, "videos that run together begin together"
    switches = [state["last_switch"] for state in states]
    if any(switch is not None for switch in switches):  # none so far counts as one in frame 0
        switches = [
            torch.zeros(state["pointers"][0].shape[0], dtype=torch.long) if switch is None else switch
            for state, switch in zip(states, switches, strict=True)
        ]
    return {
        "frame_index": states[0]["frame_index"],
        "memories": [torch.cat(parts) for parts in zip(*(state["memories"] for state in states), strict=True)],
        "pointers": [torch.cat(parts) for parts in zip(*(state["pointers"] for state in states), strict=True)],
        "last_switch": None if switches[0] is None else torch.cat(switches),
    }


def _select(state: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """The state of some of the samples; copies, so that no video keeps the memories of another."""
    switch = state["last_switch"]
    return {
        "frame_index": state["frame_index"],
        "memories": [memory[rows].clone() for memory in state["memories"]],
        "pointers": [pointer[rows].clone() for pointer in state["pointers"]],
        "last_switch": None if switch is None else switch[rows].clone(),
    }


def _join_frames(frames: Sequence[FrameFeatures]) -> FrameFeatures:
    """One frame of every video, as samples beside each other."""
    fine, middle = (torch.cat([frame.fine[level] for frame in frames]) for level in (0, 1))
    return FrameFeatures(
        torch.cat([frame.map for frame in frames]), (fine, middle), _join_prompts([frame.prompts for frame in frames])
    )


def _join_prompts(prompts: Sequence[Prompts]) -> Prompts:
    """(B, P, C) each -> (E, longest P, C), and which tokens count; None where all do."""
    longest = max(sparse.shape[1] for sparse, _ in prompts)
    padded, kept = [], []
    for sparse, keep in prompts:
        missing = longest - sparse.shape[1]
        padded.append(F.pad(sparse, (0, 0, 0, missing)))
        own = sparse.new_ones(sparse.shape[:2], dtype=torch.bool) if keep is None else keep
        kept.append(F.pad(own, (0, missing)))
    everything = all(keep is None and sparse.shape[1] == longest for sparse, keep in prompts)
    return torch.cat(padded), None if everything else torch.cat(kept)


def _part(masks: FrameMasks, rows: slice) -> FrameMasks:
    """What was found for some of the samples."""
    return FrameMasks(*(value[rows] for value in masks))
