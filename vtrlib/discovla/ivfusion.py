"""Image-Video Features Fusion: attention within a frame, across frames, and both.

One module serves both towers. In the vision tower a frame's summary is its class token;
in the text tower, for pseudo captions, it is the end token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from vtrlib import check
from vtrlib.clip.lora import LoRAAttention

__all__ = ["Adapter", "Frames", "Fused", "IVFusionAttention", "quick_gelu"]


def quick_gelu(x: Tensor) -> Tensor:
    r"""$x\, \mathrm{sigmoid}(1.702\, x)$, as CLIP's own layers have it."""
    return x * torch.sigmoid(1.702 * x)


class Frames(NamedTuple):
    """Which rows of a batch of sequences belong together.

    Attributes:
        number: F, of each video; rows stand video by video.
        place: (B F,), where the summary token of each row stands.
        keys: (B, F L), bool: tokens that other frames of the video may see; None for
            all.
    """

    number: int
    place: Tensor
    keys: Tensor | None = None


class Fused(NamedTuple):
    """Summary tokens, each (B F, D): image-level, video-level, and fused (Eq. 5-7)."""

    image: Tensor
    video: Tensor
    fused: Tensor


class Adapter(nn.Module):
    r"""$\sigma(x W_{down}) W_{up}$ (Eq. 7).

    Args:
        width: D.
        rank: r.
        bias: whether both layers have one.
        activation: $\sigma$, "gelu" or "quick_gelu".

    Attributes:
        down: to r; drawn as Xavier's uniform, its bias from $\mathcal N(0, 10^{-12})$,
            as released.
        up: back to D; zeros at the start.
    """

    def __init__(self, width: int, rank: int, bias: bool, activation: str) -> None:
        super().__init__()
        check.one_of("activation", activation, ("gelu", "quick_gelu"))
        self.quick = activation == "quick_gelu"
        self.down, self.up = (
            nn.Linear(width, rank, bias=bias), nn.Linear(rank, width, bias=bias),
        )  # fmt: skip
        self.draw()

    @torch.no_grad()
    def draw(self, generator: Generator | None = None) -> None:
        """Draw the weights anew."""
        nn.init.xavier_uniform_(self.down.weight, generator=generator)
        self.up.weight.zero_()
        if self.down.bias is not None:
            self.down.bias.normal_(0, 1e-6, generator=generator)
            self.up.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.down(x)
        out: Tensor = self.up(quick_gelu(hidden) if self.quick else F.gelu(hidden))
        return out


class IVFusionAttention(LoRAAttention):
    r"""CLIP's attention with LoRA, across the frames of a video (Fig. 3).

    $$ [c^{(1)}_i, \hat E_i] = \mathrm{ATTN}(QKV = [c_i, E_i]), \quad
       c^{(2)}_{1:F} = \mathrm{ATTN}(Q = c_{1:F},\, KV = [c_{1:F}, E_{1:F}]), $$
    $$ \hat c_i = c^{(2)}_i + \sigma(c^{(1)}_i W_{down}) W_{up} $$

    Both attentions share projections, LoRA and the output layer (Eq. 5-7). With $W_{up}
    = 0$, as training starts, $\hat c = c^{(2)}$: the pretrained summary of a frame is
    replaced by one of the video, which is no start from the identity unless F = 1.

    Args:
        attention: a `CLIPAttention`.
        kind: "fusion"; "average", $\hat c = (c^{(1)} + c^{(2)}) / 2$; or "video": all
            tokens attend to all tokens of the video (Fig. 3b).
        rank, scale: of the LoRA.
        adapter: of "fusion".

    Raises:
        ValueError: there is no such kind.
    """

    def __init__(
        self, attention: Any, kind: str, rank: int = 0, scale: float = 1.0,
        adapter: Adapter | None = None,
    ) -> None:  # fmt: skip
        super().__init__(attention, rank, scale)
        check.one_of("kind", kind, ("fusion", "average", "video"))
        if (kind == "fusion") != (adapter is not None):
            raise ValueError(f"adapter={adapter}: expected one for 'fusion' alone.")
        self.kind, self.adapter = kind, adapter

    def fuse(
        self, image: Tensor, query: Tensor, key: Tensor, value: Tensor, frames: Frames
    ) -> Fused:
        """Summary tokens of all frames.

        Args:
            image: (B F, L, D), what image-level attention gave.
            query, key, value: (B F, L, D), of all tokens.
            frames: which rows are a video.
        """
        number = frames.number
        c1, summaries = _taken(image, frames.place), _taken(query, frames.place)
        keys = None if frames.keys is None else frames.keys[:, None, None]
        c2 = self.mix(
            _by_video(summaries[:, None], number), _by_video(key, number),
            _by_video(value, number), keys,
        ).flatten(0, 1)  # fmt: skip
        fused = (c1 + c2) / 2 if self.adapter is None else c2 + self.adapter(c1)
        return Fused(c1, c2, fused)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None,
        is_causal: bool = False, frames: Frames | None = None, **_: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """Tokens (B F, L, D) to (B F, L, D).

        Args:
            hidden_states: all tokens.
            attention_mask: of image-level attention.
            is_causal: as for `LoRAAttention`.
            frames: which rows are a video; None for image-level attention.
        """
        if frames is None:
            return super().forward(hidden_states, attention_mask, is_causal)
        q, k, v = self.project(hidden_states)
        if self.kind == "video":
            keys = None if frames.keys is None else frames.keys[:, None, None]
            joined = (_by_video(x, frames.number) for x in (q, k, v))
            return self.mix(*joined, keys).reshape(hidden_states.shape), None
        causal = is_causal and attention_mask is None
        image = self.mix(q, k, v, attention_mask, causal)
        fused = self.fuse(image, q, k, v, frames).fused
        place = frames.place[:, None, None].expand(-1, 1, image.shape[-1])
        return image.scatter(1, place, fused[:, None].to(image.dtype)), None


def _taken(x: Tensor, place: Tensor) -> Tensor:
    """(B F, L, D) at one place of each row, (B F, D)."""
    return x.take_along_dim(place[:, None, None], 1).squeeze(1)


def _by_video(x: Tensor, frames: int) -> Tensor:
    """(B F, L, D) to (B, F L, D), a view."""
    return x.reshape(len(x) // frames, -1, x.shape[-1])
