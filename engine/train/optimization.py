"""What is optimised, and how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.train.options import TrainOptions
from util.errors import InputError

DROP_FACTOR = 0.1


@dataclass(frozen=True)
class Optimization:
    """AdamW (arXiv 1711.05101) with a schedule that is stepped per iteration.

    Attributes:
        parameters: those that require gradients.
        optimizer: AdamW.
        schedule: divides the learning rate by 10 at `--lr_drop`.
        max_norm: largest norm of the gradient; 0 does not clip.
    """

    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.MultiStepLR
    max_norm: float

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def flags(self) -> dict[str, Any]:
        """The values of `--lr`, `--weight_decay` and `--lr_drop` that it has, loaded ones included."""
        group = self.optimizer.param_groups[0]
        drops = sorted(self.schedule.milestones.elements())
        return {"lr": group.get("initial_lr", group["lr"]), "weight_decay": group["weight_decay"], "lr_drop": drops}

    def clip(self) -> Tensor:
        """Clip the gradients of all parameters together; returns their norm before."""
        return nn.utils.clip_grad_norm_(self.parameters, self.max_norm or math.inf)

    def step(self) -> None:
        """Change the parameters, and go on in the schedule."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()

    def skip(self, steps: int) -> None:
        """Begin where the schedule is after `steps` steps."""
        drops = sum(milestone <= steps for milestone in self.schedule.milestones.elements())
        for group in self.optimizer.param_groups:
            group["lr"] *= DROP_FACTOR**drops
        self.schedule.last_epoch = steps

    def load(self, state: Mapping[str, Any], where: str) -> None:
        """Take over the state of an optimizer and a schedule, as checkpoints hold them.

        Args:
            state: with "optimizer" and "lr_scheduler".
            where: the file, for messages.

        Raises:
            InputError: there is none, or it is of other parameters.
        """
        if missing := [name for name in ("optimizer", "lr_scheduler") if not state.get(name)]:
            raise InputError(f"{where} holds no {' and no '.join(missing)}: drop --resume_optimizer")
        stored = state["optimizer"]
        try:
            counts = [len(group["params"]) for group in stored["param_groups"]]
            shapes = {index: moments["exp_avg"].shape for index, moments in stored["state"].items()}
        except (TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{where}: its optimizer is not AdamW's: drop --resume_optimizer") from error
        fits = counts == [len(self.parameters)]
        fits = fits and all(index < counts[0] and self.parameters[index].shape == shapes[index] for index in shapes)
        if not fits:
            raise InputError(
                f"{where}: its optimizer has {sum(counts)} parameters of other shapes than the {len(self.parameters)} "
                "here: drop --resume_optimizer, or use the flags of that training"
            )
        self.optimizer.load_state_dict(dict(stored))
        self.schedule.load_state_dict(dict(state["lr_scheduler"]))


def build_optimization(model: nn.Module, options: TrainOptions) -> Optimization:
    """An optimizer of whatever in `model` requires gradients."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = parameters[0].is_cuda
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay, fused=fused)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(options.lr_drop), DROP_FACTOR)
    return Optimization(parameters, optimizer, schedule, options.clip_max_norm)
