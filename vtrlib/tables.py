"""Tables of a page: Markdown that a notebook shows, with numbers from the ledger and never typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vtrlib import check, ledger
from vtrlib.ledger import Row

__all__ = ["Table", "measured"]


@dataclass(frozen=True)
class Table:
    """Markdown that a notebook shows as a table, and the same text in a terminal."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


def measured(
    row: str | Row, lines: Mapping[str, str], columns: Sequence[str], *, digits: int = 1, corner: str = ""
) -> Table:
    """A ledger row as a table: mean over seeds ± half of the 95 per cent t-interval, and below it how to get it again.

    Args:
        row: a ledger row, or the id of one.
        lines: for each line its heading, and what its metrics' names begin with: `{"baseline": "", "with DSL": "DSL/"}`.
        columns: what the names end with, such as "R@1"; also the headings. A number that no seed changes has no ±.
        digits: after the decimal point, ≥ 0.
        corner: heading of the first column.

    Raises:
        ValueError: no such row, or it lacks a metric; the message names those there are.
    """
    if isinstance(row, str):
        rows = ledger.read_rows(ledger.results_folder())
        row = rows[check.one_of("row", row, tuple(rows))]
    check.integer("digits", digits, low=0)
    table = [f"| {corner} | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for heading, start in lines.items():
        cells = [_cell(row, start + column, digits) for column in columns]
        table.append(f"| {heading} | " + " | ".join(cells) + " |")
    seeds = f"{len(row.seeds)} seeds, ± 95 % t-interval over them" if len(row.seeds) > 1 else "one run"
    table += ["", f"*{seeds} · `{row.command}` · commit {row.commit} · {row.hardware.get('cpu', 'unknown processor')}*"]
    return Table("\n".join(table))


def _cell(row: Row, metric: str, digits: int) -> str:
    values = row.metrics[check.one_of(f"metric of {row.id}", metric, tuple(row.metrics))]
    if min(values) == max(values):
        return f"{values[0]:,.{digits}f}"
    found = ledger.interval(values)
    return f"{found.mean:,.{digits}f} ± {found.half_width:,.{digits}f}"
