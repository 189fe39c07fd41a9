"""Trimmed clips of the world with their captions, as models that read frames and words are trained on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vtrlib.clip import load, preprocess
from vtrlib.discovla import Batch
from vtrlib.metrics import Report, evaluate, evaluate_both
from vtrlib.world import MovingDigits, Query, card

__all__ = ["Captioner", "Clips", "led", "r_sum", "recalls", "retrieved"]

_TIE = 1e-5  # scores nearer to each other differ by rounding alone

Captioner = Callable[[MovingDigits, Sequence[Query]], list[tuple[str, ...]]]


class Clips(Dataset[Batch]):
    """Trimmed clips of a split, with their captions in all three wordings, and pseudo captions where asked for.

    Indexed by several clips at once it gives a `Batch`, with one wording for each of them, drawn from torch's generator
    of the CPU, which `vtrlib.training.fit` seeds.

    Args:
        split, size, domain: of `MovingDigits`.
        captioner: gives a pseudo caption of each frame for each query, such as `vtrlib.world.pseudo_captions`.

    Attributes:
        world: the clips.
        frames: (V, F, 3, H, W) uint8.
        digit: (V, F, H, W) bool, which pixels show the digit.
        ids, mask: (3, V, L), tokens of the captions.
        f_ids, f_mask: (3, V, F, L'), of the pseudo captions; None without them.
        true_positives: (V, V) bool, whether a clip's caption, in its first wording, is true of another clip.
        order_sensitive: (V,) bool, whether the clip's motion is another one in reverse.
    """

    def __init__(
        self, split: str, size: int | None = None, captioner: Captioner | None = None, domain: str = "all"
    ) -> None:  # fmt: skip
        self.world = MovingDigits(split, "trimmed", size=size, domain=domain)
        self.frames, self.digit = self.world.frames()
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

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask of sentences, (B, L) each, as the tiny CLIP reads them."""
        return self._towers.tokenize(list(texts))

    def pixels(self, rows: Tensor) -> Tensor:
        """Prepared frames of some clips, (B, F, 3, size, size)."""
        return preprocess(self.frames[rows], self._towers.size, self._towers.mean, self._towers.std)


def retrieved(scores: Tensor, data: Clips) -> dict[str, float]:
    """R@1, 5 and 10, text to video and video to text, their sums, and the sum of both, "R@sum".

    Beside them the same for clips of motions that are another one in reverse, "order-sensitive …", and for the rest,
    "order-free …"; each is sought among all. "true t2v R@K" counts any clip of which the caption is true.

    Args:
        scores: (V, V), of the captions in their first wording and the clips.
        data: the clips.
    """
    own, found = torch.arange(len(data)), dict[str, float]()
    groups = {"": torch.ones_like(data.order_sensitive), "order-sensitive ": data.order_sensitive}
    groups["order-free "] = ~data.order_sensitive
    for group, rows in groups.items():
        if not rows.any():
            continue
        for way, table in (("t2v", scores), ("v2t", scores.mT)):
            report = evaluate(table[rows], own[rows], ks=(1, 5, 10))
            found |= {f"{group}{way} {name}": value for name, value in recalls(report).items()}
            if not group:
                found[f"{way} MnR"] = report.mean_rank
    true = evaluate(scores, data.true_positives, ks=(1, 5, 10))
    found |= {f"true t2v R@{k}": true.recall(k) for k in true.ks}
    return found | {"R@sum": found["t2v R@sum"] + found["v2t R@sum"]}


def r_sum(scores: Tensor) -> float:
    """R@1 + R@5 + R@10 of both directions, 0 … 600, of clips and their own captions, (V, V)."""
    return sum(report.sum_r for report in evaluate_both(scores, range(len(scores))))


def led(lead: Tensor) -> Tensor:
    """Whether something leads: 1, ½ where it ties, or 0."""
    return torch.where(lead.abs() < _TIE, 0.5, (lead > 0).double())


def recalls(report: Report) -> dict[str, float]:
    """R@K of a report, and their sum."""
    return {f"R@{k}": report.recall(k) for k in report.ks} | {"R@sum": report.sum_r}
