"""pyproject.toml, constraints.txt, environment.yml, the installer and the CI all name the same versions."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LISTED = [*PROJECT["dependencies"], *(r for extra in PROJECT["optional-dependencies"].values() for r in extra)]
REQUIREMENTS = [Requirement(line) for line in LISTED]


def pins() -> dict[str, str]:
    """Package to exact version, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def installer() -> ModuleType:
    """The module .ci/install.py, which runs under the system's Python."""
    spec = importlib.util.spec_from_file_location("install", ROOT / ".ci" / "install.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_constraints_pin_every_requirement() -> None:
    assert not any("+" in version for version in pins().values()), "a local version (+cpu) is on no public index"
    unmet = [str(r) for r in REQUIREMENTS if not r.specifier.contains(pins().get(canonicalize_name(r.name), ""))]
    assert unmet == [], "run `make lock`"


def test_environment_lists_the_same_packages() -> None:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    conda = [d for d in dependencies if isinstance(d, str)]
    (pip,) = [d["pip"] for d in dependencies if isinstance(d, dict)]
    python = next(d for d in conda if d.startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.split("=")[1])
    assert {re.split("[=<>]", d)[0] for d in conda} == {"python", "pip"}
    names = sorted({canonicalize_name(r.name) for r in REQUIREMENTS})
    # no "-c constraints.txt" and no "-r": micromamba writes this list to a temporary file
    assert [p for p in pip if not p.startswith("--")] == [f"{name}=={pins()[name]}" for name in names] + ["-e ."]


def test_installer_takes_the_pythons_of_the_project() -> None:
    install, wanted = installer(), SpecifierSet(PROJECT["requires-python"])
    accepted = [minor for minor in range(30) if install.OLDEST <= (3, minor) <= install.NEWEST]
    assert accepted == [minor for minor in range(30) if wanted.contains(f"3.{minor}")]
    workflow = (ROOT / ".github" / "workflows" / "book.yml").read_text("utf-8")
    assert wanted.contains(yaml.safe_load(workflow)["env"]["PYTHON_VERSION"])


def test_installer_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install = installer()
    monkeypatch.setattr(install, "OLDEST", (3, 98))
    monkeypatch.setattr(install, "NEWEST", (3, 99))
    with pytest.raises(SystemExit, match=r"needs 3\.98 to 3\.99.*make book PYTHON="):
        install.refuse_unfit(tmp_path / "none")
    monkeypatch.setattr(install, "OLDEST", (3, 0))
    find = importlib.util.find_spec
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find(name))
    with pytest.raises(SystemExit, match=r"no module ensurepip.*sudo apt install python3\.\d+-venv"):
        install.refuse_unfit(tmp_path / "none")


def test_installer_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(SystemExit, match="is no virtual environment"):
        installer().refuse_unfit(tmp_path)


def test_failed_install_does_not_look_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install, steps = installer(), []

    def broken(command: list[str], **_: object) -> int:
        steps.append(command)
        return 1 if "pip" in command else 0

    monkeypatch.setattr(install.subprocess, "call", broken)
    (tmp_path / "pyvenv.cfg").touch()
    (tmp_path / ".ready").write_text("what an older project needed")
    with pytest.raises(SystemExit, match="Installing stopped at: .*pip install"):
        install.main(tmp_path, cpu=False)
    assert any("constraints.txt" in command for command in steps)
    assert not (tmp_path / ".ready").exists()


def test_install_is_not_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install = installer()
    monkeypatch.setattr(install.subprocess, "call", lambda command, **_: pytest.fail(f"ran {command}"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    (tmp_path / ".ready").write_text(install.fingerprint())
    install.main(tmp_path, cpu=False)
