"""DiscoVLA on Moving Digits: the tiny CLIP learns to retrieve trimmed clips by a few thousand added weights.

The paper's sizes are scaled to four vision and three text layers, rounded up: a third of the vision layers and a sixth
of the text layers fuse, and ranks are to widths as 8 is to 768. A run takes less than a minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from vtrlib.discovla import Config, DiscoVLA, Videos
    from vtrlib.studies.clips import Captioner, Clips
    from vtrlib.training import History

__all__ = [
    "ATTENTION", "CHOSEN", "COMPONENTS", "attention", "build", "clips", "component", "components", "encode",
    "evaluate_on", "first_losses", "preferred", "r_sum_on", "rates", "settings", "sweep", "swept", "train",
]  # fmt: skip

STEPS, BATCH = 100, 40
RATES = (3e-3, 6e-3, 1.2e-2)
RATE = 6e-3
FULL_RATES = (1e-4, 2e-4, 4e-4)
TIME = "IVFusion with time"
_TIE = 1e-5  # scores nearer to each other differ by rounding alone

_VIDEO: dict[str, Any] = {"text_fusion": 0, "alpha": 0.0, "beta": 0.0}
ATTENTION: dict[str, dict[str, Any]] = {
    "image-level": {**_VIDEO, "attention": "image", "vision_fusion": 0},
    "video-level": {**_VIDEO, "attention": "video"},
    "IVFusion w/o adapter": {**_VIDEO, "attention": "average"},
    "IVFusion": _VIDEO,
    TIME: _VIDEO,
}
"""Table 6: settings of each row. The last is none of the paper's: it is `TimePositions` beside IVFusion."""
COMPONENTS = ("zero_shot", "lora", "b1", "b2", "b3", "discovla", "full")
"""Table 5, and the full fine-tuning of Table 1, as `vtrlib.discovla.VARIANTS` has them."""
CHOSEN = dict.fromkeys(ATTENTION, RATE)
"""The best of `RATES` for each row of Table 6; to be taken from the row discovla-attention-rates."""


@cache
def clips(split: str, size: int | None = None, captioner: Captioner | None = None) -> Clips:
    """`Clips` of a split, made once."""
    from vtrlib.studies.clips import Clips

    return Clips(split, size, captioner)


def settings(reading: Any = "released", **changes: Any) -> Config:
    """The model in miniature: two fusing layers of four, one of three, and ranks of two."""
    from vtrlib.discovla import Config

    return Config(**{"vision_fusion": 2, "text_fusion": 1, "rank": 2, "adapter_rank": 2} | changes, reading=reading)


def component(name: str, reading: Any = "released") -> Config:
    """A row of Table 5 in miniature."""
    from vtrlib.discovla import VARIANTS

    return settings(reading, **VARIANTS[name])


def build(config: Config, seed: int = 0, time: bool = False) -> DiscoVLA:
    """The tiny CLIP with what `config` adds, and with `TimePositions` for eight frames if so wished."""
    import torch

    from vtrlib.clip import load
    from vtrlib.discovla import DiscoVLA
    from vtrlib.studies.time_positions import TimePositions
    from vtrlib.world import card

    with torch.random.fork_rng(devices=[]):  # CLIP's own weights are drawn before they are loaded
        model = DiscoVLA.of(load("tiny"), config, generator=torch.Generator().manual_seed(seed))
    if time:
        vision = model.clip.vision_model
        width = model.clip.config.vision_config.hidden_size
        vision.pre_layrnorm = TimePositions(vision.pre_layrnorm, card.PHASES, width)
    return model


