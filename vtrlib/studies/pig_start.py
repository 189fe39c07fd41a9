"""What PIG's generator has from CLIP's text transformer: against the same one drawn anew, and two others that are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vtrlib.experiments import experiment
from vtrlib.studies.pig import (
    BATCH, FIRST_RATE, RATE, STEPS, about_queries, build, encode, evaluate_on, pairs,
    query_recall_on, settings, train_on,
)  # fmt: skip

if TYPE_CHECKING:
    from vtrlib.pig import PIG

__all__ = ["ANEW", "STARTS", "anew", "start_rates", "starts"]

ANEW = "drawn anew"
STARTS = ("PIG", ANEW, "MLP", "Q-Former")
"""Generators: CLIP's text transformer, the same with weights drawn anew, and the two of Table 2, which have nothing
pretrained either."""


def anew(model: PIG, seed: int) -> PIG:
    """The model with its generator's layers, positions, norm, projection, [bos] and [eos] drawn as `transformers` draws
    those of a CLIP; the mapper A stays as it was. In place."""
    import torch

    from vtrlib.pig import CausalGenerator

    assert isinstance(model.generator, CausalGenerator)
    sizes = model.config.sizes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = CausalGenerator(sizes.text_config, sizes.projection_dim, model.config.reading.bos == "on")
        torch.nn.init.normal_(drawn.projection.weight, std=sizes.text_config.hidden_size**-0.5)
    drawn.mapper.load_state_dict(model.generator.mapper.state_dict())
    model.generator.load_state_dict(drawn.state_dict())
    return model


def _built(name: str, seed: int) -> PIG:
    return anew(build(settings(), seed), seed) if name == ANEW else build(settings(name), seed)


def _stage(model: PIG, stage: int, seed: int, rate: float, steps: int, size: int | None = None) -> list[float]:
    """Train one stage as `vtrlib.studies.pig.train` does; its losses."""
    batch = BATCH if size is None else 8
    found = train_on(model, pairs("train", size), {stage: rate}, seed=seed, steps=steps, batch=batch, quiet=True)
    return found[stage].losses


def _first_losses(seed: int, **_: object) -> list[float]:
    """Canary: the first two losses of both stages of the one that is drawn anew."""
    model = _built(ANEW, seed)
    return [loss for stage in (1, 2) for loss in _stage(model, stage, seed, 1e-3, 2, size=48)]


@experiment("pig-start-rates", seeds=(100,), canary=_first_losses, steps=STEPS, grid=[5e-4, 1e-3, 2e-3, 4e-3, 8e-3])
def start_rates(seed: int, steps: int, grid: list[float]) -> dict[str, float]:
    """R@1 on validation of texts among pseudo-queries, after stage 1 of the one that is drawn anew."""
    found = {}
    for rate in grid:
        model = _built(ANEW, seed)
        _stage(model, 1, seed, rate, steps)
        found[f"{ANEW}/{rate}"] = query_recall_on(model, pairs("val"))
    return found


@experiment(
    "pig-generator-start", seeds=(0, 1, 2, 3, 4), canary=_first_losses, steps=STEPS, rate=RATE, first=FIRST_RATE,
    models=list(STARTS),
)  # fmt: skip
def starts(seed: int, steps: int, rate: float, first: float, models: Sequence[str]) -> dict[str, float]:
    """On test: what is said of pseudo-queries after stage 1, {model/first metric}, and everything after stage 2. The
    rate of stage 1 is the best on validation of the one that is drawn anew too, row pig-start-rates."""
    found = {}
    for name in models:
        model, test = _built(name, seed), pairs("test")
        _stage(model, 1, seed, first, steps)
        texts, videos = encode(model, test)
        assert videos.pseudo_query is not None
        early = about_queries(texts, videos.pseudo_query, videos.v)
        found |= {f"{name}/first {metric}": value for metric, value in early.items()}
        _stage(model, 2, seed, rate, steps)
        found |= {f"{name}/{metric}": value for metric, value in evaluate_on(model, test).items()}
    return found
