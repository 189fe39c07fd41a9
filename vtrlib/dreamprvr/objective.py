"""Similarity (Eq. 16-17), the losses on it (Eq. 31-33), and the total (Eq. 15)."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from vtrlib.diffusion import Schedule
from vtrlib.dreamprvr.config import Config, Weights
from vtrlib.dreamprvr.draws import Draws, Negatives, normal, places
from vtrlib.dreamprvr.registers import (
    DiffusionRegisterEstimator,
    forward_diffusion_loss,
)
from vtrlib.dreamprvr.sampler import divergence
from vtrlib.dreamprvr.text_space import (
    diversity,
    mean_queries,
    perturb,
    query_similarity_preservation,
)
from vtrlib.dreamprvr.video import Imagined, Videos
from vtrlib.losses import info_nce, triplet
from vtrlib.similarity import max_similarity, unit

__all__ = [
    "Losses", "Scores", "contrast", "generation_losses", "ranking", "retrieval_losses",
    "similarity", "textual_losses", "total",
]  # fmt: skip


class Scores(NamedTuple):
    """Scores of queries and videos, each (N, V): of both branches, and fused."""

    fused: Tensor
    clip: Tensor
    frame: Tensor


class Losses(NamedTuple):
    """The terms of Eq. 15 before their weights, and their weighted sum; each ()."""

    total: Tensor
    clip_nce: Tensor
    frame_nce: Tensor
    clip_triplet: Tensor
    frame_triplet: Tensor
    diversity: Tensor
    qsp: Tensor
    kl: Tensor
    dre: Tensor


def similarity(
    queries: Tensor, videos: Videos, config: Config, *, cosine: bool = True
) -> Scores:
    r"""Scores of all queries with all videos (Eq. 16-17).

    $$ S_f = \max_i \cos(q, f_i), \quad S_c = \max_i \cos(q, c_i), \quad
       S = \alpha_f S_f + \alpha_c S_c $$

    Args:
        queries: (N, d).
        videos: V of them.
        config: shares, and whether padding takes part in the maximum over frames.
        cosine: otherwise dot products.

    Returns:
        (N, V) each.
    """
    mask = videos.mask if config.reading.padding == "hidden" else None
    clips, frames = videos.clips, videos.frames
    if cosine:
        queries, clips, frames = unit(queries), unit(clips), unit(frames)
    clip, frame = max_similarity(queries, clips), max_similarity(queries, frames, mask)
    return Scores(config.clip_share * clip + config.frame_share * frame, clip, frame)


def contrast(cosines: Tensor, products: Tensor, positives: Tensor, form: str) -> Tensor:
    r"""$\mathcal L^{nce}$, both directions added (Eq. 32).

    Args:
        cosines, products: (N, V), of one branch.
        positives: (N, V), bool.
        form: "cosine": for each pair, its score against the negatives, mean over pairs;
            "product": plain dot products, a video's queries summed, mean over queries
            and over videos. Both take exponentials, without a temperature.
    """
    if form == "cosine":
        return info_nce(cosines, positives, several="each", directions="sum")
    return info_nce(products, positives, several="summed", directions="sum")


def ranking(
    cosines: Tensor, positives: Tensor, config: Config, *, hard: bool = False,
    negatives: Negatives | None = None, generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    r"""$\mathcal L^{trip}$, both directions added (Eq. 31).

    Args:
        cosines: (N, V), of one branch.
        positives: (N, V), bool.
        config: margin, pool and reading.
        hard: negatives are the hardest query of each video, and for each query a video
            among its `config.hard_pool` hardest; otherwise any, uniformly.
        negatives: their places; drawn by default.
        generator: decides the draws.
    """
    given = negatives or Negatives()
    several = "each" if config.reading.averages == "printed" else "averaged"
    wrong, pools = ~positives, (config.hard_pool, 1) if hard else (None, None)
    videos = places(given.videos, wrong.sum(1), pools[0], generator)
    queries = places(given.queries, wrong.sum(0), pools[1], generator)
    loss = functools.partial(triplet, margin=config.margin, several=several)
    forth = loss(cosines, positives, draws=videos)
    return forth + loss(cosines.mT, positives.mT, draws=queries)


def retrieval_losses(
    queries: Tensor, videos: Videos, labels: Tensor, config: Config, *,
    hard: bool = False, draws: Draws | None = None, generator: Generator | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    r"""The terms of $\mathcal L_{sim}$ (Eq. 33): InfoNCE and triplet of both branches.

    Args:
        queries: (N, d).
        videos: B of them.
        labels: (N,), the place of each query's video.
        config: settings and reading.
        hard, draws, generator: of the negatives, see `ranking`.
    """
    draws, reading = draws or Draws(), config.reading
    videos_there = torch.arange(len(videos.clips), device=labels.device)
    positives = labels[:, None] == videos_there
    cosines = products = similarity(queries, videos, config)
    if reading.nce == "product":
        products = similarity(queries, videos, config, cosine=False)
    rank = functools.partial(
        ranking, positives=positives, config=config, hard=hard, generator=generator
    )
    return {
        "clip_nce": contrast(cosines.clip, products.clip, positives, reading.nce),
        "frame_nce": contrast(cosines.frame, products.frame, positives, reading.nce),
        "clip_triplet": rank(cosines.clip, negatives=draws.clip),
        "frame_triplet": rank(cosines.frame, negatives=draws.frame),
    }


def textual_losses(
    queries: Tensor, labels: Tensor, config: Config
) -> dict[str, Tensor]:
    r"""The terms of $\mathcal L_{tssl}$ (Eq. 5): diversity and QSP.

    Args:
        queries: (N, d).
        labels: (N,), the video of each.
        config: settings and reading.
    """
    printed = config.reading.averages == "printed"
    return {
        "diversity": diversity(
            queries, labels, omega=config.omega, delta=config.delta,
            exponent=config.exponent, over="videos" if printed else "queries",
        ),
        "qsp": query_similarity_preservation(
            queries, labels, config.temperature, itself=printed
        ),
    }  # fmt: skip


def generation_losses(
    estimator: DiffusionRegisterEstimator, imagined: Imagined, queries: Tensor,
    labels: Tensor, schedule: Schedule, config: Config, *,
    draws: Draws | None = None, generator: Generator | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    r"""$\mathcal L_{KL}$ and $\mathcal L_{dre}$, with targets from queries (Eq. 13).

    Args:
        estimator: $\epsilon_\phi$.
        imagined: where generation starts, and its guidance, of B videos.
        queries: (N, d), of which `perturb` makes targets.
        labels: (N,), the place of each query's video.
        schedule: T steps.
        config: settings and reading.
        draws, generator: of the perturbation and of the forward noise.
    """
    draws, mu, number = draws or Draws(), imagined.start.mean, config.registers
    mean = mean_queries(queries, labels, len(mu))
    target = perturb(
        mean, number, config.perturbation, draws.alpha, draws.beta, generator
    )
    shape = (schedule.steps, *target.shape)
    if config.reading.forward_noise == "mean":
        noise = mu[:, None].expand(shape)
    else:
        noise = normal(draws.forward, shape, target, generator)
    dre = forward_diffusion_loss(
        estimator, target, imagined.guidance, schedule, noise, config.reading.dre_loss
    )
    return {"kl": divergence(imagined.start), "dre": dre}


def total(terms: dict[str, Tensor], weights: Weights) -> Losses:
    r"""$\mathcal L_{total}$, the terms' weighted sum (Eq. 15, 33)."""
    weighted = [getattr(weights, name) * term for name, term in terms.items()]
    return Losses(torch.stack(weighted).sum(), **terms)
