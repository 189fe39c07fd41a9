"""Register-augmented Gaussian attention: windows, mask, blocks, and their mixture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtrlib.dreamprvr.config import Config
from vtrlib.dreamprvr.layers import (
    AttentionBlock,
    InputProjection,
    attention_weights,
    feed_forward,
    mixed,
)

__all__ = [
    "DreamPRVRBlock", "Mixture", "RegisterAugmentedBlocks", "asymmetric_mask",
    "gaussian_windows",
]  # fmt: skip


def gaussian_windows(length: int, widths: Sequence[float]) -> Tensor:
    r"""The Gaussian matrices $M^g$ of Eq. 14, one per width.

    $$ G_{ik} = \exp\Bigl(-\frac{(p_k - c_i)^2}{2 \sigma^2}\Bigr) \Big/ \max_k G_{ik},
       \quad c_i = \frac{i}{L}, \quad p_k = \frac{k}{L - 1}, \quad
       \sigma = \frac{\max(w, 0.01)}{9} $$

    This is the released formula, and the paper has none. Centres and columns divide by
    different numbers, so a row's maximum drifts off the diagonal, and G is not
    symmetric.

    Args:
        length: L ≥ 1.
        widths: w > 0; ∞ is all ones.

    Returns:
        (N_o, L, L), float32, in (0, 1].
    """
    centre = torch.arange(length, dtype=torch.float64) / length
    column = torch.linspace(0, 1, length, dtype=torch.float64)
    sigma = torch.tensor([max(w, 0.01) / 9 for w in widths], dtype=torch.float64)
    logs = -((column - centre[:, None]) ** 2) / (2 * sigma[:, None, None] ** 2)
    return (logs - logs.amax(-1, keepdim=True)).exp().float()


def asymmetric_mask(tokens: int, registers: int) -> Tensor:
    """Who may attend to whom (Eq. 29, 30, Fig. 2d).

    Video tokens attend to all; registers attend to video tokens only. Since registers
    are dropped after the block, `RegisterAugmentedBlocks` never computes their rows,
    and what they may attend to changes nothing.

    Returns:
        (L + N_r, L + N_r), bool, rows attend to columns.
    """
    mask = torch.ones(tokens + registers, tokens + registers, dtype=torch.bool)
    mask[tokens:, tokens:] = False
    return mask


class StackedLinear(nn.Module):
    """K layers side by side, (K, out, in), in one product."""

    def __init__(self, stack: int, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(stack, width_out, width_in))
        self.bias = nn.Parameter(torch.empty(stack, width_out))

    def shared(self, x: Tensor) -> Tensor:
        """All K layers see the same (B, L, in); (K, B, L, out)."""
        y = F.linear(x, self.weight.flatten(0, 1), self.bias.flatten())
        return y.view(*x.shape[:-1], *self.bias.shape).movedim(-2, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Each layer sees its own part of (K, B, L, in); (K, B, L, out)."""
        y = torch.baddbmm(self.bias[:, None], x.flatten(1, 2), self.weight.mT)
        return y.view(*x.shape[:3], -1)


class StackedNorm(nn.Module):
    """K layer norms side by side, of (K, B, L, d)."""

    def __init__(self, stack: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(stack, width))
        self.bias = nn.Parameter(torch.empty(stack, width))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x, x.shape[-1:])
        return normed * self.weight[:, None, None] + self.bias[:, None, None]


