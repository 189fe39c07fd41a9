"""Claims of the papers and what became of them: `book/claims.yml` and the ledger, turned into statuses and tables.

A status is decided by rule and never typed:

- `exact: true`: the claim is bound by its test alone, so where the tests pass it is *reproduced*;
- `row, better, worse`: the paper says that one metric of a ledger row exceeds another. Paired by seed, the 95 %
  t-interval of the difference lies above zero: *reproduced in miniature*; below zero: *contradicted*; else: *no
  difference at this scale*, with the smallest difference that would have shown;
- `refuted: what holds instead`: its test holds the opposite, exactly: *contradicted*;
- `because`: *not testable here*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vtrlib import bindings, ledger
from vtrlib import check as checks
from vtrlib.ledger import Row
from vtrlib.schemas import CLAIM, CLAIMS, EVIDENCE, PAPERS
from vtrlib.tables import Table

__all__ = [
    "PAPERS", "STATUSES", "Claim", "Verdict", "check", "load", "markdown", "status", "summary", "table",
]  # fmt: skip

STATUSES = (
    "reproduced", "reproduced in miniature", "no difference at this scale", "contradicted", "not testable here",
)  # fmt: skip
UNIVERSAL = ("definition", "equation", "algorithm")  # kinds that a test can hold beyond our world


@dataclass(frozen=True)
class Claim:
    """One sentence, equation, figure or table row of a paper.

    Attributes:
        id: slug, unique.
        paper: one of `PAPERS`.
        place: where the paper says it.
        statement: what it says, in our own words; Markdown.
        kind: definition, equation, algorithm, figure, ablation, causal or table.
        anchor: page and label where the book derives it, "notebooks/01_world#sec-ambiguity".
        object: dotted path of what implements it; None only where it is not testable here.
        test: "tests/test_x.py::test_y" that binds it; None only where it is not testable here.
        evidence: {"exact": True}, {"row", "better", "worse"}, {"refuted"} or {"because"}; see the module's text.
        effect: a remark on what follows from it, or None.
    """

    id: str
    paper: str
    place: str
    statement: str
    kind: str
    anchor: str
    object: str | None
    test: str | None
    evidence: Mapping[str, Any]
    effect: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        status: one of `STATUSES`.
        detail: why, in words; Markdown.
        difference: better − worse over the seeds; None where the evidence is no ledger row.
    """

    status: str
    detail: str
    difference: ledger.Interval | None = None


def load(path: str | Path) -> list[Claim]:
    """Read `claims.yml`.

    Raises:
        ValueError: broken YAML, a repeated key or id, or an entry against the schema; names file, claim and key.
        OSError: the file cannot be read.
    """
    path = Path(path)
    advice = "Correct the entry; the head of the file says what belongs in it."
    try:
        entries = yaml.load(path.read_text("utf-8"), Loader=_UniqueKeys)  # a SafeLoader: makes plain values only
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}\n{advice}") from None
    checks.conforms(entries, CLAIMS, str(path), advice)
    claims: dict[str, Claim] = {}
    for number, entry in enumerate(entries, 1):
        source = f"{path}: claim {entry.get('id', f'number {number}')!r}"
        checks.conforms(entry, CLAIM, source, advice)
        evidence = entry["evidence"]
        forms = [form for form in EVIDENCE if form in evidence]
        if len(forms) != 1:
            expected = CLAIM["properties"]["evidence"]["description"]
            raise ValueError(f"{source}: evidence: found {evidence}, expected {expected}.\n{advice}")
        checks.conforms(evidence, EVIDENCE[forms[0]], f"{source}: evidence", advice)
        for key in ("object", "test"):
            if entry[key] is None and forms != ["because"]:
                expected = CLAIM["properties"][key]["description"]
                raise ValueError(f"{source}: {key}: found null, expected {expected}.\n{advice}")
        if entry["id"] in claims:
            raise ValueError(f"{source}: id: found twice, expected once.\n{advice}")
        claims[entry["id"]] = Claim(**entry)
    return list(claims.values())


