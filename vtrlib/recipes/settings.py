"""How DiscoVLA is trained on real videos: the numbers of the paper, and where it has none, of the released code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer

from vtrlib import check, training
from vtrlib.clip import Towers
from vtrlib.datasets.sampling import RULES
from vtrlib.discovla import VARIANTS, Config

__all__ = ["PRECISIONS", "Recipe"]

PRECISIONS = {"float32": "no", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Recipe:
    """All that decides a result beside CLIP, videos and captions. Defaults are those for MSR-VTT.

    In the released code, but not here, frames of a training video are also distorted (RandAugment, reference row 19):
    15 operations on colours and geometry, four drawn with replacement, each applied with probability ½, the same to
    all frames of a video. The paper doesn't mention it. What it changes is not known here; it may well regularise
    five epochs of 180,000 pairs, so it is the first suspect if numbers fall short of the paper's.

    Attributes:
        variant: a row of Table 5, or "full": see `vtrlib.discovla.Config.variant`. "full" is CLIP4Clip's mean pooling
            with its own optimiser and schedule; "zero_shot" trains nothing.
        reading: "paper" or "released"; see `vtrlib.discovla.Reading`. It also chooses the AdamW.
        frames: F of each video.
        words: L, most tokens of a sentence, start and end included.
        sampling: which frames: "seconds" as released (row 18), "ends" or "middle"; see `frame_positions`.
        batch: pairs of an update, over all processes.
        epochs: passes over all pairs of video and caption, 180,000 for MSR-VTT's 9,000 videos (row 20).
        rate: peak of the learning rate; None: 6e-4, for "full" 1e-7, as CLIP4Clip has it for CLIP's own weights.
        warmup: share of the steps in which the rate rises; then it falls as a cosine.
        weight_decay: decoupled.
        clip_norm: greatest norm of the gradient.
        precision: "float32", or "bfloat16": autocast, while weights, similarities and losses stay in float32.
        val: about so many training videos are held out, see `vtrlib.datasets.hold_out`, to choose the epoch by
            R@1 + R@5 + R@10 of both directions; 0: none, and the last epoch counts. The released code reports the
            best of 52 evaluations on the test split (row 23), which no choice here does.
        seed: of new weights and order.

    Raises:
        TypeError, ValueError: a setting out of its range.
    """

    variant: str = "discovla"
    reading: str = "released"
    frames: int = 12
    words: int = 32
    sampling: str = "seconds"
    batch: int = 128
    epochs: int = 5
    rate: float | None = None
    warmup: float = 0.1
    weight_decay: float = 0.2
    clip_norm: float = 1.0
    precision: str = "float32"
    val: int = 0
    seed: int = 42

    def __post_init__(self) -> None:
        check.one_of("variant", self.variant, VARIANTS)
        check.one_of("reading", self.reading, ("paper", "released"))
        check.one_of("sampling", self.sampling, RULES)
        check.one_of("precision", self.precision, PRECISIONS)
        check.integer("frames", self.frames, low=1)
        check.integer("words", self.words, low=3)
        check.integer("val", self.val, low=0)
        if self.rate is None:
            object.__setattr__(self, "rate", 1e-7 if self.variant == "full" else 6e-4)
        self.plan()  # checks the rest

    def config(self, clip: Towers) -> Config:
        """The model's configuration on a CLIP.

        Raises:
            ValueError: that CLIP has fewer layers than are to fuse, or a shorter context than `words`.
        """
        if self.words > clip.context:
            raise ValueError(
                f"words={self.words}: the text tower of {clip.name!r} takes at most {clip.context}. Lower words, or "
                "use another CLIP."
            )
        return Config.variant(self.variant, self.reading, clip=clip.model.config)

    def plan(self, **free: Any) -> training.Config:
        """Settings of `vtrlib.training.fit`.

        Args:
            free: those that change no result, such as workers.
        """
        full = self.variant == "full"
        assert self.rate is not None
        return training.Config(
            epochs=self.epochs, batch_size=self.batch, learning_rate=self.rate, weight_decay=self.weight_decay,
            schedule="clip4clip" if full else "cosine", warmup=self.warmup, clip=self.clip_norm, seed=self.seed,
            precision=PRECISIONS[self.precision], **free,
        )  # fmt: skip

    @property
    def optimiser(self) -> Callable[[Any, training.Config], Optimizer]:
        """What updates the weights: AdamW in the reading's form, BertAdam for "full"."""
        if self.variant == "full":
            return partial(training.bert_adam, betas=(0.9, 0.98))
        return training.adamw if self.reading == "paper" else training.transformers_adamw

    @property
    def dtype(self) -> torch.dtype | None:
        """Of autocast; None for none."""
        return torch.bfloat16 if self.precision == "bfloat16" else None
