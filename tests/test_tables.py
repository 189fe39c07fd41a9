"""Tables made of ledger rows."""

from dataclasses import replace

import pytest

from vtrlib import ledger, tables
from vtrlib.ledger import Row

ROW = Row(
    id="toy", command="python -m vtrlib results toy", commit="abc1234", date="2026-01-01", config={}, seeds=[3, 5, 8],
    hardware={"cpu": "a processor"}, versions={}, wall_seconds=1.0,
    metrics={"R@1": [1.0, 2.0, 6.0], "chance R@1": [0.25] * 3, "DSL/R@1": [1e4, 2e4, 3e4]},
)  # fmt: skip


def test_a_table_holds_means_with_intervals_and_the_way_to_get_them_again():
    lines = tables.measured(ROW, {"ours": "", "chance": "chance "}, ["R@1"], digits=2, corner="of").text.splitlines()
    found = ledger.interval([1.0, 2.0, 6.0])
    assert lines[0] == "| of | R@1 |"
    assert lines[2] == f"| ours | 3.00 ± {found.half_width:.2f} |"
    assert lines[3] == "| chance | 0.25 |"  # the same for every seed: no interval
    assert "3 seeds" in lines[-1] and ROW.command in lines[-1] and ROW.commit in lines[-1] and "a processor" in lines[-1]


def test_one_seed_has_no_interval():
    one = replace(ROW, seeds=[1], metrics={"R@1": [7.0]})
    text = tables.measured(one, {"ours": ""}, ["R@1"]).text
    assert "| ours | 7.0 |" in text and "±" not in text and "one run" in text


def test_a_row_is_found_by_its_id(tmp_path, monkeypatch):
    ledger.write_row(replace(ROW, hardware={"cpu": "p", "cores": 1, "gpu": None, "memory_gib": 1.0, "threads": 1}), tmp_path)
    monkeypatch.setenv("VTRLIB_RESULTS", str(tmp_path))
    shown = tables.measured("toy", {"with DSL": "DSL/"}, ["R@1"])
    assert "| with DSL | 20,000.0 ±" in shown.text and shown._repr_markdown_() == repr(shown) == shown.text
    with pytest.raises(ValueError, match=r"row='toi'.*'toy'"):
        tables.measured("toi", {"ours": ""}, ["R@1"])


def test_a_metric_the_row_lacks_is_named():
    with pytest.raises(ValueError, match=r"metric of toy='R@5'.*'R@1'"):
        tables.measured(ROW, {"ours": ""}, ["R@5"])
    with pytest.raises(ValueError, match="digits"):
        tables.measured(ROW, {"ours": ""}, ["R@1"], digits=-1)
