"""Negatives from all processes: embeddings gathered so that gradients stay exact."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from vtrlib import check

__all__ = ["gather"]


def gather(x: Tensor, gradient: str = "whole") -> Tensor:
    r"""Rows of all W processes, in the order of their ranks.

    With it each process computes the contrastive loss of the whole batch. Frameworks
    then average the processes' gradients with respect to the weights, as
    DistributedDataParallel and `vtrlib.training.fit` do. What comes back to a process's
    own rows decides what that average is:

    - "whole": the sum over processes of their gradients with respect to these rows.
      Each of the W equal losses sends its own, so the average is the gradient of the
      loss on one process.
    - "local": the gradient of its own loss alone, as in DiscoVLA's released code and
      others like it. The average is then exactly $1/W$ of the true gradient: a clip at
      norm 1 acts as one at W, and ε in Adam counts W times as much; otherwise Adam
      hides it.

    Args:
        x: (B, ...), with the same B on every process.
        gradient: "whole" or "local"; values are the same.

    Returns:
        (W B, ...); on a single process x itself.

    Raises:
        ValueError: there is no such gradient, or x has no rows to gather.
    """
    check.one_of("gradient", gradient, ("whole", "local"))
    if x.ndim == 0:
        raise ValueError(f"x: found shape {tuple(x.shape)}, expected rows, (B, ...).")
    if not dist.is_available() or not dist.is_initialized():
        return x
    if dist.get_world_size() == 1:
        return x
    if not x.requires_grad:
        return _gathered(x)
    rows: Tensor = _Gather.apply(x, gradient)  # type: ignore[no-untyped-call]
    return rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: str) -> Tensor:
        ctx.rows, ctx.gradient = len(x), gradient
        return _gathered(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        if ctx.gradient == "whole":
            grad = grad.contiguous().clone()
            dist.all_reduce(grad)
        start = dist.get_rank() * ctx.rows
        return grad[start : start + ctx.rows], None


def _gathered(x: Tensor) -> Tensor:
    x = x.detach()
    sent = (x.to(torch.uint8) if x.dtype == torch.bool else x).contiguous()
    out = sent.new_empty(dist.get_world_size() * len(sent), *sent.shape[1:])
    dist.all_gather_into_tensor(out, sent)
    return out.to(x.dtype)
