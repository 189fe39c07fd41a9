"""The results ledger: one JSON file per measured result, with all that is needed to get it again.

Numbers on the pages come from here; `vtrlib.claims` turns them into statuses. Imports no torch, because the
page build reads the ledger on machines that have none.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from vtrlib import check
from vtrlib.provenance import checkout, commit, hardware, versions
from vtrlib.schemas import ROW

__all__ = [
    "Interval", "Row", "checkout", "commit", "hardware", "interval", "paired_interval", "read_row", "read_rows",
    "results_folder", "versions", "write_row", "write_text",
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One result, as `book/results/<id>.json` holds it.

    Attributes:
        id: slug, also the file's stem.
        command: shell command that makes the row again.
        commit: as `commit()` gives it.
        date: ISO date of the run.
        config: settings of the experiment; any JSON.
        seeds: S different integers, S ≥ 1.
        hardware: as `hardware()` gives it.
        versions: as `versions()` gives it.
        wall_seconds: of all seeds together, ≥ 0.
        metrics: name to S finite numbers, one per seed, in the order of `seeds`.
        canary: of the first seed, the losses of its first steps or other cheap numbers, by which a replay sees that
            the row is stale (`vtrlib.canary`); or None.
    """

    id: str
    command: str
    commit: str
    date: str
    config: dict[str, Any]
    seeds: list[int]
    hardware: dict[str, Any]
    versions: dict[str, str]
    wall_seconds: float
    metrics: dict[str, list[float]]
    canary: list[float] | None = None


def read_rows(folder: str | Path) -> dict[str, Row]:
    """Every row in `folder` by its id, in the order of the ids; none if there is no such folder yet.

    Raises:
        ValueError: a file is no valid row; see `read_row`.
    """
    return {path.stem: read_row(path) for path in sorted(Path(folder).glob("*.json"))}


def read_row(path: str | Path) -> Row:
    """Read one row.

    Raises:
        ValueError: the file is not JSON, repeats a key, holds NaN or infinity, breaks the schema, or is not named
            after its id. The message names the file and the key.
    """
    path = Path(path)
    try:
        data = json.loads(
            path.read_text("utf-8"), object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite
        )
    except ValueError as error:  # broken JSON and broken UTF-8 are ValueErrors too
        raise ValueError(
            f"{path}: {error}. Expected a ledger row; restore it, or delete it and run it again."
        ) from None
    return Row(**_valid(data, path))


def write_row(row: Row, folder: str | Path) -> Path:
    """Write `row` as `folder/<id>.json`, replacing an older one at once or not at all; makes `folder` if need be.

    Returns:
        The file's path.

    Raises:
        ValueError: the row breaks the schema; nothing is written.
        OSError: `folder` cannot be written (PermissionError where rights are lacking); an older row stays as it was.
    """
    path = Path(folder) / f"{row.id}.json"
    data = _valid(asdict(row), path)
    # Fields in the order of Row, whatever is inside them sorted: a new measurement is a small diff.
    ordered = {key: json.loads(json.dumps(value, sort_keys=True, allow_nan=False)) for key, value in data.items()}
    text = json.dumps(ordered, indent=2, ensure_ascii=False)
    # A list of plain values on one line. A raw newline is never inside a JSON string, so only layout is matched.
    text = re.sub(r"\[\n\s+([^\[\]{}]*?)\n\s*\]", lambda m: "[" + re.sub(r"\n\s+", " ", m[1]) + "]", text)
    write_text(path, text + "\n", "Change its permissions, or set VTRLIB_RESULTS to another folder.")
    return path


