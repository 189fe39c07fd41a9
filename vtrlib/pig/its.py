"""ITS, the informativeness token selector: patches that the video looks at (Eq. 6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vtrlib import check
from vtrlib.pig.vip import TokenLayout

__all__ = ["informativeness", "select"]


def informativeness(
    query: Tensor, keys: Tensor, layout: TokenLayout, heads: int, *, over: str = "patches",
    pool: str = "max", divisor: float | None = None,
) -> Tensor:  # fmt: skip
    r"""How much a video looks at each of its patches (Eq. 6).

    $$ S = \max_h \, \mathrm{softmax}\Bigl(\frac{Q_h K_h^\top}{\sqrt{d/h}}\Bigr) $$

    With proxies the query is the first of them, and the softmax runs over the patches
    of the whole video: in each head they sum to 1. Without proxies each frame's [cls]
    asks its own frame, whose patches sum to 1.

    Args:
        query: (B, 1, d) of the first proxy; (B, F, d) of the frames' [cls] where there
            are no proxies.
        keys: (B, L, d), of all tokens.
        layout: where they stand.
        heads: h, divides d.
        over: "patches", or all "keys" that the query sees, as released; patches then
            keep what the others leave them.
        pool: "max" or "mean" over heads.
        divisor: of the logits; $\sqrt{d/h}$ by default.

    Returns:
        S (B, F, N), 0 … 1, in float32 at least.

    Raises:
        ValueError: an option does not exist.
    """
    check.one_of("over", over, ("patches", "keys"))
    check.one_of("pool", pool, ("max", "mean"))
    q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, keys))
    q = q / (math.sqrt(q.shape[-1]) if divisor is None else divisor)
    first, frames = layout.proxies, (layout.frames, layout.frame)
    if first:
        logits = _wide((q @ k.mT)[:, :, 0])  # (B, h, L)
        logits = logits if over == "keys" else _patches(logits, layout).flatten(2)
        shares = logits.softmax(-1)
        if over == "keys":
            shares = _patches(shares, layout)
        shares = shares.reshape(*shares.shape[:2], *frames[:1], layout.patches)
    else:
        logits = _wide((q[..., None, :] @ k.unflatten(2, frames).mT).squeeze(-2))
        if over == "patches":
            logits = logits[..., layout.frame_cls :]  # (B, h, F, N)
        shares = logits.softmax(-1)[..., -layout.patches :]
    return shares.amax(1) if pool == "max" else shares.mean(1)


def select(scores: Tensor, top: int) -> Tensor:
    """The most informative patches of a video, all frames together.

    A frame may give all of them or none. Where scores are equal the earlier frame comes
    first, and in it the earlier patch, on every device. In half precision scores that
    are nearly equal may change places, since the tower's activations are rounded; for
    a choice that can be repeated elsewhere run it in float32.

    Args:
        scores: S (B, F, N).
        top: how many, k, 1 … F · N.

    Returns:
        (B, top), frame · N + patch, the most informative first.

    Raises:
        TypeError, ValueError: scores of another shape, or a k out of its range.
    """
    known = check.sizes("scores", scores, "B F N")
    check.integer("top", top, 1, known["F"] * known["N"])
    order = scores.flatten(1).sort(dim=-1, descending=True, stable=True).indices
    return order[:, :top]


def _patches(x: Tensor, layout: TokenLayout) -> Tensor:
    """Those of (B, h, L) that are patches, (B, h, F, N)."""
    framed: Tensor = x[..., layout.proxies :].unflatten(-1, (layout.frames, layout.frame))  # type: ignore[no-untyped-call]
    return framed[..., layout.frame_cls :]


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
