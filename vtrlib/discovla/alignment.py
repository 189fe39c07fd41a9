"""PImgAlign and AlignDistill: similarities of images and captions, and the losses."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from vtrlib import check
from vtrlib.discovla.config import Config
from vtrlib.losses import info_nce, similarity_kl
from vtrlib.similarity import cosine, max_similarity, unit

__all__ = [
    "ImageSimilarity", "Losses", "aggregate", "image_similarity", "objective",
    "pool_frames",
]  # fmt: skip


class ImageSimilarity(NamedTuple):
    """Image-level similarity of A captions' pseudo captions and B videos, (A, B) each.

    Attributes:
        total: their mean (Eq. 10).
        t2v: of each pseudo caption with its best frame (Eq. 8).
        v2t: of each frame with its best pseudo caption (Eq. 9).
    """

    total: Tensor
    t2v: Tensor
    v2t: Tensor


class Losses(TypedDict):
    r"""The terms of Eq. 14 before their weights, and their weighted sum; each ().

    Attributes:
        total: $\mathcal L$.
        video: $\mathcal L_A(\mathrm{Sim}^{vid})$.
        image: $\mathcal L_A(\mathrm{Sim}^{img})$.
        distill: $\mathcal L_{KL}$.
    """

    total: Tensor
    video: Tensor
    image: Tensor
    distill: Tensor


def pool_frames(frames: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of the frames' unit vectors: $v^{vid}$, not normalised again.

    Args:
        frames: (B, F, D).
        mask: (B, F), bool, true where there is a frame, one at least. All by default.

    Returns:
        (B, D).
    """
    frames = unit(frames)
    if mask is None:
        return frames.mean(1)
    shown = frames.masked_fill(~mask[..., None], 0).sum(1)
    return shown / mask.sum(1, keepdim=True)


def aggregate(
    maxima: Tensor, form: str, scale: float | Tensor = 1.0, mask: Tensor | None = None
) -> Tensor:
    r"""What the maxima m of Eq. 8 or 9 come to.

    "mean": $\frac1F \sum_n m_n$, as printed; "softmax": $\sum_n w_n m_n$ with $w =
    \mathrm{softmax}(s\, m)$, as released. The second tends to the first for s → 0, and
    to the greatest m for s → ∞.

    Args:
        maxima: (..., F).
        form: "mean" or "softmax".
        scale: s.
        mask: bool, true where there is one; broadcast to (..., F).

    Returns:
        (...).

    Raises:
        ValueError: there is no such form.
    """
    check.one_of("form", form, ("mean", "softmax"))
    wide = torch.promote_types(maxima.dtype, torch.float32)
    logits = maxima.to(wide) * (scale if form == "softmax" else 0)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
        maxima = maxima.masked_fill(~mask, 0)
    return (logits.softmax(-1) * maxima).sum(-1).to(maxima.dtype)


