"""Guards over the built pages: nothing comes from another host, nothing is missing, every figure has alt text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from alt_text import attributes, html_faults

__all__ = ["page_faults", "site_faults"]

SCRIPT = re.compile(r"(<script\b[^>]*>)(.*?)</script>", re.DOTALL | re.IGNORECASE)
STYLE = re.compile(r"<style\b[^>]*>(.*?)</style>", re.DOTALL | re.IGNORECASE)
TAG = re.compile(r"""<([a-zA-Z][\w:-]*)((?:[^<>"']|"[^"]*"|'[^']*')*)>""")
REMOTE = re.compile(r"\s*(https?:|wss?:|ftp:)?//", re.IGNORECASE)
CSS_LOAD = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s;]+)""", re.IGNORECASE)
# An inline script of ours has no reason to name a host at all; XML namespaces are names, not addresses.
JS_HOST = re.compile(r"""["'`]((?:https?:|wss?:)?//(?!www\.w3\.org/)[\w-]+[.:][^"'`\s]*)""")
# The scripts of the theme name hosts (licences, links), so in files only calls that load count.
JS_LOAD = re.compile(
    r"""(?:\b(?:fetch|import|importScripts|Worker|EventSource|WebSocket)\s*\(|\.src\s*=|\bfrom)\s*"""
    r"""["'`]((?:https?:|wss?:)?//[^"'`\s]+)"""
)
LOADING = {  # what a browser fetches without being asked; <a href> is not in it
    "script": ("src",), "img": ("src", "srcset"), "iframe": ("src",), "video": ("src", "poster"), "audio": ("src",),
    "source": ("src", "srcset"), "track": ("src",), "embed": ("src",), "object": ("data",), "input": ("src",),
    "image": ("href", "xlink:href"), "use": ("href", "xlink:href"), "base": ("href",), "link": ("href",),
}  # fmt: skip
LOADING_LINKS = {
    "stylesheet", "icon", "apple-touch-icon", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch",
    "manifest", "mask-icon",
}  # fmt: skip
ADVICE = "the book must work offline: serve it from book/_static"


def site_faults(site: Path) -> list[str]:
    """All faults of the built book in folder `site`, each "page: what; what to do"."""
    faults = []
    for page in sorted(site.rglob("*.html")):
        if page.name.endswith("webpack-macros.html"):  # templates that the themes leave in _static
            continue
        text = page.read_text("utf-8")
        faults += [f"{page.relative_to(site)}: {fault}" for fault in page_faults(text, page, site)]
    for sheet in sorted(site.rglob("*.css")):
        hosts = CSS_LOAD.findall(sheet.read_text("utf-8", errors="replace"))
        faults += [f"{sheet.relative_to(site)}: loads {host}; {ADVICE}" for host in hosts]
    for script in sorted(site.rglob("*.js")):
        hosts = JS_LOAD.findall(script.read_text("utf-8", errors="replace"))
        faults += [f"{script.relative_to(site)}: loads {host}; {ADVICE}" for host in hosts]
    return faults


def page_faults(text: str, page: Path, site: Path) -> Iterator[str]:
    """The faults of one page.

    Args:
        text: its HTML.
        page: its file, against which relative addresses are resolved.
        site: the folder of the whole book.
    """
    for opening, code in SCRIPT.findall(text):
        if "widget-state" in opening or "widget-view" in opening:
            yield "holds widget state, which loads scripts from another host; remove metadata.widgets"
        for host in JS_HOST.findall(code):
            yield f"a script names {host}; {ADVICE}"
    markup = SCRIPT.sub(r"\1", text)
    for style in STYLE.findall(markup):
        for host in CSS_LOAD.findall(style):
            yield f"a style loads {host}; {ADVICE}"
    yield from html_faults(markup)
    for name, rest in TAG.findall(markup):
        yield from _tag_faults(name.lower(), rest, page, site)


def _tag_faults(name: str, rest: str, page: Path, site: Path) -> Iterator[str]:
    if "url(" in rest:  # a style attribute
        for host in CSS_LOAD.findall(html.unescape(rest)):
            yield f"<{name}> loads {host}; {ADVICE}"
    if name not in LOADING:
        return
    found = attributes(f"<{name} {rest}>")
    if name == "link" and not LOADING_LINKS & set(found.get("rel", "").lower().split()):
        return
    if "srcdoc" in found:
        yield from (f"in <{name} srcdoc>: {fault}" for fault in page_faults(found["srcdoc"], page, site))
    for key in LOADING[name]:
        value = found.get(key, "")
        # srcset: addresses with sizes, parted by commas; a data: address has commas of its own
        parts = re.split(r",\s+", value) if key == "srcset" else []
        addresses = [part.split()[0] for part in parts if part.strip()] if parts else [value]
        for address in addresses:
            if REMOTE.match(address):
                yield f"<{name} {key}> loads {address}; {ADVICE}"
            elif _missing(address, page, site):
                yield f"<{name} {key}> needs {address}, and there is no such file; correct the path"


def _missing(address: str, page: Path, site: Path) -> bool:
    path = unquote(address.split("#")[0].split("?")[0])
    if not path or re.match(r"[a-z][a-z0-9+.-]*:", path, re.IGNORECASE):  # this page, data:, blob:
        return False
    return not ((site / path.lstrip("/")) if path.startswith("/") else page.parent / path).exists()
