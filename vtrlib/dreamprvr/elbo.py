r"""The evidence lower bound (Eq. 1-3, 7, 18-27), in models that need no bound.

Everything is linear and Gaussian, so that each line of the derivations has an exact
value. In this module Q is a query and q a distribution, as in the paper; $x_t$ is its
$\hat q_t$.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from vtrlib import check
from vtrlib.diffusion import Schedule
from vtrlib.gaussians import Quadratic

__all__ = [
    "Bound",
    "ChainTerms",
    "DiffusionChain",
    "RegisterModel",
    "elbo",
    "estimate",
]


@dataclass(frozen=True, eq=False)
class RegisterModel:
    r"""Video, registers and queries as Eq. 1 joins them, with exact posteriors.

    $$ V \sim \mathcal N(0, I), \quad r \mid V \sim \mathcal N(A V, S), \quad
       Q \mid V, r \sim \mathcal N(W r + U V, s^2 I) $$

    Given V and r, the queries of a video are independent. All tensors are float64.

    Attributes:
        imagine: A, (d, Dv).
        doubt: S, (d, d), positive definite.
        describe: W, (D, d).
        see: U, (D, Dv).
        noise: s > 0.

    Raises:
        ValueError: the shapes do not fit, or s is not positive.
    """

    imagine: Tensor
    doubt: Tensor
    describe: Tensor
    see: Tensor
    noise: float

    def __post_init__(self) -> None:
        known = check.sizes("imagine", self.imagine, "d Dv")
        known = check.sizes("doubt", self.doubt, "d d", known)
        known = check.sizes("describe", self.describe, "D d", known)
        check.sizes("see", self.see, "D Dv", known)
        if not self.noise > 0:
            raise ValueError(f"noise={self.noise}: expected a deviation above 0.")

    @classmethod
    def random(
        cls,
        generator: Generator,
        video: int = 3,
        width: int = 5,
        query: int = 4,
        noise: float = 0.7,
    ) -> RegisterModel:
        """A model with drawn matrices.

        Args:
            generator: decides them.
            video, width, query: Dv, d and D.
            noise: s.
        """
        root = _normal(generator, width, width)
        return cls(
            imagine=_normal(generator, width, video),
            doubt=_isotropic(0.3, width) + root @ root.mT / width,
            describe=_normal(generator, query, width) / width**0.5,
            see=0.5 * _normal(generator, query, video),
            noise=noise,
        )

    def draw(self, generator: Generator, queries: int) -> tuple[Tensor, Tensor]:
        """A video (Dv,) and its queries (M, D), which share their registers."""
        query, video = self.see.shape
        v = _normal(generator, video)
        root = torch.linalg.cholesky(self.doubt)
        r = self.imagine @ v + root @ _normal(generator, len(self.doubt))
        noise = self.noise * _normal(generator, queries, query)
        return v, self.describe @ r + self.see @ v + noise

    def imagination(self, video: Tensor) -> MultivariateNormal:
        r"""$p_\phi(r \mid V)$, of Eq. 1."""
        return MultivariateNormal(self.imagine @ video, self.doubt)

    def concentration(self, query: Tensor, video: Tensor) -> Quadratic:
        r"""$\log p_\theta(Q \mid V, r)$ of Eq. 1, as a function of r."""
        noise = _isotropic(self.noise**2, len(query))
        return Quadratic.residual(self.describe, self.see @ video - query, noise)

    def evidence(self, video: Tensor) -> MultivariateNormal:
        r"""$p_{\theta, \phi}(Q \mid V)$, the integral of Eq. 1.

        $$ \mathcal N(W A V + U V,\, W S W^\top + s^2 I) $$
        """
        mean = (self.describe @ self.imagine + self.see) @ video
        spread = self.describe @ self.doubt @ self.describe.mT
        return MultivariateNormal(mean, spread + _isotropic(self.noise**2, len(mean)))

    def posterior(self, queries: Tensor, video: Tensor) -> MultivariateNormal:
        r"""$p(r \mid Q_1, \dots, Q_M, V)$, for queries (M, D)."""
        total = Quadratic.density(self.imagination(video))
        for query in queries:
            total = total + self.concentration(query, video)
        return total.gaussian()

    def text_posterior(self, queries: Tensor) -> MultivariateNormal:
        r"""$p(r \mid Q_a)$, which has not seen the video, for its queries (M, D)."""
        d, video = self.imagine.shape  # z = (r, V)
        eye = _isotropic(1.0, d + video)
        from_video = torch.cat([eye[:d, :d], -self.imagine], 1)
        describe = torch.cat([self.describe, self.see], 1)
        noise = _isotropic(self.noise**2, len(describe))
        total = Quadratic.residual(from_video, 0 * eye[:d, 0], self.doubt)
        total = total + Quadratic.residual(eye[d:], 0 * eye[d:, 0], eye[d:, d:])
        for query in queries:
            total = total + Quadratic.residual(describe, -query, noise)
        found = total.gaussian()
        return MultivariateNormal(found.mean[:d], found.covariance_matrix[:d, :d])


class Bound(NamedTuple):
    r"""Eq. 24 with what it drops: $\log p(Q \mid V)$ = likelihood − divergence + gap.

    Attributes:
        likelihood: $\mathbb E_{q(r)} \log p(Q \mid V, r)$, ().
        divergence: $\mathrm{KL}(q(r) \| p(r \mid V))$, ().
        gap: $\mathrm{KL}(q(r) \| p(r \mid Q, V))$, ().
    """

    likelihood: Tensor
    divergence: Tensor
    gap: Tensor

    @property
    def value(self) -> Tensor:
        """The ELBO, (): the right of Eq. 2; with the other sign the loss of Eq. 3."""
        return self.likelihood - self.divergence


def elbo(
    model: RegisterModel,
    query: Tensor,
    video: Tensor,
    q: MultivariateNormal,
) -> Bound:
    r"""The terms of Eq. 2 for any Gaussian q over registers.

    Args:
        model: gives both p.
        query: Q, (D,).
        video: V, (Dv,).
        q: $q_\varphi(r \mid Q_a)$, over (d,).
    """
    return Bound(
        likelihood=model.concentration(query, video).expectation(q),
        divergence=kl_divergence(q, model.imagination(video)),
        gap=kl_divergence(q, model.posterior(query[None], video)),
    )


class ChainTerms(NamedTuple):
    r"""A decomposition of the bound on $\log p(x_0)$.

    Attributes:
        reconstruction: $\mathbb E_{q(x_1 \mid x_0)} \log p(x_0 \mid x_1)$, ().
        prior: a KL divergence to $p(x_T)$, ().
        steps: those of single steps, (T − 1,); empty for T = 1.
    """

    reconstruction: Tensor
    prior: Tensor
    steps: Tensor

    @property
    def value(self) -> Tensor:
        """Reconstruction less all divergences, ()."""
        return self.reconstruction - self.prior - self.steps.sum()


@dataclass(frozen=True, eq=False)
class DiffusionChain:
    r"""A reverse process with an affine noise estimator (Eq. 7, 11, 12, 26, 27).

    $$ p(x_{t-1} \mid x_t) = \mathcal N(\mu_\phi(x_t, t), \sigma_t^2 I), \quad
       \epsilon_\phi(x, t) = E_t x + e_t $$

    with $\mu_\phi$ of Eq. 12. All its bounds are exact. The path
    $z = (x_1, \dots, x_T)$ is one vector (T d,). All tensors are float64.

    Attributes:
        schedule: of the forward process, T ≥ 1.
        start: $p(x_T)$, over (d,); DreamPRVR's is $p(r_T \mid V_v)$.
        weight: E, (T, d, d), for t = 1, …, T.
        bias: e, (T, d).
        variance: $\sigma_t^2 > 0$, (T,); without $\sigma_1^2$ there is no density
            $p(x_0 \mid x_1)$.

    Raises:
        ValueError: the shapes do not fit, or a variance is not positive.
    """

    schedule: Schedule
    start: MultivariateNormal
    weight: Tensor
    bias: Tensor
    variance: Tensor

    def __post_init__(self) -> None:
        known = {"T": self.schedule.steps, "d": len(self.start.mean)}
        check.sizes("weight", self.weight, "T d d", known)
        check.sizes("bias", self.bias, "T d", known)
        check.sizes("variance", self.variance, "T", known)
        if not bool((self.variance > 0).all()):
            found = self.variance.tolist()
            raise ValueError(f"variance: found {found}, expected all above 0.")

    @property
    def width(self) -> int:
        """d."""
        return len(self.start.mean)

    def reverse_map(self, t: int) -> tuple[Tensor, Tensor]:
        r"""K (d, d) and k (d,) of $\mu_\phi(x, t) = K x + k$ (Eq. 12)."""
        weight, bias = self.weight[t - 1], self.bias[t - 1]
        matrix = self.schedule.reverse_mean(_isotropic(1.0, self.width), t, weight)
        return matrix, self.schedule.reverse_mean(0 * bias, t, bias)

    def forward_step(self, t: int, x0: Tensor) -> Quadratic:
        r"""$\log q(x_t \mid x_{t-1})$ as a function of the path."""
        beta = self._at("beta", t)
        (now, here), (before, there) = self._state(t, x0), self._state(t - 1, x0)
        matrix = now - (1 - beta) ** 0.5 * before
        offset = here - (1 - beta) ** 0.5 * there
        return Quadratic.residual(matrix, offset, _isotropic(beta, self.width))

    def reverse_step(self, t: int, x0: Tensor) -> Quadratic:
        r"""$\log p(x_{t-1} \mid x_t)$ as a function of the path."""
        k, shift = self.reverse_map(t)
        (now, here), (before, there) = self._state(t, x0), self._state(t - 1, x0)
        matrix, offset = before - k @ now, there - k @ here - shift
        return Quadratic.residual(matrix, offset, self._noise(t))

    def path(self, x0: Tensor) -> Quadratic:
        r"""$\log q(x_{1:T} \mid x_0)$."""
        total = self.forward_step(1, x0)
        for t in range(2, self.schedule.steps + 1):
            total = total + self.forward_step(t, x0)
        return total

    def joint(self, x0: Tensor) -> Quadratic:
        r"""$\log p(x_{0:T})$ as a function of the path (Eq. 11)."""
        total = self._log_start(x0)
        for t in range(1, self.schedule.steps + 1):
            total = total + self.reverse_step(t, x0)
        return total

    def generated(self) -> MultivariateNormal:
        r"""$p(x_0)$, what the reverse process generates, step by step."""
        mean, covariance = self.start.mean, self.start.covariance_matrix
        for t in range(self.schedule.steps, 0, -1):
            k, shift = self.reverse_map(t)
            mean, covariance = k @ mean + shift, k @ covariance @ k.mT + self._noise(t)
        return MultivariateNormal(mean, covariance)

    def bound(self, x0: Tensor) -> Tensor:
        r"""Eq. 7, first line: the mean of $\log \frac{p(x_{0:T})}{q(x_{1:T}
        \mid x_0)}$ over paths from $q(x_{1:T} \mid x_0)$, ()."""
        path = self.path(x0)
        return (self.joint(x0) - path).expectation(path.gaussian())

    def gap(self, x0: Tensor) -> Tensor:
        r"""$\log p(x_0)$ less the bound, ():
        $\mathrm{KL}(q(x_{1:T} \mid x_0) \| p(x_{1:T} \mid x_0))$."""
        return kl_divergence(self.path(x0).gaussian(), self.joint(x0).gaussian())

    def reconstruction(self, x0: Tensor) -> Tensor:
        r"""$\mathbb E_{q(x_1 \mid x_0)} \log p(x_0 \mid x_1)$ (Eq. 7 and 26), ()."""
        return self.reverse_step(1, x0).expectation(self.path(x0).gaussian())

    def matching(self, x0: Tensor) -> ChainTerms:
        r"""The three terms of Eq. 26.

        Prior: $\mathrm{KL}(q(x_T \mid x_0) \| p(x_T))$; steps, for t = 2, …, T:

        $$ \mathbb E_{q(x_t \mid x_0)} \mathrm{KL}(q(x_{t-1} \mid x_t, x_0) \|
           p(x_{t-1} \mid x_t)) $$
        """
        last = self.schedule.steps
        mean, noise = self._at("signal", last) * x0, self._at("noise", last)
        end = MultivariateNormal(mean, _isotropic(noise**2, self.width))
        prior = kl_divergence(end, self.start)
        steps = [self._denoising(t, x0) for t in range(2, last + 1)]
        return ChainTerms(self.reconstruction(x0), prior, _stack(steps))

    def consistency(self, x0: Tensor) -> ChainTerms:
        r"""The three terms of Eq. 7 as printed; their sum is *not* `bound`.

        Prior: $\mathbb E_{q(x_{T-1} \mid x_0)} \mathrm{KL}(q(x_T \mid x_{T-1}) \|
        p(x_T))$; steps, for t = 1, …, T − 1:

        $$ \mathbb E_{q(x_{t-1}, x_{t+1} \mid x_0)} \mathrm{KL}(q(x_t \mid x_{t-1}) \|
           p(x_t \mid x_{t+1})) $$

        In the forward process $x_{t+1}$ is made from $x_t$, which this KL forgets.
        """
        last, under = self.schedule.steps, self.path(x0).gaussian()
        ratio = self.forward_step(last, x0) - self._log_start(x0)
        steps = [self._consistent(t, x0, under) for t in range(1, last)]
        prior = ratio.expectation(under)
        return ChainTerms(self.reconstruction(x0), prior, _stack(steps))

    def noise_error(self, x0: Tensor) -> Tensor:
        r"""$\mathbb E_\epsilon \|\epsilon - \epsilon_\phi(x_t, t)\|^2$ for
        t = 1, …, T (Eq. 13 and 27), (T,)."""
        bar = self.schedule.alpha_bar[1:, None]
        off = bar.sqrt() * (self.weight @ x0) + self.bias
        unseen = (1 - bar).sqrt()[..., None] * self.weight
        left = _isotropic(1.0, self.width) - unseen
        return (off**2).sum(-1) + (left**2).sum((-1, -2))

    def noise_weight(self) -> Tensor:
        r"""What Eq. 27 drops, for t = 1, …, T, (T,).

        $$ w_t = \frac{\beta_t^2}{2 \sigma_t^2 \alpha_t (1 - \bar\alpha_t)} $$
        """
        beta, bar = self.schedule.beta, self.schedule.alpha_bar[1:]
        return beta**2 / (2 * self.variance * (1 - beta) * (1 - bar))

    def variance_cost(self) -> Tensor:
        r"""What a step costs for its variance alone, for t = 2, …, T, (T − 1,).

        $$ c_t = \frac d2 (\rho_t - 1 - \log \rho_t), \quad
           \rho_t = \tilde\beta_t / \sigma_t^2 $$

        The steps of `matching` are `noise_weight` · `noise_error` plus this.
        """
        times = range(2, self.schedule.steps + 1)
        posterior = self.variance.new_tensor([self._at("variance", t) for t in times])
        rho = posterior / self.variance[1:]
        return 0.5 * self.width * (rho - 1 - rho.log())

    def _denoising(self, t: int, x0: Tensor) -> Tensor:
        """A step of `matching`: both means are affine in x_t, so is what parts them."""
        k, shift = self.reverse_map(t)
        slope = _isotropic(self._at("from_xt", t), self.width) - k
        mean = slope @ (self._at("signal", t) * x0) + self._at("from_x0", t) * x0
        spread = self._at("noise", t) ** 2 * (slope**2).sum()
        square = ((mean - shift) ** 2).sum() + spread
        return square / (2 * self.variance[t - 1]) + self.variance_cost()[t - 2]

    def _consistent(self, t: int, x0: Tensor, under: MultivariateNormal) -> Tensor:
        """A step of `consistency`, over both neighbours of x_t."""
        beta, variance, d = self._at("beta", t), self.variance[t], self.width
        keep, (k, shift) = (1 - beta) ** 0.5, self.reverse_map(t + 1)
        (before, there), (after, _) = self._state(t - 1, x0), self._state(t + 1, x0)
        matrix, offset = keep * before - k @ after, keep * there - shift
        apart = Quadratic.residual(matrix, offset, self._noise(t + 1))
        entropy = 0.5 * d * (1 + math.log(2 * math.pi * beta))
        return 0.5 * d * beta / variance - apart.expectation(under) - entropy

    def _log_start(self, x0: Tensor) -> Quadratic:
        """log p(x_T) as a function of the path."""
        matrix, offset = self._state(self.schedule.steps, x0)
        start = self.start
        return Quadratic.residual(matrix, offset - start.mean, start.covariance_matrix)

    def _state(self, t: int, x0: Tensor) -> tuple[Tensor, Tensor]:
        """x_t as an affine function of the path: (d, T d) and (d,)."""
        d = self.width
        matrix = x0.new_zeros(d, self.schedule.steps * d)
        if t == 0:
            return matrix, x0
        matrix[:, (t - 1) * d : t * d] = _isotropic(1.0, d)
        return matrix, torch.zeros_like(x0)

    def _noise(self, t: int) -> Tensor:
        return _isotropic(float(self.variance[t - 1]), self.width)

    def _at(self, name: str, t: int) -> float:
        return float(self.schedule.at(name, t, self.bias))


def estimate(schedule: Schedule, target: MultivariateNormal) -> tuple[Tensor, Tensor]:
    r"""The best estimator there is, $\mathbb E[\epsilon \mid x_t] = E_t x_t + e_t$.

    $$ E_t = \sqrt{1 - \bar\alpha_t}\, (\bar\alpha_t C + (1 - \bar\alpha_t) I)^{-1},
       \quad e_t = -\sqrt{\bar\alpha_t}\, E_t m $$

    Args:
        schedule: T steps.
        target: $x_0 \sim \mathcal N(m, C)$, over (d,).

    Returns:
        E (T, d, d) and e (T, d).
    """
    bar = schedule.alpha_bar[1:, None, None]
    noise = (1 - bar) * _isotropic(1.0, len(target.mean))
    precision = torch.linalg.inv(bar * target.covariance_matrix + noise)
    weight = (1 - bar).sqrt() * precision
    return weight, -bar[..., 0].sqrt() * (weight @ target.mean)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _isotropic(variance: float, width: int) -> Tensor:
    return variance * torch.eye(width, dtype=torch.float64)


def _stack(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms) if terms else torch.zeros(0, dtype=torch.float64)
