"""RagMe on a base model: retrieved videos enter a U-Net of diffusers through hooks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from diffusers import UNet3DConditionModel
from torch import Tensor, nn

from vtrlib import check
from vtrlib.clip.inputs import readable
from vtrlib.ragme.conditioning import Infuser, TimeEnhancer
from vtrlib.ragme.config import Config

__all__ = ["Condition", "RagMe", "Site", "sites"]


class Condition(NamedTuple):
    """What a generator is shown, computed once for all steps.

    Attributes:
        tokens: z (B, K, D); (B, 1, D) where the reading takes their mean.
        mask: (B, K), true where there is a neighbour; None: everywhere.
    """

    tokens: Tensor
    mask: Tensor | None


class Site(NamedTuple):
    """A place where tokens enter.

    Attributes:
        name: of the base's module whose output is changed.
        channels: of that output.
    """

    name: str
    channels: int


class _Call(NamedTuple):
    """What the hooks know of the call they are in."""

    condition: Condition
    t: Tensor


def sites(unet: UNet3DConditionModel, mid: str = "attention") -> list[Site]:
    """Where Eq. 6 applies, in the order of a call: after every temporal attention layer
    of the U-Net's blocks; 16 in ZeroScope's. `transformer_in` is none of them.

    Args:
        unet: of diffusers.
        mid: "attention", or "block": in the middle, after the block's last convolution.

    Raises:
        TypeError: it is no `UNet3DConditionModel`. ValueError: another mid.
    """
    check.one_of("mid", mid, ("attention", "block"))
    if not isinstance(unet, UNet3DConditionModel):
        raise TypeError(
            f"unet: found {type(unet).__name__}, expected a "
            "diffusers.UNet3DConditionModel, which has temporal attention layers."
        )
    blocks = [
        *((f"down_blocks.{i}", one) for i, one in enumerate(unet.down_blocks)),
        ("mid_block", unet.mid_block),
        *((f"up_blocks.{i}", one) for i, one in enumerate(unet.up_blocks)),
    ]
    found = []
    for name, block in blocks:
        layers = cast(Any, getattr(block, "temp_attentions", ()))
        if name == "mid_block" and mid == "block":
            found.append(Site(name, layers[-1].in_channels))
            continue
        for place, layer in enumerate(layers):
            found.append(Site(f"{name}.temp_attentions.{place}", layer.in_channels))
    return found


class RagMe(nn.Module):
    r"""A text-to-video U-Net that looks at retrieved videos (RagMe Eq. 5 and 6).

    The base is wrapped in place: forward hooks on its temporal attention layers add the
    residuals. Its modules, its weights and their names stay as they are, and so does
    what it computes when it is called by itself, up to rounding; `remove` takes the
    hooks off again. At first, while the zero convolutions are zero, the wrapped model
    equals the base exactly; it always does without neighbours. (With gradients switched
    on it equals the base with frozen parameters exactly: torch multiplies by these in
    another order, up to 1e-5 apart in float32.)

    Args:
        unet: the base. Its parameters are frozen until `remove`. What is new takes its
            dtype and device.
        config: sizes, and how the paper is read; also a dict of its fields.

    Attributes:
        unet: the base.
        enhancer: $\tau$, or None.
        infusers: one for each of `sites`, in this order.
        sites: where.

    Raises:
        TypeError: another kind of model. ValueError: it is wrapped already, or the
            heads do not divide the channels of a site.
    """

    def __init__(
        self, unet: UNet3DConditionModel, config: Config | dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        made = config if isinstance(config, Config) else Config(**(config or {}))
        self.config, reading = made, made.reading
        self.sites = sites(unet, reading.mid)
        wrapped = any(
            isinstance(hook, _Hook)
            for module in unet.modules()
            for hook in module._forward_hooks.values()
        )
        if wrapped:
            raise ValueError(
                "unet: found a base that is wrapped already, expected a bare one. Call "
                "remove() of the model that wraps it first."
            )
        self.enhancer = (
            TimeEnhancer(
                made.width, made.layers, made.heads, made.pool, made.positions
            )
            if made.layers
            else None
        )
        space, time = reading.pooled
        timesteps = made.timesteps if made.norm == "ada_norm" else None
        self.infusers = nn.ModuleList(
            Infuser(
                site.channels, made.width, made.heads, reading.block,
                timesteps=timesteps, pool_space=space, pool_time=time,
                leaky=reading.masks == "leaky",
            )
            for site in self.sites
        )  # fmt: skip
        weight = next(unet.parameters())
        self.to(weight.device, weight.dtype)  # before the base is one of its modules
        self._call: _Call | None = None
        self._trained = [
            one for one in unet.parameters()
            if one.requires_grad and not one.is_inference()
        ]  # fmt: skip
        self._handles = [
            unet.get_submodule(site.name).register_forward_hook(
                _Hook(self, place), with_kwargs=True
            )
            for place, site in enumerate(self.sites)
        ]
        self.unet = unet
        unet.requires_grad_(False)

    @property
    def channels(self) -> int:
        """C of latents, as the base takes them; a `FrameIndexUNet` adds one itself."""
        taken: int = self.unet.config.in_channels
        return taken - getattr(self.unet, "added_channels", 0)

    def remove(self) -> UNet3DConditionModel:
        """The base as it was: hooks off, and parameters trained that were before. This
        model computes what the base does from then on."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for weight in self._trained:
            weight.requires_grad_(True)
        return self.unet

    def added(self) -> dict[str, Tensor]:
        """The new weights by name: what is trained, and what is stored of the model."""
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith("unet.")
        }

    def load_added(self, weights: Mapping[str, Tensor]) -> None:
        """Take what `added` gave.

        Raises:
            ValueError: names or shapes of another configuration; nothing is taken then.
        """
        own = self.added()
        strange = sorted(own.keys() ^ weights.keys()) or [
            f"{name} {tuple(weights[name].shape)}, not {tuple(one.shape)}"
            for name, one in own.items()
            if weights[name].shape != one.shape
        ]
        if strange:
            raise ValueError(
                f"weights: found missing, unknown or misshapen "
                f"{check.listed(strange)}, expected the {len(own)} of this "
                "configuration. Give the one that they were trained with."
            )
        self.load_state_dict(dict(weights), strict=False)

    def condition(
        self, z: Tensor, mask: Tensor | None = None, frame_mask: Tensor | None = None
    ) -> Condition:
        r"""Retrieved videos to tokens, $z = \tau(\bar z)$; Eq. 5.

        It does not depend on the time step: compute it once for a clip.

        Args:
            z: (B, K, F', D), embeddings of the frames of K videos, F' of each; or
                (B, K, D), tokens that are enhanced already, which pass as they are.
            mask: (B, K), true where there is a neighbour.
            frame_mask: (B, K, F'), true where it has a frame; only with frames. A video
                without any is no neighbour.

        Raises:
            TypeError: it is no tensor.
            ValueError: shapes that do not fit, frames where there is no enhancer, or,
                on a CPU or outside training, NaN or infinity where the masks are true.
        """
        if not isinstance(z, Tensor):
            raise TypeError(
                f"z: found {type(z).__name__}, expected a tensor (B, K, F, D) or (B, K, D)."
            )
        width = self.config.width
        if z.ndim == 4:
            known = check.sizes("z", z, "B K F D", {"D": width})
        else:
            known = check.sizes("z", z, "B K D", {"D": width})
        frames = "F" in known
        for name, one, letters in (
            ("mask", mask, "B K"), ("frame_mask", frame_mask, "B K F")
        ):  # fmt: skip
            if one is not None:
                check.sizes(name, one, letters, known)
        if frame_mask is not None and not frames:
            raise ValueError(
                "frame_mask: found one with tokens z (B, K, D), expected none. Give z "
                "as frame embeddings (B, K, F, D), or the mask of neighbours alone."
            )
        if frames and self.enhancer is None:
            raise ValueError(
                f"z: found frame embeddings {tuple(z.shape)}, expected tokens (B, K, "
                "D), since config.layers=0 and there is no enhancer."
            )
        if frame_mask is not None:
            frame_mask, some = frame_mask.bool(), frame_mask.bool().any(-1)
            mask = some if mask is None else mask.bool() & some
        elif mask is not None:
            mask = mask.bool()
        z = z.to(self.infusers[0].zero.weight.dtype)  # type: ignore[union-attr, arg-type]
        seen = frame_mask
        if mask is not None:
            seen = mask.unsqueeze(-1).expand(z.shape[:-1]) if frames else mask
            seen = seen & frame_mask if frame_mask is not None else seen
            if frames or self.config.reading.masks == "honoured":
                z = z.masked_fill(~seen[..., None], 0)
        if readable(z, self.training) and not bool(z.isfinite().all()):
            raise ValueError(
                "z: found NaN or infinity, expected finite embeddings. Embed these "
                "videos anew, or mask them."
            )
        if frames and self.enhancer is not None:
            z = self.enhancer(z, seen)
        if self.config.reading.tokens == "mean":
            if mask is None:
                return Condition(z.mean(1, keepdim=True), None)
            z = z.masked_fill(~mask[..., None], 0).sum(1, keepdim=True)
            z = z / mask.sum(1).clamp_min(1)[:, None, None]
            mask = mask.any(1, keepdim=True)
        return Condition(z, mask)

    def forward(
        self, latents: Tensor, t: Tensor | float, text_states: Tensor,
        z: Tensor | Condition | None = None, mask: Tensor | None = None,
        frame_mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        r"""What the U-Net predicts, $\epsilon_\theta(x_t, t, y, z)$.

        Args:
            latents: (B, C, F, H, W), noisy, as the base takes them.
            t: step of the scheduler; () or (B,).
            text_states: (B, L, d), of the prompts.
            z: what `condition` gives, or its argument; None: no neighbours, and what
                comes out is the base's, bit for bit. For guidance, with a batch
                (unconditional, conditional), it may have B/2 items: both halves get
                them. Tokens may also lie as the released enhancer leaves them, (B · K,
                1, D), of all B: of half a guidance batch K could not be told.
            mask, frame_mask: as for `condition`.

        Returns:
            (B, C', F, H, W), C' of the base's output. Items without neighbours come out
            as of the base.

        Raises:
            TypeError, ValueError: shapes that do not fit; see also `condition`.
        """
        batch = self._checked(latents, t, text_states)
        if z is None:
            if mask is not None or frame_mask is not None:
                raise ValueError(
                    "mask, frame_mask: found without z, expected None, or the neighbours "
                    "that they are of."
                )
            return self._predicted(latents, t, text_states)
        if not isinstance(z, Condition):
            z = self.condition(_per_video(z, batch), mask, frame_mask)
        elif mask is not None or frame_mask is not None:
            raise ValueError(
                "mask, frame_mask: found beside a Condition, which has its mask, "
                "expected None."
            )
        else:
            z = self._fitting(z)
        z = _guided(z, batch)
        steps = torch.as_tensor(t, device=latents.device).reshape(-1).expand(batch)
        if self.config.norm == "ada_norm":
            steps = self._known(steps)
        self._call = _Call(z, steps)
        try:
            return self._predicted(latents, t, text_states)
        finally:
            self._call = None

    def _predicted(
        self, latents: Tensor, t: Tensor | float, text_states: Tensor
    ) -> Tensor:
        with self._as_it_was():
            out: Tensor = self.unet(latents, t, text_states, return_dict=False)[0]
        return out

    @contextlib.contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """Where no gradient is asked for, with the base's parameters as they were
        before they were frozen: torch multiplies by frozen matrices in another way,
        1e-7 apart, and what equals the base should do so to the last bit."""
        still = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if still or not self._handles:
            yield
            return
        frozen = [one for one in self._trained if not one.requires_grad]
        for weight in frozen:
            weight.requires_grad_(True)
        try:
            yield
        finally:
            for weight in frozen:
                weight.requires_grad_(False)

    def _checked(self, latents: Tensor, t: Tensor | float, text_states: Tensor) -> int:
        """B."""
        known = check.sizes("latents", latents, "B C F H W", {"C": self.channels})
        batch = known["B"]
        known |= {"d": self.unet.config.cross_attention_dim}
        check.sizes("text_states", text_states, "B L d", known)
        if isinstance(t, Tensor) and t.numel() != 1:
            check.sizes("t", t, "B", known)
        return batch

    def _fitting(self, condition: Condition) -> Condition:
        """A condition that anybody may have made, its shapes held, its mask as bool."""
        tokens, mask = condition
        known = check.sizes("z", tokens, "B K D", {"D": self.config.width})
        if mask is not None:
            check.sizes("mask", mask, "B K", known)
            mask = mask.bool()
        return Condition(tokens, mask)

    def _known(self, steps: Tensor) -> Tensor:
        """Steps that the norms have an embedding of."""
        most = self.config.timesteps
        if readable(steps, self.training) and (
            steps.is_floating_point() or bool(((steps < 0) | (steps >= most)).any())
        ):
            raise ValueError(
                f"t: found {steps.tolist()}, expected integers from 0 to {most - 1}, "
                "which config.norm='ada_norm' has embeddings of."
            )
        return steps.long()

    def _infused(self, place: int, x: Tensor, frames: int) -> Tensor:
        call = self._call
        if call is None:
            return x
        (tokens, mask), t = call
        out: Tensor = self.infusers[place](x, frames, tokens, mask, t)
        return out


class _Hook:
    """Of one site; an object, so that a copy of the model gets hooks of its own."""

    def __init__(self, model: RagMe, place: int) -> None:
        self.model, self.place = model, place

    def __call__(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        infused = functools.partial(self.model._infused, self.place)
        frames = kwargs["num_frames"]
        if isinstance(output, tuple):  # a temporal attention layer gives (x,)
            return (infused(output[0], frames), *output[1:])
        return infused(output, frames)


def _per_video(z: Tensor, batch: int) -> Tensor:
    """(B, K, D) from the released (B · K, 1, D); anything else as it is."""
    shape = tuple(getattr(z, "shape", ()))
    flat = len(shape) == 3 and shape[1] == 1 and shape[0] not in (batch, batch / 2)
    return z.reshape(batch, -1, shape[2]) if flat and shape[0] % batch == 0 else z


def _guided(condition: Condition, batch: int) -> Condition:
    """For each item of a batch; twice for a guidance batch."""
    tokens, mask = condition
    if 2 * len(tokens) == batch:
        mask = None if mask is None else torch.cat([mask, mask])
        return Condition(torch.cat([tokens, tokens]), mask)
    if len(tokens) != batch:
        raise ValueError(
            f"z: found {len(tokens)} items, expected {batch}, one for each of the "
            "latents, or half as many for a guidance batch."
        )
    return condition
