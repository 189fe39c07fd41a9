"""Film strips: the frames of a clip side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

import numpy as np

from vtrlib.check import integer
from vtrlib.show import style
from vtrlib.show.html import Html, attributes, caption_list, required_text
from vtrlib.show.sheet import Frames, Pixels, as_pixels, data_uri, fingerprint

__all__ = ["film_strip", "strips"]

_ROW = 8  # frames; a motion of Moving Digits has as many
_LEAST = 72  # screen pixels: a label stays readable, and four frames fit the width of a phone


def _frame(index: int, pixels: Pixels) -> str:
    """One window onto the sheet, which the surrounding element holds."""
    count, height, width, _ = pixels.shape
    place = 100 * index / max(count - 1, 1)
    return (
        f'<span class="vtr-frame" style="aspect-ratio:{width}/{height};background-size:{100 * count}% 100%;'
        f'background-position:{place:.6g}% 0"></span>'
    )


def _picture(body: str, pixels: Pixels, alt: str, labels: Iterable[str], name: str, **more: str | int) -> str:
    """A picture for those who see it; for everyone else `alt`, then the labels that stand in it."""
    labels = [label for label in labels if label]
    picture = attributes(
        role="img", aria_label=f"{alt} Labels: {'; '.join(labels)}." if labels else alt,
        data_pixels=fingerprint(pixels), style=f"--vtr-sheet:url({data_uri(name, pixels)})",
        **{"class_": "vtr"} | more,
    )  # fmt: skip
    # The hidden text shows where a page drops styles, and the picture with them.
    return f'{style.sheet(style.FILM)}<div{picture}><span class="vtr-alt">{escape(alt)}</span>{body}</div>'


def film_strip(
    frames: Frames, *, alt: str, labels: Iterable[object] | None = None, scale: int = 3, every: int = 1
) -> Html:
    """Frames side by side, up to eight in a row.

    Args:
        frames: (F, 3, H, W) uint8, torch or numpy.
        alt: what the strip shows, for those who cannot see it.
        labels: a text or number under each frame, F of them.
        scale: screen pixels per pixel, ≥ 1; less where the page is narrow.
        every: show frames 0, every, 2·every, …

    Raises:
        TypeError, ValueError: naming the argument, what was found and what was expected.
    """
    pixels, alt = as_pixels("frames", frames), required_text("alt", alt)
    scale, every = integer("scale", scale, 1), integer("every", every, 1)
    texts = [""] * len(pixels) if labels is None else caption_list("labels", labels, len(pixels))
    pixels, texts = pixels[::every], texts[::every]
    count, height, width, _ = pixels.shape
    cells = "".join(
        f'<span class="vtr-cell">{_frame(k, pixels)}{escape(text)}</span>' for k, text in enumerate(texts)
    )
    # Frames shrink to keep a row of up to eight together; on a phone rows get shorter instead.
    full, row = scale * width, min(count, _ROW)
    gaps, least = f"{row - 1} * var(--vtr-gap)", min(full, _LEAST)
    cell = f"--vtr-cell:clamp({least}px,(100% - {gaps}) / {row} - .1px,{full}px)"
    body = f'<div class="vtr-film" style="{cell};max-width:calc({row * full}px + {gaps})">{cells}</div>'
    markup = _picture(body, pixels, alt, texts, "frames")
    return Html(markup, f"film strip, {count} frames of {height}×{width} pixels", alt)


def strips(
    rows: Mapping[str, Frames], *, alt: str, labels: Iterable[object] | None = None, scale: int = 3, every: int = 1
) -> Html:
    """Named film strips one below the other, frame under frame, to compare clips.

    Args:
        rows: name of each strip, shown above it, and its frames (F, 3, H, W) uint8; H and W are the same in all.
        alt: what the strips show and where they differ, for those who cannot see them.
        labels: a text or number under each column, as many as the longest strip has frames.
        scale: screen pixels per pixel, ≥ 1; less where the page is narrow.
        every: show frames 0, every, 2·every, … of each strip.

    Raises:
        TypeError, ValueError: naming the argument, what was found and what was expected.
    """
    if not isinstance(rows, Mapping):
        raise TypeError(f"rows ({type(rows).__name__}): expected a mapping from names to frames (F, 3, H, W).")
    if not rows:
        raise ValueError("rows is empty: expected at least one name with its frames.")
    alt, scale, every = required_text("alt", alt), integer("scale", scale, 1), integer("every", every, 1)
    clips = {required_text("rows: a name", name): as_pixels(f"rows[{name!r}]", frames) for name, frames in rows.items()}
    first, *others = clips
    for name in others:
        if clips[name].shape[1:] != clips[first].shape[1:]:
            raise ValueError(
                f"rows[{name!r}]: found frames of {_size(clips[name])} pixels; expected {_size(clips[first])} "
                f"as in rows[{first!r}]."
            )
    columns = max(map(len, clips.values()))
    texts = [] if labels is None else caption_list("labels", labels, columns)[::every]
    clips = {name: clip[::every] for name, clip in clips.items()}
    columns, pixels = max(map(len, clips.values())), np.concatenate(list(clips.values()))

    body, shown = [], 0
    for name, clip in clips.items():
        body.append(f'<span class="vtr-name">{escape(name)}</span>')
        body += [_frame(shown + k, pixels) for k in range(len(clip))]
        if len(clip) < columns:
            body.append(f'<span style="grid-column:{len(clip) + 1}/-1"></span>')
        shown += len(clip)
    body += [f"<span>{escape(text)}</span>" for text in texts]
    grid = f"grid-template-columns:repeat({columns},minmax(1.75rem,{scale * pixels.shape[2]}px))"
    # More columns than a phone shows scroll in a box of their own, which the keyboard must reach.
    wide: dict[str, str | int] = {"class_": "vtr vtr-scroll", "tabindex": 0} if columns > 8 else {}
    rows_html = f'<div class="vtr-rows" style="{grid}">{"".join(body)}</div>'
    markup = _picture(rows_html, pixels, alt, [*clips, *texts], "rows", **wide)
    return Html(markup, f"{len(clips)} film strips of up to {columns} frames, {_size(pixels)} pixels", alt)


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}×{pixels.shape[2]}"
