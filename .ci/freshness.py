"""When may outputs of an earlier run stand for a new one? Only if nothing that a notebook can read has changed."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

__all__ = ["fingerprint", "with_outputs"]

INPUTS = ("vtrlib", "book/results", "book/claims.yml", "constraints.txt", ".ci/execution.py", ".ci/strict.py")


def fingerprint(path: Path, root: Path) -> str:
    """Hash of all that decides the outputs of the notebook at `path`.

    That is its code cells with their tags, every file of the library with its assets, the results and claims, the
    pinned versions, the way notebooks are run, and the Python version. Prose is not in it.
    """
    cells = [
        [cell.source, cell.metadata.get("tags", [])]
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    ]
    digest = hashlib.sha256(json.dumps([path.name, platform.python_version(), cells]).encode())
    for file in _files(root):
        content = file.read_bytes()
        # Names and lengths too, so that moving text from one file to the next is a change.
        digest.update(f"\0{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def with_outputs(current: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """`current` (its prose, its metadata) with the outputs of `executed`, whose code cells are the same."""
    outputs = [cell for cell in executed.cells if cell.cell_type == "code"]
    for cell, done in zip((c for c in current.cells if c.cell_type == "code"), outputs, strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    current.metadata.update(kernelspec=executed.metadata.kernelspec, language_info=executed.metadata.language_info)
    current.metadata.pop("widgets", None)
    return current


def _files(root: Path) -> Iterator[Path]:
    for name in INPUTS:
        top = root / name
        found = sorted(top.rglob("*")) if top.is_dir() else [top]
        yield from (f for f in found if f.is_file() and "__pycache__" not in f.parts)
