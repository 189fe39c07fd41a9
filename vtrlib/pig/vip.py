"""CLIP-ViP's proxy attention in CLIP's vision tower, with a [cls] for each frame.

Xue et al., *CLIP-ViP*, ICLR 2023, and PIG, Sec. 3.3. Layers of `transformers.CLIPModel`
are wrapped and keep the names of their parts. With no proxies it is CLIP frame by
frame, as CLIP4Clip has it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel

from vtrlib.clip.lora import LoRAAttention, attend, layers, wrap_attention

__all__ = ["TokenLayout", "ViPAttention", "ViPEmbeddings", "interpolated", "lower", "wrap"]


class TokenLayout(NamedTuple):
    """Where a video's tokens stand: P proxies, then for each frame its [cls] and its N
    patches; $L = P + F (N + 1)$ of them.

    Attributes:
        proxies: P, video-level tokens.
        frames: F.
        patches: N of a frame.
        frame_cls: 1 if each frame has a [cls], else 0.
    """

    proxies: int
    frames: int
    patches: int
    frame_cls: int = 1

    @property
    def frame(self) -> int:
        """Tokens of a frame."""
        return self.patches + self.frame_cls

    @property
    def tokens(self) -> int:
        """L, tokens of a video."""
        return self.proxies + self.frames * self.frame

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, L, D) to proxies (B, P, D), [cls] of the frames (B, F, D; B, 0, D
        without) and patches (B, F, N, D)."""
        video, rest = x.split([self.proxies, self.tokens - self.proxies], 1)
        frames = rest.unflatten(1, (self.frames, self.frame))  # type: ignore[no-untyped-call]
        of_frames = frames[:, :, : self.frame_cls].flatten(1, 2)
        return video, of_frames, frames[:, :, self.frame_cls :]

    def summaries(self, device: torch.device) -> Tensor:
        """Places of the tokens that are no patches, (P + F,)."""
        places = torch.arange(self.proxies + self.frames * self.frame_cls, device=device)
        frame = places - self.proxies
        return places.where(frame < 0, self.proxies + frame * self.frame)

    def patch_places(self, chosen: Tensor) -> Tensor:
        """Places of patches given as frame · N + patch, any shape."""
        frame = chosen // self.patches
        inner = chosen % self.patches + self.frame_cls
        return self.proxies + frame * self.frame + inner

    def seen(self, places: Tensor) -> Tensor:
        """Which tokens those at some places (...) see: (..., L), bool.

        Proxies see everything, the others the proxies and their own frame.
        """
        every = torch.arange(self.tokens, device=places.device)
        asking, asked = (
            (at - self.proxies).div(self.frame, rounding_mode="floor").clamp(min=-1)
            for at in (places[..., None], every)
        )
        return (asking == asked) | (asking < 0) | (asked < 0)


