"""What a training run is made of between two steps, and how it comes out of a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from vtrlib.training import checkpoint, generators
from vtrlib.training.batches import Order, Sampler
from vtrlib.training.config import Config
from vtrlib.training.history import History
from vtrlib.training.optimisers import described, set_state, state_of

__all__ = ["Run"]


class Run:
    """The state of `vtrlib.training.fit`: everything that a checkpoint holds, and what decides when to do what.

    Attributes:
        total: steps of the plan.
        step: the last one taken, from 1; 0 before.
        place: pass and batch of that step, as `Part.place`.
        wrapped: the model as the loss sees it.
        peaks: the rate of each of the optimiser's groups before the schedule.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        data: Dataset[Any],
        config: Config,
        validate: Callable[[nn.Module], float] | None,
        optimiser: Callable[[nn.Module, Config], Optimizer],
        sampler: Sampler | None,
        folder: Path | None,
    ) -> None:
        self.accelerator, self.model, self.config = accelerator, model, config
        self.validate, self.folder = validate, folder
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        samples = self._checked(data, sampler)
        batches = samples / config.batch_size
        passes = None if sampler else math.floor(batches) if config.drop_last else math.ceil(batches)
        self.total = config.steps or (config.epochs or 0) * (passes or 0)
        self.eval_every = config.eval_every or passes or self.total
        self.step, self.place = 0, (0, 0)
        self.history = History()
        several = accelerator.num_processes > 1
        self.device = accelerator.device if several else self.weights[0].device
        self.wrapped = accelerator.prepare_model(model, device_placement=several)
        self.optimiser = optimiser(model, config)
        self.peaks = [group["lr"] for group in self.optimiser.param_groups]
        self.order = Order(samples, config, sampler)
        has_bf16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16)
        self.plan = {
            "config": config.fingerprint(),
            "data": {"samples": samples, "own sampler": sampler is not None, "validated": validate is not None},
            "processes": accelerator.num_processes,
            "optimiser": described(self.optimiser),
        }
        self._best: dict[str, Tensor] = {}
        self._pending: list[Tensor] = []
        self._clock = time.perf_counter()

    def add(self, loss: Tensor, first: bool) -> None:
        """Note the loss of a part on the device; `first` of its step."""
        if first:
            self._pending.append(loss)
        else:
            self._pending[-1] = self._pending[-1] + loss

    def due(self, every: int | None) -> bool:
        """Whether this step is one of every so many."""
        return every is not None and self.step % every == 0

    def look(self) -> None:
        """Read the losses noted since the last time: only here does training wait for the device.

        Raises:
            FloatingPointError: one of them, or a weight, is no finite number.
        """
        if not self._pending:
            return
        losses = self.accelerator.reduce(torch.stack(self._pending), "sum").tolist()
        self._pending.clear()
        for loss in losses:
            if not math.isfinite(loss):
                raise self._not_finite(f"loss: found {loss} at step {len(self.history.losses) + 1}")
            self.history.losses.append(loss)
        if not torch.stack([weight.detach().isfinite().all() for weight in self.weights]).all():
            raise self._not_finite(f"weights: found NaN or infinity after step {self.step}")
        now = time.perf_counter()
        self.history.seconds += now - self._clock
        self._clock = now

    def score(self) -> None:
        """Validate, and keep the weights if none were better.

        Raises:
            TypeError: the score is no number. FloatingPointError: it is not finite, or as `look` does.
        """
        assert self.validate is not None
        self.look()
        self.model.eval()
        with torch.no_grad(), generators.lent(self.device, self.config.seed):  # training never feels a validation
            found = [_number(self.validate(self.model))]
        self.model.train()
        score = broadcast_object_list(found)[0] if self.accelerator.num_processes > 1 else found[0]
        if not math.isfinite(score):
            raise self._not_finite(f"validate: found the score {score} at step {self.step}")
        self.history.scores[self.step] = score
        if self.history.best_step == self.step:
            self._best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def close(self) -> None:
        """Say so in the history if this step was the last one."""
        if self.step == self.total:
            self.history.ended = "steps"
        elif self.config.patience is not None and self.history.failures >= self.config.patience:
            self.history.ended = "patience"

    def save(self) -> None:
        """Write the checkpoint of this step; every process takes part, the first one writes.

        Raises:
            OSError, FloatingPointError: as `checkpoint.write` and `look` do.
        """
        assert self.folder is not None
        self.look()
        drawn = generators.states(self.device)
        everyones = gather_object([drawn]) if self.accelerator.num_processes > 1 else [drawn]
        tensors, numbers = state_of(self.optimiser)
        state = {"step": self.step, "place": self.place, "plan": self.plan, "optimiser": numbers}
        states = {f"{rank}.{kind}": bits for rank, one in enumerate(everyones) for kind, bits in one.items()}
        if self.accelerator.is_main_process:
            checkpoint.write(
                self.folder,
                self.step,
                {**state, "history": asdict(self.history)},
                {
                    "model": self.model.state_dict(),
                    "best": self._best,
                    "optimiser": tensors,
                    "generators": {"order": self.order.state(self.place), **states},
                },
            )
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Take up the newest checkpoint, if there is one.

        Raises:
            ValueError: it belongs to another run, with what differs; or as `checkpoint.read` does.
            OSError: the folder can't be written, and the run isn't finished.
        """
        if self.folder is None:
            return
        path = checkpoint.newest(self.folder)
        if path is None:
            return checkpoint.usable(self.folder)
        state, tensors = checkpoint.read(path)
        shapes = checkpoint.tensors_of(tensors["model"]), checkpoint.tensors_of(self.model.state_dict())
        faults = checkpoint.differences({**state["plan"], "model": shapes[0]}, {**self.plan, "model": shapes[1]})
        if faults:
            raise ValueError(
                "\n  ".join([f"{path}: is the checkpoint of another run.", *faults])
                + "\nTo go on with that run use its settings; for this one give another folder, or delete "
                + f"{self.folder}."
            )
        self.step, self.place = state["step"], (state["place"][0], state["place"][1])
        past = state["history"]
        past["scores"] = {int(step): score for step, score in past["scores"].items()}  # JSON's keys are strings
        self.history = History(**past)
        if not self.history.ended:
            checkpoint.usable(self.folder)
        self.model.load_state_dict(tensors["model"])
        self._best = {name: value.to(self.device, copy=True) for name, value in tensors["best"].items()}
        set_state(self.optimiser, tensors["optimiser"], state["optimiser"])
        stored = tensors["generators"]
        self.order.resume(self.place, stored["order"])
        mine = f"{self.accelerator.process_index}."
        generators.set_states({key.removeprefix(mine): bits for key, bits in stored.items() if key.startswith(mine)})

    def finish(self) -> History:
        """Hand over the result: the best weights where there was validation."""
        if not self.history.ended:
            self.history.ended = "until"
        elif self._best:
            self.model.load_state_dict(self._best)
        self.model.eval()
        return self.history

    def said(self) -> str:
        """A line of progress."""
        score = f", validation {self.history.scores[max(self.history.scores)]:.4g}" if self.history.scores else ""
        return f"loss {self.history.losses[-1]:.4g}{score}"

    def how_to_go_on(self) -> str:
        """What to tell who pressed Ctrl-C."""
        stopped = f"Stopped after step {self.step} of {self.total}."
        if self.folder is None:
            return f"{stopped} Nothing is kept: fit was given no folder for checkpoints."
        return f"{stopped} The checkpoint in {self.folder} holds it: run the same command again to go on from there."

    def _not_finite(self, found: str) -> FloatingPointError:
        older = checkpoint.newest(self.folder) if self.folder else None
        kept = f" The checkpoint {older} is from before, and stands." if older else ""
        return FloatingPointError(
            f"{found} of {self.total}, expected a finite number. Lower learning_rate={self.config.learning_rate}, set "
            f"clip (now {self.config.clip}) or a longer warmup, or look for NaN in the data.{kept}"
        )

    def _checked(self, data: Dataset[Any], sampler: Sampler | None) -> int:
        """The number of samples, if the arguments fit each other."""
        config, processes = self.config, self.accelerator.num_processes
        if not self.weights:
            raise ValueError("model: found no weight with requires_grad, expected one or more to train.")
        if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
            raise TypeError(f"data: found {type(data).__name__}, expected a dataset with a length and indices.")
        samples = len(data)
        if sampler is None and (samples == 0 or (config.drop_last and samples < config.batch_size)):
            raise ValueError(
                f"data: found {samples} samples, expected at least batch_size={config.batch_size}. "
                "Lower batch_size, or set drop_last=False."
            )
        if sampler is not None and config.epochs is not None:
            raise ValueError("epochs: found together with a sampler, which has no known length. Set steps instead.")
        if config.patience is not None and self.validate is None:
            raise ValueError(f"patience={config.patience}: expected validate with it. Give one, or leave it out.")
        if config.batch_size % (config.accumulation * processes) or (processes > 1 and not config.drop_last):
            raise ValueError(
                f"batch_size={config.batch_size}, drop_last={config.drop_last}: expected a batch that {processes} "
                f"processes with accumulation={config.accumulation} can share evenly, and on several drop_last=True."
            )
        return samples


def _number(score: Any) -> float:
    """Return what `validate` gave, as a float."""
    try:
        return float(score)
    except (TypeError, ValueError, RuntimeError):  # of None, of text, of a tensor of several numbers
        raise TypeError(f"validate: found {score!r:.60} ({type(score).__name__}), expected a number.") from None
