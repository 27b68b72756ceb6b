"""The state of every random generator that a training draws from, as checkpoints hold it."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from util.distributed import Processes

logger = logging.getLogger(__name__)

RandomState = dict[str, Any]


def capture_random_state() -> RandomState:
    """The generators of this process: Python's, numpy's, torch's of the CPU and of every GPU.

    Returns:
        numbers, strings, lists and tensors (int64 or uint8) only.
    """
    version, words, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=False)
    state: RandomState = {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "bit_generator": str(legacy["bit_generator"]),
            "words": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
            "position": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": [],
    }
    if torch.cuda.is_initialized():  # otherwise nothing has drawn from them
        state["cuda"] = torch.cuda.get_rng_state_all()
        state["cuda_device"] = torch.cuda.current_device()
    return state


def restore_random_state(states: Sequence[Mapping[str, Any]], processes: Processes, device: torch.device) -> None:
    """Set the generators of this process to what `capture_random_state` found; the global seed needs no setting before.

    Another number of processes than then, or another kind of device, is reported and works: the training goes on,
    only not with the random numbers of an uninterrupted one.

    Args:
        states: of all processes, in the order of their ranks.
        processes: this process among those of the run.
        device: where it trains.
    """
    if len(states) != processes.size:
        if processes.is_main:
            logger.warning(
                "the checkpoint is of %d process(es), and now there are %d: random numbers will not be those of an "
                "uninterrupted training",
                len(states),
                processes.size,
            )
        _seed_anew(states, processes.rank)
        return
    state = states[processes.rank]
    python, numbers = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(
        {
            "bit_generator": numbers["bit_generator"],
            "state": {"key": numbers["words"].numpy().astype(np.uint32), "pos": numbers["position"]},
            "has_gauss": numbers["has_gauss"],
            "gauss": numbers["gauss"],
        }
    )
    torch.set_rng_state(state["torch"])
    _restore_cuda(state, processes, device)


def _restore_cuda(state: Mapping[str, Any], processes: Processes, device: torch.device) -> None:
    stored = state["cuda"]
    if bool(stored) != (device.type == "cuda"):
        if processes.is_main:
            where = "a GPU" if stored else "another kind of device"
            logger.warning(
                "the checkpoint is of a training on %s, and this one runs on %s: random numbers will not be those of "
                "an uninterrupted training",
                where,
                device,
            )
        return
    if not stored:
        return
    for index in range(min(len(stored), torch.cuda.device_count())):
        torch.cuda.set_rng_state(stored[index], index)
    torch.cuda.set_rng_state(stored[state["cuda_device"]], device)  # the same process may have got another GPU


def _seed_anew(states: Sequence[Mapping[str, Any]], rank: int) -> None:
    """Seed every generator, differently in each process and at each checkpoint, but the same in every attempt."""
    digest = hashlib.sha256(str(rank).encode())
    for state in states:
        digest.update(state["torch"].numpy().tobytes())
    seed = int.from_bytes(digest.digest()[:4], "little")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # of all devices
