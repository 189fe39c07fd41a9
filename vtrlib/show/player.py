"""A clip player made of native controls, which the keyboard and screen readers know already.

No ids and no script elements: each player finds its parts from the element an event reached, so any number of them
share a page, in any order, in JupyterLab as in the built book. Without scripts the first frame and all captions stand.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from itertools import groupby

from vtrlib.check import integer
from vtrlib.show import style
from vtrlib.show.html import Html, attributes, caption_list, required_text
from vtrlib.show.sheet import Frames, Pixels, as_pixels, data_uri, fingerprint

__all__ = ["OWN_KEYS", "compose", "frame_range", "player"]

OWN_KEYS = {"data_lm_suppress_shortcuts": "true"}
"""On each control: else JupyterLab takes its arrow keys and Enter for moving between cells and editing them."""

# The slider moved (by hand, or by _PRESS below): show its frame. `this` is the player. Frames count from 1 here.
_SHOW = """
const slider = this.querySelector('input'), live = this.querySelector('[aria-live]');
const at = +slider.value, last = +slider.max;
if (event.isTrusted && this.vtrTimer) this.querySelector('.vtr-play').click();
this.querySelector('img').style.objectPosition = 100 * (at - 1) / Math.max(last - 1, 1) + '% 0';
this.style.setProperty('--vtr-at', 100 * (at - .5) / last + '%');
let text = 'frame ' + at + ' of ' + last;
for (const line of [...this.querySelectorAll('[data-from]')].reverse())
if (at >= line.dataset.from) { text += ': ' + line.lastElementChild.textContent; break; }
slider.setAttribute('aria-valuetext', text);
live.textContent = text;
for (const moment of this.querySelectorAll('[data-first]'))
if (at >= moment.dataset.first && at <= moment.dataset.last) moment.setAttribute('aria-current', 'true');
else moment.removeAttribute('aria-current');
"""

# A button was pressed: play or pause everything, round and round; or play one moment, once. Who asks for less motion
# gets the first frame of the moment, and motion only from the play button.
_PRESS = """
const button = event.target.closest('button');
if (!button) return;
const slider = this.querySelector('input'), live = this.querySelector('[aria-live]');
const play = this.querySelector('.vtr-play'), moment = button !== play, playing = this.vtrTimer;
const show = frame => { slider.value = frame; slider.dispatchEvent(new Event('input', {bubbles: true})); };
const stop = () => { clearInterval(this.vtrTimer); this.vtrTimer = 0; play.textContent = 'Play';
play.removeAttribute('data-playing'); live.setAttribute('aria-live', 'polite'); };
stop();
if (moment) show(button.dataset.first);
if (moment ? matchMedia('(prefers-reduced-motion: reduce)').matches : playing) return;
play.textContent = 'Pause';
play.setAttribute('data-playing', '');
live.setAttribute('aria-live', 'off');
this.vtrTimer = setInterval(() => { const at = +slider.value;
if (!this.isConnected || (moment && at >= button.dataset.last)) stop();
else show(at >= slider.max ? 1 : at + 1); }, 1000 / this.dataset.fps);
"""


def player(
    frames: Frames, *, alt: str, captions: Iterable[object] | None = None, fps: int = 6, scale: int = 6
) -> Html:
    """A clip with a play button and a slider: arrow keys step, Space or Enter plays and pauses. It never starts alone.

    Args:
        frames: (F, 3, H, W) uint8, torch or numpy.
        alt: what the clip shows, for those who cannot see it.
        captions: a text per frame, read out and shown below the picture, F of them.
        fps: frames per second, 1 … 60.
        scale: screen pixels per pixel, ≥ 1; less where the page is narrow.

    Raises:
        TypeError, ValueError: naming the argument, what was found and what was expected.
    """
    pixels, alt = as_pixels("frames", frames), required_text("alt", alt)
    texts = None if captions is None else caption_list("captions", captions, len(pixels))
    markup = compose(pixels, alt=alt, captions=texts, fps=fps, scale=scale, name="frames")
    count, height, width, _ = pixels.shape
    return Html(markup, f"player, {count} frames of {height}×{width} pixels", alt)


def frame_range(first: int, last: int) -> str:
    """Frames `first` … `last`, counted from 1, in words."""
    return f"frame {first}" if first == last else f"frames {first}–{last}"


def compose(
    pixels: Pixels, *, alt: str, captions: list[str] | None, fps: int, scale: int, name: str,
    css: str = "", bar: str = "", below: str = "",
) -> str:  # fmt: skip
    """The player's markup; a time-line adds `css`, a `bar` under the slider and text `below`."""
    fps, scale = integer("fps", fps, 1, 60), integer("scale", scale, 1)
    count, height, width, _ = pixels.shape
    now = f"frame 1 of {count}" + (f": {captions[0]}" if captions else "")
    root = attributes(
        class_="vtr vtr-player", role="group", aria_label="time-line" if bar else "clip player",
        data_fps=fps, style=f"--vtr-at:{50 / count:.6g}%", oninput=_one_line(_SHOW), onclick=_one_line(_PRESS),
    )  # fmt: skip
    screen = attributes(  # dark-light: the theme leaves these pixels alone in dark mode
        class_="vtr-screen dark-light", alt=alt, src=data_uri(name, pixels), data_pixels=fingerprint(pixels),
        style=f"width:{scale * width}px;aspect-ratio:{width}/{height}",
    )  # fmt: skip
    slider = attributes(
        type="range", min=1, max=count, value=1, step=1, autocomplete="off", aria_label="frame", aria_valuetext=now,
        **OWN_KEYS,
    )  # fmt: skip
    play = attributes(type="button", class_="vtr-play", **OWN_KEYS)
    return (
        f"{style.sheet(style.PLAYER, css)}<div{root}><img{screen}>"
        f'<div class="vtr-controls"><button{play}>Play</button>'
        f'<p class="vtr-now" aria-live="polite">{escape(now)}</p><input{slider}>{bar}</div>'
        f"{below}{_spoken(captions)}</div>"
    )


def _spoken(captions: list[str] | None) -> str:
    """Every caption, equal neighbours joined: read without scripts, and where the player looks its captions up."""
    if not captions:
        return ""
    lines, first = [], 1
    for text, run in groupby(captions):
        last = first + len(list(run)) - 1
        when = frame_range(first, last)
        lines.append(f'<li data-from="{first}"><span class="vtr-when">{when}</span>: <span>{escape(text)}</span></li>')
        first = last + 1
    return f"<details><summary>What each frame shows, in words</summary><ul>{''.join(lines)}</ul></details>"


def _one_line(script: str) -> str:
    return " ".join(script.split())
