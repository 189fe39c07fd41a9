"""What PIG's tables and figures become on Moving Digits: two short stages of training for each model and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vtrlib.experiments import experiment
from vtrlib.studies.pig import (
    BATCH, FIRST_RATE, MODELS, RATE, STEPS, build, encode, evaluate_on, first_losses, hits, pairs, query_recall_on,
    r_sum_on, settings, shows_digit, train,
)  # fmt: skip

if TYPE_CHECKING:
    from vtrlib.pig import PIG, Config, Reading

__all__ = [
    "CROSS", "FIRST_GRID", "GRID", "SINGLE", "SWEPT", "WAYS", "ablations", "average_precision", "cross_domain",
    "exchanged", "first_rates", "frame_attention", "hit_rates", "looks", "patches", "rates", "read", "readings",
    "sweeps", "swept",
]  # fmt: skip

FIRST_GRID: dict[str, list[float]] = {name: [5e-4, 1e-3, 2e-3, 4e-3] for name in ("PIG", "MLP", "Q-Former")}
"""Learning rates of stage 1 to choose from, of the three generators."""
GRID: dict[str, list[float]] = {
    name: [2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3] for name in ("CLIP4Clip", "CLIP-ViP", "PIG", "single tower")
}
"""Learning rates of stage 2 to choose from."""
CROSS = ("CLIP4Clip", "CLIP-ViP", "PIG", "single tower")
"""What Table 5 compares here."""
SWEPT: dict[str, list[Any]] = {"top": [1, 4, 8, 16, 32], "alpha": [0.0, 0.5, 1.0, 2.0, 4.0]}
"""What is changed in PIG, one at a time; its own values are 16, and 1 in the released reading."""
SINGLE = {
    "softmax": "patches", "contrastive": "mean", "reconstruction": "single", "bos": "on", "pre_norm": "none",
    "target": "detached",
}  # fmt: skip
"""Readings that differ from the released one by one switch: the paper's values."""


def _data(name: str, split: str, domain: str = "all") -> Any:
    return pairs(split, None, MODELS[name].captions, domain)


def _trained(
    name: str, config: Config, seed: int, steps: int, rate: float, first: float, domain: str = "all"
) -> PIG:  # fmt: skip
    """A model after both stages, or after the second where the first is none of it."""
    both = MODELS[name].first and config.generates
    data = _data(name, "train", domain)
    return train(config, data, seed=seed, rate=rate, first=first if both else None, steps=steps, quiet=True)[0]


def _each(
    seed: int, steps: int, runs: Mapping[str, tuple[str, Config]], rate: float, first: float
) -> dict[str, float]:  # fmt: skip
    """On test, {run/metric}: of each run its name in `MODELS` and its configuration."""
    found = {}
    for run, (name, config) in runs.items():
        model = _trained(name, config, seed, steps, rate, first)
        found |= {f"{run}/{metric}": value for metric, value in evaluate_on(model, _data(name, "test")).items()}
    return found


def _first_of_grid(seed: int, grid: Mapping[str, Any], **_: Any) -> list[float]:
    return first_losses(seed, grid)


@experiment("pig-first-rates", seeds=(100,), canary=_first_of_grid, steps=STEPS, grid=FIRST_GRID)
def first_rates(seed: int, steps: int, grid: dict[str, list[float]]) -> dict[str, float]:
    """R@1 on validation of texts among pseudo-queries, after stage 1, at a seed that nothing else uses."""
    from vtrlib.pig import plan, train_stages

    found = {}
    for name, tried in grid.items():
        for rate in tried:
            model = build(settings(name), seed)
            first = plan(1, steps=steps, batch_size=BATCH, learning_rate=rate, warmup=0.1, seed=seed)
            train_stages(model, _data(name, "train"), {1: first}, collate=lambda items: items, quiet=True)
            found[f"{name}/{rate}"] = query_recall_on(model, _data(name, "val"))
    return found


