"""What a generator, or what RagMe adds to one, is trained on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vtrlib import check
from vtrlib.clip.inputs import readable
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
    loss; this is the one that its base was trained with. Noise is added, and the error
    taken, in float32 at least.

    Args:
        model: a `RagMe`, or a U-Net of diffusers.
        scheduler: a discrete one of diffusers; its `prediction_type` is "epsilon" or
            "v_prediction".
        latents: $x_0$ (B, C, F, H, W).
        text_states: y (B, L, d).
        z, mask, frame_mask: neighbours, as of `RagMe.forward`; only with a `RagMe`.
        of: what the error is of, the "prediction"; or the "clean" latents that follow
            from it, $x_0 = \sqrt{\bar\alpha_t}\, x_t - \sqrt{1 - \bar\alpha_t}\, v$,
            which leaves less weight to steps with little noise.
        t: (B,), steps from 0; by default drawn, uniformly over the schedule.
        noise: $\epsilon$, like the latents; by default drawn. Draws are torch's global
            ones, which `vtrlib.training.fit` seeds.

    Returns:
        A scalar.

    Raises:
        TypeError, ValueError: shapes that do not fit, a scheduler that predicts
            something else, neighbours for a U-Net that takes none, or, on a CPU or
            outside training, steps that the schedule does not have.
    """
    known = check.sizes("latents", latents, "B C F H W")
    check.one_of("of", of, ("prediction", "clean"))
    kind = check.one_of(
        "scheduler.config.prediction_type", scheduler.config.prediction_type,
        ("epsilon", "v_prediction"),
    )  # fmt: skip
    wide = torch.promote_types(latents.dtype, torch.float32)
    levels = scheduler.alphas_cumprod.to(latents.device, wide)
    if t is None:
        t = torch.randint(len(levels), (known["B"],)).to(latents.device)
    check.sizes("t", t, "B", known)
    if readable(t, model.training) and not bool(((t >= 0) & (t < len(levels))).all()):
        raise ValueError(
            f"t: found {t.tolist()}, expected steps from 0 to {len(levels) - 1}, the "
            "scheduler's."
        )
    if noise is None:
        noise = torch.randn_like(latents)
    check.sizes("noise", noise, "B C F H W", known)
    x0, noise = latents.to(wide), noise.to(wide)
    level = levels[t][:, None, None, None, None]
    signal, spread = level.sqrt(), (1 - level).sqrt()
    noisy = (signal * x0 + spread * noise).to(latents.dtype)
    target = noise if kind == "epsilon" else signal * noise - spread * x0
    # By name: a bare U-Net would take them, unread, for class labels and the like.
    shown = {} if z is None else {"z": z, "mask": mask, "frame_mask": frame_mask}
    found = model(noisy, t, text_states, **shown)
    found = found if isinstance(found, Tensor) else found.sample
    if of == "prediction":
        return functional.mse_loss(found.to(wide), target)
    # An error of the prediction is one of the clean latents times a factor of t alone.
    factor = (1 - level) / level if kind == "epsilon" else 1 - level
    return (factor * (found.to(wide) - target).square()).mean()
