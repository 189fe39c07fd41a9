"""`vtrlib.claims`: a status follows from the evidence, and a claim that is bound to nothing is refused."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from vtrlib import bindings, claims, ledger

ROOT = Path(__file__).resolve().parents[1]
ENTRY: dict[str, Any] = {
    "id": "toy-order",
    "paper": "PIG",
    "place": "Sec. 3",
    "statement": "Order helps.",
    "kind": "causal",
    "anchor": "notebooks/02_toy#sec-order",
    "object": "vtrlib.ledger.Row",
    "test": "tests/test_toy.py::test_order",
    "evidence": {"row": "toy", "better": "ordered", "worse": "bag"},
}
EXACT = {"exact": True}


def claim(**changes: Any) -> claims.Claim:
    return claims.Claim(**{**ENTRY, **changes})


def rows(ordered: list[float], bag: list[float]) -> dict[str, ledger.Row]:
    row = ledger.Row(
        id="toy", command="x", commit="unknown", date="2026-01-31", config={}, seeds=list(range(len(bag))),
        hardware={}, versions={}, wall_seconds=1, metrics={"ordered": ordered, "bag": bag},
    )  # fmt: skip
    return {"toy": row}


ROWS = rows([0.5, 0.6, 0.7], [0.4, 0.49, 0.61])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository in which all that ENTRY names is there."""
    page = "# Toy\n\n(sec-order)=\n## Order\n\n$$\na = b\n$$ (eq-order)\n\n```{code-cell}\n# (sec-code)=\n```\n"
    test = """
        import pytest
        @pytest.mark.parametrize("n", [1, 2])
        def test_order(n): ...
        class TestToy:
            def test_inside(self): ...
        @pytest.mark.skip(reason="later")
        def test_skipped(): ...
        @pytest.mark.skipif(False, reason="needs a GPU")
        def test_maybe(): ...
        @pytest.mark.xfail
        def test_broken(): ...
        def helper(): ...
    """
    for name, text in {"notebooks/02_toy.md": page, "tests/test_toy.py": textwrap.dedent(test)}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    return tmp_path


def test_this_books_claims_hold() -> None:
    board = claims.load(ROOT / "book" / "claims.yml")
    assert len(board) >= 6
    assert claims.check(board, ROOT, ledger.read_rows(ROOT / "book" / "results")) == []


@pytest.mark.parametrize(
    ("ordered", "bag", "status"),
    [
        ([0.5, 0.6, 0.7], [0.4, 0.49, 0.61], "reproduced in miniature"),
        ([0.4, 0.49, 0.61], [0.5, 0.6, 0.7], "contradicted"),
        ([0.5, 0.6, 0.7], [0.4, 0.7, 0.61], "no difference at this scale"),
        ([0.5, 0.5], [0.25, 0.25], "reproduced in miniature"),  # no variance: an interval of no width, above zero
        ([0.5, 0.7], [0.5, 0.7], "no difference at this scale"),
    ],
)
def test_a_status_follows_from_the_paired_interval(ordered: list[float], bag: list[float], status: str) -> None:
    verdict = claims.status(claim(), rows(ordered, bag))
    expected = ledger.paired_interval(ordered, bag)
    assert verdict.status == status
    assert verdict.difference == expected
    assert f"{len(bag)} seeds" in verdict.detail
    assert ("would have shown" in verdict.detail) == (status == "no difference at this scale")


def test_pairing_matters() -> None:
    """Seeds that differ a lot hide the same difference from an unpaired look; paired, it shows."""
    spread = [0.1, 0.4, 0.7]
    verdict = claims.status(
        claim(), rows([value + step for value, step in zip(spread, (0.04, 0.05, 0.06), strict=True)], spread)
    )
    assert verdict.status == "reproduced in miniature"


def test_what_would_have_shown_is_the_half_width() -> None:
    verdict = claims.status(claim(), rows([0.5, 0.6, 0.7], [0.4, 0.7, 0.61]))
    assert verdict.difference is not None
    assert f"a difference of {verdict.difference.half_width:.3g} would have shown" in verdict.detail


def test_other_evidence() -> None:
    for kind in ("definition", "equation", "algorithm"):
        assert claims.status(claim(evidence=EXACT, kind=kind), {}).status == "reproduced"
    for kind in ("figure", "ablation", "causal", "table"):  # a test in our world says nothing of other worlds
        assert claims.status(claim(evidence=EXACT, kind=kind), {}).status == "reproduced in miniature"
    verdict = claims.status(claim(evidence={"because": "no data"}), {})
    assert (verdict.status, verdict.detail, verdict.difference) == ("not testable here", "no data", None)


def test_a_refuted_claim_is_contradicted_by_its_test() -> None:
    verdict = claims.status(claim(evidence={"refuted": "it is the other way round"}), {})
    assert verdict.status == "contradicted" and "it is the other way round" in verdict.detail