class RegisterAugmentedBlocks(nn.Module):
    r"""Blocks of Gaussian attention side by side, each with its window (Eq. 14, 29).

    Query = V_o, Key = Value = Concat([V_o, r_0]). The window multiplies scores among
    video tokens; a register's score keeps its size.
    """

    def __init__(self, config: Config, length: int) -> None:
        super().__init__()
        stack, width = len(config.widths), config.width
        self.heads = config.heads
        self.query, self.key, self.value = (
            StackedLinear(stack, width, width) for _ in range(3)
        )
        self.norm1, self.norm2 = StackedNorm(stack, width), StackedNorm(stack, width)
        self.inner = StackedLinear(stack, width, 4 * width)
        self.outer = StackedLinear(stack, 4 * width, width)
        self.drop = nn.Dropout(config.dropout)
        windows = gaussian_windows(length, config.widths)
        windows = F.pad(windows, (0, config.registers), value=1.0)[:, None]
        self.windows: Tensor  # (N_o, 1, L, L + N_r)
        self.register_buffer("windows", windows, persistent=False)

    def weights(
        self, video: Tensor, registers: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Attention of video tokens, (N_o, B, h, L, L + N_r)."""
        key = self.key.shared(torch.cat([video, registers], 1))
        query = self.query.shared(video)
        windows = self.windows[..., : key.shape[-2]]  # fewer without registers
        return attention_weights(query, key, self.heads, bias, windows)

    def forward(
        self, video: Tensor, registers: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Video tokens (B, L, d) and registers (B, N_r, d) to (N_o, B, L, d)."""
        weights = self.drop(self.weights(video, registers, bias))
        value = self.value.shared(torch.cat([video, registers], 1))
        attended = mixed(weights, value, self.heads)
        return feed_forward(
            video, attended, self.drop, self.norm1, self.inner, self.outer, self.norm2
        )


class Mixture(nn.Module):
    """MAIM, which mixes the blocks' outputs position by position (§3.4; HLFormer).

    The mean over blocks and positions asks each block by cross-attention; the answer
    becomes a logit for each position, and a softmax over blocks the weights.
    """

    def __init__(self, config: Config, length: int) -> None:
        super().__init__()
        self.temperature = config.mixing_temperature
        self.block = AttentionBlock(
            config.width, config.heads, config.dropout, expansion=1
        )
        self.inner, self.outer = (
            nn.Linear(config.width, config.width),
            nn.Linear(config.width, length),
        )
        self.drop = nn.Dropout(config.dropout)

    def answers(
        self, outputs: Tensor, bias: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """What each block answers to the mean token, (N_o, B, 1, d); with a mask, the
        mean leaves padding out."""
        if mask is None:
            token = outputs.mean((0, 2))
        else:
            kept = outputs.mean(0) * mask[..., None]
            token = kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        answer: Tensor = self.block(
            token[:, None].expand(len(outputs), -1, 1, -1), outputs, bias
        )
        return answer

    def weights(self, answers: Tensor) -> Tensor:
        """(N_o, B, L), which sum to 1 over the blocks."""
        logits = self.outer(self.drop(F.relu(self.inner(answers)))).squeeze(-2)
        weights: Tensor = (logits / self.temperature).softmax(0)
        return weights

    def forward(
        self, outputs: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Outputs (N_o, B, L, d) to (B, L, d).

        Args:
            outputs: of the blocks.
            bias: masks padded positions as keys.
            mask: (B, L), bool; where given, padding does not enter the mean token.
        """
        weights = self.weights(self.answers(outputs, bias, mask))
        return torch.einsum("kbl,kbld->bld", weights, outputs)


class DreamPRVRBlock(nn.Module):
    """Registers join a video's tokens in attention blocks, which are mixed (Fig. 2)."""

    def __init__(self, config: Config, length: int) -> None:
        super().__init__()
        projected = config.reading.register_entry == "projected"
        self.register_input: nn.Module = nn.Identity()
        if projected:
            size = config.width
            self.register_input = InputProjection(size, size, config.input_dropout)
        self.blocks = RegisterAugmentedBlocks(config, length)
        self.mixture = Mixture(config, length)
        self.registers = config.registers
        self.hidden = config.reading.padding == "hidden"

    def forward(
        self,
        video: Tensor,
        registers: Tensor,
        bias: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Tokens (B, L, d) and registers (B, N_r, d) to tokens (B, L, d).

        Args:
            video: exactly as many tokens as the block was made for.
            registers: r_0.
            bias: `key_bias` of the tokens and registers; None where no token is
                padding.
            mask: (B, L), bool, of the tokens that are there.
        """
        outputs = self.blocks(video, self.register_input(registers), bias)
        tokens = None if bias is None else bias[..., : video.shape[1]]
        out: Tensor = self.mixture(outputs, tokens, mask if self.hidden else None)
        return out
