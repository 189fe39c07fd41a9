"""`python -m vtrlib results`: runs what the ledger lacks, and loses at most one seed when killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vtrlib import experiments, ledger
from vtrlib.__main__ import main

PROGRAM = """
import os, signal, sys
from pathlib import Path
from vtrlib.__main__ import main
from vtrlib.experiments import experiment

log = Path(sys.argv[1])

@experiment("toy", seeds=(3, 5, 7), scale=2.0)
def toy(seed, scale):
    with log.open("a") as file:
        print(seed, file=file)
    if seed == 5 and log.read_text().split() == ["3", "5"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"score": scale * seed}

sys.exit(main(["results", "toy"]))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ledger beside an empty registry."""
    monkeypatch.setattr(experiments, "REGISTRY", {})
    monkeypatch.setenv("VTRLIB_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def register(seeds: tuple[int, ...] = (3, 5, 7), scale: float = 2.0) -> list[int]:
    """Register an experiment "toy" and return the list of the seeds that were run."""
    ran: list[int] = []
    experiments.REGISTRY.pop("toy", None)

    @experiments.experiment("toy", seeds=seeds, scale=scale)
    def toy(seed: int, scale: float) -> dict[str, float]:
        ran.append(seed)
        return {"score": scale * seed, "other": -1}

    return ran


def test_what_is_missing_is_run_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = register()
    assert main(["results", "--list"]) == 0
    assert re.search(r"^toy +missing$", capsys.readouterr().out, re.M)
    assert main(["results"]) == 0
    assert ran == [3, 5, 7]
    told = capsys.readouterr().out
    assert "toy: seed 5 (2 of 3, " in told
    assert f"toy: wrote {folder / 'toy'}.json" in told
    row = ledger.read_row(folder / "toy.json")
    assert row.metrics == {"score": [6.0, 10.0, 14.0], "other": [-1.0, -1.0, -1.0]}
    assert (row.seeds, row.config, row.command) == ([3, 5, 7], {"scale": 2.0}, "python -m vtrlib results toy")
    assert main(["results", "toy"]) == 0
    assert ran == [3, 5, 7]
    assert "toy: present. To run it again, delete" in capsys.readouterr().out
    assert not list(folder.rglob("[0-9].json")), "seeds are dropped once the row stands"


@pytest.mark.parametrize("changes", [{"scale": 3.0}, {"seeds": (3, 5)}])
def test_a_row_of_other_settings_is_stale_and_run_again(
    folder: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    register()
    main(["results"])
    ran = register(**changes)
    capsys.readouterr()
    main(["results", "--list", "toy"])
    assert re.fullmatch(r"toy +stale\n", capsys.readouterr().out)
    assert main(["results"]) == 0
    assert ran == ledger.read_row(folder / "toy.json").seeds
    main(["results", "--list"])
    assert re.search(r"^toy +present$", capsys.readouterr().out, re.M)


def test_a_row_of_another_command_is_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register()
    main(["results"])
    experiments.REGISTRY.clear()
    capsys.readouterr()
    assert main(["results", "--list"]) == 0
    assert re.fullmatch(r"toy +present, no experiment of that id\n", capsys.readouterr().out)


def test_a_killed_run_loses_at_most_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTRLIB_RESULTS", str(tmp_path / "results"))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "log")]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "results" / "toy.json").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text().split() == ["3", "5", "5", "7"]
    assert "toy: seed 3 (1 of 3, kept): score 6" in done.stdout
    assert ledger.read_row(tmp_path / "results" / "toy.json").metrics == {"score": [6.0, 10.0, 14.0]}


def test_a_kept_seed_of_other_code_is_run_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = register()
    monkeypatch.setattr(ledger, "write_row", lambda *_: pytest.fail("stop here"))
    for code, expected in [("one", [3, 5, 7]), ("one", [3, 5, 7]), ("two", [3, 5, 7, 3, 5, 7])]:
        monkeypatch.setattr(experiments, "_code", lambda code=code: code)
        with pytest.raises(pytest.fail.Exception, match="stop here"):
            main(["results"])
        assert ran == expected


def test_a_ledger_that_cannot_be_written_keeps_the_seeds(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = register()
    with monkeypatch.context() as patch:

        def refuse(*_: object) -> None:
            raise PermissionError(f"{folder}: cannot write")

        patch.setattr(ledger, "write_row", refuse)
        assert main(["results"]) == 1
    assert f"{folder}: cannot write" in capsys.readouterr().err
    assert main(["results"]) == 0
    assert ran == [3, 5, 7]


def test_an_unknown_id_and_a_bad_row_are_told_without_a_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = register()
    assert main(["results", "tooy"]) == 1
    assert "ID='tooy': expected one of 'toy'. Did you mean 'toy'?" in capsys.readouterr().err
    folder.mkdir()
    (folder / "toy.json").write_text("{}")
    assert main(["results"]) == 1
    assert f"{folder / 'toy.json'}: top level: 'id' is a required property" in capsys.readouterr().err
    assert ran == []


def test_a_seed_resumes_inside_from_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept while settings and code are the same; the time that went into what is there is counted."""
    seen: list[list[str]] = []
    now, fails = [1000.0], [True]
    code = ["one"]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(experiments, "_code", lambda: code[0])

    def register(scale: float) -> None:
        experiments.REGISTRY.clear()

        @experiments.experiment("toy", seeds=(3,), scale=scale)
        def toy(seed: int, folder: Path, scale: float) -> dict[str, float]:
            seen.append(sorted(path.name for path in folder.iterdir()))
            (folder / f"after {len(seen)}").touch()
            os.utime(folder / f"after {len(seen)}", (0, now[0] + 40))
            if fails[0]:
                now[0] += 500  # it runs on, keeps nothing more, and dies
                raise RuntimeError("killed")
            return {"score": scale}

    for change in (None, None, "code", "scale", "scale"):
        register(scale=3.0 if change == "scale" else 2.0)
        code[0] = "two" if change in ("code", "scale") else "one"
        with pytest.raises(RuntimeError, match="killed"):
            main(["results"])
    fails[0] = False
    assert main(["results"]) == 0
    assert seen == [[], ["after 1"], [], [], ["after 4"], ["after 4", "after 5"]], (
        "other code, or other settings, begin anew"
    )
    assert 80 <= ledger.read_row(folder / "toy.json").wall_seconds < 81
    assert [path.name for path in folder.rglob("*") if not path.is_dir()] == ["toy.json"]


