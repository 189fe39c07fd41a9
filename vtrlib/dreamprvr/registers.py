"""Registers by truncated diffusion: condition, estimator, its loss, Algorithm 1."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from vtrlib import diffusion
from vtrlib.dreamprvr.config import Config
from vtrlib.dreamprvr.draws import Draws, normal
from vtrlib.dreamprvr.layers import AttentionBlock
from vtrlib.dreamprvr.reading import Reading
from vtrlib.dreamprvr.sampler import Gaussian, sinusoids

__all__ = [
    "ConditionGenerator", "DiffusionRegisterEstimator", "EstimatorBlock", "Guidance",
    "forward_diffusion_loss", "generate_registers",
]  # fmt: skip


class ConditionGenerator(nn.Module):
    r"""$c = \mathrm{CA}(LP, V_v, V_v)$: learned tokens ask the video (Eq. 28)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(1, config.registers, config.width))
        self.block = AttentionBlock(config.width, config.heads, config.dropout, 1)

    def forward(self, video: Tensor) -> Tensor:
        """V_v (B, M_c, d) to c (B, N_r, d)."""
        condition: Tensor = self.block(self.tokens, video)
        return condition


class Guidance(NamedTuple):
    """What a video's condition and the steps add in the estimator's blocks.

    Attributes:
        time: (T, d), embedded steps 1, …, T.
        condition: (B, N_r, d), the embedded condition.
        time_shifts, condition_shifts: what either adds in each block, in the same
            shapes.
    """

    time: Tensor
    condition: Tensor
    time_shifts: tuple[Tensor, ...]
    condition_shifts: tuple[Tensor, ...]


class EstimatorBlock(nn.Module):
    r"""Layers with a short cut, shifted by time and condition (Fig. 7a).

    $$ u = W_1 s(\mathrm{LN}(h)) + W_t s(t) + W_c s(c),
       \quad h \leftarrow W_2 s(\mathrm{LN}(u)) + W_3 h $$

    with s(x) = x · sigmoid(x).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.layer_in, self.layer_out, self.short_cut = (
            nn.Linear(width, width) for _ in range(3)
        )
        self.time, self.condition = (nn.Linear(width, width) for _ in range(2))

    def forward(self, h: Tensor, shift: Tensor) -> Tensor:
        """States (..., N_r, d), shifted by what broadcasts to them."""
        u = self.layer_in(F.silu(self.norm_in(h))) + shift
        out: Tensor = self.layer_out(F.silu(self.norm_out(u))) + self.short_cut(h)
        return out


class DiffusionRegisterEstimator(nn.Module):
    r"""$\epsilon_\phi(x_t, t, c)$ estimates the noise in registers (DRE, Fig. 7a).

    What time and condition add does not depend on $x_t$: `guide` computes it once for
    all steps.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, steps = config.width, config.steps
        # Never trained. The released code overwrites it with the other weights' draws.
        table = sinusoids(torch.arange(1, steps + 1), width)
        self.table = nn.Parameter(table, requires_grad=False)
        first, second, third, self.short_cut = (
            nn.Linear(width, width) for _ in range(4)
        )
        self.time = nn.Sequential(first, nn.SiLU(), second)
        self.condition = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), third)
        blocks = (EstimatorBlock(width) for _ in range(config.estimator_blocks))
        self.blocks = nn.ModuleList(blocks)

    def guide(self, condition: Tensor) -> Guidance:
        """Embed the condition (B, N_r, d) and all steps."""
        time, embedded = self.time(self.table), self.condition(condition)
        t, c = F.silu(time), F.silu(embedded)
        return Guidance(
            time,
            embedded,
            tuple(block.time(t) for block in self._each()),
            tuple(block.condition(c) for block in self._each()),
        )

    def _each(self) -> list[EstimatorBlock]:
        return cast("list[EstimatorBlock]", list(self.blocks))

    def forward(self, x: Tensor, t: int | Tensor, guidance: Guidance) -> Tensor:
        """Noisy registers to the noise in them.

        Args:
            x: (B, N_r, d) at one step, or (T', B, N_r, d) at several.
            t: the step, 1 ≤ t ≤ T, or (T', 1, 1) of them.
            guidance: of the same B videos.
        """
        h = x
        shifts = zip(guidance.time_shifts, guidance.condition_shifts, strict=True)
        for block, (time, condition) in zip(self.blocks, shifts, strict=True):
            h = block(h, time[t - 1] + condition)
        out: Tensor = self.short_cut(h + x)
        return out


def forward_diffusion_loss(
    estimator: DiffusionRegisterEstimator, target: Tensor, guidance: Guidance,
    schedule: diffusion.Schedule, noise: Tensor, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    r"""$\mathcal L_{dre}$: the estimator against the noise put in (Eq. 10, 13).

    All steps at once: they do not depend on each other.

    Args:
        estimator: $\epsilon_\phi$.
        target: $\hat q_0$, (B, N_r, d).
        guidance: the videos'.
        schedule: T steps; 0 without any.
        noise: ε, (T, B, N_r, d).
        reduction: "mean" over everything; "sum" over steps, registers and channels,
            mean over videos (Algorithm 1).

    Returns:
        (), ≥ 0.
    """
    if schedule.steps == 0:
        return target.sum() * 0  # no step, no error: 0 that a gradient can pass
    t = torch.arange(1, schedule.steps + 1, device=target.device)[:, None, None]
    estimate = estimator(schedule.diffuse(target, t, noise), t, guidance)
    error = (noise - estimate) ** 2
    loss: Tensor = error.mean() if reduction == "mean" else error.sum() / len(target)
    return loss


def generate_registers(
    estimator: DiffusionRegisterEstimator, start: Gaussian, guidance: Guidance,
    schedule: diffusion.Schedule, reading: Reading, draws: Draws,
    generator: Generator | None = None, trajectory: bool = False, informed: bool = True,
) -> Tensor:  # fmt: skip
    r"""$r_T$ from the video's distribution, denoised to $r_0$ (Algorithm 1).

    Args:
        estimator: $\epsilon_\phi$.
        start: $p(r_T \mid V_v)$.
        guidance: the videos'.
        schedule: T steps; with none, $r_0 = r_T$.
        reading: decides what is drawn, and the step.
        draws: noise that is given.
        generator: decides the rest.
        trajectory: return all states.
        informed: otherwise $r_T \sim \mathcal N(0, I)$, as Tab. 3's "w/o PVS".

    Returns:
        $r_0$ (B, N_r, d), or with `trajectory` $r_T, \dots, r_0$ (T + 1, B, N_r, d).
    """
    shape = guidance.condition.shape
    first = start.start(shape[1])
    if reading.start == "sampled" or not informed:
        noise = normal(draws.start, shape, start.mean, generator)
        first = start.start(shape[1], noise) if informed else noise
    z: Tensor | None = start.mean[:, None]  # μ, the same at every step
    if reading.reverse_noise == "fresh":
        z = draws.reverse
        z = None if z is None else normal(z, (schedule.steps, *shape), start.mean)
    clamped = reading.reverse_step == "clamped"
    return diffusion.sample(
        lambda x, t: estimator(x, t, guidance),
        first,
        schedule,
        step="posterior" if clamped else "noise",
        clamp=1.0 if clamped else None,
        draws=z,
        generator=generator,
        trajectory=trajectory,
    )
