"""What the tables and figures of DiscoVLA become on Moving Digits: a short training for each model and seed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vtrlib.experiments import experiment
from vtrlib.studies.discovla import (
    COMPONENTS, MODELS, OWN_RATES, RATES, STEPS, TABLE_6, clips, encode, evaluate_on, first_losses, r_sum_on, reading,
    settings, teacher_on, train,
)  # fmt: skip

if TYPE_CHECKING:
    from torch import Tensor

    from vtrlib.discovla import Config, DiscoVLA, Reading

__all__ = [
    "GRID", "SINGLE", "SWEPT", "ablations", "own_rates", "post_processed", "rate_of", "rates", "rates_above",
    "read", "readings", "sweeps", "swept",
]  # fmt: skip

GRID: dict[str, list[float]] = {
    name: [1e-4, 3e-4, 1e-3, 3e-3] if name == "full fine-tuning" else [6e-3, 1.2e-2, 2.4e-2, 4.8e-2]
    for name in dict.fromkeys([*TABLE_6, *COMPONENTS]) if name != "zero-shot"
}  # fmt: skip
"""Learning rates to choose from, of the models of Tables 5 and 6."""

SWEPT: dict[str, list[Any]] = {
    "alpha": [0.0, 0.3, 1.0, 3.0], "beta": [0.0, 0.3, 1.0, 3.0], "vision_fusion": [0, 1, 2, 3, 4],
    "text_fusion": [0, 1, 2, 3],
}  # fmt: skip
"""Fig. 6 to 9: what is changed in DiscoVLA, one at a time; its own values are 0.3, 1, 2 and 1."""

SINGLE = {
    "aggregation": "mean", "teacher": "detached", "activation": "gelu", "adapter_bias": "none", "optimiser": "adamw",
    "kl": "numel100",
}  # fmt: skip
"""Readings that differ from the study's by one switch: the paper's values, and the released reduction of Eq. 13.
`padding` is left out: no clip here has a padded frame."""


def rate_of(name: str, chosen: Mapping[str, float]) -> float:
    """The learning rate of a model: its own, or that of DiscoVLA, of which the others are variants."""
    return chosen.get(name, chosen["DiscoVLA"])


def post_processed(model: DiscoVLA) -> dict[str, float]:
    """Table 9: text to video on test, rescored by DSL with all test queries, and by QB-Norm with training queries.

    Their scales are CLIP's own and the 20 of QB-Norm's paper; none is chosen here.
    """
    from vtrlib.metrics import dual_softmax, evaluate, querybank_norm
    from vtrlib.studies.clips import recalls

    texts, videos = encode(model, clips("test"))
    scores, own = model.score(texts, videos.video), range(len(texts))
    bank = model.score(_first_wordings(model), videos.video)
    scale = float(model.scale.detach())
    found: dict[str, float] = {}
    ways = {"DSL": dual_softmax(scores, scale=scale), "QB-Norm": querybank_norm(scores, bank)}
    for way, rescored in ways.items():
        report = evaluate(rescored, own, ks=(1, 5, 10))
        found |= {f"{way} t2v {name}": value for name, value in recalls(report).items()}
    return found


def _first_wordings(model: DiscoVLA) -> Tensor:
    import torch

    data = clips("train")
    with torch.no_grad():
        parts = torch.arange(len(data)).split(200)
        return torch.cat([model.encode_text(data.ids[0, part], data.mask[0, part]) for part in parts])


def _trained(config: Config, name: str, seed: int, rate: float, steps: int) -> tuple[DiscoVLA, str | None]:
    """A model after its training, and the variant of the pseudo captions that it reads."""
    captions = MODELS[name].captions if config.alpha or config.beta else None
    data = clips("train", None, captions)
    return train(config, data, seed=seed, rate=rate, steps=steps, time=MODELS[name].time, quiet=True)[0], captions


def _each(
    seed: int, steps: int, runs: Mapping[str, tuple[str, Config, float]], rescored: Collection[str] = ()
) -> dict[str, float]:  # fmt: skip
    """On test, {run/metric}: of each run its name in `MODELS`, configuration and learning rate; of some also Table 9."""
    found = {}
    for run, (name, config, rate) in runs.items():
        model, captions = _trained(config, name, seed, rate, steps)
        results = evaluate_on(model, clips("test"))
        if captions is not None:
            results |= teacher_on(model, clips("test", None, captions))
        if run in rescored:
            results |= post_processed(model)
        found |= {f"{run}/{metric}": value for metric, value in results.items()}
    return found


def _first_of_grid(seed: int, grid: Mapping[str, Any], **_: Any) -> list[float]:
    return first_losses(seed, grid)


@experiment("discovla-rates", seeds=(100,), canary=_first_of_grid, steps=STEPS, grid=GRID)
def rates(seed: int, steps: int, grid: dict[str, list[float]]) -> dict[str, float]:
    """R@sum on validation of each model with each learning rate, at a seed that nothing else uses."""
    found = {}
    for name, tried in grid.items():
        for rate in tried:
            model, _ = _trained(settings(name), name, seed, rate, steps)
            found[f"{name}/{rate}"] = r_sum_on(model, clips("val"))
    return found


@experiment(
    "discovla-rates-above", seeds=(100,), canary=_first_of_grid, steps=STEPS,
    grid={name: [2 * tried[-1]] for name, tried in GRID.items() if name != "full fine-tuning"},
)  # fmt: skip
def rates_above(seed: int, steps: int, grid: dict[str, list[float]]) -> dict[str, float]:
    """The same with twice the largest rate, which no model should prefer."""
    return rates(seed, steps, grid)


def _first_of_all(seed: int, chosen: Mapping[str, float], **_: Any) -> list[float]:
    return first_losses(seed, MODELS)


@experiment("discovla-ablations", seeds=(0, 1, 2, 3, 4), canary=_first_of_all, steps=STEPS, chosen=RATES)
def ablations(seed: int, steps: int, chosen: dict[str, float]) -> dict[str, float]:
    """Tables 5 to 9, on test: every model at its learning rate, and the scores of LoRA and of DiscoVLA rescored."""
    runs = {name: (name, settings(name), rate_of(name, chosen)) for name in MODELS}
    return _each(seed, steps, runs, rescored=("image-level", "DiscoVLA"))


def _first_of_own(seed: int, chosen: Mapping[str, float], **_: Any) -> list[float]:
    return first_losses(seed, chosen)


@experiment(
    "discovla-own-rates", seeds=(0, 1, 2, 3, 4), canary=_first_of_own, steps=STEPS,
    chosen={name: OWN_RATES[name] for name in ("image-level", "IVFusion")},
)  # fmt: skip
def own_rates(seed: int, steps: int, chosen: dict[str, float]) -> dict[str, float]:
    """LoRA and B1 once more, on test, each at the rate at which it alone does best."""
    return _each(seed, steps, {name: (name, settings(name), rate) for name, rate in chosen.items()})


def swept(changed: Mapping[str, Sequence[Any]]) -> dict[str, Config]:
    """DiscoVLA, and with one setting changed: {"alpha=1.0": …}."""
    base = settings("DiscoVLA")
    found = {"DiscoVLA": base}
    for key, values in changed.items():
        found |= {f"{key}={value}": settings("DiscoVLA", **{key: value}) for value in values}
    return {name: config for name, config in found.items() if name == "DiscoVLA" or config != base}


def _first_of_swept(seed: int, changed: Mapping[str, Any], **_: Any) -> list[float]:
    return [loss for config in swept(changed).values() for loss in _first_of(seed, config)]


def _first_of(seed: int, config: Config) -> list[float]:
    return first_losses(seed, ["DiscoVLA"], config=config)


@experiment(
    "discovla-sweeps", seeds=(0, 1, 2), canary=_first_of_swept, steps=STEPS, rate=RATES["DiscoVLA"], changed=SWEPT
)
def sweeps(seed: int, steps: int, rate: float, changed: dict[str, list[Any]]) -> dict[str, float]:
    """Fig. 6 to 9, on test: DiscoVLA with one setting changed, all at its learning rate."""
    return _each(seed, steps, {name: ("DiscoVLA", config, rate) for name, config in swept(changed).items()})


def read(single: Mapping[str, str]) -> dict[str, Reading]:
    """The study's reading, each single switch changed in it, and the paper's."""
    from dataclasses import replace

    base = reading()
    found = {"released": base} | {name: replace(base, **{name: value}) for name, value in single.items()}
    return found | {"paper": reading("paper")}


def _first_of_readings(seed: int, single: Mapping[str, str], **_: Any) -> list[float]:
    return [loss for other in read(single).values() for loss in _first_of(seed, settings("DiscoVLA", other))]


@experiment(
    "discovla-readings", seeds=(0, 1, 2), canary=_first_of_readings, steps=STEPS, rate=RATES["DiscoVLA"], single=SINGLE
)
def readings(seed: int, steps: int, rate: float, single: dict[str, str]) -> dict[str, float]:
    """DiscoVLA in other readings, on test, all at the learning rate of the study's own."""
    runs = {name: ("DiscoVLA", settings("DiscoVLA", other), rate) for name, other in read(single).items()}
    return _each(seed, steps, runs)