def test_a_complete_tree_has_no_fault(tree: Path) -> None:
    inside = claim(anchor="notebooks/02_toy#eq-order", test="tests/test_toy.py::TestToy::test_inside")
    maybe = claim(test="tests/test_toy.py::test_maybe", object="vtrlib.ledger.Interval.half_width")
    untestable = claim(evidence={"because": "no data"}, object=None, test=None)
    assert claims.check([claim(), inside, maybe, untestable], tree, ROWS) == []


PLANTED = [
    ({"anchor": "notebooks/03_lost#sec-order"}, "anchor: found no page notebooks/03_lost.md"),
    ({"anchor": "notebooks/02_toy#sec-ordre"}, "anchor: found no label 'sec-ordre' on notebooks/02_toy.md, expected a "
                                              "label of it: sec-order"),
    ({"anchor": "notebooks/02_toy#order"}, "anchor: found no label 'order'"),  # a heading's slug is no label
    ({"anchor": "notebooks/02_toy#sec-code"}, "anchor: found no label 'sec-code'"),  # a comment in a code cell
    ({"object": "vtrlib.ledger.Lost"}, "object: found no 'vtrlib.ledger.Lost'"),
    ({"object": "vtrlib.lost"}, "object: found no 'vtrlib.lost'"),
    ({"test": "tests/test_lost.py::test_order"}, "test: found no file tests/test_lost.py"),
    ({"test": "tests/test_toy.py::test_ordre"}, "test: found no test 'test_ordre' in tests/test_toy.py, expected a "
                                               "test of it: test_order"),
    ({"test": "tests/test_toy.py::test_inside"}, "test: found no test 'test_inside'"),  # it is in a class
    ({"test": "tests/test_toy.py::TestLost::test_inside"}, "test: found no test 'TestLost::test_inside'"),
    ({"test": "tests/test_toy.py::TestToy"}, "test: found no test 'TestToy'"),
    ({"test": "tests/test_toy.py::helper"}, "test: found no test 'helper'"),
    ({"test": "tests/test_toy.py::test_skipped"}, "marked skip or xfail"),
    ({"test": "tests/test_toy.py::test_broken"}, "marked skip or xfail"),
    ({"evidence": {"row": "lost", "better": "ordered", "worse": "bag"}}, "evidence: row: found 'lost', expected a row "
                                                                        "of the ledger: toy"),
    ({"evidence": {"row": "toy", "better": "orderd", "worse": "bag"}}, "evidence: better: found 'orderd', expected a "
                                                                      "metric of row 'toy': ordered"),
    ({"evidence": {"row": "toy", "better": "ordered", "worse": "lost"}}, "evidence: worse: found 'lost'"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), PLANTED, ids=[message for _, message in PLANTED])
def test_a_planted_fault_is_found(tree: Path, changes: dict[str, Any], message: str) -> None:
    faults = claims.check([claim(), claim(**changes, id="planted")], tree, ROWS)
    assert len(faults) == 1
    assert faults[0].startswith("claim 'planted': ")
    assert message in faults[0]


def test_one_seed_decides_nothing(tree: Path) -> None:
    (fault,) = claims.check([claim()], tree, rows([0.5], [0.4]))
    assert "row 'toy': values: found 1, expected at least 2" in fault


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(sec-a)=\n# A", {"sec-a"}),
        ("```{figure} a.svg\n:name: fig-a\n```", {"fig-a"}),
        (":::{exercise}\n:label: ex-a\n:::", {"ex-a"}),
        ("$$ a $$ (eq-a)\n\n$$\nb\n$$ (eq-b)", {"eq-a", "eq-b"}),
        ("````{note}\n```{math}\n:label: eq-a\nx\n```\n(sec-a)=\n````\n(sec-b)=", {"eq-a", "sec-a", "sec-b"}),
        ("```python\n(sec-a)=\n```\n(sec-b)=", {"sec-b"}),
        ("```\n(sec-a)=\n```\n(sec-b)=", {"sec-b"}),
        ("````\n```\n(sec-a)=\n````\n(sec-b)=", {"sec-b"}),
        ("```{code-cell} ipython3\n:tags: [hide-input]\n(sec-a)=\n```\n(sec-b)=", {"sec-b"}),
        ("Prose of (sec-a)= and :label: eq-a", set()),
    ],
)
def test_labels_of_a_page(text: str, expected: set[str]) -> None:
    assert bindings.labels(text) == expected


def write(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(list(entries)), encoding="utf-8")
    return path


def test_claims_survive_the_file(tmp_path: Path) -> None:
    other = {**ENTRY, "id": "other", "effect": "None.", "evidence": {"because": "x"}, "object": None, "test": None}
    assert claims.load(write(tmp_path / "claims.yml", ENTRY, other)) == [claim(), claims.Claim(**other)]


