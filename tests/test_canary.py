"""`vtrlib.canary`: a row whose numbers would come out differently goes stale by itself."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest

from vtrlib import canary, experiments, ledger, studies
from vtrlib.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
REAL = dict(experiments.REGISTRY)
assert studies.__all__, "importing the studies fills the registry"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ledger beside an empty registry."""
    monkeypatch.setattr(experiments, "REGISTRY", {})
    monkeypatch.setenv("VTRLIB_RESULTS", str(tmp_path / "results"))
    monkeypatch.delenv("VTRLIB_DATA", raising=False)
    monkeypatch.setattr(experiments, "_code", lambda: "whatever is edited meanwhile")
    return tmp_path / "results"


def register(numbers: list[float] | None, **options: Any) -> list[int]:
    """Register an experiment "toy" whose canary gives `numbers`; the list of the seeds that were run."""
    ran: list[int] = []
    experiments.REGISTRY.pop("toy", None)

    def first(seed: int, scale: float) -> list[float]:
        assert (seed, scale) == (3, 2.0), "the first seed, and the settings"
        return numbers or []

    @experiments.experiment("toy", seeds=(3, 5), scale=2.0, canary=None if numbers is None else first, **options)
    def toy(seed: int, scale: float) -> dict[str, float]:
        ran.append(seed)
        return {"score": scale * seed}

    return ran


def test_drift_is_relative() -> None:
    assert canary.drift([5.5, 2.0], [5.5, 2.0]) == 0
    assert canary.drift([5.5, -2.0, 4.0], [5.511, -2.001, 3.99]) == pytest.approx(0.0025)
    assert canary.drift([0.0], [1e-9]) == pytest.approx(1e-6), "rounding beside a loss of exactly 0 is no drift"
    assert canary.drift([0.0], [1e-5]) > canary.TOLERANCE
    for found in ([5.5], [5.5, 2.0, 1.0], [5.5, math.nan], [5.5, math.inf]):
        assert canary.drift([5.5, 2.0], found) == math.inf
    assert canary.TOLERANCE == 1e-3


@pytest.mark.parametrize(("factor", "state"), [(1 + 9e-4, "holds"), (1 + 1.1e-3, "stale"), (1 - 1.1e-3, "stale")])
def test_a_row_goes_stale_beyond_the_tolerance(
    folder: Path, capsys: pytest.CaptureFixture[str], factor: float, state: str
) -> None:
    register([2.5, 2.25, 2.0])
    assert main(["results"]) == 0
    assert ledger.read_row(folder / "toy.json").canary == [2.5, 2.25, 2.0]
    ran = register([2.5, 2.25 * factor, 2.0])
    capsys.readouterr()
    assert main(["results", "--check"]) == (state == "stale")
    told = capsys.readouterr().out
    assert told.startswith(f"toy: {state}")
    assert ran == [], "a check runs nothing but the canary"
    if state == "stale":
        found = f"stored [2.5, 2.25, 2.0], found [2.5, {2.25 * factor}, 2.0], drift 1.1e-03 > 1e-03."
        assert found in told and told.endswith("To refresh it run: python -m vtrlib results toy\n")
    assert main(["results"]) == 0
    assert ran == ([3, 5] if state == "stale" else []), "make results runs a stale row again, and no other"
    assert main(["results", "--check"]) == 0