def train(
    config: Config, data: Clips, *, seed: int = 0, rate: float = RATE, steps: int = STEPS, batch: int = BATCH,
    time: bool = False, val: Clips | None = None, until: int | None = None,
) -> tuple[DiscoVLA, History]:  # fmt: skip
    """Train what a configuration adds to the tiny CLIP.

    Args:
        config: the model; one of which nothing is trained comes back as it is.
        data: what it learns from; with pseudo captions where the configuration reads them.
        seed: of new weights, order and wordings.
        rate: peak of the learning rate, reached after a tenth of the steps, cosine to 0.
        steps, batch: updates, and clips of each, with one caption.
        time: learn `TimePositions` too.
        val: where given, four times R@sum on it is measured, and the best weights are kept.
        until: stop after so many steps.
    """
    from vtrlib.training import Config as Plan
    from vtrlib.training import History, adamw, bert_adam, fit, transformers_adamw

    model = build(config, seed, time)
    if config.trained == "nothing" and not time:
        return model, History(ended="steps")
    full = config.trained in ("clip", "all")  # as CLIP4Clip
    released = config.reading.optimiser == "transformers_adamw"
    plan = Plan(
        steps=steps, batch_size=batch, learning_rate=rate, weight_decay=0.2, schedule="clip4clip" if full else "cosine",
        warmup=0.1, clip=1.0, seed=seed, eval_every=-(-steps // 4),
    )  # fmt: skip
    history = fit(
        model, data, lambda m, items: m(items)["total"], plan, collate=lambda items: items, until=until,
        optimiser=partial(bert_adam, betas=(0.9, 0.98)) if full else transformers_adamw if released else adamw,
        validate=None if val is None else lambda _: r_sum_on(model, val),
    )  # fmt: skip
    return model, history


def encode(
    model: DiscoVLA, data: Clips, rows: Tensor | None = None, backwards: bool = False
) -> tuple[Tensor, Videos]:  # fmt: skip
    """Captions in their first wording (V, D), and clips: all, or those of some rows; `backwards`: from their end."""
    import torch

    from vtrlib.discovla import Videos

    model.eval()
    texts, videos = [], []
    with torch.no_grad():
        for part in (torch.arange(len(data)) if rows is None else rows).split(100):
            texts.append(model.encode_text(data.ids[0, part], data.mask[0, part]))
            pixels = data.pixels(part)
            videos.append(model.encode_video(pixels.flip(1) if backwards else pixels))
    return torch.cat(texts), Videos(*(torch.cat(parts) for parts in zip(*videos, strict=True)))


def r_sum_on(model: DiscoVLA, data: Clips) -> float:
    """R@1 + R@5 + R@10 of both directions, what validation looks at."""
    from vtrlib.metrics import evaluate_both

    texts, videos = encode(model, data)
    return sum(report.sum_r for report in evaluate_both(model.score(texts, videos.video), range(len(data))))


def evaluate_on(model: DiscoVLA, data: Clips) -> dict[str, float]:
    """R@1, 5 and 10, text to video and video to text, their sums, and the sum of both, "R@sum".

    Beside them the same for clips of motions that are another one in reverse, "order-sensitive …", and for the rest,
    "order-free …"; each is sought among all. "true t2v R@K" counts any clip of which the caption is true. "forwards"
    is the share of order-sensitive clips, in per cent, that suit their caption better than the same clip played from
    the end does, where a tie counts half.
    """
    import torch

    from vtrlib.metrics import evaluate

    texts, videos = encode(model, data)
    scores, own = model.score(texts, videos.video), torch.arange(len(data))
    found: dict[str, float] = {}
    groups = {"": torch.ones_like(data.order_sensitive), "order-sensitive ": data.order_sensitive}
    groups["order-free "] = ~data.order_sensitive
    for group, rows in groups.items():
        if not rows.any():
            continue
        for way, table in (("t2v", scores), ("v2t", scores.mT)):
            report = evaluate(table[rows], own[rows], ks=(1, 5, 10))
            found |= {f"{group}{way} R@{k}": report.recall(k) for k in report.ks}
            found[f"{group}{way} R@sum"] = report.sum_r
    true = evaluate(scores, data.true_positives, ks=(1, 5, 10))
    found |= {f"true t2v R@{k}": true.recall(k) for k in true.ks}
    if data.order_sensitive.any():
        found["forwards"] = 100 * float(preferred(model, data, texts, videos).mean())
    return found | {"R@sum": found["t2v R@sum"] + found["v2t R@sum"]}


def preferred(model: DiscoVLA, data: Clips, texts: Tensor, videos: Videos) -> Tensor:
    """Whether each order-sensitive clip suits its caption better than the clip played from the end: 1, ½ or 0.

    Args:
        model: any.
        data: clips.
        texts, videos: what `encode` gave.
    """
    import torch

    rows = data.order_sensitive.nonzero().flatten()
    _, reversals = encode(model, data, rows=rows, backwards=True)
    lead = _cosines(texts[rows], videos.video[rows]) - _cosines(texts[rows], reversals.video)
    return torch.where(lead.abs() < _TIE, 0.5, (lead > 0).double())


def _cosines(texts: Tensor, videos: Tensor) -> Tensor:
    """Cosine of each text (B, D) with the video of the same row, (B,)."""
    from vtrlib.similarity import unit

    return (unit(texts) * unit(videos)).sum(1)


def swept(vision_fusion: Sequence[int]) -> dict[str, Config]:
    """Fig. 8: IVFusion in other numbers of layers, from the top."""
    return {f"H_V={n}": settings(**{**_VIDEO, "vision_fusion": n}) for n in vision_fusion}


def first_losses(seed: int, models: Mapping[str, Config], captioner: Captioner | None = None) -> list[float]:
    """Canary: of each model that is trained the losses of the first steps, on the first 48 training clips."""
    data = clips("train", 48, captioner)
    return [
        loss for name, config in models.items()
        for loss in train(config, data, seed=seed, batch=16, until=3, time=name == TIME)[1].losses
    ]  # fmt: skip


def _first_attentions(seed: int, **_: Any) -> list[float]:
    return first_losses(seed, {name: settings(**changes) for name, changes in ATTENTION.items()})


def _first_swept(seed: int, vision_fusion: list[int], **_: Any) -> list[float]:
    return first_losses(seed, swept(vision_fusion))


def _all_measured(seed: int, models: Mapping[str, Config], rates: Mapping[str, float], steps: int) -> dict[str, float]:
    """Train each, keep the best of four moments on validation, and report on the test split."""
    found = {}
    for name, config in models.items():
        model, _ = train(
            config, clips("train"), seed=seed, rate=rates[name], steps=steps, time=name == TIME, val=clips("val")
        )  # fmt: skip
        found |= {f"{name}/{metric}": value for metric, value in evaluate_on(model, clips("test")).items()}
    return found


# To be registered, from vtrlib.experiments:
# @experiment("discovla-attention-rates", seeds=(100,), canary=_first_attentions, steps=STEPS, rates=list(RATES))
def rates(seed: int, steps: int, rates: list[float]) -> dict[str, float]:
    """R@sum on validation of each row of Table 6 with each learning rate, at a seed that nothing else uses."""
    found = {}
    for name, changes in ATTENTION.items():
        for rate in rates:
            _, history = train(
                settings(**changes), clips("train"), seed=seed, rate=rate, steps=steps, time=name == TIME,
                val=clips("val"),
            )  # fmt: skip
            found[f"{name}/{rate}"] = float(history.best_score or 0.0)
    return found


# @experiment("discovla-attention", seeds=(0, 1, 2, 3, 4), canary=_first_attentions, steps=STEPS, chosen=CHOSEN)
def attention(seed: int, steps: int, chosen: dict[str, float]) -> dict[str, float]:
    """Table 6: what attention the top layers have, on test, each at the rate that discovla-attention-rates chose."""
    return _all_measured(seed, {name: settings(**changes) for name, changes in ATTENTION.items()}, chosen, steps)


# @experiment(
#     "discovla-layers", seeds=(0, 1, 2), canary=_first_swept, steps=STEPS, rate=CHOSEN["IVFusion"],
#     vision_fusion=[0, 1, 2, 3, 4],
# )  # fmt: skip
def sweep(seed: int, steps: int, rate: float, vision_fusion: list[int]) -> dict[str, float]:
    """Fig. 8: IVFusion in none to all layers of the vision tower, on test, all at one learning rate."""
    models = swept(vision_fusion)
    return _all_measured(seed, models, dict.fromkeys(models, rate), steps)


# For chapter 10, with a captioner of the world, as `_all_measured` does it with COMPONENTS in place of ATTENTION.
def components(
    seed: int, steps: int, chosen: Mapping[str, float], captioner: Captioner, sizes: Mapping[str, int] | None = None
) -> dict[str, float]:
    """Table 5: each row on test; the captioner gives the pseudo captions of training."""
    found, sizes = {}, sizes or {}
    for name in COMPONENTS:
        config = component(name)
        reads = bool(config.alpha or config.beta)
        data = clips("train", sizes.get("train"), captioner if reads else None)
        val, test = (clips(split, sizes.get(split)) for split in ("val", "test"))
        model, _ = train(config, data, seed=seed, rate=chosen.get(name, RATE), steps=steps, val=val)
        found |= {f"{name}/{metric}": value for metric, value in evaluate_on(model, test).items()}
    return found
