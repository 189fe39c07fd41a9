"""RagInit: noise that already holds what retrieved videos have in common (Eq. 7)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vtrlib import check

__all__ = ["rag_init", "signal_level"]


def signal_level(scheduler: Any, start: str = "last") -> float:
    r"""$\bar\alpha_t$ where sampling starts, in (0, 1).

    Args:
        scheduler: a discrete scheduler of diffusers; of "first", with its steps set.
        start: "last", step T of the process; "first", the first that the sampler
            visits (981 of 0 … 999 in 50 steps of ZeroScope's). See `Reading.start`.

    Raises:
        TypeError: it has no `alphas_cumprod`, or no steps were set.
        ValueError: another start, or a scheduler that starts from noise of another
            scale than 1.
    """
    check.one_of("start", start, ("last", "first"))
    levels = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(levels, Tensor):
        raise TypeError(
            f"scheduler: found {type(scheduler).__name__} without alphas_cumprod, "
            "expected a discrete one of diffusers, such as DDIMScheduler."
        )
    if float(getattr(scheduler, "init_noise_sigma", 1)) != 1:
        raise ValueError(
            f"scheduler: found init_noise_sigma={float(scheduler.init_noise_sigma)}, "
            "expected 1, on which Eq. 7 rests. Choose another, such as DDIMScheduler."
        )
    if start == "last":
        return float(levels[-1])
    steps = getattr(scheduler, "timesteps", None)
    if getattr(scheduler, "num_inference_steps", None) is None or steps is None:
        raise TypeError(
            "scheduler: found none of its steps set, expected them, since "
            "start='first'. Call scheduler.set_timesteps(steps)."
        )
    return float(levels[int(steps[0])])


def rag_init(
    scheduler: Any, latents: Tensor, noise: Tensor, mask: Tensor | None = None, *,
    start: str = "last",
) -> Tensor:  # fmt: skip
    r"""Where sampling starts: the mean of K videos' latents, diffused to step t.

    $$ z_T = \sqrt{\bar\alpha_t}\,\frac1K \sum_{i=1}^K E(Z_i)
       + \sqrt{1 - \bar\alpha_t}\,\epsilon \qquad \text{(RagMe Eq. 7)} $$

    $\sqrt{\bar\alpha_t}$ is 0.068 at ZeroScope's last step. Of a schedule that ends in
    pure noise it is about 0, and Eq. 7 does nothing.

    Args:
        scheduler: of diffusers; see `signal_level`.
        latents: (B, K, C, F, H, W), E(Z), scaled as the generator takes them.
        noise: $\epsilon$ (B, C, F, H, W), standard normal.
        mask: (B, K), true where there is a neighbour; the mean is over these. With none
            the noise stays as it is.
        start: "last" or "first", for t.

    Returns:
        (B, C, F, H, W), in the noise's dtype.

    Raises:
        ValueError: clips of another length or size than the noise, another start, or,
            on a CPU, latents that are not finite.
        TypeError: another kind of scheduler, or one without steps.
    """
    known = check.sizes("noise", noise, "B C F H W")
    try:
        known = check.sizes("latents", latents, "B K C F H W", known)
    except ValueError as error:
        raise ValueError(
            f"{error} Give retrieved clips of the length and size that is generated."
        ) from None
    if mask is not None:
        check.sizes("mask", mask, "B K", known)
        mask = mask.bool()
        latents = latents.masked_fill(~mask[:, :, None, None, None, None], 0)
    if latents.device.type == "cpu" and not bool(latents.isfinite().all()):
        raise ValueError(
            "latents: found NaN or infinity, expected finite latents of retrieved "
            "clips. Encode them anew, or mask them."
        )
    level = signal_level(scheduler, start)
    total = latents.to(torch.promote_types(latents.dtype, torch.float32)).sum(1)
    if mask is None:
        mean = total / known["K"]
    else:
        mean = total / mask.sum(1).clamp_min(1)[:, None, None, None, None]
    found: Tensor = level**0.5 * mean.to(noise) + (1 - level) ** 0.5 * noise
    if mask is None:
        return found
    return torch.where(mask.any(1)[:, None, None, None, None], found, noise)
