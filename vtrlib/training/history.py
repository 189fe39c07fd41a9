"""What a training run leaves behind, beside the weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from vtrlib import check

__all__ = ["History"]


@dataclass(repr=False)
class History:
    """The losses and validation scores of a run.

    Attributes:
        losses: of each step, before its update; that of step s is `losses[s - 1]`.
        scores: validation score by step; higher is better.
        seconds: wall time of training and validation, over all resumptions.
        ended: "steps" (all were taken), "patience" (validation no longer improved), "until" (asked to stop there), or
            "" while it runs.
    """

    losses: list[float] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    ended: str = ""

    @property
    def steps(self) -> list[int]:
        """1, 2, … for each of the losses."""
        return list(range(1, len(self.losses) + 1))

    @property
    def best_step(self) -> int | None:
        """The step of the best validation score, the first one where several are equal; None without any."""
        return max(self.scores, key=lambda step: (self.scores[step], -step), default=None)

    @property
    def best_score(self) -> float | None:
        """The best validation score; None without any."""
        return None if self.best_step is None else self.scores[self.best_step]

    @property
    def failures(self) -> int:
        """How many validations in a row have not beaten the best one."""
        return sum(step > (self.best_step or 0) for step in self.scores)

    def curve(self, points: int = 50) -> tuple[list[float], list[float]]:
        """The loss curve with its noise averaged out: steps and mean losses of at most `points` windows, to be plotted.

        Raises:
            TypeError, ValueError: `points` is no integer above 0.
        """
        width = -(-len(self.losses) // check.integer("points", points, 1)) or 1
        windows = [range(start, min(start + width, len(self.losses))) for start in range(0, len(self.losses), width)]
        steps = [(window[0] + window[-1]) / 2 + 1 for window in windows]
        return steps, [sum(self.losses[i] for i in window) / len(window) for window in windows]

    def __repr__(self) -> str:
        said = [f"{len(self.losses)} steps in {self.seconds:.1f} s"]
        if self.losses:
            said.append(f"loss {self.losses[0]:.4g} to {self.losses[-1]:.4g}")
        if self.best_step is not None:
            said.append(f"best validation {self.best_score:.4g} at step {self.best_step}")
        return f"History({', '.join(said)})"
