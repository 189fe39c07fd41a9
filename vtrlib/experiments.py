"""The experiments behind the ledger: what `python -m vtrlib results` can run.

An experiment is a function of one seed. It is registered under its ledger id together with its seeds and settings (see
`vtrlib.studies`), and imports what it needs inside, so that listing the registry loads no torch. One that trains looks
like this:

    def plan(seed, steps, rate): ...  # model, data, loss and training.Config of a seed

    def first_losses(seed, **settings):
        return training.fit(*plan(seed, **settings), until=3).losses

    @experiment("toy-baseline", seeds=range(5), canary=first_losses, steps=400, rate=1e-3)
    def baseline(seed, folder, **settings):  # who names `folder` gets one, kept while the row is unfinished
        model, *rest = plan(seed, **settings)
        training.fit(model, *rest, folder=folder)
        return {"R@1": ...}
"""

from __future__ import annotations

import inspect
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from vtrlib import canary as canaries
from vtrlib import ledger
from vtrlib.ledger import Row
from vtrlib.schemas import SLUG

__all__ = ["REGISTRY", "Experiment", "experiment", "run", "state"]

Function = Callable[..., Mapping[str, float]]
Canary = Callable[..., Sequence[float]]


@dataclass(frozen=True)
class Experiment:
    """A function that gives metrics for a seed: `function(seed, **config) -> {metric: number}`.

    If it has a parameter `folder`, it gets one of its own, where it may keep what a later run resumes from: a killed
    run finds it again, unless settings or code have changed. It is deleted once the seed is done.

    Attributes:
        id: the ledger id, a slug.
        function: what to run; the same metrics for every seed.
        seeds: S ≥ 1 different integers.
        config: its settings, as JSON holds them.
        canary: `canary(seed, **config) -> numbers`, in seconds: the first losses of its training; see `vtrlib.canary`.
        real_data: it reads the folder that VTRLIB_DATA names.
    """

    id: str
    function: Function
    seeds: tuple[int, ...]
    config: dict[str, Any]
    canary: Canary | None = None
    real_data: bool = False


REGISTRY: dict[str, Experiment] = {}


def experiment(
    id: str, /, *, seeds: Sequence[int], canary: Canary | None = None, real_data: bool = False, **config: Any
) -> Callable[[Function], Function]:
    """Register the decorated function as the experiment `id`; see `Experiment` for the rest.

    Raises:
        ValueError: the id is taken or no slug, no seed or an equal one is given, or a setting is no JSON.
    """
    if not re.match(SLUG, id):
        raise ValueError(f"id={id!r}: expected a slug: a-z, 0-9 and single hyphens.")
    if id in REGISTRY:
        raise ValueError(f"id={id!r}: found twice. Expected each experiment once: choose another id.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={seeds!r} of {id!r}: expected one or more different integers.")
    for name, source in (("seed", "gets from seeds"), ("folder", "gets from whoever runs it")):
        if name in config:
            raise ValueError(f"config of {id!r}: found {name!r}, which the function {source}. Rename the setting.")
    try:
        stored = json.loads(json.dumps(config, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"config of {id!r}: {error}. Expected settings that JSON can hold.") from None

    def register(function: Function) -> Function:
        REGISTRY[id] = Experiment(id, function, tuple(seeds), stored, canary, real_data)
        return function

    return register


def state(known: Experiment, rows: Mapping[str, Row]) -> str:
    """How the ledger stands to an experiment: "present", "missing", or "stale".

    Stale is a row of other settings or seeds, or from before its experiment had a canary. Nothing is run to find out;
    `vtrlib.canary.check` runs the canary.
    """
    row = rows.get(known.id)
    if row is None:
        return "missing"
    if (row.config, row.seeds) != (known.config, list(known.seeds)):
        return "stale"
    return "stale" if known.canary and row.canary is None else "present"


def run(known: Experiment, folder: Path, report: Callable[[str], None] = print) -> Row:
    """Run the seeds that are not done yet, then write the row.

    A finished seed is kept until the row stands, so a killed run loses at most the seed it was at. It is used again
    only for the same settings and the same code.

    Args:
        known: what to run.
        folder: the ledger.
        report: called with a line of progress per seed.

    Raises:
        ValueError: a metric or a number of the canary is not finite, or seeds differ in their metrics.
        OSError: a folder cannot be written; finished seeds stay.
    """
    root = ledger.checkout()
    inside = root is not None and folder.resolve() == (root / "book" / "results").resolve()
    kept = (root / "_build" / "results" if root and inside else folder / ".unfinished") / known.id
    commit, code = ledger.commit(), _code()  # before the run: an edit during it changes what is on disk, not what runs
    canary = canaries.measure(known)  # first: if it fails, it fails before the hours
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
        canary=canary,
    )
    ledger.write_row(row, folder)
    for seed in known.seeds:
        (kept / f"{seed}.json").unlink()
    return row


def _measure(known: Experiment, code: str, seed: int, path: Path) -> dict[str, Any]:
    """Run one seed and keep what it gave."""
    settings, spent = dict(known.config), 0.0
    if "folder" in inspect.signature(known.function).parameters:
        settings["folder"], spent = _begun(known, code, path)
    start = time.perf_counter()
    metrics = {name: float(value) for name, value in known.function(seed, **settings).items()}
    seconds = spent + time.perf_counter() - start
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
    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    path.with_suffix(".begun").unlink(missing_ok=True)
    return part


def _begun(known: Experiment, code: str, path: Path) -> tuple[Path, float]:
    """The folder in which a seed keeps what it resumes from, and the seconds that went into what is there.

    What other settings or other code left there is deleted.
    """
    folder, stamp, spent = path.with_suffix(""), path.with_suffix(".begun"), 0.0
    before = _kept(known, code, stamp)
    if before is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:  # a killed process can't say how long it ran; its files say when it last kept something
        last = max((file.stat().st_mtime for file in folder.rglob("*")), default=0.0)
        spent = before["spent"] + max(0.0, last - before["at"])
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"config": known.config, "code": code, "at": time.time(), "spent": spent}
    ledger.write_text(stamp, json.dumps(facts, allow_nan=False))
    return folder, spent


def _kept(known: Experiment, code: str, path: Path) -> dict[str, Any] | None:
    """What an earlier, unfinished run left, if settings and code are still the same."""
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
