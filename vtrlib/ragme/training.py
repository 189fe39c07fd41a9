"""What a generator, or what RagMe adds to one, is trained on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vtrlib import check
from vtrlib.ragme.model import Condition

__all__ = ["diffusion_loss"]


def diffusion_loss(
    model: nn.Module, scheduler: Any, latents: Tensor, text_states: Tensor,
    z: Tensor | Condition | None = None, mask: Tensor | None = None,
    frame_mask: Tensor | None = None, *, of: str = "prediction",
    t: Tensor | None = None, noise: Tensor | None = None,
) -> Tensor:  # fmt: skip
    r"""Mean squared error of what is predicted of noised latents.

    $$ x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad
       \mathcal L = \| \epsilon_\theta(x_t, t, y, z) - \epsilon \|^2 / n $$

    with $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1 - \bar\alpha_t}\, x_0$ in the
    place of $\epsilon$ for a scheduler that says so. The excerpt of RagMe names no
    loss; this is the one that its base was trained with. In float32 at least.

    Args:
        model: a `RagMe`, or a U-Net of diffusers.
        scheduler: of diffusers; its `prediction_type` is "epsilon" or "v_prediction".
        latents: $x_0$ (B, C, F, H, W).
        text_states: y (B, L, d).
        z, mask, frame_mask: neighbours, as of `RagMe.forward`; only with a `RagMe`.
        of: what the error is of, the "prediction"; or the "clean" latents that follow
            from it, $x_0 = \sqrt{\bar\alpha_t}\, x_t - \sqrt{1 - \bar\alpha_t}\, v$,
            which leaves less weight to steps with little noise.
        t: (B,), steps; by default drawn, uniformly over the schedule.
        noise: $\epsilon$, like the latents; by default drawn. Draws are torch's global
            ones, which `vtrlib.training.fit` seeds.

    Returns:
        A scalar.

    Raises:
        TypeError, ValueError: shapes that do not fit, or a scheduler that predicts
            something else.
    """
    known = check.sizes("latents", latents, "B C F H W")
    check.one_of("of", of, ("prediction", "clean"))
    kind = check.one_of(
        "scheduler.config.prediction_type", scheduler.config.prediction_type,
        ("epsilon", "v_prediction"),
    )  # fmt: skip
    if t is None:
        many = len(scheduler.alphas_cumprod)
        t = torch.randint(many, (known["B"],)).to(latents.device)
    if noise is None:
        noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, t)
    target = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, t)
    shown = () if z is None else (z, mask, frame_mask)
    found = model(noisy, t, text_states, *shown)
    found = found if isinstance(found, Tensor) else found.sample
    if of == "prediction":
        return functional.mse_loss(found.float(), target.float())
    # An error of the prediction is one of the clean latents times a factor of t alone.
    level = scheduler.alphas_cumprod.to(found.device)[t].float().view(-1, 1, 1, 1, 1)
    factor = (1 - level) / level if kind == "epsilon" else 1 - level
    return (factor * (found.float() - target.float()).square()).mean()
