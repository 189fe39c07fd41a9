"""What chapter 1 measures: ceilings over five worlds of the same card, and the renderer's speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from vtrlib.experiments import experiment

__all__ = ["context", "order", "rendering"]

SEEDS = (0, 1, 2, 3, 4)
Observers = dict[str, dict[str, bool]]
_CONTEXT: Observers = {"context": {"context": True}, "local": {"context": False}}
_ORDER: Observers = {"ordered": {"order": True}, "bag": {"order": False}}


def _first_ceilings(observers: Observers, seed: int, split: str, view: str) -> list[float]:
    """Canary: the whole result of the first seed, which takes a second."""
    return list(_ceilings(seed, split, view, observers).values())


def _first_pixels(seed: int, clips: int, matrix: int) -> list[float]:
    """Canary: of what is rendered, as its speed says nothing about its code."""
    from vtrlib.world import MovingDigits

    frames, _ = MovingDigits("train", "trimmed", seed=seed).frames([0, 1, 2, 3])
    return [frames.double().mean().item(), frames.double().std().item()]


@experiment("world-context", seeds=SEEDS, canary=partial(_first_ceilings, _CONTEXT), split="val", view="untrimmed")
def context(seed: int, split: str, view: str) -> dict[str, float]:
    """Ceilings of an ideal observer with the video's context and without, in the world of this seed."""
    return _ceilings(seed, split, view, _CONTEXT)


@experiment("world-order", seeds=SEEDS, canary=partial(_first_ceilings, _ORDER), split="val", view="trimmed")
def order(seed: int, split: str, view: str) -> dict[str, float]:
    """Ceilings of an ideal observer who sees frames in order and of one who sees them as a bag."""
    return _ceilings(seed, split, view, _ORDER)


@experiment("world-rendering", seeds=SEEDS, canary=_first_pixels, clips=256, matrix=1024)
def rendering(seed: int, clips: int, matrix: int) -> dict[str, float]:
    """Trimmed clips rendered per second on one thread, beside the machine's float32 matmul rate at that moment."""
    import numpy as np
    import torch

    from vtrlib.world import MovingDigits

    world = MovingDigits("train", "trimmed", seed=seed)
    rows = np.arange(clips).tolist()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a = torch.ones(matrix, matrix)
        flops = 2 * matrix**3 / _best(lambda: a @ a)
        per_second = clips / _best(lambda: world.frames(rows))
    finally:
        torch.set_num_threads(threads)
    return {
        "clips per second": per_second,
        "matmul GFLOP/s": flops / 1e9,
        "matmul MFLOP per clip": flops / per_second / 1e6,
    }


def _ceilings(seed: int, split: str, view: str, observers: Observers) -> dict[str, float]:
    from vtrlib.world import MovingDigits, bayes_ceiling

    world = MovingDigits(split, view, seed=seed)
    queries = world.queries()
    metrics: dict[str, float] = {}
    for name, sees in observers.items():
        ceiling = bayes_ceiling(world, queries, **sees)
        metrics |= {f"{name}/R@{k}": r for k, r in ceiling.annotated.items()}
        metrics |= {f"{name}/SumR": ceiling.sum_r, f"{name}/true R@1": ceiling.true[1]}
    return metrics


def _best(work: Callable[[], object], tries: int = 5) -> float:
    """Seconds of the fastest of some tries, after one to warm up."""
    work()
    seconds = []
    for _ in range(tries):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
