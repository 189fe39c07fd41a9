"""Small U-Nets and adapters for the tests: sizes that all differ, the fixture, an oracle in loops."""

from __future__ import annotations

import functools
import math
import zlib
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from torch import Tensor, nn

from vtrlib.ragme import Config, RagMe

GOLDEN = Path(__file__).parent / "golden"
# Sites, in the order of a call, and their channels.
SITES = {
    "down_blocks.0.temp_attentions.0": 8, "mid_block.temp_attentions.0": 24, "up_blocks.1.temp_attentions.0": 8,
    "up_blocks.1.temp_attentions.1": 8,
}  # fmt: skip
WIDTH, TEXT = 12, 10


def unet(dtype: torch.dtype = torch.float32, seed: int = 0, channels: int = 3, out: int | None = None) -> UNet3DConditionModel:
    """A base whose weights are all moved: its temporal convolutions end in zeros at first."""
    made = UNet3DConditionModel(
        sample_size=4, in_channels=channels, out_channels=out or channels, block_out_channels=(8, 24), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=TEXT, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    move(made, seed, 0.1)
    return made.to(dtype).eval()


def wrapped(
    reading: Any = "paper", moved: bool = True, dtype: torch.dtype = torch.float32, **settings: Any
) -> RagMe:
    """A model in evaluation mode; `moved`: no weight of the adapters is as it starts."""
    sizes = {"width": WIDTH, "layers": 2, "heads": 4, "reading": reading}
    model = RagMe(unet(dtype), Config(**{**sizes, **settings}))
    if moved:
        move(model.infusers)
        if model.enhancer is not None:
            move(model.enhancer)
    return model.eval()


def move(model: nn.Module, seed: int = 0, size: float = 0.4) -> None:
    """A weight depends on its name alone."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = features(*weight.shape, seed=seed + zlib.crc32(name.encode()), dtype=weight.dtype)
            if weight.ndim == 1 and name.endswith("weight"):  # of a norm
                weight.copy_(1 + 0.2 * noise)
            else:
                weight.copy_(size * noise)


def features(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def inputs(dtype: torch.dtype = torch.float32, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of 5 frames of 4 × 6, steps, states of 7 tokens."""
    latents = features(batch, 3, 5, 4, 6, seed=1, dtype=dtype)
    steps = torch.tensor([11, 702, 333, 4])[:batch]
    return latents, steps, features(batch, 7, TEXT, seed=2, dtype=dtype)


def frames(dtype: torch.dtype = torch.float32, batch: int = 2) -> Tensor:
    """Embeddings of 6 frames of 3 neighbours."""
    return features(batch, 3, 6, WIDTH, seed=3, dtype=dtype)


@functools.cache
def golden() -> dict[str, Any]:
    found: dict[str, Any] = torch.load(GOLDEN / "ragme.pt", weights_only=True)
    return found


# --- the oracle: loops over positions, heads and keys, as the equations stand ---


def softmax(scores: list[float]) -> list[float]:
    exponentials = [math.exp(s - max(scores)) for s in scores]
    return [e / sum(exponentials) for e in exponentials]


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    out = w[f"{name}.weight"] @ x
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def norm(w: dict[str, Tensor], name: str, x: Tensor, t: int | None = None) -> Tensor:
    centred = x - x.mean()
    y = centred / (centred.square().mean() + 1e-5).sqrt()
    if f"{name}.weight" in w:
        return y * w[f"{name}.weight"] + w[f"{name}.bias"]
    step = w[f"{name}.steps.weight"][t]
    known = linear(w, f"{name}.linear", step / (1 + (-step).exp()))
    return y * (1 + known[: len(x)]) + known[len(x) :]


def attention(w: dict[str, Tensor], name: str, x: Tensor, keys: list[Tensor], heads: int) -> Tensor:
    """Of one query to keys that are there."""
    q, size, parts = linear(w, f"{name}.to_q", x), len(x) // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        k = [linear(w, f"{name}.to_k", key)[part] for key in keys]
        v = [linear(w, f"{name}.to_v", key)[part] for key in keys]
        shares = softmax([float(q[part] @ one) / math.sqrt(size) for one in k])
        parts.append(sum(share * one for share, one in zip(shares, v, strict=True)))
    return linear(w, f"{name}.to_out", torch.cat(parts))  # type: ignore[arg-type]


def feed(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    inside = linear(w, f"{name}.project", x)
    half = len(inside) // 2
    gate = torch.tensor([0.5 * g * (1 + math.erf(g / math.sqrt(2))) for g in inside[half:].tolist()], dtype=x.dtype)
    return linear(w, f"{name}.out", inside[:half] * gate)


def enhanced(w: dict[str, Tensor], video: Tensor, mask: list[bool], layers: int, heads: int) -> Tensor:
    """τ of one video (F, D), Eq. 5, at [CLS]."""
    places = w["positions"] if "positions" in w else torch.zeros_like(video)
    tokens = [w["cls"]] + [f + p for f, p, there in zip(video, places, mask, strict=False) if there]
    for layer in range(layers):
        name = f"blocks.{layer}"
        normed = [norm(w, f"{name}.norm_attention", x) for x in tokens]
        tokens = [x + attention(w, f"{name}.attention", n, normed, heads) for x, n in zip(tokens, normed, strict=True)]
        tokens = [x + feed(w, f"{name}.feed", norm(w, f"{name}.norm_feed", x)) for x in tokens]
    return tokens[0]


def asked(w: dict[str, Tensor], x: Tensor, keys: list[Tensor], heads: int, t: int) -> Tensor:
    """What a block says to one query."""
    if "block.norm.weight" in w:
        return attention(w, "block.attention", norm(w, "block.norm", x), keys, heads)
    x = x + attention(w, "block.first", norm(w, "block.norm_first", x, t), keys, heads)
    x = x + attention(w, "block.second", norm(w, "block.norm_second", x, t), keys, heads)
    return x + feed(w, "block.feed", norm(w, "block.norm_feed", x))


def infused(
    w: dict[str, Tensor], x: Tensor, z: Tensor, mask: list[list[bool]], heads: int, t: list[int], space: bool, time: bool
) -> Tensor:
    """Eq. 6 on x (B, F, c, H, W) with z (B, K, D)."""
    out = x.clone()
    batch, count, _, height, wide = x.shape
    for b in range(batch):
        keys = [key for key, there in zip(z[b], mask[b], strict=True) if there]
        if not keys:
            continue
        places = [(i, j) for i in range(height) for j in range(wide)]
        for over_frames in [list(range(count))] if time else [[f] for f in range(count)]:
            for over_places in [places] if space else [[place] for place in places]:
                group = [(f, i, j) for f in over_frames for i, j in over_places]
                query = torch.stack([x[b, f, :, i, j] for f, i, j in group]).mean(0)
                said = asked(w, query, keys, heads, t[b])
                for f, i, j in group:
                    out[b, f, :, i, j] += w["zero.weight"][:, :, 0, 0] @ said + w["zero.bias"]
    return out
