"""What a training run is made of, beside model, data and loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vtrlib import check
from vtrlib.training.schedules import SCHEDULES

__all__ = ["Config"]

# What may change between a checkpoint and its resumption: none of them moves a weight.
_FREE = ("checkpoint_every", "report_every", "workers")


@dataclass(frozen=True)
class Config:
    """Settings of `vtrlib.training.fit`.

    Attributes:
        steps: updates of the weights; or else
        epochs: passes through the data.
        batch_size: samples an update sees, over all processes and parts together.
        learning_rate: the peak of the schedule; an optimiser of your own brings its own.
        weight_decay: decoupled, on all trainable weights; likewise.
        schedule: "constant", "linear", "cosine", "clip4clip" or "pig"; see `vtrlib.training.schedules`.
        warmup: share of the steps during which the rate rises, 0 ≤ warmup < 1.
        clip: greatest norm of the whole gradient, > 0; None leaves it alone.
        accumulation: parts that a batch is cut into, one after the other on the device. Where the loss is a mean over
            independent samples the update is the same; a contrastive loss sees the negatives of its part only.
        precision: "no" (as the weights are), "bf16" (autocast), or "auto": bf16 on a CUDA device with it, else "no".
        seed: of the order of the data and of every draw in data, model and loss.
        drop_last: leave out the samples at the end of a pass that fill no batch.
        eval_every: steps between validations; None: at the end of each pass. The last step always has one.
        patience: validations in a row that don't beat the best, after which training stops; None: never.
        checkpoint_every: steps between checkpoints, where a folder for them is given; None: at the end only.
        report_every: steps between looks at the loss: progress, and a stop if it is no number.
        workers: processes that load data; 0 loads in this one. They change no result.

    Raises:
        TypeError, ValueError: a setting out of its range, or not exactly one of `steps` and `epochs`.
    """

    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.0
    clip: float | None = None
    accumulation: int = 1
    precision: str = "no"
    seed: int = 0
    drop_last: bool = True
    eval_every: int | None = None
    patience: int | None = None
    checkpoint_every: int | None = None
    report_every: int = 20
    workers: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"steps={self.steps}, epochs={self.epochs}: expected one of them. Leave the other out.")
        for name in ("steps", "epochs", "eval_every", "patience", "checkpoint_every"):
            if getattr(self, name) is not None:
                check.integer(name, getattr(self, name), 1)
        for name in ("batch_size", "accumulation", "report_every"):
            check.integer(name, getattr(self, name), 1)
        check.integer("workers", self.workers, 0)
        check.integer("seed", self.seed, 0, 2**63 - 1)
        check.number("learning_rate", self.learning_rate, 0)
        check.number("weight_decay", self.weight_decay, 0)
        check.one_of("schedule", self.schedule, SCHEDULES)
        check.one_of("precision", self.precision, ("no", "bf16", "auto"))
        if check.number("warmup", self.warmup, 0, 1) == 1:
            raise ValueError("warmup=1: expected a share of the steps below 1.")
        if self.clip is not None and check.number("clip", self.clip, 0) == 0:
            raise ValueError("clip=0: expected a norm above 0. Leave it out to clip nothing.")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"accumulation={self.accumulation}: expected a divisor of batch_size={self.batch_size}. "
                "Choose another of the two."
            )

    def fingerprint(self) -> dict[str, Any]:
        """The settings that decide the result, by name; a checkpoint is resumed only where all of them agree."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}
