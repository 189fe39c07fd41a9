"""Input checks: every public function of vtrlib reports bad input in one form.

A message names the argument (or file), what was found, what was expected, and what to do.
"""

from __future__ import annotations

import difflib
import math
import operator
import reprlib
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

__all__ = ["conforms", "integer", "listed", "nearest", "number", "one_of", "sizes"]


def one_of(name: str, value: Any, options: Iterable[str]) -> str:
    """Return `value` if it is one of `options`.

    Raises:
        ValueError: naming the argument, the options, and the closest one if `value` looks like a slip.
    """
    options = list(options)
    if isinstance(value, str) and value in options:
        return value
    near = difflib.get_close_matches(str(value), options, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, options))}.{hint}")


def integer(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """Return `value` as an int with `low` ≤ value ≤ `high` (either bound may be open).

    Raises:
        TypeError: `value` is no integer (a bool is none, a numpy integer is one).
        ValueError: it lies outside the bounds.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} ({type(value).__name__}): expected an integer.") from None
    if (low is not None and number < low) or (high is not None and number > high):
        if high is None:
            expected = f"at least {low}"
        elif low is None:
            expected = f"at most {high}"
        else:
            expected = f"between {low} and {high}"
        raise ValueError(f"{name}={number}: expected {expected}.")
    return number


def number(name: str, value: Any, low: float | None = None, high: float | None = None) -> float:
    """Return `value` as a float with `low` ≤ value ≤ `high` (either bound may be open); NaN and infinity never pass.

    Raises:
        TypeError: `value` is no real number (a bool is none).
        ValueError: it is not finite, or lies outside the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} ({type(value).__name__}): expected a number.")
    found = float(value)
    bounds = [f"at least {low}"] if low is not None else []
    bounds += [f"at most {high}"] if high is not None else []
    if not math.isfinite(found) or (low is not None and found < low) or (high is not None and found > high):
        raise ValueError(f"{name}={found}: expected a finite number{', ' if bounds else ''}{' and '.join(bounds)}.")
    return found


def sizes(name: str, value: Any, letters: str, known: Mapping[str, int] | None = None) -> dict[str, int]:
    """Hold the shape of an array or tensor against letters of the notation page; no value is read.

    Args:
        name: of the argument.
        value: anything with a shape.
        letters: one per axis, such as "Q V".
        known: sizes that earlier arguments gave.

    Returns:
        `known` with the sizes of the new letters.

    Raises:
        TypeError: it has no shape.
        ValueError: another number of axes, an empty one, or one that differs from what is known.
    """
    if not hasattr(value, "shape"):
        raise TypeError(f"{name}: found {type(value).__name__}, expected a tensor ({', '.join(letters.split())}).")
    found, expected = tuple(value.shape), letters.split()
    joined = dict(known or {})
    fits = len(found) == len(expected)
    for letter, size in zip(expected, found, strict=False):
        fits &= size > 0 and joined.setdefault(letter, size) == size
    if not fits:
        sized = ", ".join(f"{letter}={known[letter]}" if known and letter in known else letter for letter in expected)
        raise ValueError(f"{name}: found shape {found}, expected ({sized}), no axis empty.")
    return joined


def conforms(value: Any, schema: dict[str, Any], source: str, advice: str) -> None:
    """Raise unless `value`, parsed from a file, meets a JSON schema.

    Args:
        value: what the file holds.
        schema: JSON schema (draft 2020-12) whose every part says in its "description" what is expected.
        source: the file, and the entry in it where there are several.
        advice: what to do about a fault.

    Raises:
        ValueError: one line per fault, each with `source`, the key's path, what was found and what was expected.
    """
    from jsonschema import Draft202012Validator  # half a second that only readers of such files should pay

    lines = []
    for error in sorted(Draft202012Validator(schema).iter_errors(value), key=lambda e: [str(p) for p in e.path]):
        key = error.json_path.removeprefix("$").removeprefix(".") or "top level"
        whole = error.validator in ("required", "additionalProperties")  # of a mapping: the message names its key
        found = error.message if whole else f"found {reprlib.repr(error.instance)}"
        lines.append(f"{source}: {key}: {found}, expected {error.schema['description']}.")
    if lines:
        raise ValueError("\n".join([*lines, advice]))


def nearest(found: str, options: Iterable[str], what: str) -> str:
    """What a message says was expected: `what`, with the names that look most like the one found, else all of them."""
    names = sorted(options)
    return f"{what}: {', '.join(difflib.get_close_matches(found, names, n=3) or names) or 'there is none yet'}"


def listed(names: Iterable[str], most: int = 5) -> str:
    """Some names and how many there are, for a message: "video3, video7" or "video0, video1, … (1,204 in all)"."""
    names = list(names)
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])}, … ({len(names):,} in all)"