def image_similarity(
    captions: Tensor, frames: Tensor, *, kind: str = "fine", aggregation: str = "mean",
    scale: float | Tensor = 1.0, caption_mask: Tensor | None = None,
    frame_mask: Tensor | None = None,
) -> ImageSimilarity:  # fmt: skip
    r"""Similarity of pseudo captions and frames (Eq. 8-10, Tab. 7), from cosines.

    $$ \mathrm{Sim}_{ij-t2v} = \frac1F \sum_n \max_m t_{i|n}^\top v_{j|m}, \quad
       \mathrm{Sim}_{ij-v2t} = \frac1F \sum_m \max_n t_{i|n}^\top v_{j|m} $$

    Args:
        captions: (A, F, D), pseudo captions of A videos' captions.
        frames: (B, F', D), of B videos; F' = F but for "fine" and "video".
        kind: "fine", as above; "paired": $\frac1F \sum_n t_{i|n}^\top v_{j|n}$;
            "video": the cosine of the means of unit vectors. The last two have one
            direction.
        aggregation, scale: of "fine", see `aggregate`.
        caption_mask: (A, F), bool, and frame_mask: (B, F'), bool: what takes part.
            Everything by default. "paired" takes a pair where both do, and is 0 if
            there is none.

    Raises:
        ValueError: shapes or dtypes that do not fit, or there is no such kind.
    """
    known = check.sizes("captions", captions, "A F D")
    letters = {"D": known["D"]} | ({"F": known["F"]} if kind == "paired" else {})
    check.sizes("frames", frames, "B F D", letters)
    check.one_of("kind", kind, ("fine", "paired", "video"))
    if kind == "video":
        means = pool_frames(captions, caption_mask), pool_frames(frames, frame_mask)
        one = cosine(*means)
        return ImageSimilarity(one, one, one)
    t, v = unit(captions), unit(frames)
    if kind == "paired":
        one = _paired(t, v, caption_mask, frame_mask)
        return ImageSimilarity(one, one, one)
    (a, f), (b, g) = t.shape[:2], v.shape[:2]
    rows = max_similarity(t.flatten(0, 1), v, frame_mask)  # (A F, B)
    columns = max_similarity(v.flatten(0, 1), t, caption_mask)  # (B F', A)
    of_captions = rows.reshape(a, f, b).transpose(1, 2)  # (A, B, F)
    of_frames = columns.reshape(b, g, a).permute(2, 0, 1)  # (A, B, F')
    has = None if caption_mask is None else caption_mask[:, None]
    shows = None if frame_mask is None else frame_mask[None]
    t2v = aggregate(of_captions, aggregation, scale, has)
    v2t = aggregate(of_frames, aggregation, scale, shows)
    return ImageSimilarity((t2v + v2t) / 2, t2v, v2t)


def objective(
    video: Tensor, image: Tensor | None, scale: float | Tensor, config: Config
) -> Losses:
    r"""$\mathcal L = \mathcal L_A(\mathrm{Sim}^{vid}) + \alpha \mathcal
    L_A(\mathrm{Sim}^{img}) + \beta \mathcal L_{KL}$ (Eq. 14).

    $\mathcal L_A$ is InfoNCE in both directions (Eq. 2-4); $\mathcal L_{KL}$ draws the
    distributions of the video-level similarity to those of the image-level one, over
    videos and over captions (Eq. 11-13). All use the scale $s = 1/\tau$.

    Args:
        video: (B, B), video-level similarity, captions by videos.
        image: (B, B), image-level similarity; None leaves its two terms 0.
        scale: s.
        config: weights and reading.
    """
    aligned = info_nce(video, scale=scale)
    if image is None:
        zero = torch.zeros_like(aligned)
        return Losses(total=aligned, video=aligned, image=zero, distill=zero)
    aside = info_nce(image, scale=scale)
    distill = similarity_kl(
        video, image, scale=scale, reduction=config.reading.kl,
        detach_teacher=config.reading.teacher == "detached",
    )  # fmt: skip
    total = aligned + config.alpha * aside + config.beta * distill
    return Losses(total=total, video=aligned, image=aside, distill=distill)


def _paired(
    t: Tensor, v: Tensor, caption_mask: Tensor | None, frame_mask: Tensor | None
) -> Tensor:
    """Mean of the products of the same place, over places that both have."""
    if caption_mask is not None:
        t = t.masked_fill(~caption_mask[..., None], 0)
    if frame_mask is not None:
        v = v.masked_fill(~frame_mask[..., None], 0)
    products = t.flatten(1) @ v.flatten(1).mT
    if caption_mask is None and frame_mask is None:
        return products / t.shape[1]
    ones = torch.ones(1, t.shape[1], dtype=t.dtype, device=t.device)
    here = ones.expand(len(t), -1) if caption_mask is None else caption_mask.to(t.dtype)
    there = ones.expand(len(v), -1) if frame_mask is None else frame_mask.to(t.dtype)
    return products / (here @ there.mT).clamp(min=1)
