"""Clips of the world as PIG reads them, and what captioners say of them unasked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vtrlib import check
from vtrlib.pig import Batch
from vtrlib.studies.clips import Clips
from vtrlib.world import pseudo_captions
from vtrlib.world.grammar import MOTION_PHRASES

__all__ = ["Pairs", "spoken"]


class Pairs(Dataset[Batch]):
    """`Clips` as PIG reads them: indexed by several clips at once, a `Batch` with a random wording for each.

    Args:
        clips: with their captions.
        captions: whose captions go along, see `spoken`; None for nobody's.

    Attributes:
        said: ids and mask of those captions, (V, L') each.
    """

    def __init__(self, clips: Clips, captions: str | None = None) -> None:
        self.clips = clips
        self.said: tuple[Tensor, Tensor] | None = None
        if captions is not None:
            self.said = clips.tokenize(spoken(clips, captions))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = torch.as_tensor(indices)
        return self.batch(rows, torch.randint(len(self.clips.ids), rows.shape))

    def batch(self, rows: Tensor, wording: Tensor | int = 0) -> Batch:
        """The clips `rows` (B,), each in its wording: 0, 1 or 2, or (B,)."""
        found = Batch(
            video=self.clips.pixels(rows), text_input_ids=self.clips.ids[wording, rows],
            text_input_mask=self.clips.mask[wording, rows],
        )  # fmt: skip
        if self.said is not None:
            found["caption_input_ids"], found["caption_input_mask"] = (x[rows] for x in self.said)
        return found


def spoken(clips: Clips, who: str) -> list[str]:
    """What a captioner says of each clip, unasked; one in eight is wrong about digit or colour.

    Args:
        clips: any.
        who: "frame": it names what the first frame with a digit shows, and no motion; "motion": it adds the motion, in
            one wording for each. Neither is told a query.

    Raises:
        ValueError: nobody of that name.
    """
    check.one_of("who", who, ("frame", "motion"))
    world = clips.world
    said = pseudo_captions(world, world.queries(), variant="unguided")
    first = clips.digit.flatten(2).any(-1).int().argmax(1).tolist()
    found = [texts[place] for texts, place in zip(said, first, strict=True)]
    if who == "frame":
        return found
    motions = world.screenplay.motion[:, 0].tolist()
    return [f"{text} that {MOTION_PHRASES[motion][0]}" for text, motion in zip(found, motions, strict=True)]
