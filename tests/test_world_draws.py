"""Named draws: reproducible, independent of order, and fair."""

import numpy as np
from scipy.stats import chisquare, pearsonr

from vtrlib.world.draws import Draws


def test_a_draw_depends_on_its_name_and_key_alone():
    one = Draws.of("x", 3)
    before = one.bits("colour")
    one.bits("digit"), one.below("motion", 8)
    assert one.bits("colour") == before == Draws.of("x", 3).bits("colour")
    assert (
        len({int(d.bits(n)) for d in (one, Draws.of("x", 4), Draws.of("y", 3), Draws.of("x", 3, 0)) for n in "ab"}) == 8
    )


def test_arrays_of_keys_draw_what_single_keys_draw():
    index = np.array([[5, 0, 7], [2, 5, 1]])
    base = Draws.of("items")
    together = base.each(index).slots(4).below("n", 11)
    assert together.shape == (2, 3, 4)
    for place in np.ndindex(2, 3):
        assert (together[place] == base.each(index[place]).slots(4).below("n", 11)).all()
    assert (together[0, 0] == together[1, 1]).all()


def test_uniform_and_weighted_draws_are_fair():
    keys = Draws.of("fair").each(np.arange(60_000))
    for n in (2, 7, 10):
        assert chisquare(np.bincount(keys.below(f"die {n}", n), minlength=n)).pvalue > 1e-3
    weights = np.array([3, 0, 5, 2])
    counts = np.bincount(keys.weighted("w", weights), minlength=4)
    assert counts[1] == 0
    assert chisquare(counts[[0, 2, 3]], 60_000 * weights[[0, 2, 3]] / 10).pvalue > 1e-3


def test_weights_broadcast_per_item():
    keys = Draws.of("rows").each(np.arange(3)).slots(500)
    drawn = keys.weighted("w", np.eye(3, dtype=int)[:, None])
    assert (drawn == np.arange(3)[:, None]).all()


def test_neighbouring_keys_and_names_are_uncorrelated():
    keys = Draws.of("pairs").each(np.arange(20_000))
    a, b = keys.below("a", 1000), keys.below("b", 1000)
    assert abs(pearsonr(a, b).statistic) < 0.03
    assert abs(pearsonr(a[1:], a[:-1]).statistic) < 0.03


def test_numbers_are_frozen():
    """A change of the hash would change the world without a new WORLD_VERSION."""
    assert Draws.of("moving digits", 1).each(np.arange(3)).below("scene", 1_000_000).tolist() == [
        945168,
        717825,
        582841,
    ]
