"""Batches whose tensors move together."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

__all__ = ["Tensors"]


@dataclass(frozen=True, eq=False)
class Tensors:
    """A dataclass whose tensors move together; what else it holds stays."""

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> Self:
        """The same on another device; types stay."""
        return self._each(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in page-locked memory; a `DataLoader` calls this."""
        return self._each(Tensor.pin_memory)

    def _each(self, move: Any) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {k: move(v) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)