class ViPEmbeddings(nn.Module):
    """Patches, [cls] of the frames and proxies with their positions in space and time.

    Stands where CLIP's vision embeddings stood, whose weights it takes over. Proxy 0 is
    CLIP's class token; all proxies share its position and have no time. A frame's [cls]
    starts as a copy of it, in the same position; without proxies it *is* that token,
    and nothing has a time.

    Args:
        embeddings: a `CLIPVisionEmbeddings`.
        frames: F' that the temporal embedding is trained for; others are interpolated.
        proxies: P; 0 for CLIP frame by frame.
        frame_cls: whether frames have a [cls]. CLIP-ViP itself has none.

    Attributes:
        added_cls: (P − 1, d), the further proxies, drawn from N(0, 1).
        cls_in_frames: (d,), the [cls] of all frames.
        temporal_embedding: (1, F', d), zeros at the start.
    """

    def __init__(
        self, embeddings: Any, frames: int, proxies: int = 4, frame_cls: bool = True
    ) -> None:
        super().__init__()
        self.class_embedding: nn.Parameter = embeddings.class_embedding
        self.patch_embedding: nn.Conv2d = embeddings.patch_embedding
        self.position_embedding: nn.Embedding = embeddings.position_embedding
        self.patches: int = embeddings.num_patches
        self.proxies, self.frame_cls = proxies, int(frame_cls)
        first = self.class_embedding
        new: dict[str, Tensor | None] = dict.fromkeys(
            ("added_cls", "cls_in_frames", "temporal_embedding")
        )
        if proxies:
            new["added_cls"] = torch.randn(proxies - 1, len(first)).to(first)
            new["temporal_embedding"] = torch.zeros(1, frames, len(first)).to(first)
            new["cls_in_frames"] = first.detach().clone() if frame_cls else None
        self.added_cls: nn.Parameter | None
        self.cls_in_frames: nn.Parameter | None
        self.temporal_embedding: nn.Parameter | None
        for name, value in new.items():
            self.register_parameter(name, None if value is None else nn.Parameter(value))

    @torch.no_grad()
    def start(self, generator: torch.Generator | None = None) -> None:
        """Draw the further proxies anew, and copy the class token to the frames."""
        if self.added_cls is not None:
            self.added_cls.normal_(generator=generator)
        if self.cls_in_frames is not None:
            self.cls_in_frames.copy_(self.class_embedding)

    def layout(self, frames: int) -> TokenLayout:
        """The tokens of a video of so many frames."""
        return TokenLayout(self.proxies, frames, self.patches, self.frame_cls)

    def forward(self, pixels: Tensor) -> Tensor:
        """Frames (B, F, 3, size, size) to tokens (B, L, d)."""
        batch, frames = pixels.shape[:2]
        x = self.patch_embedding(pixels.flatten(0, 1).to(self.patch_embedding.weight.dtype))
        x = x.flatten(2).mT.unflatten(0, (batch, frames))  # (B, F, N, d)
        positions = self.position_embedding.weight
        x = x + positions[1:]
        if self.frame_cls:
            own = self.class_embedding if self.cls_in_frames is None else self.cls_in_frames
            own = (own + positions[0]).expand(batch, frames, 1, -1)
            x = torch.cat([own.to(x.dtype), x], 2)
        if self.added_cls is None or self.temporal_embedding is None:
            tokens: Tensor = x.flatten(1, 2)
            return tokens
        x = x + interpolated(self.temporal_embedding, frames)[0, :, None]
        proxies = torch.cat([self.class_embedding[None], self.added_cls]) + positions[0]
        return torch.cat([proxies.expand(batch, -1, -1).to(x.dtype), x.flatten(1, 2)], 1)


class ViPAttention(LoRAAttention):
    """CLIP's attention under CLIP-ViP's rule: proxies see all tokens of a video, the
    tokens of a frame see the proxies and their own frame.

    Stands where a `CLIPAttention` stood, whose projections it takes over.
    """

    def spread(self, q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout) -> Tensor:
        """The rule, before the output layer: (B, L, d) three times, to (B, L, d)."""
        shape = (layout.frames, layout.frame)

        def framed(x: Tensor) -> Tensor:  # (B, F, 1 + N, d)
            framed: Tensor = x[:, layout.proxies :].unflatten(1, shape)  # type: ignore[no-untyped-call]
            return framed

        def keys(x: Tensor) -> Tensor:  # (B F, P + 1 + N, d)
            proxies = x[:, None, : layout.proxies].expand(-1, layout.frames, -1, -1)
            return torch.cat([proxies, framed(x)], 2).flatten(0, 1)

        mixed = attend(framed(q).flatten(0, 1), keys(k), keys(v), self.heads)
        mixed = mixed.reshape(len(q), -1, mixed.shape[-1])
        if not layout.proxies:
            return mixed
        return torch.cat([attend(q[:, : layout.proxies], k, v, self.heads), mixed], 1)

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, attention_mask: None = None, *, layout: TokenLayout,
        **_: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """Tokens (B, L, d) to (B, L, d)."""
        return self.out_proj(self.spread(*self.project(hidden_states), layout)), None


def interpolated(temporal: Tensor, frames: int) -> Tensor:
    """A temporal embedding (1, F', d) for F frames, (1, F, d): itself for F = F', else
    linear between the centres of equal spans, the ends held."""
    if temporal.shape[1] == frames:
        return temporal
    return F.interpolate(temporal.mT, size=frames, mode="linear", align_corners=False).mT


def wrap(clip: CLIPModel, frames: int, proxies: int = 4, frame_cls: bool = True) -> None:
    """Give a CLIP model's vision tower `ViPEmbeddings` and `ViPAttention`."""
    vision = clip.vision_model
    vision.embeddings = ViPEmbeddings(vision.embeddings, frames, proxies, frame_cls)
    wrap_attention(layers(clip)[0], lambda _, one: ViPAttention(one))


def lower(clip: CLIPModel, pixels: Tensor) -> tuple[Tensor, TokenLayout]:
    """What goes into the last layer of a wrapped tower, (B, L, d), and its layout.

    Args:
        clip: wrapped.
        pixels: (B, F, 3, size, size).
    """
    vision = clip.vision_model
    layout = vision.embeddings.layout(pixels.shape[1])
    x = vision.pre_layrnorm(vision.embeddings(pixels))
    for layer in layers(clip)[0][:-1]:
        x = layer(x, None, layout=layout)
    return x, layout
