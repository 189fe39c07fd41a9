"""Optimisers, and what a checkpoint keeps of any."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from vtrlib.training.config import Config

__all__ = ["adamw", "described", "set_state", "state_of"]


def adamw(model: nn.Module, config: Config) -> Optimizer:
    """AdamW on all weights that are trained, all of them decayed; what `fit` uses by default."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay)


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
