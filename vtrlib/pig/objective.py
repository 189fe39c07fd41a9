"""What PIG is trained on: contrast (Eq. 4) and reconstruction (Eq. 8), weighed (Eq. 9)."""

from __future__ import annotations

from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from vtrlib import check
from vtrlib.losses import info_nce
from vtrlib.pig.reading import Reading
from vtrlib.similarity import unit

__all__ = ["Batch", "Losses", "contrastive", "reconstruction"]


class Batch(TypedDict):
    """B videos with a caption each.

    Attributes:
        video: (B, F, 3, size, size), prepared frames.
        text_input_ids: (B, L), token ids of the captions, [bos] … [eos] and padding.
        text_input_mask: (B, L), true or 1 where there is a token.
        caption_input_ids: (B, L'), captions that stand for pseudo-queries, say of a
            captioner; needed where `pseudo_query` is "captions".
        caption_input_mask: (B, L').
    """

    video: Tensor
    text_input_ids: Tensor
    text_input_mask: Tensor
    caption_input_ids: NotRequired[Tensor]
    caption_input_mask: NotRequired[Tensor]


class Losses(TypedDict):
    r"""The terms of Eq. 9 before their weight, and their sum; each ().

    Attributes:
        total: $\mathcal L$; in stage 1 the reconstruction alone, with the reading's
            own α, so $2 - 2 \cos$ in all of them.
        contrastive: $\mathcal L_{cons}$; 0 in stage 1, where it is not computed.
        reconstruction: $\mathcal L_{recon}$; 0 where nothing is generated.
    """

    total: Tensor
    contrastive: Tensor
    reconstruction: Tensor


def contrastive(similarity: Tensor, scale: Tensor, reading: Reading) -> Tensor:
    r"""$\mathcal L_{cons}$ of cosines (B, B), their diagonal the pairs (Eq. 2-4)."""
    directions = "mean" if reading.contrastive == "mean" else "sum"
    return info_nce(similarity, scale=scale, directions=directions)


def reconstruction(pseudo: Tensor, texts: Tensor, reading: Reading) -> Tensor:
    r"""$\mathcal L_{recon} = 1 - \cos(t_p, t)$ (Eq. 8), its mean over pairs.

    Args:
        pseudo: $t_p$ (B, D).
        texts: t (B, D).
        reading: whether it is doubled, and whether t is a fixed target.

    Returns:
        (), 0 … 2, or 0 … 4; in float32 at least.

    Raises:
        ValueError: the shapes differ.
    """
    check.sizes("texts", texts, "B D", check.sizes("pseudo", pseudo, "B D"))
    texts = texts.detach() if reading.target == "detached" else texts
    wide = torch.promote_types(pseudo.dtype, torch.float32)
    far = 1 - (unit(pseudo.to(wide)) * unit(texts.to(wide))).sum(-1).mean()
    return far if reading.reconstruction == "single" else 2 * far