def test_a_row_from_before_its_canary_is_stale(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register(None)
    assert main(["results"]) == 0
    assert ledger.read_row(folder / "toy.json").canary is None
    capsys.readouterr()
    assert main(["results", "--check"]) == 0
    assert capsys.readouterr().out == "toy: no canary\n"
    ran = register([1.0])
    assert main(["results", "--check"]) == 1
    assert main(["results", "--list"]) == 0
    assert "stale" in capsys.readouterr().out.splitlines()[-1]
    assert main(["results"]) == 0
    assert ran == [3, 5]
    assert ledger.read_row(folder / "toy.json").canary == [1.0]


def test_a_check_finds_what_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register([1.0])
    assert main(["results", "--check"]) == 1
    assert capsys.readouterr().out == "toy: missing. Run: python -m vtrlib results toy\n"
    with pytest.raises(SystemExit):
        main(["results", "--check", "--list"])


@pytest.mark.parametrize("numbers", [[], [math.nan], [1.0, math.inf]])
def test_a_canary_without_finite_numbers_is_told_before_the_seeds_run(folder: Path, numbers: list[float]) -> None:
    ran = register(numbers)
    with pytest.raises(ValueError, match=re.escape(f"canary of 'toy': found {numbers}, expected one or more finite")):
        main(["results"])
    assert ran == []


def test_real_data_is_said_to_be_missing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = register([1.0], real_data=True)
    assert main(["results"]) == 0, "the rest of the ledger is none the worse for it"
    assert main(["results", "toy"]) == 1, "asked for by name it is a fault"
    told = "toy: missing, and needs real data: set VTRLIB_DATA to its folder\n"
    assert capsys.readouterr().out == told * 2
    assert ran == []
    monkeypatch.setenv("VTRLIB_DATA", "somewhere")
    assert main(["results"]) == 0
    assert ran == [3, 5]
    monkeypatch.delenv("VTRLIB_DATA")
    register([2.0], real_data=True)
    capsys.readouterr()
    assert main(["results", "--check"]) == 0
    assert capsys.readouterr().out == "toy: not checked, needs real data: set VTRLIB_DATA to its folder\n"
    monkeypatch.setenv("VTRLIB_DATA", "somewhere")
    assert main(["results", "--check"]) == 1


def plan(seed: int, rate: float) -> tuple[Any, ...]:
    """A training as a chapter's: model, data, loss, configuration."""
    import torch
    from torch.nn import functional
    from torch.utils.data import TensorDataset

    from vtrlib.training import Config

    torch.manual_seed(seed)
    model = torch.nn.Linear(5, 3)
    data = TensorDataset(torch.randn(31, 5), torch.randint(3, (31,)))
    config = Config(steps=30, batch_size=7, learning_rate=rate, seed=seed, schedule="cosine", checkpoint_every=10)
    return model, data, lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]), config


def first_losses(seed: int, **settings: Any) -> list[float]:
    from vtrlib import training

    return training.fit(*plan(seed, **settings), until=3).losses


@pytest.mark.parametrize("stop", [False, True])
def test_the_canary_of_a_training_is_its_first_losses(
    folder: Path, capsys: pytest.CaptureFixture[str], stop: bool
) -> None:
    """The protocol as a whole, and a seed that resumes inside from the folder that it asks for."""
    from vtrlib import training

    losses: dict[int, list[float]] = {}
    stopped: list[int] = []

    @experiments.experiment("toy", seeds=(3, 5), canary=first_losses, rate=0.1)
    def toy(seed: int, folder: Path, rate: float) -> dict[str, float]:
        model, data, loss, config = plan(seed, rate)
        if stop and seed == 5 and not stopped:
            stopped.append(seed)
            training.fit(model, data, loss, config, folder=folder, until=12)
            raise KeyboardInterrupt("Stopped after step 12.")
        kept = [path.name for path in folder.iterdir()]
        assert kept == (["step-00000012"] if seed == 5 and stop else []), "a folder of its own, kept while unfinished"
        losses[seed] = training.fit(model, data, loss, config, folder=folder).losses
        return {"loss": losses[seed][-1]}

    if stop:
        assert main(["results"]) == 130
        assert capsys.readouterr().err.endswith("\nStopped after step 12.\n")
    assert main(["results"]) == 0
    row = ledger.read_row(folder / "toy.json")
    assert row.canary == losses[3][:3] and losses[3][0] != losses[5][0]
    assert row.metrics["loss"] == [losses[3][-1], training.fit(*plan(5, 0.1)).losses[-1]]
    assert [path.name for path in folder.rglob("*") if not path.is_dir()] == ["toy.json"]
    assert main(["results", "--check"]) == 0
    moved = [row.canary[0], row.canary[1] * 1.002, row.canary[2]]
    ledger.write_row(dataclasses.replace(row, canary=moved), folder)
    assert main(["results", "--check"]) == 1


@pytest.mark.parametrize("id", sorted(REAL))
def test_no_row_of_this_book_is_stale(id: str) -> None:
    """Replays what `make results` would; a row without a canary must belong to an experiment without one."""
    rows = ledger.read_rows(ROOT / "book" / "results")
    assert id in rows, f"run: python -m vtrlib results {id}"
    verdict = canary.check(REAL[id], rows[id])
    if verdict.state == "not checked":
        pytest.skip(f"{id}: {verdict.text}")
    assert verdict.state in ("holds", "no canary"), f"{id}: {verdict.text}"
    assert (verdict.state == "no canary") == (REAL[id].canary is None)


def test_every_experiment_of_this_book_has_a_canary() -> None:
    assert [id for id, known in REAL.items() if known.canary is None] == []


def test_a_planted_drift_in_a_row_is_found(folder: Path) -> None:
    register([1.0, 2.0, 3.0])
    main(["results"])
    row = ledger.read_row(folder / "toy.json")
    known = experiments.REGISTRY["toy"]
    assert canary.check(known, row).state == "holds"
    for planted in ([1.0, 2.0, 3.01], [1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [3.0, 2.0, 1.0]):
        assert canary.check(known, dataclasses.replace(row, canary=planted)).state == "stale", planted
