"""Textual semantic structure: the query branch, what shapes its space, its sampler."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtrlib.dreamprvr.config import Config
from vtrlib.dreamprvr.draws import normal
from vtrlib.dreamprvr.layers import (
    AttentionBlock,
    InputProjection,
    PositionCode,
    key_bias,
)
from vtrlib.losses import info_nce
from vtrlib.similarity import cosine

__all__ = [
    "QueryEncoder", "diversity", "mean_queries", "perturb",
    "query_similarity_preservation", "same_video",
]  # fmt: skip


class QueryEncoder(nn.Module):
    r"""Words to one embedding: layer, positions, Transformer block, pooling (§3.2).

    $$ q = \sum_l a_l Q_l, \quad a = \mathrm{softmax}_l(w^\top Q_l) $$

    over the words l.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.project = InputProjection(
            config.text_width, config.width, config.input_dropout
        )
        self.position = PositionCode(config.words, config.width, config.input_dropout)
        self.block = AttentionBlock(config.width, config.heads, config.dropout)
        self.pool = nn.Linear(config.width, 1, bias=False)

    def states(self, words: Tensor, mask: Tensor) -> Tensor:
        """(N, L, d), of every word."""
        x = self.position(self.project(words))
        states: Tensor = self.block(x, bias=key_bias(mask, x.dtype))
        return states

    def weights(self, states: Tensor, mask: Tensor) -> Tensor:
        """(N, L), of the words in the sum; padding has none."""
        logits = self.pool(states).squeeze(-1)
        wide = torch.promote_types(logits.dtype, torch.float32)  # room for −10¹⁰
        logits = logits.to(wide)
        weights: Tensor = logits.masked_fill(~mask, -1e10).softmax(-1)
        return weights

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Words (N, L, Dq) and their mask (N, L), bool, to queries (N, d)."""
        states = self.states(words, mask)
        weights = self.weights(states, mask).to(states.dtype)
        return torch.einsum("nl,nld->nd", weights, states)


def same_video(labels: Tensor) -> Tensor:
    """Which two different queries share a video: labels (N,) to (N, N), bool."""
    pairs = labels[:, None] == labels
    return pairs & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def query_similarity_preservation(
    queries: Tensor, labels: Tensor, temperature: float = 0.01, *, itself: bool = False
) -> Tensor:
    r"""Queries of a video attract each other (QSP, Eq. 4).

    $$ \mathcal L_{qsp} = -\frac{1}{|V(i)|} \sum_{j \in V(i)} \log
       \frac{e^{\cos(q_i, q_j)/\tau}}{\sum_{k \in \Theta} e^{\cos(q_i, q_k)/\tau}} $$

    where V(i) are the other queries of $q_i$'s video; the mean over queries that have
    one. Where none has one the loss is undefined: it is 0, and so is its gradient.

    Args:
        queries: (N, d).
        labels: (N,), the video of each.
        temperature: τ.
        itself: Θ holds $q_i$ too ("all query indices"); the code leaves it out.

    Returns:
        (), ≥ 0.
    """
    similarity = cosine(queries, queries)
    if not itself:
        diagonal = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
        similarity = similarity.masked_fill(diagonal, -torch.inf)
    return info_nce(
        similarity, same_video(labels), scale=1 / temperature, several="averaged",
        directions="rows",
    )  # fmt: skip


def diversity(
    queries: Tensor, labels: Tensor, *, omega: float = 32.0, delta: float = 0.2,
    exponent: float = 1.0, over: str = "videos",
) -> Tensor:  # fmt: skip
    r"""Queries of a video keep a distance (Eq. 34).

    $$ \ell(i, j) = (1 + \cos(q_i, q_j))
       \log(1 + e^{\omega (\cos(q_i, q_j) + \delta)}) $$

    Args:
        queries: (N, d).
        labels: (N,), the video of each.
        omega, delta: ω, δ.
        exponent: of the first factor.
        over: "videos": $\frac{2}{M_q (M_q - 1)} \sum_{i \ne j} \ell$ of each video with
            $M_q \ge 2$ queries, and their mean; "queries": the sum over all ordered
            pairs over N, as released.

    Returns:
        (), ≥ 0; 0 where no video has two queries.
    """
    cosines, pairs = cosine(queries, queries), same_video(labels)
    first, second = (1 + cosines).clamp(min=0), F.softplus(omega * (cosines + delta))
    loss = (first**exponent * second).where(pairs, 0)
    if over == "queries":
        return loss.sum() / len(queries)
    others = pairs.sum(1).to(loss.dtype)  # M_q − 1, of every query
    several = others > 0
    videos = (several / (others + 1)).sum()  # with two queries or more
    each = 2 * loss.sum(1) / ((others + 1) * others).clamp(min=1)
    return each.sum() / videos.clamp(min=1)


def mean_queries(queries: Tensor, labels: Tensor, videos: int) -> Tensor:
    r"""$\bar q_v$, the mean of each video's queries: (N, d) to (B, d); 0 of none."""
    owner = labels == torch.arange(videos, device=labels.device)[:, None]  # (B, N)
    total = owner.to(queries.dtype) @ queries
    return total / owner.sum(1, keepdim=True).clamp(min=1)


def perturb(
    mean: Tensor, registers: int, scale: float = 0.1, alpha: Tensor | None = None,
    beta: Tensor | None = None, generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    r"""Targets for the registers around a video's mean query (TPS, Eq. 6).

    $$ \hat q = \alpha \tilde q + \beta, \quad
       \alpha \sim \mathcal N(1, (\gamma \sigma_q)^2),
       \quad \beta \sim \mathcal N(\mu_q, (\gamma \sigma_q)^2), \quad
       \tilde q = (\bar q - \mu_q) / \sigma_q $$

    $\mu_q$, $\sigma_q$ are taken over the d channels; the draws carry no gradient, so
    it reaches the text through $\tilde q$ alone.

    Args:
        mean: (B, d), $\bar q$.
        registers: N_r, draws for each video.
        scale: γ.
        alpha, beta: (B, N_r, d), standard normal; drawn by default.
        generator: decides the draws.

    Returns:
        (B, N_r, d).
    """
    shape = (len(mean), registers, mean.shape[-1])
    # Whitened with the biased variance plus 1e-5, perturbed by the unbiased one.
    whitened = F.layer_norm(mean, mean.shape[-1:])[:, None]
    still = mean.detach()[:, None]
    mu, sigma = still.mean(-1, keepdim=True), still.std(-1, keepdim=True)
    alpha = 1 + scale * sigma * normal(alpha, shape, still, generator)
    beta = mu + scale * sigma * normal(beta, shape, still, generator)
    return alpha * whitened + beta
