"""Gaussians as quadratic forms: products, integrals and expectations, all exact.

What `torch.distributions` has for a single Gaussian (density, entropy, KL) is taken
from there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vtrlib import check

__all__ = ["Quadratic"]


@dataclass(frozen=True, eq=False)
class Quadratic:
    r"""The log of a Gaussian density, or of a product or ratio of several.

    $$ f(z) = c + h^\top z - \frac12 z^\top \Lambda z $$

    Sums of logs are products of densities, differences are ratios; both stay quadratic.

    Attributes:
        precision: $\Lambda$, (d, d), symmetric; need not be positive.
        linear: h, (d,).
        constant: c, ().

    Raises:
        ValueError: the shapes do not fit.
    """

    precision: Tensor
    linear: Tensor
    constant: Tensor

    def __post_init__(self) -> None:
        known = check.sizes("linear", self.linear, "d")
        check.sizes("precision", self.precision, "d d", known)

    @classmethod
    def residual(cls, matrix: Tensor, offset: Tensor, covariance: Tensor) -> Quadratic:
        r"""$z \mapsto \log \mathcal N(A z + b;\, 0, C)$.

        Args:
            matrix: A, (D, d).
            offset: b, (D,).
            covariance: C, (D, D), positive definite.
        """
        known = check.sizes("matrix", matrix, "D d")
        known = check.sizes("offset", offset, "D", known)
        check.sizes("covariance", covariance, "D D", known)
        whitened = torch.linalg.solve(covariance, matrix)
        centred = MultivariateNormal(torch.zeros_like(offset), covariance)
        at_zero = centred.log_prob(offset)  # type: ignore[no-untyped-call]
        return cls(matrix.mT @ whitened, -(whitened.mT @ offset), at_zero)

    @classmethod
    def density(cls, gaussian: MultivariateNormal) -> Quadratic:
        r"""$z \mapsto \log \mathcal N(z; m, C)$."""
        return cls.residual(
            torch.eye(len(gaussian.mean), dtype=gaussian.mean.dtype),
            -gaussian.mean,
            gaussian.covariance_matrix,
        )

    def __call__(self, z: Tensor) -> Tensor:
        """f(z): (..., d) to (...)."""
        square = torch.einsum("...i,ij,...j", z, self.precision, z)
        return self.constant + z @ self.linear - 0.5 * square

    def __add__(self, other: Quadratic) -> Quadratic:
        return Quadratic(
            self.precision + other.precision,
            self.linear + other.linear,
            self.constant + other.constant,
        )

    def __sub__(self, other: Quadratic) -> Quadratic:
        return self + Quadratic(-other.precision, -other.linear, -other.constant)

    def gaussian(self) -> MultivariateNormal:
        r"""The density $e^{f(z)} / \int e^{f}$.

        Raises:
            ValueError: $\Lambda$ is not positive definite: the integral diverges.
        """
        precision = (self.precision + self.precision.mT) / 2  # against rounding
        factor, failed = torch.linalg.cholesky_ex(precision)
        if failed:
            lowest = float(torch.linalg.eigvalsh(precision)[0])
            raise ValueError(
                f"precision: found the eigenvalue {lowest:.3g}, expected all above 0. "
                "This is the log of no density: its integral diverges."
            )
        mean = torch.cholesky_solve(self.linear[:, None], factor)[:, 0]
        return MultivariateNormal(mean, precision_matrix=precision)

    def integral(self) -> Tensor:
        r"""$\log \int e^{f(z)}\, dz$, (), by completing the square.

        Raises:
            ValueError: it diverges.
        """
        mean = self.gaussian().mean
        log_volume = len(mean) * math.log(2 * math.pi) - torch.logdet(self.precision)
        return self(mean) + 0.5 * log_volume

    def expectation(self, under: MultivariateNormal) -> Tensor:
        r"""$\mathbb E f(z)$ for $z \sim \mathcal N(m, C)$, (): $f(m) - \frac12
        \mathrm{tr}(\Lambda C)$."""
        trace = (self.precision * under.covariance_matrix).sum()
        return self(under.mean) - 0.5 * trace
