"""Sphinx extension of this book: `{scoreboard}` and `{status}`, pages that are generated and so cannot be stale.

Both turn files of the repository into MyST Markdown and let the page's own parser read it, so their links are real
cross-references, which a strict build checks. A fault in a file becomes an error of the build that names the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from vtrlib import check, claims, ledger
from vtrlib.ledger import Row
from vtrlib.schemas import RUNS

__all__ = ["Scoreboard", "Status", "setup"]


NAMES = {"cpu": "CPU", "memory_gib": "memory, GiB", "gpu": "GPU", "python": "Python"}


class Generated(SphinxDirective):
    """A directive whose content is Markdown made from the repository at `root`."""

    def markdown(self, root: Path) -> str:
        """The content; a ValueError or OSError says what is wrong with which file."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        # Read again at every build: ledger rows come and go, so no list of dependencies is complete.
        self.env.note_reread()
        try:
            text = self.markdown(Path(self.env.srcdir))
        except (ValueError, OSError) as error:
            raise self.error(str(error)) from error
        content = nodes.container()
        self.state.nested_parse(StringList(text.splitlines(), self.get_location()), self.content_offset, content)
        return list(content.children)


class Scoreboard(Generated):
    """Claims and their statuses, by the options `:paper:` and `:page:`; with `:summary:` their numbers by paper."""

    option_spec = {"paper": directives.unchanged_required, "page": directives.unchanged_required,
                   "summary": directives.flag}  # fmt: skip

    def markdown(self, root: Path) -> str:
        board, rows = claims.load(root / "book" / "claims.yml"), ledger.read_rows(root / "book" / "results")
        if "summary" not in self.options:
            return claims.markdown(board, rows, self.options.get("page"), self.options.get("paper"))
        counts = claims.summary(board, rows)
        by_status = {one: [counts[paper][one] for paper in claims.PAPERS] for one in claims.STATUSES}
        by_status["claims"] = [sum(column) for column in zip(*by_status.values(), strict=True)]
        return _table(
            ["status", *claims.PAPERS, "all"],
            ([one, *by_paper, sum(by_paper)] for one, by_paper in by_status.items()),
        )


class Status(Generated):
    """Time and memory of every notebook, the machine, and what stands behind every ledger row."""

    def markdown(self, root: Path) -> str:
        runs = _runs(root / "book" / "runs.json")
        pages = {Path(page).name for page in self.env.found_docs if page.startswith("notebooks/")}
        if lost := pages - runs["notebooks"].keys():
            raise ValueError(
                f"{root / 'book' / 'runs.json'}: notebooks: found no time of {', '.join(sorted(lost))}, "
                "expected one for every notebook of the book. Run: make run"
            )
        times = _table(
            ["notebook", "seconds", "peak memory, MiB", "threads"],
            ([f"{{doc}}`/notebooks/{name}`", f"{one['seconds']:.1f}", _mib(one["peak_mib"]), one.get("threads", "")]
             for name, one in sorted(runs["notebooks"].items())),
        )  # fmt: skip
        machine = _table(
            ["what", "found"],
            ([NAMES.get(key, key), "none" if value is None else value]
             for key, value in runs["machine"].items() if not isinstance(value, dict | list)),
        )  # fmt: skip
        return "\n\n".join([times, machine, _rows(ledger.read_rows(root / "book" / "results"))])


def _runs(path: Path) -> Mapping[str, Any]:
    advice = "The program that runs the notebooks writes this file: make run"
    try:
        runs: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: found no such file. {advice}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}, expected JSON. {advice}") from None
    check.conforms(runs, RUNS, str(path), advice)
    return runs


def _rows(rows: Mapping[str, Row]) -> str:
    if not rows:
        return "The ledger holds no row yet."
    return _table(
        ["ledger row", "seeds", "seconds", "CPU", "commit", "command"],
        ([f"`{row.id}`", ", ".join(map(str, row.seeds)), f"{row.wall_seconds:.1f}", row.hardware["cpu"],
          f"`{row.commit}`", f"`{row.command}`"] for row in rows.values()),
    )  # fmt: skip


def _mib(peak: float | None) -> str:
    return "unknown" if peak is None else f"{peak:.0f}"


def _table(head: list[str], body: Iterable[Iterable[object]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def dollar_maths(app: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Docstrings write maths as the notebooks do, between dollars; Sphinx reads them as reStructuredText."""
    text = "\n".join(lines)
    text = re.sub(
        r"^([ ]*)\$\$(.+?)\$\$",
        lambda m: f"{m[1]}.. math::\n\n{m[1]}    {' '.join(m[2].split())}\n",
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    text = re.sub(r"(?<![\\$`])\$([^$`]+?)\$", lambda m: f":math:`{' '.join(m[1].split())}`", text)
    lines[:] = text.split("\n")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("scoreboard", Scoreboard)
    app.add_directive("status", Status)
    if "sphinx.ext.autodoc" in app.extensions:
        app.connect("autodoc-process-docstring", dollar_maths)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