def test_ctrl_c_is_told_without_a_traceback(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for said, expected in [(("Stopped after step 4.",), "Stopped after step 4."), ((), "run the same command again")]:
        experiments.REGISTRY.clear()

        @experiments.experiment("toy", seeds=(3,))
        def toy(seed: int, said: tuple[str, ...] = said) -> dict[str, float]:
            raise KeyboardInterrupt(*said)

        assert main(["results"]) == 130
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("id", "seeds", "config", "message"),
    [
        ("toy", (1,), {}, "id='toy': found twice"),
        ("My Toy", (1,), {}, "id='My Toy': expected a slug"),
        ("other", (), {}, r"seeds=\(\) of 'other'"),
        ("other", (1, 1), {}, r"seeds=\(1, 1\) of 'other'"),
        ("other", (1,), {"seed": 2}, "config of 'other': found 'seed'"),
        ("other", (1,), {"folder": "x"}, "config of 'other': found 'folder'"),
        ("other", (1,), {"path": Path()}, "config of 'other': .*not JSON serializable"),
        ("other", (1,), {"rate": float("nan")}, "config of 'other'"),
    ],
)
def test_a_bad_registration_is_refused(
    folder: Path, id: str, seeds: tuple[int, ...], config: dict[str, Any], message: str
) -> None:
    register()
    with pytest.raises(ValueError, match=message):
        experiments.experiment(id, seeds=seeds, **config)


@pytest.mark.parametrize(
    ("result", "message"),
    [({"score": float("nan")}, "seed 3 gave .*nan"), ({}, "seed 3 gave no metric"), (None, "seed 5 gave \\['late'\\]")],
)
def test_a_bad_metric_is_refused(folder: Path, result: dict[str, float] | None, message: str) -> None:
    @experiments.experiment("toy", seeds=(3, 5))
    def toy(seed: int) -> dict[str, float]:
        return {"late" if seed == 5 else "score": 1.0} if result is None else result

    with pytest.raises(ValueError, match=message):
        main(["results"])
    assert ledger.read_rows(folder) == {}


def test_this_books_ledger_lacks_nothing() -> None:
    rows = ledger.read_rows(Path(__file__).resolve().parents[1] / "book" / "results")
    assert experiments.REGISTRY, "no experiment is registered"
    states = {id: experiments.state(one, rows) for id, one in experiments.REGISTRY.items()}
    assert set(states.values()) == {"present"}, f"run: make results {states}"
