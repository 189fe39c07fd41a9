"""How points gather in groups: a picture of the plane (t-SNE), and two scores that need
none.

A picture flatters: t-SNE makes islands even of noise. So the scores are taken in the
space the points come from, and of the picture beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vtrlib import check
from vtrlib.similarity import unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["chance_purity", "neighbour_purity", "silhouette", "tsne"]

_METRICS = ("cosine", "euclidean")


def tsne(
    points: Any, *, seed: int = 0, perplexity: float | None = None,
    metric: str = "cosine", iterations: int = 1000,
) -> NDArray[np.float32]:  # fmt: skip
    """Points in the plane, near ones near (t-SNE; van der Maaten and Hinton, 2008).

    scikit-learn's, from the first two principal components, on one thread: the same
    numbers for the same seed, on one machine. Another type of CPU rounds differently,
    and t-SNE enlarges that; scores of the plane are good to a few hundredths.

    Args:
        points: (N, D), N ≥ 4, finite, not all the same.
        seed: of what is left to chance.
        perplexity: about how many neighbours a point has, less than N; by default 30,
            or a third of the others where those are fewer.
        metric: "cosine" or "euclidean".
        iterations: at most so many, ≥ 250. The first 250 exaggerate, so that a picture
            which stops there is rough.

    Returns:
        (N, 2), float32.

    Raises:
        TypeError, ValueError: naming the argument, what was found and what was
            expected.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    x, slack = _placed(points, metric)
    if len(x) < 4:
        raise ValueError(f"points: found {len(x)}, expected at least 4.")
    if ((x - x[0]).norm(dim=1) <= slack).all():
        raise ValueError("points: all are the same, expected some that differ.")
    chosen = min(30.0, (len(x) - 1) / 3) if perplexity is None else perplexity
    if not 0 < check.number("perplexity", chosen) < len(x):
        raise ValueError(
            f"perplexity={perplexity}: expected between 0 and {len(x)}, of points."
        )
    plane = TSNE(
        perplexity=chosen, metric=metric, init="pca", random_state=check.integer(
            "seed", seed, low=0
        ), n_jobs=1, max_iter=check.integer("iterations", iterations, low=250),
    )  # fmt: skip
    with threadpool_limits(1):
        placed: NDArray[np.float32] = plane.fit_transform(x.numpy())
    return placed


def neighbour_purity(
    points: Any, groups: Any, *, metric: str = "cosine", tolerance: float = 1e-6
) -> float:
    r"""Share of points' nearest neighbours that are of their own group.

    $$ \frac1{|I|} \sum_{i \in I} \frac{|N_i \cap G_i|}{m_i} $$

    where $G_i$ are the $m_i$ other points of i's group, $N_i$ the $m_i$ points nearest
    to i, and I the points whose group has another. Where several tie for the last
    places in $N_i$, the expected share over all their orders counts, so that points
    which coincide are worth chance and not luck.

    Args:
        points: (N, D), finite; not zero for "cosine".
        groups: N labels, at least two different ones; one at least occurs twice.
        metric: "cosine" or "euclidean".
        tolerance: distances tie that differ by at most so much of the longest point's
            length; of unit length for "cosine". Rounding makes no order.

    Returns:
        0 … 1; `chance_purity` where the places say nothing of the groups.

    Raises:
        TypeError, ValueError: naming the argument, what was found and what was
            expected.
    """
    distances, slack = _distances(points, metric, tolerance)
    mates, wanted = _mates(groups, len(distances))
    taken = wanted > 0
    distances.fill_diagonal_(torch.inf)
    last = distances.sort(1).values.gather(1, (wanted - 1).clamp(min=0)[:, None])
    nearer, tied = distances < last - slack, (distances - last).abs() <= slack
    left = (wanted - nearer.sum(1)).double() / tied.sum(1)  # of the places, for a tie
    found = (nearer & mates).sum(1) + left * (tied & mates).sum(1)
    return float((found / wanted)[taken].mean())


