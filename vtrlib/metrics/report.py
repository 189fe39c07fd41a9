"""R@K and its relatives of a ranking, in one direction or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from vtrlib import check
from vtrlib.metrics.bootstrap import QueryInterval, query_bootstrap
from vtrlib.metrics.standing import TIES, Relevant, Scores, Standing, finite, standing

__all__ = ["Report", "evaluate", "evaluate_both", "locate"]


@dataclass(frozen=True)
class Report:
    """Metrics of Q queries, with all that is needed to compute others.

    Attributes:
        standing: the counts of each query, kept.
        ks: the K of R@K, ascending; SumR sums these.
        ties: rule for equal scores, see `Standing.ranks`.
    """

    standing: Standing
    ks: tuple[int, ...]
    ties: str

    @property
    def ranks(self) -> Tensor:
        """Per query, 1-based, (Q,); see `Standing.ranks`."""
        return self.standing.ranks(self.ties)

    def recall(self, k: int) -> float:
        """R@K in per cent, 0 … 100, for any K: the share of queries with a relevant video among the first K."""
        return 100 * float(self.standing.found(k, self.ties).mean())

    @property
    def sum_r(self) -> float:
        """SumR, the sum of R@K over `ks`."""
        return sum(self.recall(k) for k in self.ks)

    @property
    def median_rank(self) -> float:
        """MdR, 1-based; of an even number of queries the mean of the two in the middle, as NumPy has it.

        Under "expected" the median of expected ranks.
        """
        ordered = self.ranks.double().sort().values
        return float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2)

    @property
    def mean_rank(self) -> float:
        """MnR, 1-based."""
        return float(self.ranks.double().mean())

    def metrics(self) -> dict[str, float]:
        """R@K for `ks`, SumR, MdR and MnR under these names, as a ledger row takes them."""
        recalls = {f"R@{k}": self.recall(k) for k in self.ks}
        return {**recalls, "SumR": self.sum_r, "MdR": self.median_rank, "MnR": self.mean_rank}

    def interval(
        self, metric: str, generator: Generator, *, level: float = 0.95, resamples: int = 2000,
        groups: Sequence[int] | Tensor | None = None,
    ) -> QueryInterval:  # fmt: skip
        """A bootstrap interval over queries for "SumR", "MnR" or any "R@K"; see `query_bootstrap`, and its caution.

        Raises:
            ValueError: another metric, or `ties` is "reference", which has no per-query results.
        """
        if self.ties == "reference":
            raise ValueError("ties='reference': counts places, not queries. Choose another rule for an interval.")
        if metric == "MnR":
            values = self.ranks.double()
        elif metric == "SumR":
            values = torch.stack([100 * self.standing.found(k, self.ties) for k in self.ks]).sum(0)
        elif metric.startswith("R@") and metric[2:].isdecimal():
            values = 100 * self.standing.found(int(metric[2:]), self.ties)
        else:
            raise ValueError(f"metric={metric!r}: expected 'SumR', 'MnR' or 'R@K' with a number for K.")
        return query_bootstrap(values, generator, level=level, resamples=resamples, groups=groups)

    def __str__(self) -> str:
        return "  ".join(f"{name} {value:.1f}" for name, value in self.metrics().items())


def evaluate(
    scores: Scores, relevant: Relevant, *, ks: Sequence[int] = (1, 5, 10), ties: str = "expected",
    chunk: int | None = None,
) -> Report:  # fmt: skip
    """Rank for every row of `scores` its columns, and report where the relevant ones stand.

    Text to video, rows are texts. Video to text, give `scores.mT`, or a function of videos; see `evaluate_both`.

    Args:
        scores: (Q, V) or a function of rows, see `standing`.
        relevant: index, indices or a mask per query, see `standing`.
        ks: the K of R@K that SumR sums: (1, 5, 10) for full, (1, 5, 10, 100) for partial relevance.
        ties: rule for equal scores, see `Standing.ranks`.
        chunk: queries at a time.

    Raises:
        ValueError: as `standing` does, or `ks` or `ties` is out of range.
    """
    check.one_of("ties", ties, TIES)
    chosen = sorted({check.integer("ks", k, low=1) for k in ks})
    if not chosen or len(chosen) < len(ks):
        raise ValueError(f"ks={tuple(ks)}: expected one or more different integers.")
    found = standing(scores, relevant, chunk=chunk)
    found.ranks(ties)  # so that "reference" refuses here, and not where a number is read
    return Report(found, tuple(chosen), ties)


def evaluate_both(
    scores: Tensor, video_of: Sequence[int] | Tensor, *, gallery: str = "captions", ks: Sequence[int] = (1, 5, 10),
    ties: str = "expected",
) -> tuple[Report, Report]:  # fmt: skip
    """Text to video and video to text where a video may have several captions.

    Text to video every caption is a query. Video to text every video is one, and the best of its captions counts.

    Args:
        scores: (Q, V), captions by videos.
        video_of: (Q,), the video that each caption describes.
        gallery: what a video ranks. "captions": all Q of them. "videos": the V groups of them, each with its best
            score, as CLIP4Clip and PIG do, so that a video's rank is 1 + the number of others that have a better
            caption for it. The same where there is one caption per video.
        ks, ties: as for `evaluate`.

    Raises:
        ValueError: as `evaluate` does, or a video has no caption.
    """
    check.one_of("gallery", gallery, ("captions", "videos"))
    known = check.sizes("scores", scores, "Q V")
    owner, videos = torch.as_tensor(video_of).cpu(), known["V"]
    check.sizes("video_of", owner, "Q", known)
    text_to_video = evaluate(scores, owner, ks=ks, ties=ties)
    owner = owner.long()
    number = owner.bincount(minlength=videos)
    if not number.all():
        bare = (number == 0).nonzero().flatten().tolist()
        raise ValueError(
            f"video_of: found no caption of {len(bare)} videos, the first is {bare[0]}. Expected one for each: leave "
            "such videos out of scores, or evaluate text to video alone."
        )
    if gallery == "captions":
        relevant = torch.full((videos, int(number.max())), -1)  # (V, most captions of a video)
        place = torch.arange(len(owner)) - (number.cumsum(0) - number).repeat_interleave(number)
        order = owner.argsort(stable=True)
        relevant[owner[order], place] = order
        return text_to_video, evaluate(scores.mT, relevant, ks=ks, ties=ties)
    finite("scores", scores)
    rows = owner.to(scores.device)[:, None].expand_as(scores)
    best = scores.new_full((videos, videos), -torch.inf).scatter_reduce_(0, rows, scores, "amax")  # captions by videos
    return text_to_video, evaluate(best.mT, torch.arange(videos), ks=ks, ties=ties)


def locate(wanted: Sequence[str] | Sequence[Sequence[str]], gallery: Sequence[str]) -> list[list[int]]:
    """Turn video ids into `relevant` indices.

    Args:
        wanted: per query the id of its video, or a list of ids.
        gallery: the id of every column of the scores.

    Raises:
        ValueError: an id stands twice in the gallery, or is wanted and not there.
    """
    index: dict[str, int] = {}
    for place, name in enumerate(gallery):
        if index.setdefault(name, place) != place:
            raise ValueError(f"gallery: found {name!r} at {index[name]} and at {place}, expected every id once.")
    rows = [[ids] if isinstance(ids, str) else list(ids) for ids in wanted]
    _all_known(rows, index)
    return [[index[name] for name in row] for row in rows]


def _all_known(rows: Sequence[Sequence[str]], index: Mapping[str, int]) -> None:
    unknown = [(query, name) for query, row in enumerate(rows) for name in row if name not in index]
    if unknown:
        query, name = unknown[0]
        raise ValueError(
            f"wanted: found {len(unknown)} ids that the gallery lacks, the first is {name!r} of query {query}; expected "
            f"{check.nearest(name, index, 'one of its ids')}. Check that captions and videos are of the same split."
        )
