"""Scores between text and video embeddings: the cosine, and the maximum over a video's frames in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vtrlib import check

__all__ = ["cosine", "max_similarity", "unit"]

# Queries of a block. Fewer make the matrix product slow, more leave no room for several videos beside them.
_QUERIES = 512
# Bytes of a block: what a CPU core keeps in its cache, what keeps an accelerator busy.
_CPU_MEMORY, _DEVICE_MEMORY = 4 << 20, 256 << 20


def unit(x: Tensor) -> Tensor:
    """`x / ‖x‖` along the last axis; a vector of zeros stays one.

    The norm of float16 and bfloat16 is taken in float32, where its squares neither overflow nor vanish.

    Args:
        x: (..., D), floating.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    scaled: Tensor = x / norm.clamp_min(1e-12)  # as torch.nn.functional.normalize, but in float16 1e-12 would be 0
    return scaled.to(x.dtype)


def cosine(queries: Tensor, videos: Tensor) -> Tensor:
    """S(q, v) = qᵀv / (‖q‖ ‖v‖), every query with every video; −1 … 1, and 0 where a vector is zero.

    Args:
        queries: (Q, D), floating.
        videos: (V, D), of the same dtype.

    Returns:
        (Q, V), in that dtype (under autocast in its dtype). Differentiable.

    Raises:
        ValueError: the shapes or dtypes do not fit, or there is no query or no video.
    """
    known = check.sizes("queries", queries, "Q D")
    check.sizes("videos", videos, "V D", known)
    _same_dtype(queries, videos, "videos")
    return unit(queries) @ unit(videos).mT


def max_similarity(queries: Tensor, frames: Tensor, mask: Tensor | None = None, *, memory: int | None = None) -> Tensor:
    r"""$S(q, V) = \max_i q^\top f_i$ over the frames of each video (DreamPRVR Eq. 16), in blocks.

    Inner products: for cosines give `unit(queries)` and `unit(frames)`. The (Q, V, F) products of all frames never
    exist together, not even in the backward pass, which gives the gradient to the first of the best frames and costs
    two more matrix products of the forward's size. Where no gradient is asked for, none is prepared.

    Args:
        queries: (Q, D), floating: float64, float32, bfloat16 or float16.
        frames: (V, F, D), of the same dtype.
        mask: (V, F), bool, true where there is a frame. What stands in padding never matters, not even a NaN. A
            video that is all padding scores −inf and gets no gradient; it is not looked for, since that would stop
            an accelerator. All frames are there by default.
        memory: bytes that a block of products may take, F of the dtype at least; 4 MiB on a CPU (its cache) and 256
            MiB elsewhere by default. Beside it stand the result and, with a gradient, one index per score.

    Returns:
        (Q, V), in the dtype of the arguments (under autocast in its dtype).

    Raises:
        ValueError: shapes or dtypes do not fit, an axis is empty, or `memory` is too small.
    """
    known = check.sizes("queries", queries, "Q D")
    known = check.sizes("frames", frames, "V F D", known)
    if mask is not None:
        check.sizes("mask", mask, "V F", known)
        if mask.dtype != torch.bool:
            raise ValueError(f"mask: found {mask.dtype}, expected torch.bool, true where there is a frame.")
    kind = queries.device.type
    # Blocks are written in place, which autocast leaves alone.
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        queries, frames = (x.to(torch.get_autocast_dtype(kind)) for x in (queries, frames))
    _same_dtype(queries, frames, "frames")
    default = _CPU_MEMORY if kind == "cpu" else _DEVICE_MEMORY
    memory = check.integer("memory", default if memory is None else memory)
    column = frames.shape[1] * queries.element_size()  # the products of one query with one video
    if memory < column:
        raise ValueError(f"memory={memory}: expected at least {column} bytes, the F={frames.shape[1]} products of one.")
    products = memory // queries.element_size()
    if torch.is_grad_enabled() and (queries.requires_grad or frames.requires_grad):
        scores: Tensor = _MaxSimilarity.apply(queries, frames, mask, products)  # type: ignore[no-untyped-call]
        return scores
    with torch.no_grad():
        return _forward(queries, frames, mask, products, None)