@experiment("pig-rates", seeds=(100,), canary=_first_of_grid, steps=STEPS, first=FIRST_RATE, grid=GRID)
def rates(seed: int, steps: int, first: float, grid: dict[str, list[float]]) -> dict[str, float]:
    """R@sum on validation of each model with each learning rate of stage 2, at that seed."""
    found = {}
    for name, tried in grid.items():
        for rate in tried:
            model = _trained(name, settings(name), seed, steps, rate, first)
            found[f"{name}/{rate}"] = r_sum_on(model, _data(name, "val"))
    return found


def _first_of_all(seed: int, models: Sequence[str], **_: Any) -> list[float]:
    return first_losses(seed, models)


@experiment(
    "pig-ablations", seeds=(0, 1, 2, 3, 4), canary=_first_of_all, steps=STEPS, rate=RATE, first=FIRST_RATE,
    models=list(MODELS),
)  # fmt: skip
def ablations(seed: int, steps: int, rate: float, first: float, models: list[str]) -> dict[str, float]:
    """Tables 2 and 4, on test: every model at the same two learning rates."""
    return _each(seed, steps, {name: (name, settings(name)) for name in models}, rate, first)


def swept(changed: Mapping[str, Sequence[Any]]) -> dict[str, Config]:
    """PIG, and with one setting changed: {"top=4": …}."""
    base = settings()
    found = {"PIG": base}
    for key, values in changed.items():
        found |= {f"{key}={value}": settings("PIG", **{key: value}) for value in values}
    return {name: config for name, config in found.items() if name == "PIG" or not _same(config, base)}


def _same(config: Config, base: Config) -> bool:
    return (config.top, config.weight()) == (base.top, base.weight())


def _first_of_swept(seed: int, changed: Mapping[str, Any], **_: Any) -> list[float]:
    configs = swept(changed)
    return first_losses(seed, configs, configs)


@experiment(
    "pig-sweeps", seeds=(0, 1, 2), canary=_first_of_swept, steps=STEPS, rate=RATE, first=FIRST_RATE,
    changed=SWEPT,
)  # fmt: skip
def sweeps(seed: int, steps: int, rate: float, first: float, changed: dict[str, list[Any]]) -> dict[str, float]:
    """PIG with another k, and with another α, on test. With α = 0 stage 1 stays as it is."""
    return _each(seed, steps, {name: ("PIG", config) for name, config in swept(changed).items()}, rate, first)


def read(single: Mapping[str, str]) -> dict[str, Reading]:
    """The released reading, each single switch changed in it, and the paper's."""
    from dataclasses import replace

    from vtrlib.pig import Reading

    base = Reading.released()
    found = {"released": base} | {name: replace(base, **{name: value}) for name, value in single.items()}
    return found | {"paper": Reading.of("paper")}


def _first_of_readings(seed: int, single: Mapping[str, str], **_: Any) -> list[float]:
    configs = {name: settings("PIG", reading) for name, reading in read(single).items()}
    return first_losses(seed, configs, configs)


@experiment(
    "pig-readings", seeds=(0, 1, 2), canary=_first_of_readings, steps=STEPS, rate=RATE, first=FIRST_RATE,
    single=SINGLE,
)  # fmt: skip
def readings(seed: int, steps: int, rate: float, first: float, single: dict[str, str]) -> dict[str, float]:
    """PIG in other readings, on test, all at the learning rates of the released one."""
    runs = {name: ("PIG", settings("PIG", reading)) for name, reading in read(single).items()}
    return _each(seed, steps, runs, rate, first)


def _first_of_cross(seed: int, models: Sequence[str], domains: Sequence[str], **_: Any) -> list[float]:
    return [loss for domain in domains for loss in first_losses(seed, models, domain=f"seen {domain}")]


