"""Guards over the sources: notebook pairs, stored outputs, masked numbers, alt text, the table of contents.

Each function returns readable faults, "file: place: what; what to do", and an empty list for a sound tree.
"""

from __future__ import annotations

import ast
import configparser
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import alt_text
import jupytext
import nbformat
import yaml
from nbformat import NotebookNode
from strict import SANITIZER

__all__ = ["alt_faults", "mask_faults", "output_faults", "pair_faults", "source_faults", "toc_faults"]

MAX_BYTES, MAX_LINES, MAX_COLUMNS = 1_000_000, 15, 80
MARKERS = re.compile(r"^\s*#+\s*(NBVAL_\w+|PYTEST_VALIDATE_IGNORE_OUTPUT)\s*$", re.MULTILINE)
# The tags with which nbval or the executor pass over a cell; "nbval-ignore-output" is allowed beside an assert.
SKIPPING = {"nbval-skip", "skip-execution", "nbval-raises-exception", "pytest-validate-ignore-output"}
UNPAIRED = ("execution", "collapsed", "scrolled", "trusted", "ExecuteTime", "autoscroll")  # Jupytext drops these


def source_faults(root: Path) -> list[str]:
    """All faults of the tree `root`."""
    checks = (pair_faults, output_faults, mask_faults, alt_faults, toc_faults)
    return [fault for check in checks for fault in check(root)]


def pair_faults(root: Path) -> list[str]:
    """A notebook and its MyST twin hold the same cells. No file times involved."""
    folder, faults = root / "notebooks", []
    twins, books = ({p.stem for p in folder.glob(kind)} for kind in ("*.md", "*.ipynb"))
    faults += [f"notebooks/{s}.md: has no notebook beside it; run `make sync`" for s in sorted(twins - books)]
    faults += [
        f"notebooks/{s}.ipynb: has no twin beside it; run jupytext --to md:myst notebooks/{s}.ipynb"
        for s in sorted(books - twins)
    ]
    for stem in sorted(twins & books):
        text = (folder / f"{stem}.md").read_text("utf-8")
        if not re.match(r"---\n.*?\bformat_name: myst\b.*?\n---\n", text, re.DOTALL):
            faults.append(f"notebooks/{stem}.md: has no Jupytext header (format_name: myst); copy that of another")
            continue
        faults += _drift(stem, jupytext.reads(text, fmt="md:myst"), nbformat.read(folder / f"{stem}.ipynb", 4))
    return faults


def output_faults(root: Path) -> list[str]:
    """Stored outputs are those of one clean run from the top, so that nbval compares every one of them."""
    faults = []
    for name, path, notebook in _notebooks(root):
        if path.stat().st_size >= MAX_BYTES:
            faults.append(f"{name}: {path.stat().st_size:,} bytes; keep it below {MAX_BYTES:,}, smaller figures help")
        if "widgets" in notebook.metadata:
            faults.append(f"{name}: holds widget state, which loads scripts from another host; run `make run`")
        if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
            faults.append(f"{name}: its kernel is not python3; run `make run`")
        for number, cell in enumerate(_code(notebook), 1):
            faults += [f"{name}: code cell {number}: {fault}" for fault in _cell_faults(number, cell)]
    return faults


def mask_faults(root: Path) -> list[str]:
    """What nbval does not compare, a cell asserts: numbers written ≈0.62, and outputs tagged nbval-ignore-output."""
    config = configparser.RawConfigParser()
    config.read(SANITIZER, "utf-8")
    masked, faults = re.compile(config["masked numbers"]["regex"]), []
    for name, _, notebook in _notebooks(root):
        cells = _code(notebook)
        asserting = [_asserts(cell.source) for cell in cells]
        for i, cell in enumerate(cells):
            number = next((m[0] for text in _texts(cell) for m in masked.finditer(text)), None)
            if number and not asserting[i]:
                faults.append(
                    f"{name}: code cell {i + 1}: prints {number}, which nbval does not compare, and asserts nothing; "
                    "assert its tolerance in the same cell"
                )
            beside = asserting[max(i - 1, 0) : i + 2]
            if "nbval-ignore-output" in cell.metadata.get("tags", ()) and not any(beside):
                faults.append(
                    f"{name}: code cell {i + 1}: is tagged nbval-ignore-output, and neither it nor a code cell "
                    "right beside it asserts anything; assert what must hold"
                )
    return faults


def alt_faults(root: Path) -> list[str]:
    """Every figure has alt text, in pages, in notebooks' prose and in their outputs."""
    faults = []
    for page in sorted((root / "book").rglob("*.md")):
        faults += [f"{page.relative_to(root)}: {f}" for f in alt_text.markdown_faults(page.read_text("utf-8"))]
    for name, _, notebook in _notebooks(root):
        number = 0
        for position, cell in enumerate(notebook.cells, 1):
            number += cell.cell_type == "code"
            if cell.cell_type == "markdown":
                faults += [f"{name}: cell {position}: {f}" for f in alt_text.markdown_faults(cell.source)]
            elif cell.cell_type == "code":
                faults += [f"{name}: code cell {number}: {f}" for f in _figure_faults(cell)]
    return faults


