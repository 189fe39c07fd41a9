"""What makes a numbered notebook a chapter: a claims row, and three exercises with folded, executed solutions."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import yaml

__all__ = ["chapter_faults"]

EXERCISES = 3
EXERCISE = re.compile(r"^```+\{exercise\}\s*\n:label: (\S+)", re.MULTILINE)
SOLUTION = re.compile(r"^```+\{solution-start\} (\S+)\s*\n:class: dropdown\s*$", re.MULTILINE)
END = re.compile(r"^```+\{solution-end\}", re.MULTILINE)


def chapter_faults(root: Path) -> list[str]:
    """Faults of the notebooks under `root` whose names begin with a number."""
    claims = yaml.safe_load((root / "book" / "claims.yml").read_text("utf-8"))
    pages = {claim["anchor"].split("#")[0] for claim in claims}
    faults = []
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        name = path.relative_to(root).as_posix()
        if name.removesuffix(".ipynb") not in pages:
            faults.append(f"{name}: no claim of book/claims.yml is derived here; add one")
        cells = nbformat.read(path, as_version=4).cells
        asked = {label for cell in cells if cell.cell_type == "markdown" for label in EXERCISE.findall(cell.source)}
        if len(asked) < EXERCISES:
            faults.append(f"{name}: has {len(asked)} exercises, a chapter has at least {EXERCISES}")
        solved, checked = _solutions(cells)
        faults += [f"{name}: exercise {e}: no folded solution with a code cell; add one" for e in sorted(asked - solved)]
        faults += [f"{name}: exercise {e}: no check cell behind its solution; add one" for e in sorted(solved - checked)]
    return faults


def _solutions(cells: list[nbformat.NotebookNode]) -> tuple[set[str], set[str]]:
    """Exercises with a code cell inside a folded solution, and those with another cell behind it that says check."""
    solved, checked, inside, last = set(), set(), None, None
    for cell in cells:
        if cell.cell_type == "markdown":
            if start := SOLUTION.search(cell.source):
                inside = start[1]
            if END.search(cell.source):
                inside, last = None, inside
        elif inside:
            solved.add(inside)
        elif last and "check(" in cell.source:
            checked.add(last)
    return solved, checked