@experiment(
    "pig-cross-domain", seeds=(0, 1, 2), canary=_first_of_cross, steps=STEPS, rate=RATE,
    first=FIRST_RATE, models=list(CROSS), domains=["scenes", "colours"],
)  # fmt: skip
def cross_domain(
    seed: int, steps: int, rate: float, first: float, models: list[str], domains: list[str]
) -> dict[str, float]:  # fmt: skip
    """Table 5: trained on clips of some scenes or colours, tested on them, and on clips of the others alone."""
    found = {}
    for domain in domains:
        for name in models:
            model = _trained(name, settings(name), seed, steps, rate, first, f"seen {domain}")
            for side in ("seen", "unseen"):
                results = evaluate_on(model, _data(name, "test", f"{side} {domain}"))
                found |= {f"{name}/{side} {domain}/{metric}": value for metric, value in results.items()}
    return found


def average_precision(informativeness: Any, true: Any) -> Any:
    """Of each video the average precision of its patches, by informativeness, for being true: (V,).

    Args:
        informativeness: S (V, F, N).
        true: (V, F, N) bool; a video without any is left out.
    """
    import torch

    from vtrlib.pig import select

    places = select(informativeness, informativeness[0].numel())
    relevant = true.flatten(1).gather(1, places).double()
    precision = relevant.cumsum(1) / torch.arange(1, places.shape[1] + 1)
    some = relevant.any(1)
    return ((precision * relevant).sum(1) / relevant.sum(1))[some]


