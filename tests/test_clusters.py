"""Scores of clusters against loops over every order of ties; pictures of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from statistics import fmean

import numpy as np
import pytest
import torch
from torch import Tensor

from vtrlib import show
from vtrlib.clusters import chance_purity, neighbour_purity, silhouette, tsne

GROUPS = [3, 3, 7, 7, 7, 5, 3, 5]


def cloud(points: int = 8, width: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(points, width, generator=generator, dtype=torch.float64)


def distance(a: Tensor, b: Tensor, metric: str) -> float:
    if metric == "euclidean":
        return float(((a - b) ** 2).sum()) ** 0.5
    return 1 - float(a @ b) / (float(a @ a) * float(b @ b)) ** 0.5


def purity(points: Tensor, groups: list[int], metric: str) -> float:
    """The mean over every order of the points, ties kept as they stand in it."""
    shares = []
    for i, own in enumerate(groups):
        mates = sum(g == own for g in groups) - 1
        if mates == 0:
            continue
        others = [j for j in range(len(points)) if j != i]
        far = {j: round(distance(points[i], points[j], metric), 9) for j in others}
        orders = [sorted(o, key=far.__getitem__) for o in permutations(others)]
        shares.append(fmean(
            sum(groups[j] == own for j in order[:mates]) / mates for order in orders
        ))  # fmt: skip
    return fmean(shares)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_purity_against_every_order(metric: str) -> None:
    points = cloud()
    points[4] = 2 * points[1]  # ties for cosines only
    points[6] = points[5]
    points[7] = points[5]
    found = neighbour_purity(points, GROUPS, metric=metric)
    assert found == pytest.approx(purity(points, GROUPS, metric), abs=1e-12)
    assert found != pytest.approx(neighbour_purity(points.flip(0), GROUPS), abs=1e-3)


def test_a_point_alone_in_its_group_is_left_out() -> None:
    groups = [0, 0, 1, 2, 2, 2, 0, 4]
    found = neighbour_purity(cloud(seed=3), groups)
    assert found == pytest.approx(purity(cloud(seed=3), groups, "cosine"), abs=1e-12)


def test_points_that_coincide_are_worth_chance() -> None:
    """Whatever their order, and however float32 rounds them: a T = 0 register."""
    noise = torch.randn(8, 5, generator=torch.Generator().manual_seed(1)) * 1e-8
    same = torch.ones(8, 5) + noise
    chance = chance_purity(GROUPS)
    assert chance == pytest.approx(fmean([2, 2, 2, 2, 2, 1, 2, 1]) / 7)
    for metric in ("cosine", "euclidean"):
        for order in (GROUPS, sorted(GROUPS)):
            assert neighbour_purity(same, order, metric=metric) == pytest.approx(chance)
            assert silhouette(same, order, metric=metric) == 0
    # Registers that start alike in each video, but not in another: pure, and no luck.
    starts = cloud(3)[torch.tensor(GROUPS).unique(return_inverse=True)[1]]
    assert neighbour_purity(starts.float(), GROUPS) == 1 == silhouette(starts, GROUPS)


def test_random_points_are_worth_chance() -> None:
    groups = np.repeat(np.arange(12), 5)
    found = [neighbour_purity(cloud(60, 7, seed), groups) for seed in range(20)]
    assert chance_purity(groups) == pytest.approx(4 / 59)
    assert fmean(found) == pytest.approx(4 / 59, abs=0.015)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_silhouette_against_loops(metric: str) -> None:
    points, groups, values = cloud(seed=5), [*GROUPS[:-1], 9], []
    for i, own in enumerate(groups):
        mean = {}
        for group in set(groups):
            members = [j for j, g in enumerate(groups) if g == group and j != i]
            if members:
                mean[group] = fmean(
                    distance(points[i], points[j], metric) for j in members
                )
        a = mean.pop(own, None)
        b = min(mean.values())
        values.append(0.0 if a is None else (b - a) / max(a, b))
    found = silhouette(points.numpy(), np.array(groups), metric=metric)
    assert found == pytest.approx(fmean(values), abs=1e-12)


def test_cosine_ignores_length_and_labels_may_be_words() -> None:
    points = cloud(seed=2)
    scaled = points * torch.arange(1, 9)[:, None]
    words = [str(group) for group in GROUPS]
    for score in (neighbour_purity, silhouette):
        assert score(scaled, words) == pytest.approx(score(points, GROUPS))
        far = score(scaled, GROUPS, metric="euclidean")
        assert far != pytest.approx(score(points, GROUPS, metric="euclidean"))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_tsne_keeps_groups_together(metric: str) -> None:
    groups = torch.arange(6).repeat_interleave(7)
    points = 3 * cloud(6, 11)[groups] + 0.3 * cloud(42, 11, seed=1)
    plane = tsne(points, seed=4, metric=metric)
    assert plane.shape == (42, 2) and plane.dtype == np.float32
    assert neighbour_purity(plane, groups, metric="euclidean") > 0.95
    np.testing.assert_array_equal(plane, tsne(points, seed=4, metric=metric))
    if metric == "cosine":  # the length of a point is nothing to it
        scaled = points * 2.0 ** torch.arange(42)[:, None]  # exact: nothing rounds
        np.testing.assert_array_equal(plane, tsne(scaled, seed=4))


POINTS = cloud()
BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: neighbour_purity(POINTS, [1] * 8), "^groups: found 1 for 8 points"),
    (lambda: silhouette(POINTS, range(8)), "^groups: found 8 for 8 points"),
    (lambda: chance_purity([2, 2]), "^groups: found 1 for 2 points, expected at least"),
    (lambda: neighbour_purity(POINTS, GROUPS[1:]), "^groups: found 7 for 8 points"),
    (lambda: neighbour_purity(POINTS[0], GROUPS), r"^points: found shape \(3,\)"),
    (lambda: silhouette(POINTS.log(), GROUPS), "^points: found NaN or infinity in"),
    (lambda: silhouette(POINTS * torch.eye(8)[:, :3], GROUPS), "^points: 3, 4, 5.*no"),
    (lambda: neighbour_purity(POINTS, GROUPS, metric="cosin"), "Did you mean 'cosine'"),
    (lambda: neighbour_purity(POINTS, GROUPS, tolerance=-1), "^tolerance=-1"),
    (lambda: tsne(torch.ones(5, 3)), "^points: all are the same"),
    (lambda: tsne(POINTS, perplexity=8), "^perplexity=8: expected between 0 and 8"),
    (lambda: tsne(POINTS[:3]), "^points: found 3, expected at least 4"),
    (lambda: tsne(POINTS, seed=-1), "^seed=-1"),
    (lambda: drawn(POINTS, GROUPS), r"^points \(8, 3\): expected \(N, 2\)"),
    (lambda: drawn(POINTS[:, :2], GROUPS[1:]), "^groups: found 7 for 8"),
    (lambda: drawn(np.ones((25, 2)), range(25)), "^groups: found 25, expected at most"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[text for _, text in BAD])
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def drawn(points: object, groups: object, spokes: bool = False) -> list[object]:
    """The lines that a scatter of groups is made of."""
    import matplotlib.pyplot as plt

    figure, axes = show.figure(3, 3)
    try:
        show.scatter_groups(axes, points, groups, spokes=spokes)
        figure.canvas.draw()
        assert axes.get_legend() is None and not len(axes.get_xticks())
        return list(axes.lines)
    finally:
        plt.close(figure)


def test_scatter_tells_24_groups_apart_in_grey() -> None:
    points, groups = cloud(48, 2), torch.arange(24).repeat(2)
    lines = drawn(points, groups)
    looks = {(line.get_marker(), line.get_fillstyle()) for line in lines}  # type: ignore[attr-defined]
    assert len(lines) == len(looks) == 24
    for group, line in enumerate(lines):
        expected = points[groups == group].numpy()
        np.testing.assert_array_equal(line.get_xydata(), expected)  # type: ignore[attr-defined]


def test_spokes_meet_in_the_middle() -> None:
    points, groups = cloud(8, 2), np.array(GROUPS)
    spokes = [line for line in drawn(points, groups, True) if line.get_marker() == ""]  # type: ignore[attr-defined]
    assert len(spokes) == 8
    for group in set(GROUPS):
        middle = points.numpy()[groups == group].mean(0)
        meet = [s for s in spokes if np.allclose(s.get_xydata()[0], middle)]  # type: ignore[attr-defined]
        assert len(meet) == GROUPS.count(group)
