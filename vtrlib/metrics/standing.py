"""Where a query's best relevant video stands: how many videos score higher, how many as high.

Two numbers per query would settle every metric if scores never tied. They do: half precision rounds them together,
near-duplicates share them, a collapsed model gives one to everything. So four are counted, and a named rule, `TIES`,
says what a rank is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtrlib import check

__all__ = ["TIES", "Relevant", "Scores", "Standing", "columns", "finite", "ranks", "standing"]

TIES = ("expected", "optimistic", "pessimistic", "stable", "reference")

Relevant = Tensor | Sequence[int] | Sequence[Sequence[int]] | Sequence[Tensor]
Scores = Tensor | Callable[[int, int], Tensor]

_ENTRIES = 1 << 22  # of a chunk: a few temporaries of that size stand beside the scores


@dataclass(frozen=True)
class Standing:
    """Counts for Q queries, each (Q,), int64, on the CPU. The relevant video is the best-scored one where several are.

    Attributes:
        above: videos that score higher; the relevant video is among none of them.
        tied: videos that score the same, itself included, ≥ 1.
        hits: how many of the tied ones are relevant, ≥ 1.
        before: how many of the tied ones are irrelevant and come before the first relevant one in the gallery.
    """

    above: Tensor
    tied: Tensor
    hits: Tensor
    before: Tensor

    def ranks(self, ties: str = "expected") -> Tensor:
        """1-based rank of the relevant video, (Q,), int64; float64 under "expected".

        Args:
            ties: how videos with the same score are ordered.

                - "expected": at random; the rank's expectation, `above + (tied − hits) / (hits + 1) + 1`.
                - "optimistic": relevant ones first.
                - "pessimistic": relevant ones last.
                - "stable": as they stand in the gallery, like a stable descending sort. Rewards a gallery that is in
                  the order of the queries; an unstable sort lands anywhere from optimistic to pessimistic.
                - "reference": the released evaluation of CLIP4Clip, DiscoVLA and PIG, which looks where the *sorted*
                  scores equal the relevant one and so counts every tied place as a query of its own. The result is
                  longer than Q if anything ties: (Σ tied,). Defined for one relevant video per query.

        Raises:
            ValueError: no such rule, or "reference" with several relevant videos in a tie.
        """
        check.one_of("ties", ties, TIES)
        if ties == "expected":
            return self.above + (self.tied - self.hits) / (self.hits.double() + 1) + 1
        if ties == "optimistic":
            return self.above + 1
        if ties == "pessimistic":
            return self.above + self.tied - self.hits + 1
        if ties == "stable":
            return self.above + self.before + 1
        if (self.hits > 1).any():
            query = int((self.hits > 1).int().argmax())
            raise ValueError(
                f"ties='reference': query {query} ties {int(self.hits[query])} relevant videos, expected one. Choose "
                "another rule, or annotate one video per query."
            )
        first = torch.repeat_interleave(self.above - (self.tied.cumsum(0) - self.tied), self.tied)
        return first + torch.arange(1, len(first) + 1)

    def found(self, k: int, ties: str = "expected") -> Tensor:
        """Whether a relevant video is among the first `k`, 0 or 1, (Q,), float64; under "expected" its probability.

        Of `tied` videos in random order, `hits` of them relevant, n = k − above are among the first k, which all miss
        with probability Π_{j < hits} (tied − n − j) / (tied − j). Under "reference" one entry per counted place.
        """
        check.integer("k", k, low=1)
        if ties != "expected":
            return (self.ranks(ties) <= k).double()
        places = (k - self.above).clamp(min=0)
        miss = torch.ones(len(places), dtype=torch.float64)
        for j in range(int(self.hits.max())):
            drawn = j < self.hits
            left = (self.tied - places - j).clamp(min=0).double() / (self.tied - j).clamp(min=1)
            miss = torch.where(drawn, miss * left, miss)
        return 1 - miss


def standing(scores: Scores, relevant: Relevant, *, chunk: int | None = None) -> Standing:
    """Count for every query what stands above and beside its best relevant video.

    Scores are compared as they are, in their own dtype: half-precision scores that round to the same number tie, and
    a tie is never broken by noise of a conversion. −inf is the lowest score there is, such as that of padding.

    Args:
        scores: (Q, V), floating, higher is better; or a function of `start` and `stop` that gives rows start … stop − 1
            of it, (stop − start, V). Then the whole matrix never exists.
        relevant: for each query the index of its video, (Q,); or of several: lists of them, a tensor (Q, R) padded
            with −1, or a mask (Q, V), bool. At least one per query; a repeated index counts once.
        chunk: queries at a time; as many as make 4 million scores by default, 1,024 where `scores` is a function.

    Raises:
        TypeError: scores are neither a tensor nor a function that gives tensors, or relevant is no such list.
        ValueError: a score is NaN or +inf (the message says how many and where the first is), there is no query or no
            video, sizes differ, also between the parts that a function gives, a query has no relevant video or one
            outside the gallery.
    """
    wanted = columns(relevant)
    total = len(wanted)
    if not callable(scores):
        sized = check.sizes("scores", scores, "Q V")
        if total != sized["Q"]:
            raise ValueError(f"relevant: found {total} queries, expected {sized['Q']}, one per row of scores.")
        chunk = max(1, _ENTRIES // sized["V"]) if chunk is None else chunk
    counts = []
    for start, part in _parts(scores, total, check.integer("chunk", 1024 if chunk is None else chunk, low=1)):
        finite("scores", part, start)
        hit = _mask(wanted[start : start + len(part)], start, part.shape[1]).to(part.device)
        best = part.masked_fill(~hit, -torch.inf).amax(1, keepdim=True)
        same = part == best
        beside = same & hit  # never empty, even where all scores are −inf
        first = beside.int().argmax(1, keepdim=True)  # the first of equals
        order = torch.arange(part.shape[1], device=part.device)
        before = same & ~hit & (order < first)
        counts.append(torch.stack([(part > best).sum(1), same.sum(1), beside.sum(1), before.sum(1)]).cpu())
    return Standing(*torch.cat(counts, 1))


def ranks(scores: Scores, relevant: Relevant, *, ties: str = "expected", chunk: int | None = None) -> Tensor:
    """1-based rank of every query's best relevant video, (Q,); see `standing` and `Standing.ranks`."""
    check.one_of("ties", ties, TIES)
    return standing(scores, relevant, chunk=chunk).ranks(ties)


