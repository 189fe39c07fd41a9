r"""JSON schemas of the files that people and runs write: ledger rows, claims and the times of the notebooks.

Every part carries a "description", which `vtrlib.check.conforms` quotes as what was expected. Patterns end in \Z,
because $ would let a final newline pass.
"""

from __future__ import annotations

from typing import Any

__all__ = ["CLAIM", "CLAIMS", "EVIDENCE", "KINDS", "PAPERS", "ROW", "RUNS", "SLUG"]

Schema = dict[str, Any]

PAPERS = ("DreamPRVR", "DiscoVLA", "PIG", "RagMe")
KINDS = ("definition", "equation", "algorithm", "figure", "ablation", "causal", "table")
SLUG = r"^[a-z0-9]+(-[a-z0-9]+)*\Z"


def _text(expected: str, pattern: str = r"\S") -> Schema:
    return {"type": "string", "pattern": pattern, "description": expected}


def _number(expected: str, kind: str | list[str] = "number", minimum: float = 0) -> Schema:
    return {"type": kind, "minimum": minimum, "description": expected}


def _one_of(options: tuple[str, ...]) -> Schema:
    return {"enum": list(options), "description": f"one of {', '.join(options)}"}


def _mapping(properties: dict[str, Schema], optional: tuple[str, ...] = (), note: str = "") -> Schema:
    """A mapping of exactly these keys."""
    return {
        "type": "object",
        "properties": properties,
        "required": [key for key in properties if key not in optional],
        "additionalProperties": False,
        "description": f"a mapping with the keys {', '.join(properties)}{note}",
    }


_SLUG = _text("a slug: a-z, 0-9 and single hyphens", SLUG)
_NUMBERS: Schema = {
    "type": "array",
    "items": {"type": "number", "description": "a finite number"},
    "description": "a list of finite numbers",
}

ROW = _mapping(
    {
        "id": _SLUG,
        "command": _text("the shell command that makes this row again"),
        "commit": _text(
            "a commit as abc1234 or abc1234+changes, or unknown", r"^([0-9a-f]{7,40}(\+changes)?|unknown)\Z"
        ),
        "date": _text("a date as 2026-01-31", r"^\d{4}-\d\d-\d\d\Z"),
        "config": {"type": "object", "description": "a mapping: the settings of the experiment"},
        "seeds": {
            "type": "array",
            "minItems": 1,
            "uniqueItems": True,
            "items": {"type": "integer", "description": "a seed, an integer"},
            "description": "a list of one or more different seeds",
        },
        "hardware": _mapping(
            {
                "cpu": _text("the CPU's model name"),
                "cores": _number("the number of CPU cores", "integer", 1),
                "memory_gib": _number("main memory in GiB"),
                "gpu": {"type": ["string", "null"], "description": "the accelerator's name, or null"},
                "threads": _number("the number of CPU threads used", "integer", 1),
            }
        ),
        "versions": {
            "type": "object",
            "additionalProperties": _text("a version as a string"),
            "description": "a mapping of package to version",
        },
        "wall_seconds": _number("seconds, all seeds together"),
        "metrics": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": _NUMBERS,
            "description": "a mapping of one or more metrics to lists of finite numbers",
        },
        "canary": {
            **_NUMBERS,
            "type": ["array", "null"],
            "minItems": 1,
            "description": "a list of one or more finite numbers, or null",
        },
    }
)

CLAIM = _mapping(
    {
        "id": _SLUG,
        "paper": _one_of(PAPERS),
        "place": _text("where the paper says it, as Sec. 1, Fig. 1(a)"),
        "statement": _text("what is claimed, in our own words"),
        "kind": _one_of(KINDS),
        "anchor": _text(
            "a page and a label on it, as notebooks/01_world#sec-ambiguity",
            r"^(notebooks|book)/[A-Za-z0-9_-]+#[a-z0-9]+(-[a-z0-9]+)*\Z",
        ),
        "object": {
            "type": ["string", "null"],
            "pattern": r"^vtrlib(\.\w+)+\Z",
            "description": "a dotted path as vtrlib.world.MovingDigits, or null where the claim is not testable here",
        },
        "test": {
            "type": ["string", "null"],
            "pattern": r"^tests/\w+\.py(::\w+)+\Z",
            "description": "a test as tests/test_world.py::test_x, or null where the claim is not testable here",
        },
        "evidence": {
            "type": "object",
            "description": "a mapping {exact: true}, {row: …, better: …, worse: …}, {refuted: …} or {because: …}",
        },
        "effect": _text("a remark on what follows from it"),
    },
    optional=("effect",),
    note="; a status is computed from the evidence, never typed",
)
CLAIMS: Schema = {"type": "array", "items": {"type": "object", "description": "a claim: a mapping"},
                  "description": "a list of claims"}  # fmt: skip

# One schema a form, chosen by the key that only this form has: better messages than a "oneOf" over all three.
EVIDENCE = {
    "exact": _mapping({"exact": {"const": True, "description": "true"}}),
    "row": _mapping(
        {"row": _SLUG, "better": _text("a metric of the row"), "worse": _text("another metric of the row")},
        note="; the paper says that better is the greater one",
    ),
    "refuted": _mapping({"refuted": _text("what its test shows instead")}),
    "because": _mapping({"because": _text("the reason why it can't be tested here")}),
}

# Written by the program that runs the notebooks, which may add facts of its own: further keys are welcome.
RUNS: Schema = {
    "type": "object",
    "required": ["machine", "notebooks"],
    "properties": {
        "machine": {
            "type": "object",
            "minProperties": 1,
            "description": "a mapping of facts about machine and versions",
        },
        "notebooks": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "required": ["seconds", "peak_mib"],
                "properties": {
                    "seconds": _number("wall seconds"),
                    "peak_mib": _number("peak memory in MiB, or null where unknown", ["number", "null"]),
                },
                "description": "a mapping with the keys seconds and peak_mib",
            },
            "description": "a mapping of one or more notebooks to their times",
        },
    },
    "description": "a mapping with the keys machine and notebooks",
}
