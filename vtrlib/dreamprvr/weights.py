"""How weights are drawn at the start, and which of them an optimiser decays."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from vtrlib.dreamprvr.attention import StackedLinear, StackedNorm
from vtrlib.dreamprvr.layers import InputProjection, PositionCode

__all__ = ["draw_weights", "parameter_groups"]


@torch.no_grad()
def draw_weights(
    model: nn.Module, generator: Generator | None = None, *, frozen: bool = False
) -> None:
    """Draw all weights anew, as released.

    Layers, stacks of layers and tables come from N(0, 0.02²), condition tokens from
    N(0, 1), the recurrent net's as torch's, biases are 0, norms 1 and 0.

    Args:
        model: any.
        generator: decides the draws.
        frozen: also what is not trained, the code of time, which is then no code.
    """
    for name, weight in model.named_parameters():
        if not (weight.requires_grad or frozen):
            continue
        owner, _, leaf = name.rpartition(".")
        kind = type(model.get_submodule(owner))
        if leaf.startswith("bias"):
            weight.zero_()
        elif kind in (nn.LayerNorm, StackedNorm):
            weight.fill_(1)
        elif kind is nn.GRU and "_hh_" in leaf:
            nn.init.orthogonal_(weight, generator=generator)
        elif kind is nn.GRU:
            nn.init.xavier_uniform_(weight, generator=generator)
        else:
            weight.normal_(0, 1 if leaf == "tokens" else 0.02, generator=generator)


def parameter_groups(
    model: nn.Module, weight_decay: float = 0.01
) -> list[dict[str, Any]]:
    """Groups for an optimiser, decayed as released.

    Spared are biases, and the norms in input projections and position codes; all other
    norms and tables are decayed.

    Returns:
        Groups with "params", "weight_decay", and "stack": along how many first axes
        their tensors are stacks of layers, which count as tensors of their own where
        gradients are clipped one by one.
    """
    spared: set[Tensor] = set()
    stacked: set[Tensor] = set()
    for module in model.modules():
        if isinstance(module, InputProjection | PositionCode):
            spared.add(module.norm.weight)
        elif isinstance(module, StackedLinear | StackedNorm):
            stacked.update(module.parameters())
    groups: dict[tuple[float, int], list[Tensor]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            decay = 0.0 if "bias" in name or weight in spared else weight_decay
            groups.setdefault((decay, int(weight in stacked)), []).append(weight)
    return [
        {"params": found, "weight_decay": decay, "stack": stack}
        for (decay, stack), found in groups.items()
    ]