BAD = [
    ({"status": "reproduced"}, "top level: Additional properties are not allowed ('status' was unexpected), expected a "
                               "mapping with the keys id, paper, place, statement, kind, anchor, object, test, "
                               "evidence, effect; a status is computed from the evidence, never typed"),
    ({"kind": "lemma"}, "kind: found 'lemma', expected one of definition, equation,"),
    ({"paper": "pig"}, "paper: found 'pig', expected one of DreamPRVR, DiscoVLA, PIG, RagMe"),
    ({"statement": " "}, "statement: found ' ', expected what is claimed"),
    ({"anchor": "01_world"}, "anchor: found '01_world', expected a page and a label"),
    ({"object": "os.path.join"}, "object: found 'os.path.join', expected a dotted path as vtrlib.world"),
    ({"test": "tests/test_toy.py"}, "test: found 'tests/test_toy.py', expected a test as"),
    ({"object": None}, "object: found null, expected a dotted path"),
    ({"test": None, "evidence": EXACT}, "test: found null, expected a test as"),
    ({"test": None, "evidence": {"refuted": "x"}}, "test: found null, expected a test as"),
    ({"evidence": {"refuted": " "}}, "evidence: refuted: found ' ', expected what its test shows"),
    ({"evidence": {}}, "evidence: found {}, expected a mapping {exact: true}"),
    ({"evidence": {"exact": True, "because": "x"}}, "evidence: found {'because': 'x', 'exact': True}, expected"),
    ({"evidence": {"exact": False}}, "evidence: exact: found False, expected true"),
    ({"evidence": {"row": "toy", "better": "a"}}, "evidence: top level: 'worse' is a required property"),
    ({"evidence": {"because": ""}}, "evidence: because: found '', expected the reason"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_entry_is_refused_with_file_claim_and_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "claims.yml", {**ENTRY, "id": "good"}, {**ENTRY, **changes})
    with pytest.raises(ValueError, match=re.escape(f"{path}: claim 'toy-order': {message}")):
        claims.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {id: a, kind: table, kind: figure}", "key 'kind': found twice"),
        ("- {id: a, evidence: {exact: true, exact: false}}", "key 'exact': found twice"),
        ("- !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("- [unclosed", "expected"),
        ("id: a", "top level: found {'id': 'a'}, expected a list of claims"),
        ("- just words", "[0]: found 'just words', expected a claim: a mapping"),
        ("- {paper: PIG}", "claim 'number 1': top level: 'id' is a required property"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "claims.yml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        claims.load(path)
    assert str(path) in str(caught.value)
    assert "Correct the entry" in str(caught.value)


def test_an_id_is_unique(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="claim 'toy-order': id: found twice"):
        claims.load(write(tmp_path / "claims.yml", ENTRY, ENTRY))


def test_the_table() -> None:
    board = [
        claim(statement="If $|x|$,\nthen\n\n`a|b`.", effect="So what."),
        claim(id="other", paper="RagMe", evidence=EXACT),
    ]
    table = claims.markdown(board, ROWS).splitlines()
    assert len(table) == 4
    assert table[2] == (
        "| If $\\|x\\|$, then `a\\|b`. So what. *PIG, Sec. 3* (`toy-order`) "
        "| **reproduced in miniature**: `ordered` − `bag` = +0.1, 95 % interval +0.0752 to +0.125, 3 seeds "
        "| chapter 2, [order](#sec-order); `vtrlib.ledger.Row`; `tests/test_toy.py::test_order` |"
    )
    assert claims.markdown(board, ROWS, paper="RagMe").splitlines() == [*table[:2], table[3]]
    assert claims.markdown(board, ROWS, page="notebooks/02_toy").splitlines() == table
    assert claims.markdown(board, ROWS, page="notebooks/03_toy") == "No claim stands here yet."
    with pytest.raises(ValueError, match="paper='RagMi': expected one of .* Did you mean 'RagMe'"):
        claims.markdown(board, ROWS, paper="RagMi")


def test_the_count() -> None:
    exact = claim(evidence=EXACT, kind="equation")
    board = [claim(), exact, exact, claim(paper="RagMe", evidence={"because": "x"})]
    counts = claims.summary(board, ROWS)
    assert {paper: list(by_status.values()) for paper, by_status in counts.items()} == {
        "DreamPRVR": [0, 0, 0, 0, 0], "DiscoVLA": [0, 0, 0, 0, 0], "PIG": [2, 1, 0, 0, 0], "RagMe": [0, 0, 0, 0, 1],
    }  # fmt: skip
    assert list(counts["PIG"]) == list(claims.STATUSES)


def test_a_chapter_shows_its_claims(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "checkout", lambda: tree)
    monkeypatch.setenv("VTRLIB_RESULTS", str(tree / "results"))
    toy = dataclasses.replace(
        ROWS["toy"],
        hardware={"cpu": "A CPU", "cores": 1, "memory_gib": 1, "gpu": None, "threads": 1},
    )
    ledger.write_row(toy, tree / "results")
    (tree / "book").mkdir()
    write(tree / "book" / "claims.yml", ENTRY, {**ENTRY, "id": "elsewhere", "anchor": "notebooks/03_toy#sec-x"})
    shown = claims.table(page="notebooks/02_toy")
    assert shown._repr_markdown_() == repr(shown) == claims.markdown([claim()], ROWS)
    monkeypatch.setattr(ledger, "checkout", lambda: None)
    with pytest.raises(FileNotFoundError, match="book/claims.yml"):
        claims.table()
