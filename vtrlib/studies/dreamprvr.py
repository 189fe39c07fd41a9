"""DreamPRVR on Moving Digits: trained small, its parts taken away, its switches flipped, its registers watched.

Frame features and token states of the tiny CLIP stand where the paper has I3D and RoBERTa; everything else is the
model at a width of 64. A run takes half a minute.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtrlib.experiments import experiment

if TYPE_CHECKING:
    from torch import Tensor

    from vtrlib.datasets.prvr import PartialRelevance
    from vtrlib.dreamprvr import Batch, Config, DreamPRVR, Videos
    from vtrlib.training import History

__all__ = [
    "PRINTED", "VARIANTS", "cache_folder", "components", "efficiency", "encode", "evaluate_on", "first_losses", "flips",
    "in_moment", "joined", "msrvtt", "rates", "reading_rates", "readings", "settings", "sweep", "swept",
    "temporal_attention", "train", "variants", "world",
]  # fmt: skip

CLIPS, FRAMES = 8, 32
STEPS, BATCH = 160, 32
RATES, ABOVE = (5e-4, 1e-3, 2e-3), 4e-3
RATE = 1e-3
_OFF = {"diversity": 0.0, "qsp": 0.0}

VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "w/o registers": {"registers_from": "none"},
    "w/ AP": {"registers_from": "pooling"},
    "w/o DRE": {"steps": 0},
    "w/o PVS": {"registers_from": "noise"},
    "L_sim only": {"weights": {**_OFF, "kl": 0.0, "dre": 0.0}},
    "w/o L_pvs": {"weights": {"kl": 0.0}},
    "w/o L_dre": {"weights": {"dre": 0.0}},
    "w/o L_tss": {"weights": _OFF},
    "L_div only": {"weights": {"qsp": 0.0}},
}
"""Rows 0 to 8 of Table 3, and of Fig. 4 the text space without QSP: settings that differ from the full model's."""
CHOSEN = {name: 2e-3 for name in VARIANTS} | {"L_sim only": 0.001}
"""The best of `RATES` and `ABOVE` for each variant, by the rows dreamprvr-rates and dreamprvr-rates-above."""
PRINTED = {"paper": 2e-3, "optimiser as printed": 8e-3}
"""The same for the two of `flips` that Adam trains, by the row dreamprvr-reading-rates."""


def cache_folder() -> Path:
    """Where what can be made again is kept: `VTRLIB_CACHE`, else ~/.cache/vtrlib."""
    return Path(os.environ.get("VTRLIB_CACHE") or Path.home() / ".cache" / "vtrlib")


@cache
def world(split: str, videos: int | None = None) -> PartialRelevance:
    """The untrimmed videos of a split, in the layout of the real collections; the first `videos` of them.

    Encoded once, about a minute for all splits, and kept in `cache_folder`.
    """
    from vtrlib.datasets.prvr import PartialRelevance, write_world

    name = f"world-{split}" if videos is None else f"world-{split}-{videos}"
    sizes = {} if videos is None else {split: videos}
    root = cache_folder()
    write_world(root, (split,), collection=name, sizes=sizes)
    return PartialRelevance(root, name, split, clips=CLIPS, frames=FRAMES)


@cache
def joined(split: str, join: str, folder: str | None = None) -> PartialRelevance:
    """MSR-VTT clips of one source-disjoint split, four joined into an "untrimmed" video, within a category or at random.

    Constructed, not a benchmark. Two captions of each clip are its partial queries. Reads the folder VTRLIB_DATA
    names.
    """
    from vtrlib.datasets.prvr import PartialRelevance, write_joined_msrvtt

    root = cache_folder()
    layout = write_joined_msrvtt(root, join=join, captions=2, folder=folder, collection=f"msrvtt-joined-{join}-2")
    return PartialRelevance(root, layout.collection, split, clips=CLIPS, frames=FRAMES)


def settings(reading: Any = "released", weights: Mapping[str, float] | None = None, **changes: Any) -> Config:
    """The model in miniature. λ are those for Charades-STA; a summed DRE loss is made as large as its mean is."""
    from vtrlib.dreamprvr import Config, Weights

    base: dict[str, Any] = {
        "video_width": 64, "text_width": 64, "width": 64, "clips": CLIPS, "clip_positions": CLIPS, "frames": FRAMES,
        "dropout": 0.1, "input_dropout": 0.1,
    }  # fmt: skip
    config = Config(**{**base, **changes}, reading=reading, weights=Weights(**(weights or {})))
    if config.reading.dre_loss == "sum":
        summands = max(config.steps, 1) * config.registers * config.width
        config = replace(config, weights=replace(config.weights, dre=config.weights.dre / summands))
    return config


