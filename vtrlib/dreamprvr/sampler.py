"""The probabilistic variational sampler: where a video lets generation start."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtrlib.dreamprvr.config import Config
from vtrlib.similarity import unit

__all__ = [
    "Gaussian", "LinearSampler", "PooledSampler", "divergence", "sinusoids",
    "variational_sampler",
]  # fmt: skip


class Gaussian(NamedTuple):
    r"""$p(r_T \mid V_v) = \mathcal N(\mu, \sigma^2 I)$ (Eq. 8).

    Attributes:
        mean: (B, d), of length 1.
        log_variance: (B, d), $\log \sigma^2$.
    """

    mean: Tensor
    log_variance: Tensor

    def start(self, registers: int, noise: Tensor | None = None) -> Tensor:
        r"""$r_T = \mu + \sigma \epsilon$ (Eq. 9), or without noise $r_T = \mu$.

        Args:
            registers: N_r.
            noise: ε, (B, N_r, d).

        Returns:
            (B, N_r, d).
        """
        mean = self.mean[:, None].expand(-1, registers, -1)
        sigma = (0.5 * self.log_variance).exp()[:, None]
        return mean if noise is None else mean + sigma * noise


def divergence(start: Gaussian) -> Tensor:
    r"""$\mathcal L_{KL}$, how far the start is from $\mathcal N(0, I)$ (§3.3).

    $$ \mathrm{KL}(\mathcal N(\mu, \sigma^2 I) \| \mathcal N(0, I))
       = \tfrac12 \sum_d (\mu^2 + \sigma^2 - 1 - \log \sigma^2) $$

    and the mean over videos, (); at least ½, since μ has length 1.
    """
    terms = start.mean**2 + start.log_variance.exp() - 1 - start.log_variance
    return 0.5 * terms.sum(-1).mean()


class LinearSampler(nn.Module):
    r"""The paper's heads: $\mu$ by layer, norm, length 1; $\sigma$ by a layer (§3.3).

    The text leaves open how N_v vectors become one, here their mean, and how $\sigma$
    stays positive, here by a softplus.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.mean, self.deviation = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, video: Tensor) -> Gaussian:
        """V_v (B, M_c, d) to its distribution."""
        pooled = video.mean(1)
        deviation = F.softplus(self.deviation(pooled)).clamp(min=1e-6)
        return Gaussian(unit(self.norm(self.mean(pooled))), 2 * deviation.log())


class PooledSampler(nn.Module):
    r"""The released heads, those of PCME over a learned pooling.

    $$ \mu = \frac{x}{\|x\|}, \; x = \mathrm{LN}(g + \mathrm{sigmoid}(W r)); \qquad
       \log \sigma^2 = W' r' + W'' g $$

    where g pools each channel sorted, and r, r' pool by attention.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.pool = SortedPooling(config.clips, config.pool_width)
        self.mean_attention = AttentionPooling(width)
        self.variance_attention = AttentionPooling(width)
        self.mean, self.variance, self.variance_pooled = (
            nn.Linear(width, width) for _ in range(3)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, video: Tensor) -> Gaussian:
        """V_v (B, M_c, d) to its distribution."""
        pooled = self.pool(video)
        mean = self.norm(pooled + self.mean(self.mean_attention(video)).sigmoid())
        log_variance = self.variance(self.variance_attention(video))
        return Gaussian(unit(mean), log_variance + self.variance_pooled(pooled))


def variational_sampler(config: Config) -> LinearSampler | PooledSampler:
    """The heads of a reading."""
    linear = config.reading.heads == "linear"
    return LinearSampler(config) if linear else PooledSampler(config)


class AttentionPooling(nn.Module):
    r"""$\sum_i a_i v_i$ with $a = \mathrm{softmax}_i(w_2^\top \tanh(W_1 v_i))$."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width // 2, bias=False)
        self.outer = nn.Linear(width // 2, 1, bias=False)

    def weights(self, video: Tensor) -> Tensor:
        """(B, M_c, 1)."""
        weights: Tensor = self.outer(self.inner(video).tanh()).softmax(1)
        return weights

    def forward(self, video: Tensor) -> Tensor:
        """(B, M_c, d) to (B, d)."""
        return (self.weights(video) * video).sum(1)


class SortedPooling(nn.Module):
    r"""Generalised pooling: $\sum_k \pi_k \cdot$ a channel's k-th largest value.

    The weights π come from a recurrent net over a code of the positions 0, …, M_c − 1.
    All videos have as many clips, so π depends on parameters only and is computed once
    for all of them.
    """

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.logit = nn.Linear(width, 1, bias=False)
        self.code: Tensor
        code = sinusoids(torch.arange(length), width)[None]
        self.register_buffer("code", code, persistent=False)

    def weights(self) -> Tensor:
        """π, (M_c,), which sum to 1."""
        states = self.recurrent(self.code)[0].unflatten(-1, (2, -1)).mean(-2)
        weights: Tensor = (self.logit(states).flatten() / 0.1).softmax(0)
        return weights

    def forward(self, video: Tensor) -> Tensor:
        """(B, M_c, d) to (B, d)."""
        ordered = video.sort(dim=1, descending=True).values
        return torch.einsum("l,bld->bd", self.weights().to(video.dtype), ordered)


def sinusoids(places: Tensor, width: int) -> Tensor:
    r"""A fixed code of numbers: $\sin(k \omega_j)$ at 2j, $\cos(k \omega_j)$ beside.

    $$ \omega_j = 10000^{-2j/d} $$

    Args:
        places: (L,), any numbers k.
        width: d.

    Returns:
        (L, d), float32.
    """
    even = torch.arange(0, width, 2, dtype=torch.float64)
    rate = torch.exp(even * (-math.log(1e4) / width))
    angle = places[:, None].double() * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width].float()
