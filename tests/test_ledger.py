"""`vtrlib.ledger`: rows survive the file and nothing else does; intervals against SciPy and against chance."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from vtrlib import ledger, provenance

ROW = ledger.Row(
    id="toy-order",
    command="python -m vtrlib results toy-order",
    commit="abc1234+changes",
    date="2026-01-31",
    config={"steps": 40, "motions": ["moves left", "spins [fast]"], "nested": {"b": [1, 2], "a": None}},
    seeds=[3, 5, 7],
    hardware={"cpu": "A CPU", "cores": 2, "memory_gib": 7.5, "gpu": None, "threads": 1},
    versions={"python": "3.11.7", "torch": "2.13.0"},
    wall_seconds=12.5,
    metrics={"ordered/R@1": [0.1, 1 / 3, 0.75], "bag/R@1": [0.25, 1e-9, 0.5]},
    canary=[2.5, 2.25],
)


def plant(folder: Path, **changes: Any) -> Path:
    """Write the row's file with some keys changed; `...` takes a key away."""
    data = {**dataclasses.asdict(ROW), **changes}
    path = folder / "toy-order.json"
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}), encoding="utf-8")
    return path


def test_a_row_survives_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "book" / "results"  # made by the first row
    path = ledger.write_row(ROW, folder)
    assert path == folder / "toy-order.json"
    assert ledger.read_row(path) == ROW
    other = dataclasses.replace(ROW, id="a-first", canary=None)
    ledger.write_row(other, folder)
    assert ledger.read_rows(folder) == {"a-first": other, "toy-order": ROW}
    assert list(ledger.read_rows(folder)) == ["a-first", "toy-order"]
    assert sorted(p.name for p in folder.iterdir()) == ["a-first.json", "toy-order.json"]


def test_a_file_is_for_people_and_small_diffs(tmp_path: Path) -> None:
    text = ledger.write_row(ROW, tmp_path).read_text("utf-8")
    assert text.endswith("}\n")
    assert re.findall(r'^  "(\w+)":', text, re.M) == [field.name for field in dataclasses.fields(ledger.Row)]
    assert '\n  "seeds": [3, 5, 7],\n' in text
    assert text.index('"bag/R@1"') < text.index('"ordered/R@1"')
    shuffled = dataclasses.replace(ROW, metrics=dict(reversed(ROW.metrics.items())))
    assert ledger.write_row(shuffled, tmp_path).read_text("utf-8") == text


def test_a_missing_folder_holds_no_rows(tmp_path: Path) -> None:
    assert ledger.read_rows(tmp_path / "nowhere") == {}


BAD = [
    ("id", "Toy Order", "id: found 'Toy Order', expected a slug"),
    ("id", "toy-order\n", "id: found 'toy-order\\n', expected a slug"),
    ("id", "other", "id: found 'other', expected 'toy-order', the file's name"),
    ("command", "", "command: found '', expected the shell command"),
    ("commit", "main", "commit: found 'main', expected a commit"),
    ("date", "31.1.2026", "date: found '31.1.2026', expected a date"),
    ("date", "2026-02-30", "date: found '2026-02-30', expected a day that exists"),
    ("config", None, "config: found None, expected a mapping"),
    ("seeds", [], "seeds: found [], expected a list of one or more"),
    ("seeds", [3, 3, 5], "seeds: found [3, 3, 5], expected a list of one or more different seeds"),
    ("seeds", [3, True, 7], "seeds[1]: found True, expected a seed, an integer"),
    ("seeds", [3, 5], "expected 2, one per seed"),
    ("hardware", {"host": "x"}, "hardware: Additional properties are not allowed ('host' was unexpected)"),
    ("versions", {"torch": 2.13}, "versions.torch: found 2.13, expected a version as a string"),
    ("wall_seconds", -1, "wall_seconds: found -1, expected seconds"),
    ("metrics", {}, "metrics: found {}, expected a mapping of one or more metrics"),
    ("metrics", {"R@1": [1, 2, "3"]}, "found '3', expected a finite number"),
    ("metrics", {"R@1": [1, 2]}, "metrics['R@1']: found 2 numbers, expected 3, one per seed"),
    ("canary", 2.5, "canary: found 2.5, expected a list of one or more finite numbers, or null"),
    ("canary", [], "canary: found [], expected a list of one or more finite numbers, or null"),
    ("host", "here", "top level: Additional properties are not allowed ('host' was unexpected)"),
    ("seeds", ..., "top level: 'seeds' is a required property"),
]