def columns(relevant: Relevant) -> Tensor:
    """`relevant` in one form on the CPU: (Q, R), int64, padded with −1; a mask stays one.

    Raises:
        ValueError: it is empty, neither integers nor a mask, or a mask without two axes.
    """
    if hasattr(relevant, "__array__") and not isinstance(relevant, Tensor):
        relevant = torch.as_tensor(relevant)  # NumPy's, also a mask
    if not isinstance(relevant, Tensor):
        if not isinstance(relevant, Iterable) or isinstance(relevant, str):
            raise TypeError(
                f"relevant: found {relevant!r:.60}, expected for each query the index of its video, or several."
            )
        plain = [row.tolist() if hasattr(row, "tolist") else row for row in relevant]  # of tensors and NumPy's
        rows = [row if isinstance(row, Sequence) else [row] for row in plain]
        width = max(map(len, rows), default=0)
        checked = [[check.integer(f"relevant[{i}]", one) for one in row] for i, row in enumerate(rows)]
        relevant = torch.tensor([row + [-1] * (width - len(row)) for row in checked])
    relevant = relevant.cpu()
    if relevant.dtype == torch.bool:
        check.sizes("relevant", relevant, "Q V")
        return relevant
    if relevant.dim() not in (1, 2) or not relevant.numel():
        raise ValueError(f"relevant: found shape {tuple(relevant.shape)}, expected (Q,), (Q, R) or a mask (Q, V).")
    if relevant.is_floating_point():
        raise ValueError(f"relevant: found {relevant.dtype}, expected integers (indices) or torch.bool (a mask).")
    return relevant.long() if relevant.dim() == 2 else relevant.long()[:, None]


def finite(name: str, scores: Tensor, start: int = 0) -> None:
    """Raise unless (q, V) scores of the queries from `start` on are floating, and neither NaN nor +inf."""
    if not isinstance(scores, Tensor):
        raise TypeError(f"{name}: found {type(scores).__name__}, expected a tensor. Convert it with torch.as_tensor.")
    if not scores.is_floating_point():
        raise ValueError(f"{name}: found {scores.dtype}, expected a floating-point dtype.")
    bad = scores.isnan() | (scores == torch.inf)
    if bad.any():
        query, video = divmod(int(bad.int().argmax()), scores.shape[1])
        raise ValueError(
            f"{name}: found {int(bad.sum())} NaN or +inf among queries {start} to {start + len(scores) - 1}, the first "
            f"at query {start + query}, video {video}: {scores[query, video].item()}. Expected finite scores (−inf for "
            "padding). Look for a zero norm, an overflow of half precision, or an unreadable video."
        )


def _parts(scores: Scores, total: int, chunk: int) -> Iterator[tuple[int, Tensor]]:
    known: dict[str, int] = {}
    for start in range(0, total, chunk):
        stop = min(start + chunk, total)
        if callable(scores):
            part = scores(start, stop)
            known = check.sizes(f"scores({start}, {stop})", part, "q V", {**known, "q": stop - start})
            yield start, part
        else:
            yield start, scores[start:stop]


def _mask(wanted: Tensor, start: int, videos: int) -> Tensor:
    """Rows of relevance, (q, V), bool, with at least one true in each."""
    if wanted.dtype == torch.bool:
        if wanted.shape[1] != videos:
            raise ValueError(f"relevant: found a mask of {wanted.shape[1]} videos, expected {videos}, as in scores.")
        hit = wanted
    else:
        out = (wanted < -1) | (wanted >= videos)
        if out.any():
            query = int(out.any(1).int().argmax())
            raise ValueError(
                f"relevant[{start + query}]: found {wanted[query][out[query]].tolist()}, expected indices from 0 to "
                f"{videos - 1}, the videos of scores."
            )
        hit = torch.zeros(len(wanted), videos + 1, dtype=torch.bool)  # padding goes to a last column
        hit = hit.scatter_(1, wanted.where(wanted >= 0, videos), True)[:, :videos]
    lacking = ~hit.any(1)
    if lacking.any():
        query = start + int(lacking.int().argmax())
        raise ValueError(f"relevant[{query}]: found no video, expected at least one. Leave the query out, or name one.")
    return hit
