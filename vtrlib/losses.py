"""Losses over a matrix of scores between texts and videos: contrastive, with a margin, and between two matrices.

All take scores (Q, V), differentiate, and read no value on the way, so that an accelerator never waits. They do not
look for NaN: one in the scores makes the loss NaN, and the training loop looks at that.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from vtrlib import check

__all__ = ["info_nce", "similarity_kl", "triplet"]


def info_nce(
    scores: Tensor, positives: Tensor | None = None, *, scale: float | Tensor = 1.0, several: str = "summed",
    directions: str = "mean",
) -> Tensor:  # fmt: skip
    r"""InfoNCE, text to video and video to text (DiscoVLA Eq. 2-4, PIG Eq. 2-4, DreamPRVR Eq. 32).

    With logits $z = s\,S$, a row's positives $P$ and all its columns $C$,

    - "summed": $-\log \frac{\sum_{p \in P} e^{z_p}}{\sum_{c \in C} e^{z_c}}$, as MIL-NCE and DreamPRVR's code;
    - "averaged": $-\frac{1}{|P|} \sum_{p \in P} \log \frac{e^{z_p}}{\sum_{c \in C} e^{z_c}}$, as SupCon and DreamPRVR's
      Eq. 4;
    - "apart": $-\frac{1}{|P|} \sum_{p \in P} \log \frac{e^{z_p}}{e^{z_p} + \sum_{c \in C \setminus P} e^{z_c}}$, each
      positive against the negatives alone;
    - "each": the terms of "apart", as DreamPRVR's Eq. 32 averages them: over all positives instead of row by row.

    All are the same with one positive. The loss is the mean over rows that have a positive, 0 if none has; then the
    same over columns.

    Args:
        scores: (Q, V), texts by videos, floating; computed in float32 at least, stable for logits of ±1e4. −inf takes
            an item out of the competition, such as a query's similarity with itself.
        positives: (Q, V), bool. The diagonal by default, Q = V.
        scale: s = 1/τ, or CLIP's exp(logit_scale); a tensor may be learned.
        several: what several positives of a row come to, see above.
        directions: "mean" of both (the papers), "sum" (PIG's code, DreamPRVR Eq. 32), "rows" (text to video) or
            "columns" (video to text).

    Returns:
        (), ≥ 0.

    Raises:
        ValueError: the shapes do not fit, there is no query or no video, or an option does not exist.
    """
    positives = _positives(scores, positives)
    check.one_of("several", several, ("summed", "averaged", "apart", "each"))
    wide = _wide(scores)
    # Finite, so that neither a row without competitors nor the gradient to a learned scale is 0 · inf = NaN.
    logits = wide.clamp(min=torch.finfo(wide.dtype).min / 1e4) * scale
    return _directed(directions, lambda z, positive: _nce(z, positive, several), logits, positives)


def triplet(
    scores: Tensor, positives: Tensor | None = None, *, margin: float = 0.2, several: str = "averaged",
    hardest: int | None = None, generator: Generator | None = None, draws: Tensor | None = None,
) -> Tensor:  # fmt: skip
    r"""Ranking loss with a margin (DreamPRVR Eq. 31), for rows against one negative column each.

    $$ \frac{1}{Q} \sum_q \max(0, m + S_{q n_q} - S_{q p_q}) $$

    For the other direction give the transposes. A row takes part if it has a positive and the negative it drew.

    Args:
        scores: (Q, V), floating.
        positives: (Q, V), bool. The diagonal by default, Q = V.
        margin: m.
        several: "averaged", S_{q p} is the mean over the row's positives (DreamPRVR's code); or "each", a term for
            every positive and a mean over all of those (its Eq. 31).
        hardest: negatives are drawn from a row's so many highest-scored ones; 1 takes the hardest. From all of them by
            default.
        generator: decides the draws, uniform; on the device of the scores. Not needed for `hardest=1` or with `draws`.
        draws: (Q,), integers: the place of each row's negative among its negatives from the highest-scored, 0, on;
            equal scores stand in the order of the columns. A place that there is not leaves the row out.

    Returns:
        (), ≥ 0, in float32 at least.

    Raises:
        ValueError: the shapes do not fit, there is no query or no video, an option does not exist, or nothing says
            how negatives are drawn.
    """
    positives = _positives(scores, positives)
    check.one_of("several", several, ("averaged", "each"))
    scores = _wide(scores)
    order = scores.detach().masked_fill(positives, -torch.inf).argsort(dim=1, descending=True, stable=True)
    number = (~positives).sum(1)
    if draws is not None:
        check.sizes("draws", draws, "Q", {"Q": len(scores)})
        if draws.is_floating_point():
            raise ValueError(f"draws: found {draws.dtype}, expected integers.")
    else:
        draws = _draw(number, hardest, generator)
    place = draws[:, None].clamp(0, scores.shape[1] - 1)
    negative = scores.gather(1, order.gather(1, place))  # (Q, 1)
    there = ((draws >= 0) & (draws < number))[:, None]
    if several == "averaged":
        count = positives.sum(1, keepdim=True)
        reached = scores.where(positives, 0).sum(1, keepdim=True) / count.clamp(min=1)
        taken = there & (count > 0)
    else:
        reached, taken = scores, there & positives
    hinge = (margin + negative - reached).clamp(min=0).where(taken, 0)
    return hinge.sum() / taken.sum().clamp(min=1)


def similarity_kl(
    student: Tensor, teacher: Tensor, *, scale: float | Tensor = 1.0, reduction: str = "batchmean",
    directions: str = "mean", detach_teacher: bool = False,
) -> Tensor:  # fmt: skip
    r"""KL divergence between two matrices' distributions, over rows and over columns (DiscoVLA Eq. 11-13).

    $$ \frac12 \bigl[ \mathrm{KL}(p^\text{teacher}_{t2v} \| p^\text{student}_{t2v})
       + \mathrm{KL}(p^\text{teacher}_{v2t} \| p^\text{student}_{v2t}) \bigr], \quad p = \mathrm{softmax}(s\,S) $$

    Args:
        student: (Q, V), finite; the video-level similarity in DiscoVLA.
        teacher: (Q, V), finite; the image-level one.
        scale: s = 1/τ of both.
        reduction: "batchmean", the mean over distributions; "sum", their sum; "numel100", their sum · 100 / (Q V), as
            released, which makes the weight of the loss depend on the batch: 100 / B times "batchmean" for B pairs.
        directions: as for `info_nce`.
        detach_teacher: keep the gradient from the teacher. Released: no; the paper does not say.

    Returns:
        (), ≥ 0 up to rounding, in float32 at least.

    Raises:
        ValueError: the shapes differ, there is no query or no video, or an option does not exist.
    """
    check.sizes("teacher", teacher, "Q V", check.sizes("student", student, "Q V"))
    check.one_of("reduction", reduction, ("batchmean", "sum", "numel100"))
    p = _wide(teacher.detach() if detach_teacher else teacher) * scale
    q = _wide(student) * scale

    def divergence(p: Tensor, q: Tensor) -> Tensor:
        log_p, log_q = p.log_softmax(1), q.log_softmax(1)
        total = (log_p.exp() * (log_p - log_q)).sum()
        return total * {"batchmean": 1 / len(p), "sum": 1.0, "numel100": 100 / p.numel()}[reduction]

    return _directed(directions, divergence, p, q)


def _nce(logits: Tensor, positives: Tensor, several: str) -> Tensor:
    """The mean of `info_nce` over rows with a positive."""
    low = torch.finfo(logits.dtype).min  # not −inf, whose logsumexp has no gradient to speak of
    count = positives.sum(1)
    if several == "summed":
        loss = logits.logsumexp(1) - logits.masked_fill(~positives, low).logsumexp(1)
    else:
        if several == "averaged":
            each = logits.logsumexp(1, keepdim=True) - logits
        else:
            each = softplus(logits.masked_fill(positives, low).logsumexp(1, keepdim=True) - logits)
        if several == "each":
            return each.where(positives, 0).sum() / count.sum().clamp(min=1)
        loss = each.where(positives, 0).sum(1) / count.clamp(min=1)
    return loss.where(count > 0, 0).sum() / (count > 0).sum().clamp(min=1)


def _draw(number: Tensor, hardest: int | None, generator: Generator | None) -> Tensor:
    """For each row a place among its `number` of negatives, uniform over the first `hardest`; −1 where it has none."""
    pool = number if hardest is None else number.clamp(max=check.integer("hardest", hardest, low=1))
    if hardest == 1:
        return pool - 1
    if generator is None:
        raise ValueError("generator=None: expected a torch.Generator, or draws, or hardest=1, to choose the negatives.")
    drawn = (torch.rand(len(pool), generator=generator, device=pool.device) * pool).long()
    return torch.minimum(drawn, pool - 1)  # a product that is rounded up to the pool's size


def _directed(directions: str, loss: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """A loss of rows for the rows of two matrices, their columns, or both."""
    check.one_of("directions", directions, ("mean", "sum", "rows", "columns"))
    if directions == "rows":
        return loss(a, b)
    if directions == "columns":
        return loss(a.mT, b.mT)
    total = loss(a, b) + loss(a.mT, b.mT)
    return total / 2 if directions == "mean" else total


def _positives(scores: Tensor, positives: Tensor | None) -> Tensor:
    known = check.sizes("scores", scores, "Q V")
    if positives is None:
        if known["Q"] != known["V"]:
            raise ValueError(
                f"positives=None: scores are {tuple(scores.shape)}, whose diagonal pairs nothing. Give a mask (Q, V)."
            )
        return torch.eye(known["Q"], dtype=torch.bool, device=scores.device)
    check.sizes("positives", positives, "Q V", known)
    if positives.dtype != torch.bool:
        raise ValueError(f"positives: found {positives.dtype}, expected torch.bool.")
    return positives


def _wide(scores: Tensor) -> Tensor:
    """Half precision has too few digits for a sum of exponentials."""
    if not scores.is_floating_point():
        raise ValueError(f"scores: found {scores.dtype}, expected a floating-point dtype.")
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
