"""Colours, and the style sheet that travels with every piece of a page.

Pieces carry their style themselves, so that they look the same in JupyterLab and in the book. Nothing sets a text
or page colour: lines and letters are `currentColor`, so light and dark pages both read.
"""

from __future__ import annotations

__all__ = ["FILM", "PALETTE", "PLAYER", "TIMELINE", "sheet"]

# Okabe and Ito's eight colours, told apart under every common colour blindness; the ones that stand out on white first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")

_BASE = """
.vtr{max-width:100%;margin:.25rem 0;line-height:1.45;overflow-wrap:break-word}
.vtr *{box-sizing:border-box}
.vtr :focus-visible{outline:3px solid currentColor;outline-offset:2px}
"""

FILM = """
.vtr-frame{display:block;width:100%;background-image:var(--vtr-sheet);background-repeat:no-repeat;
image-rendering:pixelated;border-radius:2px;forced-color-adjust:none;print-color-adjust:exact;-webkit-print-color-adjust:exact}
.vtr-film{--vtr-gap:.3rem;display:flex;flex-wrap:wrap;gap:.5rem var(--vtr-gap)}
.vtr-cell{width:var(--vtr-cell);max-width:100%;font-size:.8rem;line-height:1.25;text-align:center}
.vtr-scroll{overflow-x:auto}
.vtr-rows{display:grid;gap:.3rem;font-size:.8rem;line-height:1.25;text-align:center}
.vtr-name{grid-column:1/-1;font-size:.95rem;font-weight:600;text-align:left;position:sticky;left:0}
.vtr-name:not(:first-child){margin-top:.4rem}
.vtr-alt{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
"""

# The slider is drawn by hand: browsers pick colours for it that fade on one of light and dark.
PLAYER = """
.vtr-player{display:flex;flex-wrap:wrap;gap:.75rem 1.25rem;align-items:center}
.vtr-player>:is(ol,details){flex:1 0 100%;margin:0}
.vtr-player img.vtr-screen{display:block;height:auto;max-width:100%;object-fit:cover;object-position:0 0;margin:0;
padding:0!important;image-rendering:pixelated;border-radius:4px}
.vtr-controls{flex:1 1 16rem;min-width:0;display:grid;grid-template-columns:auto minmax(0,1fr);gap:.6rem .75rem;
align-items:center}
.vtr-controls>*{grid-column:1/-1}
.vtr-controls button{font:inherit;color:inherit;background:transparent;border:1.5px solid currentColor;cursor:pointer}
.vtr-controls .vtr-play{grid-column:1;min-width:6.2rem;padding:.3rem .7rem;border-radius:6px;text-align:left}
.vtr-play::before{content:"";display:inline-block;width:.7em;height:.75em;margin-right:.55em;background:currentColor;
clip-path:polygon(0 0,100% 50%,0 100%);forced-color-adjust:none}
.vtr-play[data-playing]::before{clip-path:polygon(0 0,35% 0,35% 100%,65% 100%,65% 0,100% 0,100% 100%,0 100%)}
.vtr-controls .vtr-now{grid-column:2;display:grid;align-items:center;min-height:2.9em;margin:0}
.vtr-controls input{appearance:none;-webkit-appearance:none;width:100%;height:1.5rem;margin:0;padding:0;border:0;
border-radius:4px;background:transparent;color:inherit;cursor:pointer;forced-color-adjust:none}
.vtr-controls input::-webkit-slider-runnable-track{height:.4rem;border-radius:.2rem;
background:color-mix(in srgb,currentColor 45%,transparent)}
.vtr-controls input::-moz-range-track{height:.4rem;border-radius:.2rem;
background:color-mix(in srgb,currentColor 45%,transparent)}
.vtr-controls input::-webkit-slider-thumb{-webkit-appearance:none;width:1.1rem;height:1.1rem;margin-top:-.35rem;
border-radius:50%;background:currentColor}
.vtr-controls input::-moz-range-thumb{width:1.1rem;height:1.1rem;border:0;border-radius:50%;background:currentColor}
.vtr-player summary{display:list-item;width:fit-content;list-style:disclosure-closed inside;cursor:pointer}
.vtr-player details[open]>summary{list-style-type:disclosure-open}
.vtr-player details>*+*{margin:.3rem 0 0;max-height:14rem;overflow-y:auto}
.vtr-when{font-variant-numeric:tabular-nums;font-weight:600}
@media print{.vtr-controls>:is(input,.vtr-play){display:none}}
@media (scripting:none){.vtr-controls>:is(input,.vtr-play){display:none}}
"""

TIMELINE = """
.vtr-bar{position:relative;height:2.8rem;border:1.5px solid currentColor;border-radius:6px}
.vtr-bar::after{content:"";position:absolute;left:var(--vtr-at);top:-5px;bottom:-5px;width:3px;margin-left:-1.5px;
background:currentColor;border-radius:2px;pointer-events:none;forced-color-adjust:none}
.vtr-controls .vtr-moment{position:absolute;top:3px;bottom:3px;min-width:0;padding:0 0 .7rem;border-radius:4px;
overflow:hidden;line-height:1;background:color-mix(in srgb,var(--vtr-hue) 35%,transparent);
border-bottom:6px solid var(--vtr-hue)}
.vtr-controls .vtr-moment:focus-visible{z-index:1}
.vtr-controls .vtr-distractor{background:transparent;border:1.5px dashed currentColor}
.vtr-controls .vtr-spoiled{
background-image:repeating-linear-gradient(135deg,currentColor 0 1.5px,transparent 1.5px 6px);
background-size:100% .7rem;background-position:0 100%;background-repeat:no-repeat}
.vtr-controls .vtr-moment[aria-current]{font-weight:800;box-shadow:inset 0 0 0 2px currentColor}
.vtr .vtr-moments{padding-left:1.9rem}
.vtr .vtr-moments li{margin:0 0 .3rem;padding:.1rem .5rem;border-left:5px solid var(--vtr-hue,transparent)}
.vtr .vtr-moments li.vtr-unnamed{border-left:3px dashed currentColor;margin-left:1px}
.vtr .vtr-moments li[aria-current]{background:color-mix(in srgb,currentColor 12%,transparent)}
"""


def sheet(*parts: str) -> str:
    """A `<style>` element with what every piece needs and `parts`, on one line."""
    return f"<style>{''.join((_BASE, *parts)).replace(chr(10), '')}</style>"
