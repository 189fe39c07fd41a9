"""A sound book of three pages, built by the real commands under the real _config.yml, to plant faults in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parents[1]
BUILT = "_build/html/index.html"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

INTRO = """\
# A small book

$$
e^{i\\pi} + 1 = 0
$$ (eq-euler)

Equation {eq}`eq-euler` is in {cite:t}`euler1748`; see {doc}`/notebooks/01_small`.

```{figure} _static/favicon.svg
:alt: a play button beside three lines of text

The mark of the book.
```
"""
REFERENCES = """\
# References

```{bibliography}
```
"""
BIB = "@book{euler1748, title={Introductio}, author={Euler, Leonhard}, publisher={Bousquet}, year={1748}}\n"
TOC = "format: jb-book\nroot: book/intro\nchapters:\n  - file: notebooks/01_small\n  - file: book/references\n"

# Of each code cell: its source, what it prints. The last one draws a figure of one pixel.
CELLS: tuple[tuple[str, str], ...] = (
    ("from vtrlib.planted import ANSWER\n\nprint('the answer is', ANSWER)", "the answer is 41\n"),
    ("print('about \u22480.62')\nassert abs(0.62 - ANSWER / 66) < 0.01", "about \u22480.62\n"),
)
DRAW = "import base64\n\nfrom IPython.display import Image\n\nImage(base64.b64decode("
DRAW += f"\n    '{PIXEL[:60]}'\n    '{PIXEL[60:]}'\n))"


def small_book(root: Path) -> Path:
    """Write the book into the new folder `root` and return it."""
    for folder in ("book", "notebooks", "tests"):
        (root / folder).mkdir(parents=True)
    shutil.copytree(ROOT / ".ci", root / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    shutil.copytree(ROOT / "vtrlib", root / "vtrlib", ignore=shutil.ignore_patterns("__pycache__", "assets"))
    shutil.copy(ROOT / "_config.yml", root)
    write(root, "vtrlib/planted.py", "ANSWER = 41\n")
    write(root, "_toc.yml", TOC)
    write(root, "book/intro.md", INTRO)
    write(root, "book/references.md", REFERENCES)
    write(root, "book/references.bib", BIB)
    write(root, "constraints.txt", "")
    write_notebook(root)
    return root


def write(root: Path, name: str, text: str) -> None:
    (root / name).write_text(text, encoding="utf-8")


def notebook_of(root: Path) -> nbformat.NotebookNode:
    return nbformat.read(root / "notebooks" / "01_small.ipynb", as_version=4)


def write_notebook(root: Path, notebook: nbformat.NotebookNode | None = None) -> None:
    """Write `notebook` (by default the sound one) and its twin."""
    if notebook is None:
        prose = nbformat.v4.new_markdown_cell("# A small notebook\n\nFrom {eq}`eq-euler`.", id="prose")
        cells = [_cell(i, *cell) for i, cell in enumerate(CELLS, 1)]
        figure = _cell(len(CELLS) + 1, DRAW)
        figure.metadata["mystnb"] = {"image": {"alt": "one red pixel"}}
        data = {"image/png": PIXEL + "\n", "text/plain": "<IPython.core.display.Image object>"}
        figure.outputs = [nbformat.v4.new_output("execute_result", data, execution_count=len(CELLS) + 1)]
        kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
        notebook = nbformat.v4.new_notebook(cells=[prose, *cells, figure], metadata={"kernelspec": kernel})
    path = root / "notebooks" / "01_small.ipynb"
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(jupytext.writes(notebook, fmt="md:myst"), encoding="utf-8")


def add_cell(root: Path, source: str, printed: str = "", tags: Sequence[str] = ()) -> None:
    """Append a code cell to the notebook and its twin, with the output that a run before stored."""
    notebook = notebook_of(root)
    number = 1 + sum(cell.cell_type == "code" for cell in notebook.cells)
    notebook.cells.append(_cell(number, source, printed))
    if tags:
        notebook.cells[-1].metadata["tags"] = list(tags)
    write_notebook(root, notebook)


def make(root: Path, command: str) -> subprocess.CompletedProcess[str]:
    """`make book`, `page`, `run` or `notebooks` on the tree `root`: the same script that the Makefile calls."""
    # Not what the surrounding pytest and its workers set for themselves.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    script = [sys.executable, str(ROOT / ".ci" / "make.py"), "--root", str(root), command]
    return subprocess.run(
        script, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def insert(root: Path, name: str, text: str) -> None:
    """Append `text` to a file."""
    write(root, name, (root / name).read_text("utf-8") + "\n" + text + "\n")


def refused(root: Path, command: str, *places: str) -> None:
    """Assert that `make command` fails, names every place and leaves no book to look at."""
    done = make(root, command)
    assert done.returncode != 0, f"the fault passed:\n{done.stdout}"
    missing = [place for place in places if place not in done.stdout]
    assert not missing, f"does not say {missing}:\n{done.stdout}"
    if command in ("book", "page"):
        assert not (root / BUILT).exists()


def _cell(number: int, source: str, printed: str = "") -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell(source, id=f"code-{number}", execution_count=number)
    if printed:
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=printed)]
    return cell
