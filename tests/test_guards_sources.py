"""The guards over sources and built HTML, each proved by a planted fault; test_guards.py has those of the commands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from nbformat import from_dict
from nbformat.v4 import new_output
from small_book import ROOT, add_cell, insert, make, notebook_of, refused, small_book, write, write_notebook

sys.path.insert(0, str(ROOT / ".ci"))

import checks  # noqa: E402  after its folder is on the path
import html_checks  # noqa: E402


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A sound book to plant one fault in."""
    root = small_book(tmp_path / "book")
    assert checks.source_faults(root) == []
    return root


class TestSources:
    """What the checks over the sources refuse; `make page` calls every one of them before it builds."""

    def faults(self, book: Path, *places: str) -> None:
        """The checks find one fault, which says all of `places`."""
        found = checks.source_faults(book)
        assert len(found) == 1 and all(place in found[0] for place in places), found

    def test_page_refuses_what_the_checks_find(self, book: Path) -> None:
        path = book / "notebooks" / "01_small.md"
        path.write_text(path.read_text("utf-8").replace("A small notebook", "A drifted notebook"), encoding="utf-8")
        self.faults(book, "notebooks/01_small.md: cell 1: text differs from 01_small.ipynb", "make sync")
        refused(book, "page", "notebooks/01_small.md: cell 1")

    @pytest.mark.parametrize("command", ["book", "run"])
    def test_drifted_pair_is_never_run(self, book: Path, command: str) -> None:
        notebook, twin = notebook_of(book), book / "notebooks" / "01_small.md"
        kept = twin.read_text("utf-8")
        notebook.cells[1].source = notebook.cells[1].source.replace("ANSWER)", "ANSWER + 0)")
        write_notebook(book, notebook)
        twin.write_text(kept, encoding="utf-8")
        self.faults(book, "notebooks/01_small.md: cell 2: text differs")
        done = make(book, command)
        assert done.returncode != 0 and "01_small.md: cell 2" in done.stdout and "running" not in done.stdout

    def test_drifted_metadata_and_cells(self, book: Path) -> None:
        notebook = notebook_of(book)
        twin = book / "notebooks" / "01_small.md"
        kept = twin.read_text("utf-8")
        notebook.cells[1].metadata["tags"] = ["hide-input"]
        write_notebook(book, notebook)
        twin.write_text(kept, encoding="utf-8")
        self.faults(book, "notebooks/01_small.md: cell 2: metadata differs")
        twin.write_text(kept[: kept.index("```{code-cell}")], encoding="utf-8")
        self.faults(book, "notebooks/01_small.md: has 1 cells, 01_small.ipynb has 4")

    @pytest.mark.parametrize(("gone", "place"), [(".md", "has no twin"), (".ipynb", "has no notebook beside it")])
    def test_half_a_pair(self, book: Path, gone: str, place: str) -> None:
        (book / "notebooks" / f"01_small{gone}").unlink()
        assert any(place in fault for fault in checks.pair_faults(book))

    def test_cell_that_was_not_run(self, book: Path) -> None:
        # nbval compares nothing in such a cell
        notebook = notebook_of(book)
        notebook.cells[1].execution_count, notebook.cells[1].outputs = None, []
        write_notebook(book, notebook)
        self.faults(book, "notebooks/01_small.ipynb: code cell 1: has execution count None, expected 1")

    @pytest.mark.parametrize(
        ("source", "tags", "place"),
        [
            ("ANSWER;", [], "ends in ';'"),
            ("\n".join(["ANSWER"] * 16), [], "has 16 lines"),
            ("ANSWER" + " + 0" * 19, [], "has a line of 82 columns"),
            ("print(ANSWER)", ["nbval-skip"], "is tagged nbval-skip"),
            ("# NBVAL_IGNORE_OUTPUT\nprint(ANSWER)", [], "holds the comment NBVAL_IGNORE_OUTPUT"),
            ("ANSWER", ["raises-exception"], "did not raise"),
        ],
    )
    def test_cell_that_escapes_comparison(self, book: Path, source: str, tags: list[str], place: str) -> None:
        add_cell(book, source, tags=tags)
        self.faults(book, "notebooks/01_small.ipynb: code cell 4", place)

    @pytest.mark.parametrize(
        ("output", "place"),
        [
            ({"output_type": "stream", "name": "stderr", "text": "UserWarning: beware"}, "stored stderr"),
            ({"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}, "stored ValueError"),
        ],
    )
    def test_stored_warning_and_error(self, book: Path, output: dict[str, object], place: str) -> None:
        notebook = notebook_of(book)
        notebook.cells[1].outputs.append(from_dict(output))
        write_notebook(book, notebook)
        self.faults(book, "notebooks/01_small.ipynb: code cell 1", place)

    def test_traces_of_other_tools(self, book: Path) -> None:
        notebook = notebook_of(book)
        notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}
        notebook.cells[1].metadata["execution"] = {"iopub.status.busy": "2026-01-01T00:00:00Z"}
        notebook.cells[2].outputs[0].text += " " * 1_000_000
        write_notebook(book, notebook)
        found = checks.source_faults(book)
        assert len(found) == 3 and all(
            any(what in fault for fault in found) for what in ("widget state", "holds timings", "bytes; keep it below")
        ), found

    @pytest.mark.parametrize("assertion", ["", "\nassert True", "\nassert (ANSWER, 'always true')"])
    def test_masked_number_without_an_assert(self, book: Path, assertion: str) -> None:
        add_cell(book, "print('\u2248-1.2e-3')" + assertion, printed="\u2248-1.2e-3\n")
        self.faults(book, "notebooks/01_small.ipynb: code cell 4: prints \u2248-1.2e-3")

    @pytest.mark.parametrize(
        "assertion", ["assert ANSWER == 41", "np.testing.assert_allclose(ANSWER, 41)", "%time\nassert ANSWER"]
    )
    def test_masked_number_with_an_assert(self, book: Path, assertion: str) -> None:
        add_cell(book, "print('\u22480.5')\n" + assertion, printed="\u22480.5\n")
        assert checks.source_faults(book) == []

    def test_ignored_output_needs_an_assert_beside(self, book: Path) -> None:
        add_cell(book, "ANSWER")
        add_cell(book, "import time\n\nprint(time.time())", printed="0\n", tags=["nbval-ignore-output"])
        self.faults(book, "notebooks/01_small.ipynb: code cell 5: is tagged nbval-ignore-output")
        add_cell(book, "assert ANSWER == 41")
        assert checks.source_faults(book) == []

    def test_figure_that_was_never_shown(self, book: Path) -> None:
        add_cell(book, "ANSWER")
        notebook = notebook_of(book)
        notebook.cells[-1].metadata["mystnb"] = {"image": {"alt": "A bar for each answer."}}
        write_notebook(book, notebook)
        self.faults(book, "notebooks/01_small.ipynb: code cell 4: has alt text and no picture")

    def test_drawn_figure_without_alt_text(self, book: Path) -> None:
        notebook = notebook_of(book)
        del notebook.cells[-1].metadata["mystnb"]
        write_notebook(book, notebook)
        self.faults(book, "notebooks/01_small.ipynb: code cell 3: draws image/png without alt text")

    @pytest.mark.parametrize(
        "text",
        [
            "![](_static/favicon.svg)",
            "```{figure} _static/favicon.svg\nThe caption.\n```",
            ":::{image} _static/favicon.svg\n:alt: _static/favicon.svg\n:::",
            "```{glue:figure} drawn\nThe caption.\n```",
            "````{note}\n```{image} _static/favicon.svg\n```\n````",
            'Inline <img src="_static/favicon.svg" alt="ba3dc5e2d6a421bffbaa84d9b1750ec514bbe06f"> too.',
        ],
    )
    def test_figure_in_prose_without_alt_text(self, book: Path, text: str) -> None:
        lines = (book / "book" / "intro.md").read_text("utf-8").count("\n")
        insert(book, "book/intro.md", text)
        self.faults(book, f"book/intro.md: line {lines + 2}" if "note" not in text else "book/intro.md", "no alt text")

    def test_image_in_html_output_without_alt_text(self, book: Path) -> None:
        notebook = notebook_of(book)
        notebook.cells[1].outputs.append(
            new_output("display_data", {"text/html": '<img src="data:image/png;base64,">'})
        )
        write_notebook(book, notebook)
        self.faults(book, "notebooks/01_small.ipynb: code cell 1", "no alt text")

    def test_orphan_page(self, book: Path) -> None:
        write(book, "book/orphan.md", "# Nobody finds me\n")
        self.faults(book, "book/orphan.md", "_toc.yml")
        refused(book, "page", "book/orphan.md")

    def test_entry_without_a_page(self, book: Path) -> None:
        insert(book, "_toc.yml", "  - file: book/nowhere")
        self.faults(book, "_toc.yml: book/nowhere: there is no such page")


class TestBuiltPages:
    """What the check of the built HTML refuses and allows, without a build."""

    @pytest.mark.parametrize(
        ("html", "place"),
        [
            ('<img src="https://example.org/a.png" alt="a dog">', "https://example.org/a.png"),
            ('<img srcset="a.png 1x, //example.org/b.png 2x" alt="a dog">', "//example.org/b.png"),
            ('<link rel="stylesheet" href="//example.org/a.css">', "//example.org/a.css"),
            ('<link rel="preconnect" href="https://fonts.example.org">', "https://fonts.example.org"),
            ("<iframe src='http://example.org/'></iframe>", "http://example.org/"),
            (
                '<iframe srcdoc="&lt;script src=&quot;https://example.org/a.js&quot;&gt;&lt;/script&gt;"></iframe>',
                "a.js",
            ),
            ('<video poster="https://example.org/a.jpg"></video>', "https://example.org/a.jpg"),
            ('<div style="background: url(&quot;https://example.org/a.png&quot;)"></div>', "https://example.org/a.png"),
            ("<style>@import 'https://example.org/a.css';</style>", "https://example.org/a.css"),
            ("<style>p { background: url(//example.org/a.png) }</style>", "//example.org/a.png"),
            ("<script>fetch('https://example.org/data.json')</script>", "https://example.org/data.json"),
            ('<script type="module">import x from "https://example.org/x.js"</script>', "https://example.org/x.js"),
            ('<script type="application/vnd.jupyter.widget-state+json">{}</script>', "widget state"),
            ('<script src="gone.js"></script>', "gone.js"),
            ('<img src="here.png" alt="">', "here.png"),
            ('<img src="here.png">', "here.png"),
            (
                '<img src="here.png" alt="../_images/ba3dc5e2d6a421bffbaa84d9b1750ec514bbe06fb2b2c4ffe2.png">',
                "no alt text",
            ),
        ],
    )
    def test_refused(self, tmp_path: Path, html: str, place: str) -> None:
        (tmp_path / "a.png").touch()
        (tmp_path / "here.png").touch()
        page = tmp_path / "page.html"
        page.write_text(f'<html><body><img src="here.png" alt="a dog">{html}</body></html>', encoding="utf-8")
        (fault,) = html_checks.site_faults(tmp_path)
        assert fault.startswith("page.html: ") and place in fault

    @pytest.mark.parametrize(
        ("file", "text"), [("a.css", "@import url(https://e.org/a.css);"), ("a.js", "fetch('//e.org/a')")]
    )
    def test_refused_in_files(self, tmp_path: Path, file: str, text: str) -> None:
        (tmp_path / file).write_text(text, encoding="utf-8")
        (fault,) = html_checks.site_faults(tmp_path)
        assert fault.startswith(f"{file}: loads ") and "//e.org/a" in fault

    @pytest.mark.parametrize(
        "html",
        [
            '<a href="https://example.org/">elsewhere</a>',
            '<link rel="canonical" href="https://example.org/page.html">',
            '<img src="data:image/png;base64,AAAA" alt="a dog">',
            "<script>const ns = 'http://www.w3.org/2000/svg'; // see https://example.org</script>",
            "<p>&lt;script src=&quot;https://example.org/a.js&quot;&gt;</p>",
            '<svg><use href="#mark"></use></svg>',
        ],
    )
    def test_allowed(self, tmp_path: Path, html: str) -> None:
        (tmp_path / "page.html").write_text(f"<html><body>{html}</body></html>", encoding="utf-8")
        assert html_checks.site_faults(tmp_path) == []