def chance_purity(groups: Any) -> float:
    r"""`neighbour_purity` of points in random order: the mean of $m_i / (N - 1)$.

    Args:
        groups: N labels, at least two different ones; one at least occurs twice.

    Raises:
        ValueError: there is only one group, or none has two points.
    """
    labels = _labels(groups)
    _, wanted = _mates(labels, len(labels))
    return float(wanted[wanted > 0].double().mean() / (len(labels) - 1))


def silhouette(
    points: Any, groups: Any, *, metric: str = "cosine", tolerance: float = 1e-6
) -> float:
    r"""Rousseeuw's silhouette: how much nearer a point's group is than the next one.

    $$ \frac1N \sum_i \frac{b_i - a_i}{\max(a_i, b_i)} $$

    with $a_i$ the mean distance to the others of i's group and $b_i$ the least mean
    distance to another group; 0 for a point that is alone, or where both are 0.
    scikit-learn's, on cosine distances $1 - \cos$ or Euclidean ones.

    Args:
        points: (N, D), finite; not zero for "cosine".
        groups: N labels, at least two different ones; one at least occurs twice.
        metric: "cosine" or "euclidean".
        tolerance: points no further apart, see `neighbour_purity`, coincide.

    Returns:
        −1 … 1; more is better separated.

    Raises:
        TypeError, ValueError: naming the argument, what was found and what was
            expected.
    """
    from sklearn.metrics import silhouette_score

    distances, slack = _distances(points, metric, tolerance)
    labels = _labels(groups)
    _mates(labels, len(distances))
    distances = distances.where(distances > slack, 0)
    if metric == "cosine":
        distances = distances.square() / 2  # of a chord, 1 − cos
    number = torch.tensor([list(dict.fromkeys(labels)).index(g) for g in labels])
    score = silhouette_score(distances.numpy(), number.numpy(), metric="precomputed")
    return float(score)


def _placed(points: Any, metric: str, tolerance: float = 1e-6) -> tuple[Tensor, float]:
    """Points as float64, of unit length for cosines; and what is too near to tell."""
    check.one_of("metric", metric, _METRICS)
    x = torch.as_tensor(points).detach().cpu().double()
    check.sizes("points", x, "N D")
    bad = (~x.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"points: found NaN or infinity in {check.listed(map(str, bad))}, expected "
            "finite numbers."
        )
    if metric == "cosine":
        zero = (x == 0).all(1).nonzero().flatten().tolist()
        if zero:
            raise ValueError(
                f"points: {check.listed(map(str, zero))} are zero and have no cosine. "
                "Leave them out, or take metric='euclidean'."
            )
        x = unit(x)
    slack = check.number("tolerance", tolerance, low=0)
    return x, slack * float(x.norm(dim=1).max())


def _distances(points: Any, metric: str, tolerance: float) -> tuple[Tensor, float]:
    """(N, N), Euclidean; for cosines of unit vectors, which has the same order."""
    x, slack = _placed(points, metric, tolerance)
    # Differences, not products: those make points that coincide seem apart.
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist"), slack


def _labels(groups: Any) -> list[Any]:
    return groups.tolist() if hasattr(groups, "tolist") else list(groups)


def _mates(groups: Any, points: int) -> tuple[Tensor, Tensor]:
    """Which two different points share a group, (N, N); and how many mates each has."""
    labels = _labels(groups)
    if len(labels) != points:
        raise ValueError(f"groups: found {len(labels)} for {points} points.")
    names = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    if len(names) < 2 or len(names) == points:
        raise ValueError(
            f"groups: found {len(names)} for {points} points, expected at least two, "
            "one of them with two points or more."
        )
    number = torch.tensor([names[label] for label in labels])
    mates = (number[:, None] == number).fill_diagonal_(False)
    return mates, mates.sum(1)
