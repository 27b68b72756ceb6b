"""Where the study keeps what: the folders and files below --out, and the names of runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.evaluate_masks import SCORES_FILE
from engine.inference.benchmarks import ExpressionBenchmark

PRETRAIN, FINETUNE = "pretrain", "finetune"
VALID_U, VALID, FRESH, BLIND = "valid_u", "valid", "fresh", "text-blind"
SPLIT = "valid_u"  # the split with ground truth


@dataclass(frozen=True)
class Places:
    """Paths below `out`.

    Attributes:
        out: the folder of the study.
        stand_in: model folder of the stand-in for SAM 2 and RoBERTa.
    """

    out: Path
    stand_in: Path

    @property
    def data(self) -> Path:
        """RefShapes."""
        return self.out / "data"

    @property
    def fresh(self) -> Path:
        """RefShapes of another seed."""
        return self.out / "fresh"

    @property
    def tokenizer(self) -> Path:
        """The text encoder's vocabulary."""
        return self.out / "tokenizer"

    @property
    def runs(self) -> Path:
        """One folder for each training and each inference."""
        return self.out / "runs"

    @property
    def model(self) -> Path:
        """Model folder of the result."""
        return self.out / "model"

    @property
    def baselines(self) -> Path:
        """J and F of the baselines."""
        return self.out / "baselines.json"

    @property
    def frozen(self) -> Path:
        """What the comparison of the frozen weights brought."""
        return self.out / "frozen.json"

    def last(self, run: str) -> Path:
        """The weights at the end of a training."""
        return self.runs / run / "checkpoints" / "last.pth"

    def masks(self, run: str) -> Path:
        """The masks of an inference."""
        return self.runs / run / ExpressionBenchmark.tree

    def scores(self, run: str) -> Path:
        """J and F of an inference."""
        return self.runs / run / SCORES_FILE


def precision_run(precision: str) -> str:
    """The inference with a kind of arithmetic."""
    return f"precision-{precision}"
