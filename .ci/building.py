"""From a tree of sources to the built book: stage, build strictly, look over the result, and only then show it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import checks
import html_checks
from strict import build_command

__all__ = ["BuildFailed", "build", "clear", "stage"]

FOLDERS = ("book", "notebooks", "vtrlib", "tests", ".ci")  # what a page may include
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class BuildFailed(Exception):
    """The book is not sound. The message lists each fault with its place."""


def clear(root: Path) -> None:
    """Delete the built book: first step of every build, so that what stands there is never an older one."""
    for name in ("html", "source", "sphinx"):
        shutil.rmtree(root / "_build" / name, ignore_errors=True)


def stage(root: Path, executed: Path | None = None) -> Path:
    """Copy what the book is built from into `root/_build/source`, where every file has its path in the repository.

    Args:
        root: the tree of sources.
        executed: a folder with files that replace the tree's own (notebooks/*.ipynb, book/runs.json); None keeps all.

    Returns:
        The staged folder.
    """
    source = root / "_build" / "source"
    source.mkdir(parents=True)
    for file in root.iterdir():
        if file.is_file():
            shutil.copy2(file, source)
    for name in FOLDERS:
        if (root / name).is_dir():
            shutil.copytree(root / name, source / name, ignore=LEFT_OUT)
    if executed is not None:
        for file in (*executed.glob("notebooks/*.ipynb"), *executed.glob("book/runs.json")):
            shutil.copy2(file, source / file.relative_to(executed))
    _copy_mathjax(source / "book" / "_static" / "mathjax")
    return source


def build(root: Path, source: Path) -> Path:
    """Build the book in `source` into `root/_build/html`, from nothing: pages kept from before could be stale.

    Returns:
        The page to open.

    Raises:
        BuildFailed: the sources, Sphinx or the built pages have a fault; then there is no `_build/html`.
    """
    html, work = root / "_build" / "html", root / "_build" / "sphinx"
    _stop_at(checks.source_faults(source))
    run = subprocess.run(build_command(source, work), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        lines = ANSI.sub("", run.stdout).replace(f"{source}{os.sep}", "").splitlines()
        warnings = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL)\b", line)]
        # Anything else (a crash of Sphinx) is shown whole.
        _stop_at(warnings or lines)
    built = work / "_build" / "html"
    _stop_at(html_checks.site_faults(built))
    built.rename(html)
    return html / "index.html"


def _stop_at(faults: list[str]) -> None:
    if faults:
        raise BuildFailed("\n".join(faults))


def _copy_mathjax(target: Path) -> None:
    """MathJax and its fonts out of the installed package, so that formulas need no other host."""
    # The package's folder has a hyphen, so it cannot be imported; only its files are wanted anyway.
    origin = Path(str(distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline/static/mathjax")))
    target.mkdir(parents=True)
    shutil.copy2(origin / "tex-chtml-full.js", target)
    shutil.copytree(origin / "output" / "chtml" / "fonts", target / "output" / "chtml" / "fonts")
