r"""Discrete-time diffusion: schedules, the forward process, its posterior, samplers.

Time is counted as in the papers: $t = 0$ is clean data, $t = 1, \dots, T$ are noised,
and $t = T$ is where generation starts. A step is an int, or an integer tensor that
broadcasts against everything but a point's last axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from vtrlib import check

__all__ = ["Schedule", "cosine", "draw_normal", "linear", "sample"]

Denoiser = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Schedule:
    r"""A variance schedule $\beta_1, \dots, \beta_T$ and what follows from it.

    Ho et al. 2020; DreamPRVR Eq. 10-12.

    $$ q(x_t \mid x_{t-1}) = \mathcal N(\sqrt{\alpha_t}\, x_{t-1}, \beta_t I), \quad
       \alpha_t = 1 - \beta_t, \quad \bar\alpha_t = \prod_{s \le t} \alpha_s $$

    Everything is computed in float64; a constant takes the dtype of what it multiplies.

    Attributes:
        beta: (T,), $0 < \beta_t < 1$; empty for a process without steps.

    Raises:
        ValueError: another shape or range.
    """

    beta: Tensor
    _tables: dict[str, Tensor] = field(init=False, repr=False, default_factory=dict)
    _numbers: dict[str, list[float]] = field(
        init=False, repr=False, default_factory=dict
    )
    _placed: dict[Any, Tensor] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        beta = torch.as_tensor(self.beta, dtype=torch.float64, device="cpu")
        if beta.ndim != 1 or not bool(((beta > 0) & (beta < 1)).all()):
            raise ValueError(
                f"beta: found {beta.tolist()}, expected shape (T,) with 0 < beta < 1. "
                "Clip the schedule, or take fewer or more steps."
            )
        object.__setattr__(self, "beta", beta)
        beta = torch.cat([beta.new_zeros(1), beta])  # t = 0: nothing happened yet
        bar = (1 - beta).cumprod(0)
        before = torch.cat([bar.new_ones(1), bar[:-1]])
        rest = (1 - bar).where(bar < 1, 1)  # at t = 0 its numerators are 0
        self._tables.update(
            beta=beta,
            alpha_bar=bar,
            signal=bar.sqrt(),
            noise=(1 - bar).sqrt(),
            from_x0=beta * before.sqrt() / rest,
            from_xt=(1 - before) * (1 - beta).sqrt() / rest,
            variance=beta * (1 - before) / rest,
            shrink=(1 - beta).rsqrt(),
            correct=beta / rest.sqrt(),
        )
        self._numbers.update({name: one.tolist() for name, one in self._tables.items()})

    @property
    def steps(self) -> int:
        """T."""
        return len(self.beta)

    @property
    def alpha_bar(self) -> Tensor:
        r"""(T + 1,), $\bar\alpha_0 = 1, \dots, \bar\alpha_T$, float64."""
        return self._tables["alpha_bar"]

    def at(self, name: str, t: int | Tensor, like: Tensor) -> float | Tensor:
        """A constant at step `t`: a float for an int, else on the device of `like`,
        with one more axis than `t`."""
        if not isinstance(t, Tensor):
            return self._numbers[name][t]
        key = (name, like.device, like.dtype)
        if key not in self._placed:
            with torch.inference_mode(False):  # a later training step may need it
                self._placed[key] = self._tables[name].to(like.device, like.dtype)
        return self._placed[key][t][..., None]

    def diffuse(self, x0: Tensor, t: int | Tensor, noise: Tensor) -> Tensor:
        r"""A draw from $q(x_t \mid x_0)$ (DreamPRVR Eq. 10).

        $$ x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon $$
        """
        return self.at("signal", t, x0) * x0 + self.at("noise", t, x0) * noise

    def x0_from_noise(self, xt: Tensor, t: int | Tensor, noise: Tensor) -> Tensor:
        r"""The clean point under a noisy one, if the noise is known.

        $$ \hat x_0 = (x_t - \sqrt{1 - \bar\alpha_t}\, \hat\epsilon)
           / \sqrt{\bar\alpha_t} $$
        """
        return (xt - self.at("noise", t, xt) * noise) / self.at("signal", t, xt)

    def noise_from_x0(self, xt: Tensor, t: int | Tensor, x0: Tensor) -> Tensor:
        r"""The noise, if the clean point is known; t ≥ 1.

        $$ \hat\epsilon = (x_t - \sqrt{\bar\alpha_t}\, \hat x_0)
           / \sqrt{1 - \bar\alpha_t} $$
        """
        return (xt - self.at("signal", t, xt) * x0) / self.at("noise", t, xt)

    def posterior(
        self, x0: Tensor, xt: Tensor, t: int | Tensor
    ) -> tuple[Tensor, float | Tensor]:
        r"""Mean and variance of $q(x_{t-1} \mid x_t, x_0)$, t ≥ 1 (DreamPRVR Eq. 25).

        $$ \tilde\mu = \frac{\beta_t \sqrt{\bar\alpha_{t-1}}}{1 - \bar\alpha_t} x_0
             + \frac{(1 - \bar\alpha_{t-1}) \sqrt{\alpha_t}}{1 - \bar\alpha_t} x_t,
           \quad \tilde\beta_t
           = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} \beta_t $$
        """
        mean = self.at("from_x0", t, x0) * x0 + self.at("from_xt", t, xt) * xt
        return mean, self.at("variance", t, xt)

    def reverse_mean(self, xt: Tensor, t: int | Tensor, noise: Tensor) -> Tensor:
        r"""DreamPRVR's Eq. 12 without what it adds at random, t ≥ 1.

        $$ \frac{1}{\sqrt{\alpha_t}} \Bigl(x_t
           - \frac{1 - \alpha_t}{\sqrt{1 - \bar\alpha_t}} \hat\epsilon\Bigr) $$

        It is the posterior's mean at $\hat x_0$ of `x0_from_noise`, rearranged.
        """
        return self.at("shrink", t, xt) * (xt - self.at("correct", t, xt) * noise)


def linear(steps: int, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """β from `first` to `last` in equal steps; the defaults are DDPM's for T = 1,000.

    Raises:
        ValueError: T below 0, or β outside 0 … 1.
    """
    steps = check.integer("steps", steps, low=0)
    beta = torch.linspace(first, last, steps, dtype=torch.float64, device="cpu")
    return Schedule(beta)


def cosine(steps: int, offset: float = 0.008, clip: float = 0.999) -> Schedule:
    r"""The cosine schedule (Nichol & Dhariwal 2021).

    $$ \bar\alpha_t = \frac{f(t/T)}{f(0)}, \quad
       f(u) = \cos^2 \Bigl(\frac{\pi}{2} \frac{u + s}{1 + s}\Bigr) $$

    Args:
        steps: T ≥ 0.
        offset: s.
        clip: largest β; it acts at t = T, where β would be 1.
    """
    steps = check.integer("steps", steps, low=0)
    f = [
        math.cos(math.pi / 2 * (t / max(steps, 1) + offset) / (1 + offset)) ** 2
        for t in range(steps + 1)
    ]
    beta = [min(1 - f[t] / f[t - 1], clip) for t in range(1, steps + 1)]
    return Schedule(torch.tensor(beta, dtype=torch.float64, device="cpu"))


def sample(
    denoiser: Denoiser,
    start: Tensor,
    schedule: Schedule,
    *,
    step: str = "noise",
    clamp: float | None = None,
    draws: Tensor | None = None,
    generator: Generator | None = None,
    trajectory: bool = False,
) -> Tensor:
    r"""Run the reverse process, $x_T$ to $x_0$ (DreamPRVR Algorithm 1, lines 20-30).

    Args:
        denoiser: $(x_t, t) \mapsto \hat\epsilon$, in the shape of x; t = T, …, 1.
        start: $x_T$, any shape.
        schedule: with T ≥ 0 steps; with none, x_0 = x_T.
        step: "noise", Eq. 12 with $\sigma_t^2 = \beta_t$; or "posterior", the mean of
            $q(x_{t-1} \mid x_t, \hat x_0)$ with $\sigma_t^2 = \tilde\beta_t$.
        clamp: with "posterior", $\hat x_0$ is held within ± so much.
        draws: `(T, *shape)` or what broadcasts to it, z for t = T, …, 1; drawn by
            default. The last is never read: nothing is added at t = 1.
        generator: decides the draws.
        trajectory: return all states.

    Returns:
        $x_0$, or with `trajectory` `(T + 1, *shape)`: $x_T, \dots, x_0$.

    Raises:
        ValueError: no such step, `clamp` without "posterior", or draws that do not fit.
    """
    check.one_of("step", step, ("noise", "posterior"))
    if clamp is not None and step == "noise":
        raise ValueError(
            f"clamp={clamp}: Eq. 12 holds no x0 to clamp. Leave it out, or take "
            "step='posterior'."
        )
    if draws is not None:
        draws = _broadcast(draws, (schedule.steps, *start.shape))
    x, states = start, [start]
    for t in range(schedule.steps, 0, -1):
        noise = denoiser(x, t)
        if step == "noise":
            x, variance = schedule.reverse_mean(x, t, noise), schedule.at("beta", t, x)
        else:
            x0 = schedule.x0_from_noise(x, t, noise)
            x0 = x0 if clamp is None else x0.clamp(-clamp, clamp)
            x, variance = schedule.posterior(x0, x, t)
        if t > 1:
            given = None if draws is None else draws[schedule.steps - t]
            z = draw_normal(x.shape, x, generator) if given is None else given
            x = x + float(variance) ** 0.5 * z
        states.append(x)
    return torch.stack(states) if trajectory else x


def draw_normal(
    shape: tuple[int, ...], like: Tensor, generator: Generator | None = None
) -> Tensor:
    """Draws from N(0, 1), on the device and in the dtype of `like`.

    They are made where the generator is: one of a CPU gives every device the same.
    """
    device = like.device if generator is None else generator.device
    drawn = torch.randn(shape, generator=generator, device=device, dtype=like.dtype)
    return drawn.to(like.device)


def _broadcast(draws: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return draws.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"draws: found shape {tuple(draws.shape)}, expected {shape}, T steps of x."
        ) from None
