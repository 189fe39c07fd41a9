"""The experiments behind the ledger: what `python -m vtrlib results` can run.

An experiment is a function of one seed. It is registered under its ledger id together with its seeds and settings (see
`vtrlib.studies`), and imports what it needs inside, so that listing the registry loads no torch.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from vtrlib import ledger
from vtrlib.ledger import Row
from vtrlib.schemas import SLUG

__all__ = ["REGISTRY", "Experiment", "experiment", "run", "state"]

Function = Callable[..., Mapping[str, float]]


@dataclass(frozen=True)
class Experiment:
    """A function that gives metrics for a seed: `function(seed, **config) -> {metric: number}`.

    Attributes:
        id: the ledger id, a slug.
        function: what to run; the same metrics for every seed.
        seeds: S ≥ 1 different integers.
        config: its settings, as JSON holds them.
    """

    id: str
    function: Function
    seeds: tuple[int, ...]
    config: dict[str, Any]


REGISTRY: dict[str, Experiment] = {}


def experiment(id: str, /, *, seeds: Sequence[int], **config: Any) -> Callable[[Function], Function]:
    """Register the decorated function as the experiment `id`.

    Raises:
        ValueError: the id is taken or no slug, no seed or an equal one is given, or a setting is no JSON.
    """
    if not re.match(SLUG, id):
        raise ValueError(f"id={id!r}: expected a slug: a-z, 0-9 and single hyphens.")
    if id in REGISTRY:
        raise ValueError(f"id={id!r}: found twice. Expected each experiment once: choose another id.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={seeds!r} of {id!r}: expected one or more different integers.")
    if "seed" in config:
        raise ValueError(f"config of {id!r}: found 'seed', which the function gets from seeds. Rename the setting.")
    try:
        stored = json.loads(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"config of {id!r}: {error}. Expected settings that JSON can hold.") from None

    def register(function: Function) -> Function:
        REGISTRY[id] = Experiment(id, function, tuple(seeds), stored)
        return function

    return register


def state(known: Experiment, rows: Mapping[str, Row]) -> str:
    """How the ledger stands to an experiment: "present", "missing", or "stale" (made with other settings or seeds)."""
    row = rows.get(known.id)
    if row is None:
        return "missing"
    return "present" if (row.config, row.seeds) == (known.config, list(known.seeds)) else "stale"


def run(known: Experiment, folder: Path, report: Callable[[str], None] = print) -> Row:
    """Run the seeds that are not done yet, then write the row.

    A finished seed is kept until the row stands, so a killed run loses at most the seed it was at. It is used again
    only for the same settings and the same code.

    Args:
        known: what to run.
        folder: the ledger.
        report: called with a line of progress per seed.

    Raises:
        ValueError: a metric is no finite number, or seeds differ in their metrics.
        OSError: a folder cannot be written; finished seeds stay.
    """
    root = ledger.checkout()
    inside = root is not None and folder.resolve() == (root / "book" / "results").resolve()
    kept = (root / "_build" / "results" if root and inside else folder / ".unfinished") / known.id
    commit, code = ledger.commit(), _code()  # before the run: an edit during it changes what is on disk, not what runs
    parts = {}
    for position, seed in enumerate(known.seeds, 1):
        path = kept / f"{seed}.json"
        found = _kept(known, code, path)
        parts[seed] = part = found or _measure(known, code, seed, path)
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in part["metrics"].items())
        how = "kept" if found else f"{part['seconds']:.1f} s"
        report(f"{known.id}: seed {seed} ({position} of {len(known.seeds)}, {how}): {numbers}")
    names = sorted(parts[known.seeds[0]]["metrics"])
    for seed, other in parts.items():
        if sorted(other["metrics"]) != names:
            raise ValueError(
                f"{known.id}: seed {seed} gave {sorted(other['metrics'])}, expected {names}, like the first seed."
            )
    row = Row(
        id=known.id,
        command=f"python -m vtrlib results {known.id}",
        commit=commit,
        date=datetime.now(UTC).date().isoformat(),
        config=known.config,
        seeds=list(known.seeds),
        hardware=parts[known.seeds[-1]]["hardware"],
        versions=ledger.versions(),
        wall_seconds=round(sum(part["seconds"] for part in parts.values()), 2),
        metrics={name: [part["metrics"][name] for part in parts.values()] for name in names},
    )
    ledger.write_row(row, folder)
    for seed in known.seeds:
        (kept / f"{seed}.json").unlink()
    return row


def _measure(known: Experiment, code: str, seed: int, path: Path) -> dict[str, Any]:
    """Run one seed and keep what it gave."""
    start = time.perf_counter()
    metrics = {name: float(value) for name, value in known.function(seed, **known.config).items()}
    seconds = time.perf_counter() - start
    bad = {name: value for name, value in metrics.items() if not math.isfinite(value)}
    if bad or not metrics:
        raise ValueError(f"{known.id}: seed {seed} gave {bad or 'no metric'}. Expected one or more finite numbers.")
    part = {
        "config": known.config,
        "code": code,
        "seconds": seconds,
        "metrics": metrics,
        "hardware": ledger.hardware(),  # now that torch is loaded, where the function uses it
    }
    ledger.write_text(path, json.dumps(part, allow_nan=False))
    return part


def _kept(known: Experiment, code: str, path: Path) -> dict[str, Any] | None:
    """What an earlier, unfinished run measured, if settings and code are still the same."""
    try:
        part: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    return part if (part["config"], part["code"]) == (known.config, code) else None


def _code() -> str:
    """A hash over all files of the package: a row never mixes seeds of two versions."""
    package = Path(__file__).parent
    digest = sha256()
    for path in sorted(p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + sha256(path.read_bytes()).digest())
    return digest.hexdigest()