def patches(model: PIG, data: Any, ways: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Informativeness of a trained model's patches, (V, F, N), taken in other ways.

    Args:
        model: any with patches.
        data: `Pairs`.
        ways: for each way what is changed: "softmax" and "score_heads", of reading and configuration.
    """
    from dataclasses import replace

    kept, found = model.config, {}
    for way, changes in ways.items():
        reading = replace(kept.reading, softmax=changes["softmax"])
        model.config = replace(kept, reading=reading, score_heads=changes["score_heads"])
        try:
            found[way] = encode(model, data)[1].informativeness
        finally:
            model.config = kept
    return found


WAYS = {
    "keys": {"softmax": "keys", "score_heads": "max"}, "patches": {"softmax": "patches", "score_heads": "max"},
    "mean": {"softmax": "keys", "score_heads": "mean"},
}  # fmt: skip
"""Informativeness as released, as Eq. 6 has it, and with the mean over heads."""


def _first_of_hits(seed: int, models: Sequence[str], **_: Any) -> list[float]:
    return first_losses(seed, [name for name in models if name in MODELS])


@experiment(
    "pig-hits", seeds=(0, 1, 2), canary=_first_of_hits, steps=STEPS, rate=RATE, first=FIRST_RATE,
    models=["untrained", "PIG", "CLIP-ViP with [cls]", "PIG on CLIP4Clip"], tops=[1, 2, 4, 8, 16, 32, 64],
)  # fmt: skip
def hit_rates(
    seed: int, steps: int, rate: float, first: float, models: list[str], tops: list[int]
) -> dict[str, float]:  # fmt: skip
    """On test, of the k most informative patches the share that shows the digit, over k, and average precision.

    Informativeness as released ("keys"), as Eq. 6 has it ("patches"), and with the mean over heads ("mean"); beside
    them patches at random. "agree@k": how many of k patches "keys" and "patches" have in common.
    """
    import torch

    from vtrlib.pig import select

    found: dict[str, float] = {}
    test = _data("PIG", "test")
    true = shows_digit(test.clips)
    shuffled = torch.rand(true.shape, generator=torch.Generator().manual_seed(seed))
    for name in models:
        if name == "untrained":
            model = build(settings(), seed)
        elif name == "CLIP-ViP with [cls]":  # the backbone alone, with the frames' [cls] that ITS counts on
            plain = settings("CLIP-ViP", frame_cls=True)
            model = _trained("CLIP-ViP", plain, seed, steps, rate, first)
        else:
            model = _trained(name, settings(name), seed, steps, rate, first)
        all_ways = patches(model, test, WAYS)
        for way, S in {**all_ways, "random": shuffled}.items():
            found[f"{name}/{way}/AP"] = 100 * float(average_precision(S, true).mean())
            for top in tops:
                found[f"{name}/{way}/hits@{top}"] = 100 * float(hits(select(S, top), true).mean())
        for top in tops:
            one, other = (select(all_ways[way], top) for way in ("keys", "patches"))
            common = (one[:, :, None] == other[:, None]).any(-1).double().mean()
            found[f"{name}/agree@{top}"] = 100 * float(common)
            same = (one.sort(1).values == other.sort(1).values).all(1).double().mean()
            found[f"{name}/same set@{top}"] = 100 * float(same)
    return found


def looks(model: PIG, data: Any) -> dict[str, float]:
    """Where the fusioner looks in clips whose digit blinks, half of whose frames are dark.

    Shares of its attention, in per cent: "lit" and "dark" of frames with and without the digit, "video" of the
    proxies. Pseudo-queries ask; of a single tower each clip's own caption does.
    """
    import torch

    from vtrlib.pig import XPool

    assert isinstance(model.fusioner, XPool)
    texts, videos = encode(model, data)
    asking = texts if videos.pseudo_query is None else videos.pseudo_query
    with torch.no_grad():
        weights = model.fusioner.weights(asking[:, None], torch.cat([videos.x_v, videos.x_f], 1))[:, 0]
    lit = data.clips.digit.flatten(2).any(-1)
    rows = ~lit.all(1)
    weights, lit = weights[rows], lit[rows]
    video, frames = weights.split([videos.x_v.shape[1], videos.x_f.shape[1]], 1)
    shares = {"lit": (frames * lit).sum(1), "dark": (frames * ~lit).sum(1), "video": video.sum(1)}
    return {name: 100 * float(share.mean()) for name, share in shares.items()}


def exchanged(model: PIG, data: Any, seed: int = 0) -> dict[str, float]:
    """What retrieval loses, both directions together, where videos look at themselves with other queries.

    "own R@sum" is as trained; "another's R@sum": each video asks with the pseudo-query of another one, at random;
    "the mean R@sum": all ask with the mean of all pseudo-queries.
    """
    import torch

    from vtrlib.studies.clips import retrieved

    assert model.fusioner is not None
    texts, videos = encode(model, data)
    asking = videos.pseudo_query
    assert asking is not None
    order = torch.randperm(len(asking), generator=torch.Generator().manual_seed(seed))
    others = torch.empty_like(asking)
    others[order] = asking[order.roll(1)]  # one circle through all: nobody keeps his own
    ways = {"own": asking, "another's": others, "the mean": asking.mean(0).expand_as(asking)}
    found = {}
    for way, queries in ways.items():
        with torch.no_grad():
            v = model.fusioner(queries, torch.cat([videos.x_v, videos.x_f], 1))
            found[f"{way} R@sum"] = retrieved(model.score(texts, v), data.clips)["R@sum"]
    return found


@experiment(
    "pig-frame-attention", seeds=(0, 1, 2), canary=_first_of_all, steps=STEPS, rate=RATE, first=FIRST_RATE,
    models=["PIG", "w/o L_recon", "cross", "single tower"],
)  # fmt: skip
def frame_attention(seed: int, steps: int, rate: float, first: float, models: list[str]) -> dict[str, float]:
    """`looks` on test, of models before and after training; then what `exchanged` pseudo-queries do."""
    found = {}
    for name in models:
        test = _data(name, "test")
        model = _trained(name, settings(name), seed, steps, rate, first)
        stages = {"untrained": build(settings(name), seed), "trained": model}
        for when, one in stages.items() if model.config.fusioner == "xpool" else ():
            found |= {f"{name}/{when}/{metric}": value for metric, value in looks(one, test).items()}
        if model.config.generates:
            found |= {f"{name}/{metric}": value for metric, value in exchanged(model, test).items()}
    return found
