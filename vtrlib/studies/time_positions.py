"""What DiscoVLA lacks, to see what difference it makes: a position in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TimePositions"]


class TimePositions(nn.Module):
    """A position in time for each frame, added to all its tokens before the first layer; zeros at the start.

    The paper's model has none. It stands where a vision tower's first norm stood, which it takes over.

    Args:
        norm: the norm.
        frames: F, of every video.
        width: D.
    """

    def __init__(self, norm: nn.Module, frames: int, width: int) -> None:
        super().__init__()
        self.norm = norm
        self.time = nn.Parameter(torch.zeros(frames, width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B F, L, D), frames in their order."""
        moved: Tensor = self.norm(x).unflatten(0, (-1, len(self.time))) + self.time[:, None]
        return moved.flatten(0, 1)
