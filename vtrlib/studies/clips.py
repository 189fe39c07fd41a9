"""Trimmed clips of the world with their captions, as models that read frames and words are trained on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vtrlib.clip import load, preprocess
from vtrlib.discovla import Batch
from vtrlib.world import MovingDigits, Query, card

__all__ = ["Captioner", "Clips"]

Captioner = Callable[[MovingDigits, Sequence[Query]], list[tuple[str, ...]]]


class Clips(Dataset[Batch]):
    """Trimmed clips of a split, with their captions in all three wordings, and pseudo captions where asked for.

    Indexed by several clips at once it gives a `Batch`, with one wording for each of them, drawn from torch's generator
    of the CPU, which `vtrlib.training.fit` seeds.

    Args:
        split, size: of `MovingDigits`.
        captioner: gives a pseudo caption of each frame for each query, such as `vtrlib.world.pseudo_captions`.

    Attributes:
        world: the clips.
        frames: (V, F, 3, H, W) uint8.
        ids, mask: (3, V, L), tokens of the captions.
        f_ids, f_mask: (3, V, F, L'), of the pseudo captions; None without them.
        true_positives: (V, V) bool, whether a clip's caption, in its first wording, is true of another clip.
        order_sensitive: (V,) bool, whether the clip's motion is another one in reverse.
    """

    def __init__(self, split: str, size: int | None = None, captioner: Captioner | None = None) -> None:
        self.world = MovingDigits(split, "trimmed", size=size)
        self.frames, _ = self.world.frames()
        self._towers = load("tiny")
        asked = [self.world.queries(paraphrase) for paraphrase in range(card.PARAPHRASES)]
        videos, number = self.frames.shape[:2]
        ids, mask = self._towers.tokenize([query.text for queries in asked for query in queries])
        self.ids, self.mask = ids.unflatten(0, (-1, videos)), mask.unflatten(0, (-1, videos))
        self.f_ids: Tensor | None = None
        self.f_mask: Tensor | None = None
        if captioner is not None:
            said = [text for queries in asked for texts in captioner(self.world, queries) for text in texts]
            ids, mask = self._towers.tokenize(said)
            self.f_ids, self.f_mask = (x.unflatten(0, (-1, videos, number)) for x in (ids, mask))
        self.true_positives = torch.zeros(videos, videos, dtype=torch.bool)
        for query in asked[0]:
            self.true_positives[query.video, self.world.true_positives(query)] = True
        motions = torch.from_numpy(self.world.screenplay.motion[:, 0])
        self.order_sensitive = torch.tensor(card.OPPOSITE)[motions] != motions

    def __len__(self) -> int:
        return len(self.frames)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = torch.as_tensor(indices)
        return self.batch(rows, torch.randint(len(self.ids), rows.shape))

    def batch(self, rows: Tensor, wording: Tensor | int = 0) -> Batch:
        """The clips `rows` (B,), each in its wording: 0, 1 or 2, or (B,)."""
        video = self.pixels(rows)
        found = Batch(
            text_ids=self.ids[wording, rows], text_mask=self.mask[wording, rows], video=video,
            video_mask=torch.ones(video.shape[:2], dtype=torch.bool),
        )  # fmt: skip
        if self.f_ids is not None and self.f_mask is not None:
            found["f_text_ids"], found["f_text_mask"] = self.f_ids[wording, rows], self.f_mask[wording, rows]
        return found

    def pixels(self, rows: Tensor) -> Tensor:
        """Prepared frames of some clips, (B, F, 3, size, size)."""
        return preprocess(self.frames[rows], self._towers.size, self._towers.mean, self._towers.std)
