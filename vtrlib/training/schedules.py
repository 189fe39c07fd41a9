"""Learning rates over a training run, as the papers' released code computes them.

Each is a function `(step, steps, warmup, peak) -> rate`: the rate of update number `step` (the first is 0) of `steps`,
where the first share `warmup` of them rises to `peak`. Plain floats, so that a rate costs the device nothing. One of
your own goes into `SCHEDULES` under a name, by which configurations and checkpoints know it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["SCHEDULES", "Schedule", "clip4clip", "constant", "cosine", "linear", "pig"]

Schedule = Callable[[int, int, float, float], float]


def constant(step: int, steps: int, warmup: float, peak: float) -> float:
    r"""$\eta \min(k/w, 1)$ with $w = \lfloor \mathrm{warmup} \cdot \mathrm{steps} \rfloor$."""
    rising = int(warmup * steps)
    return peak * (step / rising if step < rising else 1.0)


def cosine(step: int, steps: int, warmup: float, peak: float) -> float:
    r"""Linear to the peak, then $\eta \frac12 (1 + \cos \pi \frac{k - w}{K - w})$; the first update has rate 0.

    DiscoVLA's, and that of `transformers.get_cosine_schedule_with_warmup`.
    """
    rising = int(warmup * steps)
    if step < rising:
        return peak * step / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))


def linear(step: int, steps: int, warmup: float, peak: float) -> float:
    r"""$\eta x / w$ while progress $x = k/K$ is below the share $w$, then $\eta \max((x - 1)/(w - 1), 0)$.

    DreamPRVR's, inside its BertAdam. The warm-up need be no whole number of steps; the first update has rate 0.
    """
    progress = step / steps
    if progress < warmup:
        return peak * progress / warmup
    return peak * max((progress - 1) / (warmup - 1), 0.0)


def clip4clip(step: int, steps: int, warmup: float, peak: float) -> float:
    r"""$\eta x / w$ while progress $x = k/K$ is below the share $w$, then $\eta \frac12 (1 + \cos \pi x)$.

    CLIP4Clip's, inside its BertAdam. Where the warm-up of one tenth ends it falls from 1 to 0.976 of the peak.
    """
    progress = step / steps
    if progress < warmup:
        return peak * progress / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def pig(step: int, steps: int, warmup: float, peak: float) -> float:
    """PIG's cosine: it counts updates from 1, and replaces a rate of 0 by 1e-8, whatever the peak is."""
    return cosine(step + 1, steps, warmup, peak) or 1e-8


SCHEDULES: dict[str, Schedule] = {
    "constant": constant, "linear": linear, "cosine": cosine, "clip4clip": clip4clip, "pig": pig,
}  # fmt: skip
