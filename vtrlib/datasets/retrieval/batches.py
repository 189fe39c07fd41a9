"""Pairs of video and caption as a model takes them: stacked, masked, on one device.

Letters (see the notation page): B pairs, F frames of S×S pixels, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vtrlib.datasets.moving import Tensors

__all__ = ["Pair", "PairBatch", "collate_pairs"]


class Pair(NamedTuple):
    """One caption with its video.

    Attributes:
        text_ids, text_mask: (L,).
        frames: (F, 3, S, S) uint8.
        video: place of the video in the gallery; pair: of this pair in the dataset.
        pseudo_ids, pseudo_mask: (F, L); None without pseudo captions.
    """

    text_ids: Tensor
    text_mask: Tensor
    frames: Tensor
    video: int
    pair: int
    pseudo_ids: Tensor | None = None
    pseudo_mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class PairBatch(Tensors):
    """What DiscoVLA trains on.

    Attributes:
        text_ids: (B, L) int64. text_mask: (B, L) bool, True on tokens.
        frames: (B, F, 3, S, S) uint8, 0 … 255; `vtrlib.clip.preprocess` makes the
            model's input of them, on its device.
        frame_mask: (B, F) bool, True on frames; all are.
        video: (B,) int64, place of each video in the gallery: equal numbers are one
            video, and no negatives of each other.
        pair: (B,) int64, place in the dataset.
        pseudo_ids: (B, F, L') int64, pseudo_mask: (B, F, L') bool; None without pseudo
            captions.
    """

    text_ids: Tensor
    text_mask: Tensor
    frames: Tensor
    frame_mask: Tensor
    video: Tensor
    pair: Tensor
    pseudo_ids: Tensor | None = None
    pseudo_mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.text_ids)


def collate_pairs(items: Sequence[Pair], *, trim: bool = True) -> PairBatch:
    """Stack items of `VideoTextPairs`; the `collate_fn` for a `DataLoader`.

    Args:
        items: pairs, all with pseudo captions or none.
        trim: cut the padding behind the longest sentence of the batch. False keeps all
            shapes equal, for `torch.compile`.

    Raises:
        ValueError: no pair; or frames of several shapes, with both.
    """
    if not items:
        raise ValueError("items: there is none, expected at least one pair.")
    if len(shapes := {tuple(item.frames.shape) for item in items}) > 1:
        raise ValueError(
            f"frames of shapes {' and '.join(map(str, sorted(shapes)))} in one batch. "
            "Expected one shape: pass size= to the source of the frames."
        )
    frames = torch.stack([item.frames for item in items])
    pseudo: tuple[Tensor | None, Tensor | None] = (None, None)
    told = [(i.pseudo_ids, i.pseudo_mask) for i in items if i.pseudo_ids is not None and i.pseudo_mask is not None]
    if told:
        if len(told) < len(items):
            raise ValueError("items: some with pseudo captions, some without.")
        pseudo = _stack([ids for ids, _ in told], [mask for _, mask in told], trim)
    text_ids, text_mask = _stack([i.text_ids for i in items], [i.text_mask for i in items], trim)
    return PairBatch(
        text_ids=text_ids,
        text_mask=text_mask,
        frames=frames,
        frame_mask=torch.ones(frames.shape[:2], dtype=torch.bool),
        video=torch.tensor([item.video for item in items]),
        pair=torch.tensor([item.pair for item in items]),
        pseudo_ids=pseudo[0],
        pseudo_mask=pseudo[1],
    )


def _stack(ids: Sequence[Tensor], masks: Sequence[Tensor], trim: bool) -> tuple[Tensor, Tensor]:
    stacked, mask = torch.stack(list(ids)), torch.stack(list(masks))
    longest = int(mask.sum(-1).max()) if trim else mask.shape[-1]
    return stacked[..., :longest].contiguous(), mask[..., :longest].contiguous()
