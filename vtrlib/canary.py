"""The canary of a ledger row: a few cheap numbers by which the row goes stale by itself.

Beside its results a row stores what its experiment's canary gave: the losses of the first three steps of its training,
or any cheap number of one without training. Whoever changes the code, knowingly or not, changes these too; replaying
them takes seconds where the row took minutes. CPU types round differently, so a small drift is none.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtrlib.ledger import Row

if TYPE_CHECKING:
    from vtrlib.experiments import Experiment

__all__ = ["TOLERANCE", "Verdict", "check", "drift", "lacks_data", "measure"]

TOLERANCE = 1e-3  # greatest relative drift of a row that holds
_SMALLEST = 1e-3  # numbers nearer to 0 count as this large: rounding may turn a loss of exactly 0 into 1e-9


@dataclass(frozen=True)
class Verdict:
    """What a replay said about a row.

    Attributes:
        state: "holds", "stale", "no canary" (none is declared) or "not checked" (its data is not here).
        text: a sentence; of a stale row with what was stored, what was found, and the command to refresh it.
    """

    state: str
    text: str


def drift(stored: Sequence[float], found: Sequence[float]) -> float:
    """The greatest relative difference of two lists of numbers, |found − stored| / max(|stored|, 0.001).

    Infinite where their lengths differ or one that was found is not finite.
    """
    if len(stored) != len(found) or not all(map(math.isfinite, found)):
        return math.inf
    pairs = zip(stored, found, strict=True)
    return max((abs(new - old) / max(abs(old), _SMALLEST) for old, new in pairs), default=0.0)


def measure(known: Experiment) -> list[float] | None:
    """What the canary of an experiment gives for its first seed; None if it declares none.

    Raises:
        ValueError: it gives no number, or one that is not finite.
    """
    if known.canary is None:
        return None
    found = [float(value) for value in known.canary(known.seeds[0], **known.config)]
    if not found or not all(map(math.isfinite, found)):
        raise ValueError(f"canary of {known.id!r}: found {found}, expected one or more finite numbers.")
    return found


def lacks_data(known: Experiment) -> str | None:
    """Why an experiment on real data can't run here, or None if it can."""
    if known.real_data and not os.environ.get("VTRLIB_DATA"):
        return "needs real data: set VTRLIB_DATA to its folder"
    return None


def check(known: Experiment, row: Row) -> Verdict:
    """Replay the canary of an experiment and hold it against what its row stored.

    Raises:
        ValueError: as `measure` does.
    """
    refresh = f"To refresh it run: {row.command}"
    if known.canary is None:
        return Verdict("no canary", "no canary")
    if row.canary is None:
        return Verdict("stale", f"stale: the row stored no canary, and its experiment has one. {refresh}")
    missing = lacks_data(known)
    if missing:
        return Verdict("not checked", f"not checked, {missing}")
    found = measure(known) or []
    far = drift(row.canary, found)
    if far <= TOLERANCE:
        return Verdict("holds", f"holds, drift {far:.1e}")
    return Verdict("stale", f"stale: stored {row.canary}, found {found}, drift {far:.1e} > {TOLERANCE:.0e}. {refresh}")