def write_text(path: Path, text: str, advice: str = "Change its permissions, or free some space.") -> None:
    """Write a whole file or nothing, so that a killed process leaves no half of one; makes the folder if need be.

    Raises:
        OSError: of the same kind as what went wrong, with the folder and `advice`; an older file stays as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # same folder, hence same disk: replacing is one step
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(
            f"{path.parent}: cannot write {path.name} ({reason}). Expected a folder that you may write to. {advice} "
            "Nothing there was changed."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # gone after a success; must not hide what went wrong after a failure
            part.unlink()


def results_folder() -> Path:
    """The ledger: `VTRLIB_RESULTS` where it is set, else `book/results` of the checkout. Need not exist yet.

    Raises:
        FileNotFoundError: neither is there.
    """
    chosen = os.environ.get("VTRLIB_RESULTS")
    if chosen:
        return Path(chosen)
    root = checkout()
    if root is None:
        raise FileNotFoundError(
            "VTRLIB_RESULTS: not set, and this vtrlib is installed without its repository. Expected a results folder: "
            "set VTRLIB_RESULTS to one, or install from a checkout with pip install -e ."
        )
    return root / "book" / "results"


@dataclass(frozen=True)
class Interval:
    """A mean over n seeds and its confidence limits, low ≤ mean ≤ high."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """The smallest mean that would have excluded zero."""
        return (self.high - self.low) / 2


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    r"""Student's t-interval of a mean, $\bar x \pm t_{n-1} s / \sqrt n$; of zero width where all values are equal.

    Args:
        values: n ≥ 2 finite numbers, one per seed.
        level: confidence, 0 < level < 1.

    Raises:
        ValueError: fewer than two values, a value that is not finite, or a level out of range.
    """
    from scipy.special import stdtrit  # the t quantile; a fifth of a second that only statistics should cost

    numbers = [float(value) for value in values]
    n = len(numbers)
    if n < 2:
        raise ValueError(f"values: found {n}, expected at least 2: the spread of one seed is unknown. Run more seeds.")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"values={numbers}: expected finite numbers.")
    if not 0 < level < 1:
        raise ValueError(f"level={level}: expected a number between 0 and 1, such as 0.95.")
    centre = mean(numbers)  # exact, so equal values have a spread of exactly 0
    half = float(stdtrit(n - 1, (1 + level) / 2)) * stdev(numbers) / math.sqrt(n)
    return Interval(centre, centre - half, centre + half, n)


def paired_interval(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval:
    """The t-interval of a − b, paired by seed; see `interval`.

    Raises:
        ValueError: `a` and `b` differ in length, or as `interval` does.
    """
    if len(a) != len(b):
        raise ValueError(f"b: found {len(b)} values, expected {len(a)}, as many as a: they are paired by seed.")
    return interval([x - y for x, y in zip(a, b, strict=True)], level)


def _valid(data: Any, path: Path) -> dict[str, Any]:
    """Return `data` if it is the row that belongs at `path`."""
    advice = f"Correct the file, or delete it and run: python -m vtrlib results {path.stem}"
    check.conforms(data, ROW, str(path), advice)
    faults = []
    if data["id"] != path.stem:
        faults.append(f"id: found {data['id']!r}, expected {path.stem!r}, the file's name")
    try:
        date.fromisoformat(data["date"])
    except ValueError:
        faults.append(f"date: found {data['date']!r}, expected a day that exists")
    n = len(data["seeds"])
    lists = {f"metrics[{name!r}]": values for name, values in data["metrics"].items()}
    for key, values in lists.items():
        if len(values) != n:
            faults.append(f"{key}: found {len(values)} numbers, expected {n}, one per seed")
    lists |= {"canary": data["canary"] or [], "wall_seconds": [data["wall_seconds"]]}
    for key, values in lists.items():
        if not all(map(math.isfinite, values)):
            faults.append(f"{key}: found {values}, expected finite numbers")
    if faults:
        raise ValueError("\n".join([*(f"{path}: {fault}." for fault in faults), advice]))
    return dict(data)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; json itself would silently keep the last of two equal keys."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r}: found twice, expected once")
        found[key] = value
    return found


def _finite(text: str) -> float:
    """Read a JSON number; json itself would accept NaN, and 1e999 as infinity."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number {text}: expected a finite one")
    return number
