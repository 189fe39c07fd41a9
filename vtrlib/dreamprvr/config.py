"""What a DreamPRVR model is made of: sizes, settings, and weights of its losses."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vtrlib import check
from vtrlib.dreamprvr.reading import Reading

__all__ = ["DATASETS", "Config", "Weights"]


@dataclass(frozen=True)
class Weights:
    r"""Weights $\lambda$ of the losses (Eq. 5, 15, 33); by default Charades-STA's [21].

    Attributes:
        clip_nce, frame_nce: $\lambda_c$, $\lambda_f$ of InfoNCE.
        clip_triplet, frame_triplet: 1 in Eq. 33.
        diversity, qsp: $\lambda_d$, $\lambda_q$.
        kl: $\lambda_{pvs}$.
        dre: $\lambda_{dre}$, for a "mean"; see `Config.for_dataset` for a "sum".
    """

    clip_nce: float = 0.02
    frame_nce: float = 0.04
    clip_triplet: float = 1.0
    frame_triplet: float = 1.0
    diversity: float = 0.003
    qsp: float = 0.002
    kl: float = 1e-4
    dre: float = 1e-3

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            check.number(f"weights.{name}", value, low=0)


@dataclass(frozen=True)
class Config:
    r"""Sizes and settings of a model; defaults are the released ones for Charades-STA.

    Attributes:
        video_width: of a frame's or clip's features.
        text_width: of a word's.
        width: d, inside the model.
        heads: h, of every attention; they divide d.
        registers: $N_r \ge 1$; may exceed the clips.
        registers_from: "diffusion"; or for Tab. 3's variants "noise" ($r_T \sim
            \mathcal N(0, I)$: no variational sampler), "pooling" (adaptive pooling of
            V_v), "none" (no registers). Losses that then train nothing of use are
            left out by their weights, 0.
        steps: T ≥ 0 of the diffusion; 0: the registers are $r_T$ (Tab. 3's "w/o DRE").
        words: most words of a query.
        clips: $M_c$, clips of every video.
        frames: $M_f$, most frames of a video.
        clip_positions: rows of the clips' position table, at least `clips`; the code
            holds 128 of which it reads 32.
        blocks: $N_o$ of Gaussian attention.
        estimator_blocks: of the diffusion register estimator.
        pool_width: of the recurrent net that weights sorted pooling (`heads="pooled"`).
        dropout, input_dropout: inside blocks, and on inputs; 0 ≤ p < 1.
        mixing_temperature: of the softmax over blocks; smaller is sharper.
        clip_share, frame_share: $\alpha_c$, $\alpha_f$ of Eq. 17.
        temperature: $\tau$ of QSP, Eq. 4.
        margin: m of the triplet loss, Eq. 31.
        omega, delta, exponent: of the diversity loss, Eq. 34; its first factor is
            raised to the last.
        perturbation: $\gamma$ of Eq. 6.
        hard_pool: hard negatives are drawn from so many hardest.
        schedule_offset, schedule_clip: of the cosine schedule [9].
        weights: of the losses.
        reading: a `Reading`, or "paper" or "released".

    Raises:
        TypeError, ValueError: a setting out of its range.
    """

    video_width: int
    text_width: int
    width: int = 384
    heads: int = 4
    registers: int = 6
    registers_from: str = "diffusion"
    steps: int = 10
    words: int = 30
    clips: int = 32
    frames: int = 128
    clip_positions: int = 128
    blocks: int = 8
    estimator_blocks: int = 2
    pool_width: int = 32
    dropout: float = 0.25
    input_dropout: float = 0.25
    mixing_temperature: float = 0.6
    clip_share: float = 0.6
    frame_share: float = 0.4
    temperature: float = 0.01
    margin: float = 0.2
    omega: float = 32.0
    delta: float = 0.2
    exponent: float = 1.0
    perturbation: float = 0.1
    hard_pool: int = 20
    schedule_offset: float = 0.008
    schedule_clip: float = 0.999
    weights: Weights = field(default_factory=Weights)
    reading: Reading = field(default_factory=Reading.released)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reading", Reading.given(self.reading))
        weights: Any = self.weights
        if isinstance(weights, dict):  # as JSON holds it
            object.__setattr__(self, "weights", Weights(**weights))
        elif not isinstance(weights, Weights):
            raise TypeError(
                f"weights={weights!r}: expected a Weights, or its settings in a dict."
            )
        for name, low in _COUNTS.items():
            check.integer(name, getattr(self, name), low=low)
        for name, (least, most) in _NUMBERS.items():
            check.number(name, getattr(self, name), low=least, high=most)
        check.one_of(
            "registers_from",
            self.registers_from,
            ("diffusion", "noise", "pooling", "none"),
        )
        if self.width % self.heads:
            raise ValueError(
                f"heads={self.heads}: expected a divisor of width={self.width}."
            )
        if self.clip_positions < self.clips:
            raise ValueError(
                f"clip_positions={self.clip_positions}: expected at least clips={self.clips}."
            )

    @property
    def widths(self) -> tuple[float, ...]:
        """Of the Gaussian windows, in the order of the blocks; ∞ is plain attention."""
        last = self.blocks - 3 if self.reading.windows == "printed" else self.blocks - 4
        return (float("inf"), *(2.0**power for power in range(-2, last + 1)))

    @classmethod
    def for_dataset(
        cls, name: str, reading: str | Reading = "released", **settings: Any
    ) -> Config:
        r"""The released settings for a data set: "activitynet", "charades" or "tvr".

        The paper prints no $\lambda$. For a summed DRE loss, $\lambda_{dre}$ is divided
        by the number of summands T N_r d, which leaves the term as large as it is
        released.
        """
        found = {**DATASETS[check.one_of("name", name, DATASETS)], **settings}
        config = cls(**found, reading=reading)  # type: ignore[arg-type]
        if config.reading.dre_loss == "sum" and "weights" not in settings:
            summands = max(config.steps, 1) * config.registers * config.width
            config = replace(
                config,
                weights=replace(config.weights, dre=config.weights.dre / summands),
            )
        return config


_COUNTS = {
    "video_width": 1, "text_width": 1, "width": 2, "heads": 1, "registers": 1, "steps": 0, "words": 1, "clips": 1,
    "frames": 1, "clip_positions": 1, "blocks": 1, "estimator_blocks": 1, "pool_width": 2, "hard_pool": 1,
}  # fmt: skip
_NUMBERS: dict[str, tuple[float | None, float | None]] = {
    "dropout": (0, 0.999), "input_dropout": (0, 0.999), "mixing_temperature": (1e-6, None), "clip_share": (0, 1),
    "frame_share": (0, 1), "temperature": (1e-6, None), "margin": (0, None), "omega": (0, None), "delta": (None, None),
    "exponent": (0, None), "perturbation": (0, None), "schedule_offset": (0, None), "schedule_clip": (1e-6, 0.999999),
}  # fmt: skip

DATASETS: dict[str, dict[str, Any]] = {
    "activitynet": {
        "video_width": 1024, "text_width": 1024, "registers": 4, "dropout": 0.31, "input_dropout": 0.31,
        "temperature": 0.08, "weights": Weights(qsp=0.01),
    },
    "charades": {"video_width": 1024, "text_width": 1024},
    "tvr": {
        "video_width": 3072, "text_width": 768, "registers": 8, "dropout": 0.2, "input_dropout": 0.2,
        "mixing_temperature": 0.09, "clip_share": 0.5, "frame_share": 0.5, "temperature": 0.09, "margin": 0.1,
        "delta": 0.15, "weights": Weights(clip_nce=0.05, diversity=8e-5, qsp=0.01),
    },
}  # fmt: skip
