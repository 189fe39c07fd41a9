"""The one kind of object that `vtrlib.show` hands to a page."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Html", "attributes", "caption_list", "required_text"]


@dataclass(frozen=True, repr=False)
class Html:
    """A piece of a page that a notebook displays by itself.

    Attributes:
        html: self-contained markup; shown by `_repr_html_`.
        kind: what it is, such as "film strip, 8 frames of 32×32 pixels".
        alt: what it shows, in words.
    """

    html: str
    kind: str
    alt: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"<{self.kind}: {' '.join(self.alt.split())}>"


def attributes(**values: str | int | float) -> str:
    """Escaped attributes with a leading space: `attributes(aria_label="a")` is ` aria-label="a"`."""
    return "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for name, value in values.items()
    )


def required_text(name: str, value: Any) -> str:
    """Return `value`, a text with at least one visible character.

    Raises:
        TypeError: `value` is no str.
        ValueError: it is empty.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name}={value!r} ({type(value).__name__}): expected a text that says what the picture shows.")
    if not value.strip():
        raise ValueError(f"{name} is empty: expected a text that says, for those who cannot see it, what it shows.")
    return value


def caption_list(name: str, value: Any, frames: int) -> list[str]:
    """Return `value`, one text or number per frame, as texts.

    Raises:
        TypeError: `value` is one str or no iterable.
        ValueError: it has not `frames` entries.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name}={value!r} ({type(value).__name__}): expected a sequence of texts, one per frame.")
    texts = [str(entry) for entry in value]
    if len(texts) != frames:
        raise ValueError(f"{name}: found {len(texts)} entries for {frames} frames; expected one per frame.")
    return texts
