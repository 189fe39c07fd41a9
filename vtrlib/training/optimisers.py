"""Optimisers, and what a checkpoint keeps of any."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from vtrlib import check
from vtrlib.training.config import Config

__all__ = [
    "BertAdam", "TransformersAdamW", "adam", "adamw", "bert_adam", "described", "set_state", "state_of",
    "transformers_adamw",
]  # fmt: skip


def adamw(model: nn.Module, config: Config) -> Optimizer:
    """AdamW on all weights that are trained, all of them decayed; what `fit` uses by default."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay)


def adam(model: nn.Module, config: Config) -> Optimizer:
    """Adam on all weights that are trained, as DreamPRVR's paper names it; decay, if any, goes into the gradient."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return Adam(weights, lr=config.learning_rate, weight_decay=config.weight_decay)


def transformers_adamw(model: nn.Module, config: Config) -> Optimizer:
    """`TransformersAdamW` on all weights that are trained, all of them decayed, as DiscoVLA's code trains."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return TransformersAdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay)


def bert_adam(model: nn.Module, config: Config, betas: tuple[float, float] = (0.9, 0.999)) -> Optimizer:
    """`BertAdam` as DreamPRVR's code trains with it; give `clip=None` and `schedule="linear"` beside it.

    CLIP4Clip trains with `functools.partial(bert_adam, betas=(0.9, 0.98))`, `clip=1.0` and `schedule="clip4clip"`.
    A model with `parameter_groups(weight_decay)` says what is decayed; of others everything is.
    """
    groups = getattr(model, "parameter_groups", None)
    if groups is None:
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        return BertAdam(weights, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay)
    return BertAdam(groups(config.weight_decay), lr=config.learning_rate, betas=betas)


class _WeightByWeight(Optimizer):
    """An optimiser that updates each weight by itself."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all weights that have a gradient; gradients stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        raise NotImplementedError


class BertAdam(_WeightByWeight):
    r"""Adam as in Google's BERT: no bias correction, decoupled decay, and each tensor's gradient clipped by itself.

    $$ g \leftarrow g \min(1, c / \|g\|), \quad m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
       v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
       \theta \leftarrow \theta - \eta \Bigl(\frac{m}{\sqrt v + \epsilon} + \lambda \theta\Bigr) $$

    The learning rate is set from outside, as `fit` does; with `schedules.linear` its first update has rate 0.

    Args:
        params: weights, or groups of them. A group's `stack` counts the first axes along which its tensors are
            stacks of layers: each layer is then clipped by itself.
        lr: η.
        betas: β₁, β₂.
        eps: ε, outside the root.
        weight_decay: λ.
        max_norm: c > 0.

    Raises:
        TypeError, ValueError: a setting out of its range.
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6, weight_decay: float = 0.01, max_norm: float = 1.0, stack: int = 0,
    ) -> None:  # fmt: skip
        for name, value in {"lr": lr, "eps": eps, "weight_decay": weight_decay, "max_norm": max_norm}.items():
            check.number(name, value, low=0)
        for beta in betas:
            check.number("betas", beta, low=0, high=1)
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "max_norm": max_norm, "stack": stack})

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state.update(first=torch.zeros_like(weight), second=torch.zeros_like(weight))
        axes = [*range(group["stack"], weight.ndim)]
        norm = torch.linalg.vector_norm(weight.grad, dim=axes, keepdim=True)
        gradient = weight.grad * (group["max_norm"] / (norm + 1e-6)).clamp(max=1)
        first, second, (beta1, beta2) = state["first"], state["second"], group["betas"]
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        weight.sub_(group["lr"] * (first / (second.sqrt() + group["eps"]) + group["weight_decay"] * weight))


class TransformersAdamW(_WeightByWeight):
    r"""AdamW as transformers had it until version 4: ε stands outside the bias correction, decay comes last.

    $$ m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
       \theta \leftarrow \theta - \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m}{\sqrt v + \epsilon},
       \quad \theta \leftarrow \theta - \eta \lambda \theta $$

    `torch.optim.AdamW` adds ε to $\sqrt{v / (1 - \beta_2^t)}$. Beside the gradient its ε is smaller by
    $\sqrt{1 - \beta_2^t}$, 32 times in the first step; where gradients are clipped to norm 1 and ε is 1e-6, that shows.

    Args:
        params: weights, or groups of them.
        lr: η.
        betas: β₁, β₂.
        eps: ε.
        weight_decay: λ.

    Raises:
        TypeError, ValueError: a setting out of its range.
    """

    def __init__(
        self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        for name, value in {"lr": lr, "eps": eps, "weight_decay": weight_decay}.items():
            check.number(name, value, low=0)
        for beta in betas:
            check.number("betas", beta, low=0, high=0.999999)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state.update(step=0, first=torch.zeros_like(weight), second=torch.zeros_like(weight))
        state["step"] += 1
        first, second, (beta1, beta2) = state["first"], state["second"], group["betas"]
        first.lerp_(weight.grad, 1 - beta1)
        second.mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
        rate = group["lr"] * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
        weight.addcdiv_(first, second.sqrt().add_(group["eps"]), value=-rate)
        weight.mul_(1 - group["lr"] * group["weight_decay"])


def described(optimiser: Optimizer) -> dict[str, Any]:
    """What identifies an optimiser in JSON: its class, and the settings and sizes of its groups."""
    kind = type(optimiser)
    found: dict[str, Any] = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    for number, group in enumerate(optimiser.param_groups):
        settings = {**group, "params": [list(weight.shape) for weight in group["params"]]}
        found[f"group {number}"] = json.loads(json.dumps(settings, default=lambda value: type(value).__name__))
    return found


def state_of(optimiser: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state, flat: its tensors, and the rest, which JSON holds; keys are "weight.name"."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for number, entry in optimiser.state_dict()["state"].items():
        for name, value in entry.items():
            (tensors if isinstance(value, Tensor) else rest)[f"{number}.{name}"] = value
    return tensors, rest


def set_state(optimiser: Optimizer, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Undo `state_of`."""
    entries: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **rest}.items():
        number, _, name = key.partition(".")
        entries.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