@pytest.mark.parametrize(("key", "value", "message"), BAD, ids=[f"{bad[0]}={bad[1]!r}" for bad in BAD])
def test_a_bad_row_is_refused_with_file_and_key(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = plant(tmp_path, **{key: value})
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        ledger.read_row(path)
    assert str(path) in str(caught.value)
    assert "python -m vtrlib results toy-order" in str(caught.value)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"commit: found 'main'[\s\S]*date: found 'today'"):
        ledger.read_row(plant(tmp_path, commit="main", date="today"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"commit"', '"date": "2026-01-30", "commit"', "key 'date': found twice"),
        ('"wall_seconds": 12.5', '"wall_seconds": NaN', "number NaN: expected a finite one"),
        ('"wall_seconds": 12.5', '"wall_seconds": 1e999', "number 1e999: expected a finite one"),
        ("}", "", "Expected a ledger row"),
    ],
)
def test_what_json_would_let_pass_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = plant(tmp_path)
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        ledger.read_row(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"metrics": {"R@1": [0.1, float("nan"), 0.3]}},
            "metrics['R@1']: found [0.1, nan, 0.3], expected finite numbers",
        ),
        ({"metrics": {"R@1": [0.1]}}, "metrics['R@1']: found 1 numbers, expected 3"),
        ({"canary": [float("inf")]}, "canary: found [inf], expected finite numbers"),
        ({"seeds": [1.5, 2, 3]}, "seeds[0]: found 1.5, expected a seed"),
        ({"id": "../toy"}, "id: found '../toy', expected a slug"),
    ],
)
def test_a_bad_row_is_never_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ledger.write_row(dataclasses.replace(ROW, **changes), tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_write_permission_is_named_and_keeps_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.write_row(ROW, tmp_path)

    def refuse(*_: object) -> None:  # root may write anywhere, so the rights themselves can't be tested
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError, match="cannot write toy-order.json .*VTRLIB_RESULTS") as caught:
        ledger.write_row(dataclasses.replace(ROW, wall_seconds=1.0), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["toy-order.json"]
    assert ledger.read_row(tmp_path / "toy-order.json") == ROW


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(OSError, match=re.escape(f"{tmp_path / 'results'}: cannot write toy-order.json")):
        ledger.write_row(ROW, tmp_path / "results")
    assert (tmp_path / "results").read_text() == "a file"


def test_the_results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTRLIB_RESULTS", str(tmp_path))
    assert ledger.results_folder() == tmp_path
    monkeypatch.delenv("VTRLIB_RESULTS")
    assert ledger.results_folder() == Path(__file__).resolve().parents[1] / "book" / "results"
    monkeypatch.setattr(ledger, "checkout", lambda: None)
    with pytest.raises(FileNotFoundError, match="VTRLIB_RESULTS: not set"):
        ledger.results_folder()


def test_facts_fit_a_row(tmp_path: Path) -> None:
    facts = dataclasses.replace(
        ROW, hardware=ledger.hardware(), versions=ledger.versions(), commit=ledger.commit(), id="facts"
    )
    ledger.write_row(facts, tmp_path)
    assert facts.hardware["memory_gib"] > 0.1
    assert facts.versions["python"] == ".".join(map(str, sys.version_info[:3]))


def test_threads_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert ledger.hardware()["threads"] == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert ledger.hardware()["threads"] == os.cpu_count()


def test_a_commit_is_clean_while_the_sources_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", tmp_path, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    for name in ("vtrlib/a.py", "book/a.md", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(provenance, "checkout", lambda: tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() == "unknown"
    git("init", "--quiet")
    git("add", ".")
    git("-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "first")
    head = git("rev-parse", "--short=7", "HEAD")
    (tmp_path / "book" / "a.md").write_text("prose changes no number\n")
    assert provenance.commit() == head
    (tmp_path / "vtrlib" / "b.py").write_text("y = 2\n")
    assert provenance.commit() == f"{head}+changes"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert provenance.commit() == "unknown"
    monkeypatch.setattr(provenance, "checkout", lambda: None)
    assert provenance.commit() == "unknown"


def test_no_torch_is_imported() -> None:
    code = "import vtrlib.claims, vtrlib.experiments, vtrlib.__main__, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("n", [2, 5, 11])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_are_scipys(n: int, level: float) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.6, 0.1, n), rng.normal(0.5, 0.2, n)
    for ours, theirs in [
        (ledger.interval(list(a), level), ttest_1samp(a, 0).confidence_interval(level)),
        (ledger.paired_interval(list(a), list(b), level), ttest_rel(a, b).confidence_interval(level)),
    ]:
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-10)
        assert ours.n == n
    assert ledger.interval(list(a)).mean == pytest.approx(a.mean())
    assert ours.half_width == pytest.approx((theirs.high - theirs.low) / 2)


def test_a_95_percent_interval_covers_95_percent() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(1.5, 2.0, (4000, 5))
    found = [ledger.interval(list(row)) for row in draws]
    covered = sum(one.low <= 1.5 <= one.high for one in found) / len(found)
    assert abs(covered - 0.95) < 3 * (0.95 * 0.05 / 4000) ** 0.5  # a normal quantile would give 0.88


def test_equal_values_give_an_interval_of_no_width() -> None:
    found = ledger.interval([0.1, 0.1, 0.1])
    assert found == ledger.Interval(0.1, 0.1, 0.1, 3)
    assert found.half_width == 0


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        ([0.5], 0.95, "values: found 1, expected at least 2"),
        ([], 0.95, "values: found 0, expected at least 2"),
        ([0.5, float("nan")], 0.95, "expected finite numbers"),
        ([0.5, 0.6], 95, "level=95: expected a number between 0 and 1"),
    ],
)
def test_an_interval_refuses(values: list[float], level: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ledger.interval(values, level)


def test_pairs_have_equal_numbers() -> None:
    with pytest.raises(ValueError, match="b: found 3 values, expected 2"):
        ledger.paired_interval([1, 2], [1, 2, 3])
