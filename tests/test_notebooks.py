"""The notebooks and pages of this book, under the guards that tests/test_guards.py proves."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".ci"))

import checks  # noqa: E402  after its folder is on the path
from chapter_checks import chapter_faults  # noqa: E402

from vtrlib import claims  # noqa: E402

GUARDS = (
    checks.pair_faults, checks.output_faults, checks.mask_faults, checks.alt_faults, checks.toc_faults, chapter_faults,
)  # fmt: skip


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_sources(guard: Callable[[Path], list[str]]) -> None:
    assert guard(ROOT) == []


def test_the_guards_have_something_to_guard() -> None:
    assert list((ROOT / "notebooks").glob("*.ipynb")) and list((ROOT / "book").glob("*.md"))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("```{exercise}\n:label: ex-cue", "```{note}\n:class: ex-cue", "has 2 exercises"),
        ("{solution-start} ex-cue", "{note} ex-cue", "exercise ex-cue: no folded solution"),
        ("check(answer_3, solution_3)", "solution_3", "exercise ex-cue: no check cell"),
    ],
)
def test_a_chapter_that_lacks_a_part_is_refused(tmp_path: Path, old: str, new: str, fault: str) -> None:
    for name in ("book/claims.yml", "notebooks/01_world.ipynb"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    assert chapter_faults(tmp_path) == []
    path = tmp_path / "notebooks" / "01_world.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace(old, new)
    nbformat.write(notebook, path)
    assert len(found := chapter_faults(tmp_path)) == 1 and fault in found[0]
    path.rename(path.with_name("02_other.ipynb"))
    assert any("no claim of book/claims.yml is derived here" in fault for fault in chapter_faults(tmp_path))


def test_every_notebook_has_its_times() -> None:
    timed = json.loads((ROOT / "book" / "runs.json").read_text("utf-8"))["notebooks"]
    assert timed.keys() == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}, "run `make run`"


def test_limits_on_time_and_memory() -> None:
    timed = json.loads((ROOT / "book" / "runs.json").read_text("utf-8"))["notebooks"]
    slow = {name: cost for name, cost in timed.items() if cost["seconds"] > 60 or (cost["peak_mib"] or 0) > 4096}
    assert slow == {}, "a notebook takes at most 60 s and 4 GiB; longer work belongs into the results ledger"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_stored_claims_are_those_of_the_page(path: Path) -> None:
    """A claim edited after its notebook's last run: nbval says so in minutes, this in seconds."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.source.startswith("claims.table("):
            page = f"notebooks/{path.stem}"
            assert cell.source == f'claims.table(page="{page}")'
            stored, now = cell.outputs[0].data["text/markdown"], claims.table(page=page)._repr_markdown_()
            assert stored == now, f"run `make run` for {path.name}: a claim changed since"
