"""What a claim is bound to: a label on a page of the book, an object of vtrlib, a test. Is it there?

Each `missing_…` returns None if it is, or a sentence: what was found, what was expected, what to do.
"""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Sequence
from pathlib import Path

from vtrlib.check import nearest

__all__ = ["labels", "missing_label", "missing_object", "missing_test"]

_LABEL = re.compile(
    r"\s*\(([\w:.-]+)\)=\s*$"  # (sec-x)=
    r"|\s*:(?:label|name):\s*([\w:.-]+)\s*$"  # an option of {math}, {figure}, {exercise} and the like
    r"|.*\$\$\s*\(([\w:.-]+)\)\s*$"  # $$ … $$ (eq-x)
)


def labels(text: str) -> set[str]:
    """The labels that a MyST page defines: `(label)=`, `:label:` and `:name:` options, `$$ … $$ (label)`.

    What only looks like one inside a code cell or a code listing is none.
    """
    found: set[str] = set()
    fences: list[tuple[str, bool]] = []  # open ones: marker, and whether it holds code
    for line in text.splitlines():
        fence = re.match(r"\s*(`{3,}|~{3,})\s*([^`]*)$", line)
        code = bool(fences) and fences[-1][1]
        if fence and fences and not fence[2] and fence[1].startswith(fences[-1][0]):
            fences.pop()
        elif fence and not code:
            fences.append((fence[1], not fence[2].startswith("{") or fence[2].startswith("{code-cell}")))
        elif not code and (label := _LABEL.match(line)):
            found.add(next(filter(None, label.groups())))
    return found


def missing_label(root: Path, anchor: str) -> str | None:
    """Is the label of "notebooks/01_world#sec-ambiguity" on that page, or on the notebook's MyST twin?"""
    page, label = anchor.split("#")
    path = root / f"{page}.md"
    if not path.is_file():
        return f"found no page {page}.md. Write it, or correct the anchor."
    there = labels(path.read_text("utf-8"))
    if label not in there:
        expected = nearest(label, there, "a label of it")
        return f"found no label {label!r} on {page}.md, expected {expected}. Add ({label})= there, or correct it."
    return None


def missing_object(dotted: str) -> str | None:
    """Can "vtrlib.world.MovingDigits.true_positives" be imported?"""
    try:
        pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError) as error:
        return f"found no {dotted!r} ({error}). Expected a module, class, function, method or constant of vtrlib."
    return None


def missing_test(root: Path, test: str) -> str | None:
    """Is "tests/test_x.py::test_y" (or `::TestClass::test_y`) there, neither skipped nor expected to fail?"""
    file, *names = test.split("::")
    path = root / file
    if not path.is_file():
        return f"found no file {file}. Write it, or correct the path."
    body: Sequence[ast.stmt] = ast.parse(path.read_text("utf-8"), file).body
    for name in names:
        last = name is names[-1]
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef) if last else (ast.ClassDef,)
        there = {node.name: node for node in body if isinstance(node, kinds)}
        if name not in there or (last and not name.startswith("test")):
            expected = nearest(name, [n for n in there if n.startswith("test") or not last], "a test of it")
            return f"found no test {'::'.join(names)!r} in {file}, expected {expected}."
        if any(re.search(r"\bmark\.(skip|xfail)\b", ast.unparse(mark)) for mark in there[name].decorator_list):
            return f"found {test!r} marked skip or xfail, expected a test that runs and must pass."
        body = there[name].body
    return None
