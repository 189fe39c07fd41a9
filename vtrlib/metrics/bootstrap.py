"""How far a number would move if other queries had been asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from vtrlib import check

__all__ = ["QueryInterval", "query_bootstrap"]

_DRAWS = 1 << 22  # at a time


class QueryInterval(NamedTuple):
    """A mean over queries and the percentile limits of its bootstrap; `mean` is the measured one."""

    mean: float
    low: float
    high: float


def query_bootstrap(
    values: Tensor, generator: Generator, *, level: float = 0.95, resamples: int = 2000,
    groups: Sequence[int] | Tensor | None = None,
) -> QueryInterval:  # fmt: skip
    """Percentile bootstrap of a mean over queries (Efron 1979).

    It describes a number: how far it would move with other queries of the same kind. It never decides which of two
    methods is better, for it knows nothing of the spread over training seeds; that is what
    `vtrlib.ledger.paired_interval` is for.

    Args:
        values: (Q,), one result per query, such as `Standing.found`.
        generator: decides the draws; on the CPU.
        level: share of the resampled means between the limits, 0 < level < 1.
        resamples: how many, at least 100.
        groups: (Q,), integers: queries of one group, such as the captions of one video, are drawn together.
            They are alike, and drawn one by one they would make the interval too narrow.

    Raises:
        ValueError: no query, a value that is not finite, or a setting out of range.
    """
    known = check.sizes("values", values, "Q")
    values = values.detach().double().cpu()
    if not values.isfinite().all():
        raise ValueError(f"values: found {int((~values.isfinite()).sum())} that are not finite, expected none.")
    if not 0 < level < 1:
        raise ValueError(f"level={level}: expected a number between 0 and 1, such as 0.95.")
    check.integer("resamples", resamples, low=100)
    sums, sizes = values, torch.ones_like(values)
    if groups is not None:
        member = torch.as_tensor(groups).long().cpu()
        check.sizes("groups", member, "Q", known)
        member = torch.unique(member, return_inverse=True)[1]  # numbers may have gaps
        total = torch.zeros(int(member.max()) + 1, dtype=torch.float64)
        sums, sizes = total.index_add(0, member, values), total.index_add(0, member, sizes)
    step = max(1, _DRAWS // len(sums))
    means = []
    for start in range(0, resamples, step):
        shape = (min(step, resamples - start), len(sums))
        drawn = torch.randint(len(sums), shape, generator=generator)
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    tail = (1 - level) / 2
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return QueryInterval(float(values.mean()), low, high)
