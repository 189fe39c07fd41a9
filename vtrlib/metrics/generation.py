"""How far two sets of clips, or of anything with features, are apart as distributions."""

from __future__ import annotations

import torch
from torch import Tensor

from vtrlib import check

__all__ = ["frechet_distance"]


def frechet_distance(a: Tensor, b: Tensor) -> float:
    r"""The squared Fréchet distance of two sets of features, taken as Gaussians.

    $$ d^2 = \|\mu_a - \mu_b\|^2 + \mathrm{tr}\bigl(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2}\bigr) $$

    (Dowson and Landau, 1982; with a network's features the Fréchet inception distance.) It is biased upwards by about
    the number of features over the number of samples: state it beside that of two real sets as large.

    Args:
        a, b: (N, D) and (N', D), at least two samples each.

    Raises:
        TypeError: no tensors. ValueError: other shapes, one sample only, or NaN or infinity.
    """
    known = check.sizes("a", a, "N D")
    check.sizes("b", b, "M D", {"D": known["D"]})
    for name, one in (("a", a), ("b", b)):
        if len(one) < 2:
            raise ValueError(f"{name}: found {len(one)} sample, expected at least 2, for a covariance.")
        if not bool(one.isfinite().all()):
            raise ValueError(f"{name}: found NaN or infinity, expected finite features. Leave such samples out.")
    a, b = a.double(), b.double()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    first, second = (torch.atleast_2d(torch.cov(one.mT)) for one in (a, b))
    # Eigenvalues of a product of two covariances are real and not negative, up to rounding.
    shared = torch.linalg.eigvals(first @ second).real.clamp_min(0).sqrt().sum()
    return float((apart + first.trace() + second.trace() - 2 * shared).clamp_min(0))