def _forward(queries: Tensor, frames: Tensor, mask: Tensor | None, products: int, best: Tensor | None) -> Tensor:
    """The scores; where `best` (V, Q) is given, the index of each best frame is written there."""
    scores = queries.new_empty(frames.shape[0], queries.shape[0])  # (V, Q): a block's maxima are written in rows
    for vs, qs, block in _blocks(queries, frames, products):
        part = frames[vs].flatten(0, 1)  # (v·F, D)
        torch.mm(part, queries[qs].mT, out=block.flatten(0, 1))
        if mask is not None:
            _hide(block, mask[vs])
        if best is None:  # in this layout queries are contiguous, so the maximum over frames is vectorised
            torch.amax(block, 1, out=scores[vs, qs])
        else:
            scores[vs, qs], best[vs, qs] = block.max(1)
    return scores.mT.contiguous()


class _MaxSimilarity(torch.autograd.Function):
    """`max_similarity` with a gradient; torch's own would keep all (Q, V, F) products for the backward pass."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, frames: Tensor, mask: Tensor | None, products: int) -> Tensor:
        best = torch.empty(frames.shape[0], queries.shape[0], dtype=torch.int64, device=queries.device)
        scores = _forward(queries, frames, mask, products, best)
        ctx.save_for_backward(queries, frames, mask, best)
        ctx.products = products
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        queries, frames, mask, best = ctx.saved_tensors
        grad = grad.mT  # (V, Q)
        if mask is not None:
            grad = grad.masked_fill(~mask.any(1)[:, None], 0)
        wide = torch.promote_types(queries.dtype, torch.float32)  # many blocks are summed
        d_queries, d_frames = torch.zeros_like(queries, dtype=wide), torch.zeros_like(frames, dtype=wide)
        for vs, qs, block in _blocks(queries, frames, ctx.products):
            block.zero_().scatter_(1, best[vs, None, qs], grad[vs, None, qs])
            weights, part = block.flatten(0, 1), frames[vs]  # (v·F, q), (v, F, D)
            if mask is not None:  # a NaN in padding would survive the product with 0
                part = part.masked_fill(~mask[vs, :, None], 0)
            d_queries[qs] += weights.mT @ part.flatten(0, 1)
            d_frames[vs] += (weights @ queries[qs]).view_as(part)
        return d_queries.to(queries.dtype), d_frames.to(frames.dtype), None, None


def _blocks(queries: Tensor, frames: Tensor, products: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Videos, queries and room (v, F, q) for their products, at most `products` of them; the same room every time."""
    (videos, length), many = frames.shape[:2], queries.shape[0]
    q = max(1, min(many, _QUERIES, products // length))
    v = max(1, min(videos, products // (length * q)))
    room = queries.new_empty(v * length * q)
    for start in range(0, videos, v):  # queries inside: a part of the frames is read once for all of them
        stop = min(start + v, videos)
        for first in range(0, many, q):
            last = min(first + q, many)
            shape = (stop - start, length, last - first)
            yield slice(start, stop), slice(first, last), room[: shape[0] * length * shape[2]].view(shape)


def _hide(block: Tensor, mask: Tensor) -> None:
    """Set the products (v, F, q) of padding to −inf."""
    if block.device.type == "cpu" and not torch.compiler.is_compiling():
        # Touches padding alone, at a fifth of what the other costs; but an accelerator would be waited for.
        block.flatten(0, 1).index_fill_(0, (~mask).flatten().nonzero().squeeze(1), -torch.inf)
    else:
        block.masked_fill_(~mask[..., None], -torch.inf)


def _same_dtype(queries: Tensor, other: Tensor, name: str) -> None:
    if not queries.is_floating_point():
        raise ValueError(f"queries: found {queries.dtype}, expected floating-point embeddings.")
    if other.dtype != queries.dtype:
        raise ValueError(
            f"{name}: found {other.dtype}, expected {queries.dtype}, like queries. Convert one with .to(dtype)."
        )