def batch_of(items: Any) -> Batch:
    """Items of `PartialRelevance` as the model takes them; the `collate` of its training."""
    from vtrlib.datasets.prvr import collate
    from vtrlib.dreamprvr import Batch

    found = collate(items)
    return Batch(found.clips, found.frames, found.frame_mask, found.queries, found.query_mask, found.labels)


def train(
    config: Config, data: PartialRelevance, *, seed: int = 0, rate: float = RATE, steps: int = STEPS,
    batch: int = BATCH, hard_from: float = 0.5, val: PartialRelevance | None = None, until: int | None = None,
) -> tuple[DreamPRVR, History]:  # fmt: skip
    """Train a model from nothing.

    Args:
        config: the model.
        data: what it learns from.
        seed: of weights, order and draws.
        rate: peak of the learning rate, reached after a twentieth of the steps, linear to 0.
        steps, batch: updates, and videos of each with all their queries.
        hard_from: share of the steps after which negatives are hard, as released after epoch 20 of 100.
        val: where given, four times the SumR on it is measured, and the best weights are kept.
        until: stop after so many steps.
    """
    import torch

    from vtrlib.dreamprvr import DreamPRVR
    from vtrlib.training import Config as Plan
    from vtrlib.training import adam, bert_adam, fit

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DreamPRVR(config)
    done = 0  # no checkpoints here: a count would not survive one

    def loss(trained: Any, items: Batch) -> Tensor:
        nonlocal done
        done += 1
        found: Tensor = trained(items, hard=done > hard_from * steps).total
        return found

    released = config.reading.optimiser == "bert_adam"
    plan = Plan(
        steps=steps, batch_size=batch, learning_rate=rate, weight_decay=0.01 if released else 0.0, schedule="linear",
        warmup=0.05, clip=None if released else 1.0, seed=seed, eval_every=-(-steps // 4),
    )  # fmt: skip
    history = fit(
        model, data, loss, plan, collate=batch_of, optimiser=bert_adam if released else adam, until=until,
        validate=None if val is None else lambda m: evaluate_on(m, val, seed)["SumR"],
    )  # fmt: skip
    return model, history


def encode(model: DreamPRVR, data: PartialRelevance, seed: int = 0) -> tuple[Tensor, Videos]:
    """All queries (Q, d), and all videos; `seed` decides what a stochastic reading draws."""
    import torch

    from vtrlib.dreamprvr import Videos

    generator = torch.Generator().manual_seed(seed)
    model.eval()
    with torch.no_grad():
        queries = [model.encode_query(part.queries, part.query_mask) for part in data.query_batches(500)]
        videos = [
            model.encode_video(part.clips, part.frames, part.frame_mask, generator=generator)
            for part in data.video_batches(100)
        ]
    return torch.cat(queries), Videos.join(videos)


def temporal_attention(queries: Tensor, videos: Videos, which: Tensor) -> Tensor:
    """Cosine of each query (Q, d) with the frames of the video `which` (Q,) names, (Q, F); Fig. 5 draws such curves."""
    import torch

    from vtrlib.similarity import unit

    return torch.einsum("qd,qfd->qf", unit(queries), unit(videos.frames[which]))


def in_moment(curves: Tensor, data: PartialRelevance) -> Tensor:
    """Whether each curve (Q, F) over a query's own video is highest inside its annotated moment, (Q,) bool."""
    import torch

    start, end = torch.tensor([truth.moment for truth in data.truth]).T
    length = data.lengths[data.relevant]
    peak = (curves.argmax(1) + 0.5) * length / curves.shape[1]  # in frames of the video
    return (start <= peak) & (peak < end)


def evaluate_on(model: DreamPRVR, data: PartialRelevance, seed: int = 0) -> dict[str, float]:
    """Metrics on a split of the world.

    R@K and SumR with the annotated video as the right one; beside them "true …" with all true positives; "margin", by
    how much the annotated video's score exceeds the best of the untrue ones, mean over queries; and "peak in moment",
    the share of queries whose own video is liked most where it should be, in per cent.
    """
    import torch

    from vtrlib.metrics import evaluate

    queries, videos = encode(model, data, seed)
    scores = model.score(queries, videos).fused
    ks = (1, 5, 10, 100)
    annotated, true = evaluate(scores, data.relevant, ks=ks), evaluate(scores, data.true_positives, ks=ks)
    found = {f"R@{k}": annotated.recall(k) for k in ks} | {"SumR": annotated.sum_r}
    found |= {f"true R@{k}": true.recall(k) for k in ks} | {"true SumR": true.sum_r}
    own = scores[torch.arange(len(scores)), data.relevant]
    wrong = scores.masked_fill(data.true_positives, -torch.inf).amax(1)
    found["margin"] = (own - wrong).mean().item()
    inside = in_moment(temporal_attention(queries, videos, data.relevant), data)
    return found | {"peak in moment": 100 * inside.double().mean().item()}


def first_losses(seed: int, models: Mapping[str, Config]) -> list[float]:
    """Canary: of each model the losses of the first steps, on the first 48 training videos."""
    data = world("train", 48)
    return [
        loss for config in models.values()
        for loss in train(config, data, seed=seed, batch=16, until=3)[1].losses
    ]  # fmt: skip


def variants(reading: str) -> dict[str, Config]:
    """Each row of Table 3."""
    return {name: settings(reading, **changes) for name, changes in VARIANTS.items()}


def flips() -> dict[str, Config]:
    """Both readings, and the released one with one switch after another set to the paper's value."""
    from dataclasses import fields

    from vtrlib.dreamprvr import Reading

    released = Reading.released()
    names = [field.name for field in fields(Reading) if field.name != "dre_loss"]  # λ_dre makes its two values one
    printed = {f"{name} as printed": settings(released.flipped(name)) for name in names}
    return {"released": settings("released"), "paper": settings("paper"), **printed}


def swept(reading: str, registers: list[int], diffusion_steps: list[int]) -> dict[str, Config]:
    """Fig. 3: other numbers of registers, and other T."""
    return {
        **{f"N_r={n}": settings(reading, registers=n) for n in registers},
        **{f"T={t}": settings(reading, steps=t) for t in diffusion_steps},
    }


def _all_measured(seed: int, models: Mapping[str, Config], rates: Mapping[str, float], steps: int) -> dict[str, float]:
    """Train each, keep the best of four moments on validation, and report on the test split."""
    found = {}
    for name, config in models.items():
        model, _ = train(
            config, world("train"), seed=seed, rate=rates.get(name, RATE), steps=steps, val=world("val")
        )  # fmt: skip
        found |= {f"{name}/{metric}": value for metric, value in evaluate_on(model, world("test"), seed).items()}
    return found


def _few(make: Callable[..., Mapping[str, Config]], *names: str) -> Callable[..., list[float]]:
    """The canary of an experiment whose models `make` makes of the settings `names`."""

    def canary(seed: int, **settings: Any) -> list[float]:
        return first_losses(seed, make(**{name: settings[name] for name in names}))

    return canary


def _by_rate(
    seed: int, models: Mapping[str, Config], rates: Mapping[str, list[float]], steps: int
) -> dict[str, float]:
    """SumR on validation of each model with each of its learning rates."""
    found = {}
    for name, config in models.items():
        for rate in rates[name]:
            _, history = train(config, world("train"), seed=seed, rate=rate, steps=steps, val=world("val"))
            found[f"{name}/{rate}"] = float(history.best_score or 0.0)
    return found


_first_full = _few(lambda reading: {"full": settings(reading)}, "reading")


@experiment(
    "dreamprvr-rates", seeds=(100,), canary=_first_full, reading="released", steps=STEPS, rates=list(RATES)
)  # fmt: skip
@experiment(
    "dreamprvr-rates-above", seeds=(100,), canary=_first_full, reading="released", steps=STEPS, rates=[ABOVE]
)  # fmt: skip
def rates(seed: int, reading: str, steps: int, rates: list[float]) -> dict[str, float]:
    """SumR on validation of each variant with each learning rate, at a seed that nothing else uses.

    Above: one more, since the largest of three was the best for most.
    """
    models = variants(reading)
    return _by_rate(seed, models, dict.fromkeys(models, rates), steps)


@experiment(
    "dreamprvr-reading-rates", seeds=(100,), canary=_few(lambda: _by_adam()), steps=STEPS,
    rates={"paper": [1e-3, 2e-3, 4e-3], "optimiser as printed": [4e-3, 8e-3, 0.016]},
)  # fmt: skip
def reading_rates(seed: int, steps: int, rates: dict[str, list[float]]) -> dict[str, float]:
    """The same for the two of `flips` that Adam trains; the rest keep the released model's rate."""
    return _by_rate(seed, _by_adam(), rates, steps)


def _by_adam() -> dict[str, Config]:
    return {name: config for name, config in flips().items() if config.reading.optimiser == "adam"}


@experiment(
    "dreamprvr-components", seeds=(0, 1, 2, 3, 4), canary=_few(variants, "reading"), reading="released", steps=STEPS,
    chosen=CHOSEN,
)  # fmt: skip
def components(seed: int, reading: str, steps: int, chosen: dict[str, float]) -> dict[str, float]:
    """Table 3: the model and its variants on test, each with the rate that `dreamprvr-rates` chose for it."""
    return _all_measured(seed, variants(reading), chosen, steps)


@experiment(
    "dreamprvr-readings", seeds=(0, 1, 2), canary=_few(flips), steps=STEPS, rate=CHOSEN["full"], chosen=PRINTED
)  # fmt: skip
def readings(seed: int, steps: int, rate: float, chosen: dict[str, float]) -> dict[str, float]:
    """What each difference between the paper and its released code is worth on test.

    Each model has the rate that is best for the released one, or the one `chosen` for it.
    """
    models = flips()
    return _all_measured(seed, models, dict.fromkeys(models, rate) | chosen, steps)


@experiment(
    "dreamprvr-sweep", seeds=(0, 1, 2), canary=_few(swept, "reading", "registers", "diffusion_steps"),
    reading="released", steps=STEPS, rate=CHOSEN["full"], registers=[1, 2, 4, 8, 16], diffusion_steps=[2, 5, 10, 15, 20],
)  # fmt: skip
def sweep(
    seed: int, reading: str, steps: int, rate: float, registers: list[int], diffusion_steps: list[int]
) -> dict[str, float]:
    """Fig. 3: 1 to 16 registers, and 2 to 20 diffusion steps, on test, all at one learning rate."""
    models = swept(reading, registers, diffusion_steps)
    return _all_measured(seed, models, dict.fromkeys(models, rate), steps)


def _first_joined(seed: int, reading: str, batch: int, **rest: Any) -> list[float]:
    """Canary of `msrvtt`: first losses on clips joined within a category."""
    data = joined("train", "category")
    return train(_on_joined(reading, "full", data), data, seed=seed, batch=batch, until=3)[1].losses


def _on_joined(reading: str, name: str, data: PartialRelevance) -> Config:
    """A variant at the widths of the features of joined clips."""
    item = data[0]
    widths = {"video_width": item.clips.shape[-1], "text_width": item.words[0].shape[-1]}
    return settings(reading, **VARIANTS[name], **widths)


@experiment(
    "dreamprvr-msrvtt", seeds=(0, 1, 2), canary=_first_joined, real_data=True, reading="released", steps=STEPS, batch=16,
    rates=[*RATES[1:], ABOVE],
)  # fmt: skip
def msrvtt(seed: int, reading: str, steps: int, batch: int, rates: list[float]) -> dict[str, float]:
    """Joined real clips: the model and the one without registers, joined within a category and at random, on test.

    Each at the rate, and with the weights of the moment, that validation likes best for this seed.
    """
    from vtrlib.metrics import evaluate

    found = {}
    for join in ("category", "random"):
        train_part, val, test = (joined(split, join) for split in ("train", "val", "test"))
        for name in ("full", "w/o registers"):
            config = _on_joined(reading, name, train_part)
            tried = [
                train(config, train_part, seed=seed, rate=rate, steps=steps, batch=batch, val=val) for rate in rates
            ]  # fmt: skip
            model, _ = max(tried, key=lambda one: one[1].best_score or 0.0)
            report = evaluate(model.score(*encode(model, test, seed)).fused, test.relevant, ks=(1, 5, 10))
            found |= {f"{join} {name}/R@{k}": report.recall(k) for k in report.ks}
            found |= {f"{join} {name}/SumR": report.sum_r}
        with_registers, without = (found[f"{join} {name}/SumR"] for name in ("full", "w/o registers"))
        found[f"{join} gain/SumR"] = with_registers - without
        chance = 100 / len(test.video_ids)
        found |= {f"{join} chance/R@{k}": k * chance for k in (1, 5, 10)}
        found |= {f"{join} chance/SumR": 16 * chance}
    return found


@experiment("dreamprvr-efficiency", seeds=(0, 1, 2), canary=_few(lambda: {"full": settings()}), steps=12)
def efficiency(seed: int, steps: int) -> dict[str, float]:
    """Table 2 in miniature: parameters, and seconds on one thread for a training step, 600 videos, and 3,000 queries."""
    import time

    import torch

    found, test, threads = {}, world("test"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in ("full", "w/o DRE", "w/o registers"):
            model, history = train(settings(**VARIANTS[name]), world("train"), seed=seed, steps=steps)
            start = time.perf_counter()
            queries, videos = encode(model, test)
            middle = time.perf_counter()
            with torch.no_grad():
                model.score(queries, videos).fused.argsort(dim=1, descending=True)
            end = time.perf_counter()
            found |= {
                f"{name}/parameters": float(sum(weight.numel() for weight in model.parameters())),
                f"{name}/seconds a step": history.seconds / steps,
                f"{name}/seconds to encode": middle - start,
                f"{name}/seconds to rank": end - middle,
            }
    finally:
        torch.set_num_threads(threads)
    return found
