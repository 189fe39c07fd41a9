"""The Makefile, .ci/run and the environment in which notebooks run. What the commands do is in test_guards.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_book import add_cell, make, small_book

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("book", "test", "page", "lab", "run", "sync", "results", "clean", "lock")


def call(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository, with more environment variables."""
    # MAKEFLAGS: the tests may themselves be run by make
    kept = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "VENV", "CPU")}
    return subprocess.run(
        command, cwd=ROOT, env=kept | variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_help_is_the_default_and_lists_every_command() -> None:
    done = call("make")
    assert done.returncode == 0 and re.findall(r"^  make (\w+) +\S", done.stdout, re.MULTILINE)
    assert set(COMMANDS) <= set(re.findall(r"^  make (\w+) +\S", done.stdout, re.MULTILINE))


def test_no_python_is_a_readable_error() -> None:
    done = call("make", "page", "PYTHON=python-that-is-nowhere", "VENV=_build/no-such-venv")
    assert done.returncode != 0 and "python-that-is-nowhere not found. Install Python 3.11 to 3.13" in done.stdout


@pytest.mark.parametrize("command", ["book", "test", "page", "lab", "run", "sync", "results", "lock"])
def test_every_command_installs_first(command: str) -> None:
    lines = call("make", "-n", command).stdout.splitlines()
    (install,) = [number for number, line in enumerate(lines) if ".ci/install.py" in line]
    work = [number for number, line in enumerate(lines) if f"{os.sep}bin{os.sep}" in line]
    assert work and install < min(work)


def test_real_data_never_reaches_the_notebooks() -> None:
    for command in ("test", "run", "book"):
        lines = [line for line in call("make", "-n", command).stdout.splitlines() if "/bin/python" in line]
        assert lines and all(line.startswith("env -u VTRLIB_DATA ") for line in lines)
    script = "import os, strict, pathlib; strict.enter(pathlib.Path('x')); print(sorted(os.environ.items()))"
    user = dict.fromkeys(("VTRLIB_DATA", "VTRLIB_RESULTS", "MPLBACKEND", "IPYTHONDIR", "MPLCONFIGDIR"), "mine")
    seen = call(sys.executable, "-c", script, PYTHONPATH=str(ROOT / ".ci"), **user)
    assert seen.returncode == 0 and "'mine'" not in seen.stdout


def test_notebook_runs_in_the_environment_of_the_commands(tmp_path: Path) -> None:
    root = small_book(tmp_path / "book")
    add_cell(root, "import os, vtrlib\n\nassert 'VTRLIB_DATA' not in os.environ")
    add_cell(root, f"assert vtrlib.__file__.startswith({str(root)!r})")
    add_cell(root, "assert os.environ['PYTHONHASHSEED'] == '0' and os.environ['OMP_NUM_THREADS']")
    assert make(root, "run").returncode == 0


@pytest.mark.parametrize(
    ("broken", "expected"), [("none", ["test", "page"]), ("test", ["test"]), ("page", ["test", "page"])]
)
def test_ci_runs_test_then_page_and_stops_at_a_failure(tmp_path: Path, broken: str, expected: list[str]) -> None:
    stand_in = tmp_path / "make"
    stand_in.write_text(f'#!/bin/sh\necho "called $1"\n[ "$1" != {broken} ]\n')
    stand_in.chmod(0o755)
    done = call(str(ROOT / ".ci" / "run"), PATH=f"{tmp_path}:{os.environ['PATH']}", HOME="")
    assert re.findall(r"called (\w+)", done.stdout) == expected
    assert (done.returncode == 0) == (broken == "none")
