"""Retrieved videos to tokens (Eq. 5), and tokens into a generator (Eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vtrlib import check
from vtrlib.clip.lora import attend

__all__ = ["AdaptiveNorm", "Attention", "FeedForward", "Infuser", "TimeEnhancer"]


class Attention(nn.Module):
    r"""MCA of Eq. 6: multi-head attention of x to z, or of x to itself.

    $$ \mathrm{MCA}(x, z) = W_o\,[\mathrm{softmax}(q_i k_i^\top / \sqrt{d/h})\, v_i]_i,
       \quad q = W_q x,\ k = W_k z,\ v = W_v z $$

    As in diffusers, $W_q, W_k, W_v$ have no bias and $W_o$ has one.

    Args:
        width: d, of x and of the output.
        heads: h, a divisor of it.
        source: D, of z; d by default.

    Raises:
        ValueError: the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, source: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads={heads}: expected a divisor of width={width}.")
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(source or width, width, bias=False)
        self.to_v = nn.Linear(source or width, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, d) from x (B, N, d) and z (B, K, D).

        Args:
            x: queries come from it.
            z: keys and values come from it.
            mask: (B, K), true where z may be attended to; at least one in a row.
        """
        seen = None if mask is None else mask[:, None, None]
        found = attend(self.to_q(x), self.to_k(z), self.to_v(z), self.heads, seen)
        out: Tensor = self.to_out(found)
        return out


class FeedForward(nn.Module):
    """GEGLU, four times as wide inside: out(a · GELU(b)), (a, b) = in(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, 8 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.project(x).chunk(2, -1)
        out: Tensor = self.out(a * functional.gelu(b))
        return out


class AdaptiveNorm(nn.Module):
    """A layer norm without weights, scaled and shifted by the time step:
    LN(x) · (1 + scale(t)) + shift(t)."""

    def __init__(self, width: int, timesteps: int) -> None:
        super().__init__()
        self.steps = nn.Embedding(timesteps, width)
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, N, d) from x (B, N, d) and t (B,), integers."""
        known = self.linear(functional.silu(self.steps(t)))[:, None]
        scale, shift = known.chunk(2, -1)
        return functional.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


class _EnhancerBlock(nn.Module):
    """Self-attention and feed-forward, each behind a norm and beside a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = FeedForward(width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        normed = self.norm_attention(x)
        x = x + self.attention(normed, normed, mask)
        out: Tensor = x + self.feed(self.norm_feed(x))
        return out


class TimeEnhancer(nn.Module):
    r"""The transformer time enhancer $\tau$: frame embeddings of a video to one token.

    $$ \bar z_i = [\mathrm{CLS}; f_{vis}(Z_{i,0}); \dots], \qquad
       z_i = \tau(\bar z_i)_{\mathrm{CLS}} \qquad \text{(RagMe Eq. 5)} $$

    Without positions $\tau$ is exactly blind to the order of frames: attention is a
    function of the set of its keys, so a video and its reversal get the same token.

    Args:
        width: D.
        layers: blocks, pre-norm; no norm follows the last.
        heads: h.
        pool: "cls"; "mean" of the frames' tokens, or "sequence", all of them; these two
            without [CLS].
        positions: learned ones, added to frames, for so many frames; 0 for none.

    Raises:
        ValueError: heads that do not divide the width, or another pool.
    """

    def __init__(
        self, width: int = 512, layers: int = 6, heads: int = 8, pool: str = "cls",
        positions: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.pool = check.one_of("pool", pool, ("cls", "mean", "sequence"))
        self.cls = nn.Parameter(torch.randn(width)) if pool == "cls" else None
        self.positions = (
            nn.Parameter(0.02 * torch.randn(positions, width)) if positions else None
        )
        self.blocks = nn.ModuleList(
            _EnhancerBlock(width, heads) for _ in range(layers)
        )

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """Each video by itself.

        Args:
            frames: (..., F, D), embeddings of frames.
            mask: (..., F), true where there is a frame; what is elsewhere is not read.

        Returns:
            (..., D); of "sequence" (..., F, D), zeros where there is no frame. Of
            "mean" and "sequence" zeros for a video without frames; of "cls" what [CLS]
            says when it sees itself alone.

        Raises:
            ValueError: more frames than positions.
        """
        before, (count, width) = frames.shape[:-2], frames.shape[-2:]
        x = frames.reshape(-1, count, width)
        seen = None if mask is None else mask.reshape(-1, count)
        if self.positions is not None:
            if count > len(self.positions):
                raise ValueError(
                    f"frames: found {count} frames, expected at most "
                    f"{len(self.positions)}, the enhancer's positions. Give fewer."
                )
            x = x + self.positions[:count]
        if seen is not None:  # weight 0 does not hide a NaN
            x = x.masked_fill(~seen[..., None], 0)
        attended = seen
        if self.cls is not None:
            x = torch.cat([self.cls.to(x.dtype).expand(len(x), 1, -1), x], 1)
            if seen is not None:
                attended = torch.cat([seen.new_ones(len(x), 1), seen], 1)
        elif seen is not None:
            attended = seen | ~seen.any(1, keepdim=True)
        for block in self.blocks:
            x = block(x, attended)
        if self.cls is not None:
            return x[:, 0].reshape(*before, width)
        if seen is not None:
            x = x.masked_fill(~seen[..., None], 0)
        if self.pool == "sequence":
            return x.reshape(*before, count, width)
        number = count if seen is None else seen.sum(1, keepdim=True).clamp_min(1)
        return (x.sum(1) / number).reshape(*before, width)


class _Attention(nn.Module):
    """The paper's: MCA(LN(x), z), whose residual is that of Eq. 6."""

    def __init__(self, width: int, heads: int, source: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, source)

    def forward(
        self, x: Tensor, z: Tensor, mask: Tensor | None, t: Tensor | None
    ) -> Tensor:
        out: Tensor = self.attention(self.norm(x), z, mask)
        return out


class _Transformer(nn.Module):
    """The released block: MCA, MCA, GEGLU, each normed, each added to what came in."""

    def __init__(
        self, width: int, heads: int, source: int, timesteps: int | None, leaky: bool
    ) -> None:
        super().__init__()
        self.adaptive, self.leaky = timesteps is not None, leaky
        self.norm_first, self.norm_second = (
            nn.LayerNorm(width) if timesteps is None else AdaptiveNorm(width, timesteps)
            for _ in range(2)
        )
        self.first = Attention(width, heads, source)
        self.second = Attention(width, heads, source)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = FeedForward(width)

    def forward(
        self, x: Tensor, z: Tensor, mask: Tensor | None, t: Tensor | None
    ) -> Tensor:
        given = (t,) if self.adaptive else ()
        leaked = None if self.leaky else mask
        x = x + self.first(self.norm_first(x, *given), z, leaked)
        x = x + self.second(self.norm_second(x, *given), z, mask)
        out: Tensor = x + self.feed(self.norm_feed(x))
        return out


class Infuser(nn.Module):
    r"""RagCA at one site: what a layer of the generator takes from the tokens z.

    $$ x \leftarrow x + W_0\, \mathrm{MCA}(x, z) \qquad \text{(RagMe Eq. 6)} $$

    $W_0$ is the pointwise convolution that starts as zero, so that at first the site
    changes nothing. Queries attend independently of each other: all positions of all
    frames of a video are asked in one product, and z is not repeated for them.

    Args:
        channels: of x.
        width: D, of z.
        heads: h, a divisor of the channels.
        block: "attention", or "transformer"; see `Reading`.
        timesteps: for a "transformer" whose norms know the time step; None: they don't.
        pool_space, pool_time: ask with the mean over positions, and over frames.
        leaky: leave masked tokens to the first attention of a "transformer", as
            released.

    Raises:
        ValueError: heads that do not divide the channels, or another block.
    """

    def __init__(
        self, channels: int, width: int, heads: int = 8, block: str = "attention", *,
        timesteps: int | None = None, pool_space: bool = False, pool_time: bool = False,
        leaky: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        check.one_of("block", block, ("attention", "transformer"))
        self.pool_space, self.pool_time, self.leaky = pool_space, pool_time, leaky
        self.block: _Attention | _Transformer = (
            _Attention(channels, heads, width)
            if block == "attention"
            else _Transformer(channels, heads, width, timesteps, leaky)
        )
        self.zero = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.zero.weight)
        nn.init.zeros_(self.zero.bias)  # type: ignore[arg-type]

    def forward(
        self, x: Tensor, frames: int, z: Tensor, mask: Tensor | None = None,
        t: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """x and its residual.

        Args:
            x: (B · F, channels, H, W), the frames of a video one after the other.
            frames: F.
            z: (B, K, D), tokens.
            mask: (B, K), true where there is a neighbour; where there is none at all,
                the residual is 0.
            t: (B,), time steps, integers; only norms that know them read it.
        """
        batch, channels = len(x) // frames, x.shape[1]
        videos = x.reshape(batch, frames, *x.shape[1:])
        asked = videos
        if self.pool_time:
            asked = asked.mean(1, keepdim=True)
        if self.pool_space:
            asked = asked.mean((3, 4), keepdim=True)
        shape = asked.shape  # (B, 1 or F, channels, 1 or H, 1 or W)
        queries = asked.permute(0, 1, 3, 4, 2).reshape(batch, -1, channels)
        seen, present = mask, None
        if mask is not None:
            present = mask.any(1)
            seen = mask | ~present[:, None]  # a softmax over nothing would be NaN
            if not self.leaky:  # weight 0 does not hide a NaN
                z = z.masked_fill(~seen[..., None], 0)
        found: Tensor = self.block(queries, z, seen, t)
        found = found.reshape(batch, shape[1], *shape[3:], channels).movedim(-1, 2)
        residual: Tensor = self.zero(found.flatten(0, 1)).reshape(shape)
        if present is not None:
            residual = residual.masked_fill(~present[:, None, None, None, None], 0)
        return (videos + residual).reshape(x.shape)
