"""The commands' guards, each proved by a planted fault: the sound book passes, one with exactly that fault does not.

The commands are the real ones (.ci/make.py, as the Makefile calls it) under the real _config.yml and nbval.cfg, so a
flag that is dropped there, or a check that is no longer called, fails here. Guards that need no build are in
test_guards_sources.py.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from small_book import BUILT, ROOT, add_cell, insert, make, notebook_of, refused, small_book, write, write_notebook

sys.path.insert(0, str(ROOT / ".ci"))

import checks  # noqa: E402  after its folder is on the path
import freshness  # noqa: E402


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound book as `make book` leaves it: executed here, built, nothing to complain about."""
    root = small_book(tmp_path_factory.mktemp("sound") / "book")
    done = make(root, "book")
    assert done.returncode == 0, done.stdout
    assert (root / BUILT).exists() and checks.source_faults(root) == []
    return root


@pytest.fixture
def book(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound book, with what was built and executed, to plant one fault in."""
    return Path(shutil.copytree(sound, tmp_path / "book"))


class TestPages:
    """What the strict build of the pages refuses."""

    @pytest.mark.parametrize(
        ("text", "places"),
        [
            ("See {eq}`eq-nowhere`.", ["book/intro.md", "eq-nowhere"]),
            ("As in {cite:t}`nobody1900`.", ["book/intro.md", "nobody1900"]),
            ("![a picture that is not there](_static/gone.png)", ["book/intro.md", "gone.png"]),
            ("See {py:func}`vtrlib.nowhere`.", ["book/intro.md", "vtrlib.nowhere"]),
            ('<script src="https://cdn.example.org/x.js"></script>', ["book/intro.html", "cdn.example.org/x.js"]),
        ],
        ids=["unresolved-eq", "unresolved-citation", "missing-figure", "unresolved-object", "another-host"],
    )
    def test_page(self, book: Path, text: str, places: list[str]) -> None:
        insert(book, "book/intro.md", text)
        refused(book, "page", *places)

    def test_mathjax_comes_from_the_book(self, sound: Path) -> None:
        page = (sound / "_build/html/book/intro.html").read_text("utf-8")
        assert 'src="../_static/mathjax/tex-chtml-full.js' in page
        assert list((sound / "_build/html/_static/mathjax/output/chtml/fonts").rglob("*.woff"))

    def test_links_lead_to_paths_in_the_repository(self, sound: Path) -> None:
        page = (sound / "_build/html/notebooks/01_small.html").read_text("utf-8")
        assert "/edit/main/notebooks/01_small.ipynb" in page

    def test_a_page_that_is_gone_does_not_survive(self, book: Path) -> None:
        write(book, "book/second.md", "# Second\n")
        insert(book, "_toc.yml", "  - file: book/second")
        built = book / "_build" / "html" / "book" / "second.html"
        assert make(book, "page").returncode == 0 and built.exists()
        (book / "book" / "second.md").unlink()
        write(book, "_toc.yml", (book / "_toc.yml").read_text("utf-8").replace("  - file: book/second", ""))
        assert make(book, "page").returncode == 0 and not built.exists()


class TestRuns:
    """What executing the notebooks refuses, for the book (`make book`) and for the repository (`make run`)."""

    @pytest.mark.parametrize("command", ["book", "run"])
    def test_raising_cell(self, book: Path, command: str) -> None:
        add_cell(book, "1 / (ANSWER - 41)")
        before = (book / "notebooks" / "01_small.ipynb").read_bytes()
        refused(book, command, "01_small.ipynb: code cell 4: ZeroDivisionError: division by zero")
        assert (book / "notebooks" / "01_small.ipynb").read_bytes() == before

    def test_cell_that_should_raise_and_does_not(self, book: Path) -> None:
        add_cell(book, "1 / ANSWER", tags=["raises-exception"])
        refused(book, "book", "01_small.ipynb: code cell 4", "did not raise")

    def test_warning(self, book: Path) -> None:
        add_cell(book, "import warnings\n\nwarnings.warn('beware of the digits')")
        refused(book, "book", "01_small.ipynb: code cell 4", "beware of the digits")

    def test_edit_in_the_library_reaches_the_book(self, book: Path) -> None:
        shown = book / "_build" / "html" / "notebooks" / "01_small.html"
        again = make(book, "book")
        assert (
            again.returncode == 0 and "outputs kept" in again.stdout and "the answer is 41" in shown.read_text("utf-8")
        )
        write(book, "vtrlib/planted.py", "ANSWER = 40.99\n")
        edited = make(book, "book")
        assert edited.returncode == 0 and "running 3 code cells" in edited.stdout
        assert "the answer is 40.99" in shown.read_text("utf-8")

    def test_new_prose_reaches_the_book_without_a_run(self, book: Path) -> None:
        notebook = notebook_of(book)
        notebook.cells[0].source += "\n\nA sentence that was not there."
        write_notebook(book, notebook)
        done = make(book, "book")
        assert done.returncode == 0 and "outputs kept" in done.stdout
        assert "A sentence that was not there." in (book / "_build/html/notebooks/01_small.html").read_text("utf-8")

    def test_a_second_run_stores_the_same_bytes(self, book: Path) -> None:
        path = book / "notebooks" / "01_small.ipynb"
        first, second = ((make(book, "run").returncode, path.read_bytes()) for _ in range(2))
        assert first == second and first[0] == 0

    @pytest.mark.parametrize(
        "file", ["vtrlib/assets/new.bin", "book/results/new.json", "book/claims.yml", "constraints.txt"]
    )
    def test_whatever_a_notebook_reads_makes_it_run_again(self, book: Path, file: str) -> None:
        path = book / "notebooks" / "01_small.ipynb"
        before = freshness.fingerprint(path, book)
        assert freshness.fingerprint(path, book) == before
        (book / file).parent.mkdir(exist_ok=True)
        insert(book, file, "changed") if (book / file).exists() else write(book, file, "new")
        assert freshness.fingerprint(path, book) != before


class TestComparison:
    """What strict nbval refuses."""

    def test_sound_notebook(self, sound: Path) -> None:
        done = make(sound, "notebooks")
        assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout

    def test_stored_output_that_differs_from_the_run(self, book: Path) -> None:
        add_cell(book, "print(ANSWER + 1)", printed="43\n")
        refused(book, "notebooks", "01_small.ipynb", "Cell 3", "43", "42")

    def test_printing_cell_without_stored_output(self, book: Path) -> None:
        add_cell(book, "print(ANSWER + 1)")
        refused(book, "notebooks", "01_small.ipynb", "Cell 3", "Unexpected output fields")

    def test_edit_in_the_library(self, book: Path) -> None:
        write(book, "vtrlib/planted.py", "ANSWER = 40.99\n")
        refused(book, "notebooks", "01_small.ipynb", "Cell 0", "the answer is 40.99")

    def test_masked_number_that_its_assert_refuses(self, book: Path) -> None:
        # nbval does not compare what is masked, so only the assert can fail: 50 / 66 is no 0.62
        write(book, "vtrlib/planted.py", "ANSWER = 50\n")
        refused(book, "notebooks", "Cell 1", "AssertionError")

    def test_masked_number_may_differ(self, book: Path) -> None:
        add_cell(book, "print('\u2248' + '-1.25e-03')\nassert ANSWER == 41", printed="\u2248-1.31e-03\n")
        done = make(book, "notebooks")
        assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout
