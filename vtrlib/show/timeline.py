"""An untrimmed video with its moments: the player, a bar with a button per moment, and the same in words."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from vtrlib.show import style
from vtrlib.show.html import Html, attributes
from vtrlib.show.player import OWN_KEYS, compose, frame_range
from vtrlib.show.sheet import as_pixels
from vtrlib.world.card import SCENES

if TYPE_CHECKING:
    from vtrlib.world.video import Moment, Video

__all__ = ["timeline"]

_HUES = tuple(hue for hue in style.PALETTE if hue != "#000000")  # black would vanish on a dark page


def timeline(video: Video, *, scale: int = 6, fps: int = 8) -> Html:
    """Play a video and see where its moments lie; pressing a moment plays it.

    Frames count from 1 on the page: a moment with start 4 and end 12 reads "frames 5–12". Distractors are dashed,
    moments with spoiled evidence are hatched, and the list below says both in words.

    Args:
        video: F frames, its moments and its frame captions.
        scale: screen pixels per pixel, ≥ 1; less where the page is narrow.
        fps: frames per second, 1 … 60.

    Raises:
        TypeError, ValueError: naming the argument, what was found and what was expected.
    """
    pixels = as_pixels("video.frames", video.frames)
    count, captioned = len(pixels), len(video.events)
    for moment in video.moments:
        if not 0 <= moment.start < moment.end <= count:
            raise ValueError(
                f"video.moments: found one with start {moment.start}, end {moment.end}; "
                f"expected 0 ≤ start < end ≤ {count}, the number of frames."
            )
    alt = (
        f"Video {video.index} of {video.split}, {SCENES[video.scene]} scene, {count} frames. "
        f"{captioned} captioned moments and {len(video.moments) - captioned} without caption, listed below."
    )
    numbered = list(enumerate(video.moments, 1))
    buttons = "".join(_button(number, moment, count) for number, moment in numbered)
    lines = "".join(_line(number, moment) for number, moment in numbered)
    markup = compose(
        pixels, alt=alt, captions=list(video.frame_captions) or None, fps=fps, scale=scale, name="video.frames",
        css=style.TIMELINE,
        bar=f'<div class="vtr-bar" role="group" aria-label="moments">{buttons}</div>',
        below=f'<ol class="vtr-moments" aria-label="moments">{lines}</ol>{_paraphrases(video)}',
    )  # fmt: skip
    return Html(markup, f"time-line, {count} frames, {len(video.moments)} moments", alt)


def _place(moment: Moment) -> dict[str, str | int]:
    """Where a moment lies, counted from 1, both ends included; and that the first frame is in it, if it is."""
    place: dict[str, str | int] = {"data_first": moment.start + 1, "data_last": moment.end}
    return place | ({"aria_current": "true"} if moment.start == 0 else {})


def _hue(number: int) -> str:
    return f"--vtr-hue:{_HUES[(number - 1) % len(_HUES)]}"


def _what(moment: Moment) -> str:
    return f"not captioned: {moment.event}" if moment.is_distractor else moment.captions[0]


def _button(number: int, moment: Moment, count: int) -> str:
    when, spoiled = frame_range(moment.start + 1, moment.end), ""
    look = "vtr-moment"
    if moment.is_distractor:
        look += " vtr-distractor"
    if moment.degradation:
        look += " vtr-spoiled"
        spoiled = f" ({moment.degradation})"
    left, width = 100 * moment.start / count, 100 * (moment.end - moment.start) / count
    place = f"left:{left:.6g}%;width:{width:.6g}%;{_hue(number)}"
    label = attributes(
        type="button", class_=look, title=_what(moment), aria_label=f"{number}, {when}: {_what(moment)}{spoiled}",
        style=place, **_place(moment), **OWN_KEYS,
    )  # fmt: skip
    return f"<button{label}>{number}</button>"


def _line(number: int, moment: Moment) -> str:
    when = f'<span class="vtr-when">{frame_range(moment.start + 1, moment.end)}</span>'
    spoiled = f" <small>[hatched: {escape(moment.degradation)}]</small>" if moment.degradation else ""
    if moment.is_distractor:
        item = attributes(class_="vtr-unnamed", **_place(moment))
        return f"<li{item}>{when}: {escape(str(moment.event))} <small>[dashed: not captioned]</small>{spoiled}</li>"
    return f"<li{attributes(style=_hue(number), **_place(moment))}>{when}: “{escape(moment.captions[0])}”{spoiled}</li>"


def _paraphrases(video: Video) -> str:
    """The captions after the first, under the number of their moment."""
    lines = [
        f'<li value="{number}">{"; ".join(f"“{escape(caption)}”" for caption in moment.captions[1:])}</li>'
        for number, moment in enumerate(video.moments, 1)
        if len(moment.captions) > 1
    ]
    if not lines:
        return ""
    return f"<details><summary>The same moments in other words</summary><ol>{''.join(lines)}</ol></details>"
