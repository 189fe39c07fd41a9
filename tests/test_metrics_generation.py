"""Fréchet distance, against scipy's matrix square root and closed forms."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from vtrlib.metrics import frechet_distance


def sets(first: int, second: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=draws, dtype=torch.float64)
    a = torch.randn(first, width, generator=draws, dtype=torch.float64)
    return a, 1 + torch.randn(second, width, generator=draws, dtype=torch.float64) @ mix


@pytest.mark.parametrize(("first", "second", "width"), [(40, 23, 5), (7, 9, 1), (4, 31, 6)])
def test_against_a_matrix_square_root(first: int, second: int, width: int) -> None:
    a, b = sets(first, second, width)
    means = ((a.mean(0) - b.mean(0)) ** 2).sum().item()
    one, two = (np.atleast_2d(np.cov(x.numpy(), rowvar=False)) for x in (a, b))
    expected = means + np.trace(one + two - 2 * np.real(sqrtm(one @ two)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(a.float(), b.float()) == pytest.approx(expected, rel=1e-4)


def test_closed_forms() -> None:
    a, _ = sets(30, 2, 4)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    shift = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    assert frechet_distance(a, a + shift) == pytest.approx(float((shift**2).sum()), rel=1e-8)
    about = a - a.mean(0)  # of three times the spread: tr(Σ + 9Σ − 6Σ)
    assert frechet_distance(about, 3 * about) == pytest.approx(4 * float(about.var(0).sum()), rel=1e-8)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), "a: found 1 sample"),
        (torch.zeros(4, 3), torch.zeros(4, 2), "b"),
        (torch.zeros(4, 3), torch.full((4, 3), torch.nan), "b: found NaN"),
        (torch.zeros(4), torch.zeros(4, 3), "a"),
    ],
)
def test_what_is_wrong_is_named(a: torch.Tensor, b: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        frechet_distance(a, b)
