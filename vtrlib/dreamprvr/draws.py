"""What a step leaves to chance beside dropout: it can be given instead of drawn."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from vtrlib.diffusion import draw_normal

__all__ = ["Draws", "Negatives"]


class Negatives(NamedTuple):
    """Places of a branch's negatives, counted from the highest-scored one, 0.

    Attributes:
        videos: (N,), of each query's negative video.
        queries: (B,), of each video's negative query.
    """

    videos: Tensor | None = None
    queries: Tensor | None = None


class Draws(NamedTuple):
    """Noise and negatives of one step; what is None is drawn.

    What a reading does not use is not read.

    Attributes:
        start: (B, N_r, d), ε of Eq. 9.
        reverse: (T, B, N_r, d), z of Eq. 12 for t = T, …, 1.
        forward: (T, B, N_r, d) or what broadcasts to it, ε of Eq. 10 for t = 1, …, T.
        alpha, beta: (B, N_r, d), standard normal, of Eq. 6.
        clip, frame: negatives of the two branches.
    """

    start: Tensor | None = None
    reverse: Tensor | None = None
    forward: Tensor | None = None
    alpha: Tensor | None = None
    beta: Tensor | None = None
    clip: Negatives = Negatives()
    frame: Negatives = Negatives()


def normal(
    given: Tensor | None,
    shape: tuple[int, ...],
    like: Tensor,
    generator: Generator | None = None,
) -> Tensor:
    """What is given, in the dtype of `like`, else draws from N(0, 1).

    Raises:
        ValueError: what is given does not fit.
    """
    if given is None:
        return draw_normal(shape, like, generator)
    try:
        return given.to(like.device, like.dtype).expand(shape)
    except RuntimeError:
        raise ValueError(
            f"draws: found shape {tuple(given.shape)}, expected {shape}."
        ) from None


def places(
    given: Tensor | None,
    negatives: Tensor,
    pool: int | None,
    generator: Generator | None,
) -> Tensor:
    """What is given, else for each row a place, uniform over its first negatives.

    A row without negatives gets a place that there is not, which leaves it out.

    Args:
        given: (N,), or nothing.
        negatives: (N,), how many each row has.
        pool: draw from so many of them; from all by default.
        generator: decides the draws.
    """
    if given is not None:
        return given.to(negatives.device)
    number = negatives if pool is None else negatives.clamp(max=pool)
    device = number.device if generator is None else generator.device
    drawn = torch.rand(len(number), generator=generator, device=device)
    place = (drawn.to(number.device) * number).long()
    return torch.minimum(place, number - 1)  # also where the product was rounded up