def toc_faults(root: Path) -> list[str]:
    """Every page is in _toc.yml, and every entry there is a page."""
    entries = set(_entries(yaml.safe_load((root / "_toc.yml").read_text("utf-8"))))
    pages = {p.relative_to(root).with_suffix("").as_posix() for p in (root / "book").rglob("*.md")}
    pages |= {name.removesuffix(".ipynb") for name, _, _ in _notebooks(root)}
    kind = {True: ".ipynb", False: ".md"}
    return [
        f"{page}{kind[page.startswith('notebooks/')]}: is in no part of _toc.yml, so no reader finds it; add it there"
        for page in sorted(pages - entries)
    ] + [f"_toc.yml: {entry}: there is no such page; correct the path or drop it" for entry in sorted(entries - pages)]


def _notebooks(root: Path) -> Iterator[tuple[str, Path, NotebookNode]]:
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        yield path.relative_to(root).as_posix(), path, nbformat.read(path, as_version=4)


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _drift(stem: str, twin: NotebookNode, notebook: NotebookNode) -> Iterator[str]:
    # The text form drops blank lines at a cell's ends, and empty cells.
    ours, theirs = (
        [
            (c.cell_type, c.source.strip(), {k: v for k, v in c.metadata.items() if k not in UNPAIRED})
            for c in nb.cells
            if c.source.strip()
        ]
        for nb in (twin, notebook)
    )
    advice = "`make sync` takes the .md into the .ipynb; saving in JupyterLab writes both"
    for position, (a, b) in enumerate(zip(ours, theirs, strict=False), 1):
        if a != b:
            what = next(w for w, x, y in zip(("kind", "text", "metadata"), a, b, strict=True) if x != y)
            yield f"notebooks/{stem}.md: cell {position}: {what} differs from {stem}.ipynb; {advice}"
            return  # what follows may only be shifted
    if len(ours) != len(theirs):
        yield f"notebooks/{stem}.md: has {len(ours)} cells, {stem}.ipynb has {len(theirs)}; {advice}"


def _cell_faults(number: int, cell: NotebookNode) -> Iterator[str]:
    tags = set(cell.metadata.get("tags", ()))
    if not cell.source.strip():
        yield "is empty; delete it"
    if cell.execution_count != number:
        # nbval compares nothing in a cell that has no execution count.
        yield f"has execution count {cell.execution_count}, expected {number}; restart and run all, or `make run`"
    if "execution" in cell.metadata:
        yield "holds timings (metadata.execution); `make run` stores none"
    if cell.source.rstrip().endswith(";"):
        yield "ends in ';', which nbval does not honour; write `_ = ...` or plt.show()"
    if len(cell.source.splitlines()) > MAX_LINES:
        yield f"has {len(cell.source.splitlines())} lines, at most {MAX_LINES} are readable; split it, or use vtrlib"
    if (width := max(map(len, cell.source.splitlines()), default=0)) > MAX_COLUMNS:
        yield f"has a line of {width} columns, and {MAX_COLUMNS} fit a page; break it"
    if tags & SKIPPING:
        yield f"is tagged {sorted(tags & SKIPPING)[0]}, so nothing checks it; drop the tag"
    if marker := MARKERS.search(cell.source):
        yield f"holds the comment {marker[1]}; use a tag, which the checks see"
    if any(o.output_type == "stream" and o.name == "stderr" for o in cell.outputs):
        yield "has stored stderr output, usually a warning; mend its cause and `make run`"
    raised = next((o.ename for o in cell.outputs if o.output_type == "error"), None)
    if raised and "raises-exception" not in tags:
        yield f"has a stored {raised}; mend the cell, or tag it raises-exception if it should raise"
    if not raised and "raises-exception" in tags:
        yield "is tagged raises-exception and did not raise; drop the tag or mend the cell"


def _texts(cell: NotebookNode) -> Iterator[str]:
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        for content in output.get("data", {}).values():
            yield content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _asserts(source: str) -> bool:
    """Whether the cell has an assert that can fail, or calls a function named assert_... (NumPy, torch)."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic
        from IPython.core.inputtransformer2 import TransformerManager

        tree = ast.parse(TransformerManager().transform_cell(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant | ast.Tuple):
            return True
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1].startswith("assert_"):
            return True
    return False


def _figure_faults(cell: NotebookNode) -> Iterator[str]:
    image: Any = cell.metadata.get("mystnb", {}).get("image", {})
    if image and not any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {})):
        yield "has alt text and no picture; end the cell with plt.show()"
    for output in cell.outputs:
        data = output.get("data", {})
        drawn = next((kind for kind in data if kind in ("image/png", "image/svg+xml", "image/jpeg")), None)
        if drawn and not alt_text.describes(image.get("alt")):
            yield f'draws {drawn} without alt text; add cell metadata "mystnb": {{"image": {{"alt": "what it shows"}}}}'
        yield from alt_text.html_faults(data.get("text/html", ""))
        yield from alt_text.markdown_faults(data.get("text/markdown", ""))


def _entries(node: Any) -> Iterator[str]:
    """Every file that a table of contents names."""
    if isinstance(node, list):
        for item in node:
            yield from _entries(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("root", "file"):
                yield re.sub(r"\.(md|ipynb)$", "", value)
            else:
                yield from _entries(value)