def status(claim: Claim, rows: Mapping[str, Row]) -> Verdict:
    """Decide what became of a claim.

    Raises:
        ValueError: the ledger lacks its row or a metric of it, or the row has a single seed.
    """
    match claim.evidence:
        case {"exact": True} if claim.kind in UNIVERSAL:
            return Verdict("reproduced", "exactly, held by its test")
        case {"exact": True}:
            return Verdict("reproduced in miniature", "exactly in our world, held by its test")
        case {"refuted": instead}:
            return Verdict("contradicted", f"exactly, by its test: {instead}")
        case {"because": reason}:
            return Verdict("not testable here", reason)
    row, better, worse = (claim.evidence[key] for key in ("row", "better", "worse"))
    where = f"claim {claim.id!r}: evidence"
    if row not in rows:
        raise ValueError(
            f"{where}: row: found {row!r}, expected {checks.nearest(row, rows, 'a row of the ledger')}. "
            f"Correct the id, or run: python -m vtrlib results {row}"
        )
    metrics = rows[row].metrics
    for key, metric in (("better", better), ("worse", worse)):
        if metric not in metrics:
            expected = checks.nearest(metric, metrics, f"a metric of row {row!r}")
            raise ValueError(f"{where}: {key}: found {metric!r}, expected {expected}. Correct the name.")
    try:
        found = ledger.paired_interval(metrics[better], metrics[worse])
    except ValueError as error:
        raise ValueError(f"{where}: row {row!r}: {error}") from None
    detail = (
        f"`{better}` − `{worse}` = {_signed(found.mean)}, 95 % interval {_signed(found.low)} to {_signed(found.high)}, "
        f"{found.n} seeds"
    )
    if found.low > 0:
        return Verdict("reproduced in miniature", detail, found)
    if found.high < 0:
        return Verdict("contradicted", detail, found)
    shown = f"{detail}; a difference of {found.half_width:.3g} would have shown"
    return Verdict("no difference at this scale", shown, found)


def check(claims: Iterable[Claim], root: str | Path, rows: Mapping[str, Row]) -> list[str]:
    """Look for whatever a claim names: its label on its page, its object, its test, its row and metrics.

    Args:
        claims: as `load` gives them.
        root: the repository, with book/, notebooks/ and tests/.
        rows: the ledger.

    Returns:
        A sentence per fault, with claim, key, what was found and what was expected; empty if all is there.
    """
    faults = []
    for claim in claims:
        found = {
            "anchor": bindings.missing_label(Path(root), claim.anchor),
            "object": claim.object and bindings.missing_object(claim.object),
            "test": claim.test and bindings.missing_test(Path(root), claim.test),
        }
        faults += [f"claim {claim.id!r}: {key}: {fault}" for key, fault in found.items() if fault]
        try:
            status(claim, rows)
        except ValueError as error:
            faults.append(str(error))
    return faults


def markdown(
    claims: Iterable[Claim], rows: Mapping[str, Row], page: str | None = None, paper: str | None = None
) -> str:
    """A Markdown table of claims, their statuses and where each is derived.

    Args:
        claims: as `load` gives them.
        rows: the ledger.
        page: keep only claims derived on this page ("notebooks/01_world").
        paper: keep only claims of this paper.

    Raises:
        ValueError: an unknown paper, or as `status` does.
    """
    if paper is not None:
        checks.one_of("paper", paper, PAPERS)
    lines = ["| what the paper says | what became of it | where |", "| --- | --- | --- |"]
    for claim in claims:
        here, label = claim.anchor.split("#")
        if page not in (None, here) or paper not in (None, claim.paper):
            continue
        verdict = status(claim, rows)
        # A #label link is a checked cross-reference in the book, and a link within the page in JupyterLab.
        where = [f"{_chapter(here)}, [{label.partition('-')[2] or label}](#{label})"]
        where += [f"`{name}`" for name in (claim.object, claim.test) if name]
        says = f"{claim.statement} {claim.effect}" if claim.effect else claim.statement
        cells = (
            f"{says} *{claim.paper}, {claim.place}* (`{claim.id}`)",
            f"**{verdict.status}**: {verdict.detail}",
            "; ".join(where),
        )
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else "No claim stands here yet."


def summary(claims: Iterable[Claim], rows: Mapping[str, Row]) -> dict[str, dict[str, int]]:
    """How many claims of each paper have each status: paper → status → count, zeros included."""
    counts = {paper: dict.fromkeys(STATUSES, 0) for paper in PAPERS}
    for claim in claims:
        counts[claim.paper][status(claim, rows).status] += 1
    return counts


def table(page: str | None = None, paper: str | None = None) -> Table:
    """The claims of this repository's `book/claims.yml`, for the last cell of a chapter.

    Raises:
        FileNotFoundError: the package is installed without its repository.
        ValueError: as `load` and `markdown` do.
    """
    root = ledger.checkout()
    if root is None:
        raise FileNotFoundError(
            "book/claims.yml: vtrlib is installed without it. Install from a checkout: pip install -e ."
        )
    return Table(markdown(load(root / "book" / "claims.yml"), ledger.read_rows(ledger.results_folder()), page, paper))


def _chapter(page: str) -> str:
    """How a table names a page: "chapter 1" for notebooks/01_world."""
    stem = page.partition("/")[2]
    number = stem.partition("_")[0]
    return f"chapter {int(number)}" if number.isdecimal() else stem


def _signed(number: float) -> str:
    return f"{number:+.3g}".replace("-", "−")


class _UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
    """Plain YAML, except that a mapping may not repeat a key: PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {twice!r}: found twice, expected once", node.start_mark
            )
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping
