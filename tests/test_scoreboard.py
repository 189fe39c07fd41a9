"""The pages that `.ci/book_directives.py` generates, in small strict builds of their own."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

pytest.importorskip("myst_nb", reason="needs the book's tools: pip install -e '.[book]'")

from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from vtrlib import claims, ledger

ROOT = Path(__file__).resolve().parents[1]
CI = ROOT / ".ci"
# What the book itself says. By default MyST-NB reads a cell's Markdown as CommonMark, which has no tables.
FORMAT = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["sphinx"]["config"].get(
    "nb_render_markdown_format", "commonmark"
)
CHAPTER = """\
# A chapter

(sec-ambiguity)=
## Ambiguity

$$
a = b
$$ (eq-context)

```{figure} a.svg
:name: fig-strip
:alt: a strip
A strip.
```
"""
CLAIMS = [
    ("first", "notebooks/01_world#sec-ambiguity", {"exact": True}),
    (
        "second",
        "notebooks/01_world#eq-context",
        {"row": "world-context", "better": "context/R@1", "worse": "local/R@1"},
    ),
    ("third", "notebooks/01_world#fig-strip", {"because": "the authors keep the data"}),
]
MACHINE = {"cpu": "A CPU", "cores": 2, "gpu": None, "python": "3.11.7", "versions": {"left": "out"}}
ROW = ledger.Row(
    id="world-context",
    command="python -m vtrlib results world-context",
    commit="abc1234",
    date="2026-01-31",
    config={},
    seeds=[3, 5, 7],
    hardware={"cpu": "A CPU", "cores": 2, "memory_gib": 7.5, "gpu": None, "threads": 1},
    versions={"python": "3.11.7"},
    wall_seconds=12.5,
    metrics={"context/R@1": [0.5, 0.6, 0.7], "local/R@1": [0.4, 0.49, 0.61]},
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small book in which all is well."""
    monkeypatch.syspath_prepend(CI)
    root = tmp_path / "root"
    (root / "book").mkdir(parents=True)
    (root / "notebooks").mkdir()
    entries: list[dict[str, Any]] = [
        {
            "id": id, "paper": "DreamPRVR", "place": "Sec. 1", "statement": "It holds that $|x|$ is `a|b`.",
            "kind": "definition", "anchor": anchor, "object": "vtrlib.ledger", "test": "tests/test_a.py::test_a",
            "evidence": evidence,
        } for id, anchor, evidence in CLAIMS
    ]  # fmt: skip
    (root / "book" / "claims.yml").write_text(json.dumps(entries))  # JSON is YAML
    ledger.write_row(ROW, root / "book" / "results")
    runs = {"machine": MACHINE, "notebooks": {"01_world": {"seconds": 4.25, "peak_mib": 512.4, "threads": 1}}}
    (root / "book" / "runs.json").write_text(json.dumps(runs))
    table = claims.markdown(claims.load(root / "book" / "claims.yml"), {ROW.id: ROW}, page="notebooks/01_world")
    cell = nbformat.v4.new_code_cell("claims.table()", execution_count=1)
    data = {"text/markdown": table, "text/plain": table}
    cell.outputs = [nbformat.v4.new_output("execute_result", data, execution_count=1)]
    language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(CHAPTER), cell], metadata=language)
    nbformat.write(notebook, root / "notebooks" / "01_world.ipynb")
    (root / "notebooks" / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (root / "index.md").write_text("# Book\n\n```{toctree}\nnotebooks/01_world\nbook/scoreboard\nbook/status\n```\n")
    boards = "\n\n".join(
        f"```{{scoreboard}}\n{option}\n```" for option in (":summary:", ":paper: DreamPRVR", ":paper: PIG")
    )
    (root / "book" / "scoreboard.md").write_text(f"# Scoreboard\n\n{boards}\n")
    (root / "book" / "status.md").write_text("# Status\n\n```{status}\n```\n")
    yield root
    sys.modules.pop("book_directives", None)


def build(root: Path, fresh: bool = True) -> str:
    """Build and return the warnings, "" if there is none."""
    out, warnings = root.parent / "out", io.StringIO()
    settings = {
        "extensions": ["myst_nb", "book_directives"], "nb_execution_mode": "off", "nitpicky": True,
        "nb_render_markdown_format": FORMAT, "myst_enable_extensions": ["dollarmath"],
    }  # fmt: skip
    with docutils_namespace():
        app = Sphinx(root, None, out, out / "trees", "html", settings, io.StringIO(), warnings, freshenv=fresh)
        app.build()
    return warnings.getvalue()


def page(root: Path, name: str) -> str:
    return (root.parent / "out" / f"{name}.html").read_text("utf-8")


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_pages_show_claims_and_runs(tree: Path) -> None:
    assert build(tree) == ""
    scoreboard = page(tree, "book/scoreboard")
    assert "<strong>reproduced in miniature</strong>" in scoreboard
    assert "= +0.1, 95 % interval +0.0752 to +0.125, 3 seeds" in scoreboard
    for target in ("sec-ambiguity", "equation-eq-context", "fig-strip"):
        assert f'href="../notebooks/01_world.html#{target}"' in scoreboard
        assert f'id="{target}"' in page(tree, "notebooks/01_world")
    assert "No claim stands here yet." in scoreboard  # of PIG
    for name, dreamprvr, total in [("reproduced", "1", "1"), ("contradicted", "0", "0"), ("claims", "3", "3")]:
        counts = re.findall(r"<p>(\d+)</p>", scoreboard.split(f"<p>{name}</p>")[1].split("</tr>")[0])
        assert counts == [dreamprvr, "0", "0", "0", total]
    status = page(tree, "book/status")
    for shown in ("01_world.html", "4.2", "512", "A CPU", "3.11.7", "world-context", "3, 5, 7", "12.5", "abc1234"):
        assert shown in status
    assert "left" not in status.split('role="main"')[1].split("</section>")[0], "a nested fact is no cell"


def test_a_chapter_shows_its_claims_as_a_table_with_links(tree: Path) -> None:
    assert build(tree) == ""
    output = page(tree, "notebooks/01_world").split("cell_output")[1]
    assert "<table" in output
    assert 'href="#sec-ambiguity"' in output


def test_pages_follow_the_ledger_without_being_edited(tree: Path) -> None:
    assert build(tree) == ""
    worse = {name: [1 - value for value in values] for name, values in ROW.metrics.items()}
    ledger.write_row(dataclasses.replace(ROW, metrics=worse), tree / "book" / "results")
    assert build(tree, fresh=False) == ""
    assert "<strong>contradicted</strong>" in page(tree, "book/scoreboard")


FAULTS = [
    ("book/claims.yml", "#eq-context", "#eq-lost", "'eq-lost'"),
    ("book/claims.yml", "#sec-ambiguity", "#sec-lost", "'sec-lost'"),
    ("book/claims.yml", '"definition"', '"lemma"', "claims.yml: claim 'first': kind: found 'lemma'"),
    ("book/claims.yml", "local/R@1", "lost/R@1", "claim 'second': evidence: worse: found 'lost/R@1'"),
    ("book/results/world-context.json", '"seeds": [3, 5, 7]', '"seeds": [3, 5]', "world-context.json: metrics"),
    ("book/scoreboard.md", ":paper: PIG", ":paper: Pig", "paper='Pig'"),
    ("book/runs.json", '"seconds"', '"minutes"', "runs.json: notebooks['01_world']: 'seconds' is a required"),
    ("book/runs.json", '"01_world"', '"02_lost"', "runs.json: notebooks: found no time of 01_world"),
    ("book/runs.json", "{", "", "runs.json: "),
]


@pytest.mark.parametrize(("file", "old", "new", "message"), FAULTS, ids=[fault[3] for fault in FAULTS])
def test_a_planted_fault_is_a_warning_of_the_build(tree: Path, file: str, old: str, new: str, message: str) -> None:
    change(tree / file, old, new)
    assert message in build(tree)


@pytest.mark.parametrize("file", ["claims.yml", "runs.json"])
def test_a_lost_file_is_a_warning_of_the_build(tree: Path, file: str) -> None:
    (tree / "book" / file).unlink()
    assert file in build(tree)


def test_a_strict_build_fails(tree: Path) -> None:
    change(tree / "book" / "claims.yml", "#sec-ambiguity", "#sec-lost")
    strict = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-C", "-b", "html"]
    settings = ["-D", "extensions=myst_nb,book_directives", "-D", "nb_execution_mode=off"]
    settings += ["-D", "nb_render_markdown_format=myst", "-D", "myst_enable_extensions=dollarmath"]
    search = {**os.environ, "PYTHONPATH": str(CI)}
    done = subprocess.run([*strict, *settings, tree, tree.parent / "out"], env=search, capture_output=True, text=True)
    assert done.returncode == 1
    assert "cross-reference target not found: 'sec-lost'" in done.stderr


def test_maths_between_dollars_in_docstrings() -> None:
    sys.path.insert(0, str(ROOT / ".ci"))
    import book_directives

    lines = ["A loss $x_i$ over", "$$ a", "   + b $$", "costs `$5` or $y", "z$."]
    book_directives.dollar_maths(None, "function", "f", None, None, lines)  # type: ignore[arg-type]
    assert "\n".join(lines) == "A loss :math:`x_i` over\n.. math::\n\n    a + b\n\ncosts `$5` or :math:`y z`."
