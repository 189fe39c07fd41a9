"""Does every figure say in words what it shows? Markdown, directives and HTML, in sources and in outputs."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.front_matter import front_matter_plugin

__all__ = ["ATTRIBUTE", "attributes", "describes", "html_faults", "markdown_faults"]

# Sphinx and MyST-NB fill a missing alt with the file's path or hash.
NO_WORDS = re.compile(r"[0-9a-f]{16,}|\S*/\S*|\S+\.(png|svg|jpe?g|gif|webp)|<[^>]*>", re.IGNORECASE)
FIGURE = re.compile(r"\{(figure|image|glue:figure|figure-md)\}\s*(\S*)")
OPTION = re.compile(r"^\s*:?alt:[ \t]*(.*)$", re.MULTILINE)
IMG = re.compile(r"""<img\b(?:[^<>"']|"[^"]*"|'[^']*')*>""", re.IGNORECASE)
ATTRIBUTE = re.compile(r"""([^\s"'<>/=]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'<>]+))""")
MARKDOWN = MarkdownIt("commonmark").use(colon_fence_plugin).use(front_matter_plugin)


def describes(alt: str | None) -> bool:
    """True if `alt` is words: not missing, empty, a path or a hash."""
    words = (alt or "").strip()
    return bool(words) and not NO_WORDS.fullmatch(words)


def attributes(tag: str) -> dict[str, str]:
    """The attributes of an HTML start tag, with lower-case names and entities resolved."""
    name_end = re.match(r"<[^\s/>]+", tag)
    rest = tag[name_end.end() :] if name_end else tag
    return {name.lower(): html.unescape(a or b or c) for name, a, b, c in ATTRIBUTE.findall(rest)}


def html_faults(text: str) -> Iterator[str]:
    """Each <img> in `text` whose alt is no words."""
    for tag in IMG.findall(text):
        found = attributes(tag)
        if not describes(found.get("alt")):
            source = found.get("src", "?")
            yield f'<img src="{source[:60]}"> has no alt text (found alt={found.get("alt")!r}); say what it shows'


def markdown_faults(text: str) -> Iterator[str]:
    """Each image, figure directive or <img> in MyST `text` without alt text; the line is counted from 1."""
    for token in MARKDOWN.parse(text):
        line = token.map[0] + 1 if token.map else 1
        for fault in _token_faults(token):
            yield f"line {line}: {fault}"


def _token_faults(token: Token) -> Iterator[str]:
    if token.type in ("fence", "colon_fence"):
        figure = FIGURE.match(token.info.strip())
        if figure:
            option = OPTION.search(token.content)
            # figure-md carries its alt in the Markdown image inside it.
            if figure[1] != "figure-md" and not describes(option and option[1].strip(" \"'")):
                yield f"{{{figure[1]}}} {figure[2]} has no alt text; add the option :alt:"
        # A directive may hold others; shown code ({code-block}, {literalinclude}) holds none.
        if token.info.strip().startswith("{") and not token.info.strip().startswith("{code"):
            yield from markdown_faults(token.content)
    elif token.type == "image":
        if not describes(_words(token)):
            yield f"image {token.attrGet('src')} has no alt text; write ![what it shows]({token.attrGet('src')})"
    elif token.type in ("html_block", "html_inline"):
        yield from html_faults(token.content)
    for child in token.children or () if token.type == "inline" else ():
        yield from _token_faults(child)


def _words(image: Token) -> str:
    return "".join(child.content for child in image.children or ())
