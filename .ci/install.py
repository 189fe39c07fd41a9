"""Make a virtual environment and install the project into it; called by make with the system's own Python.

Written so that an old Python gets as far as the message that it is too old.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)  # as requires-python in pyproject.toml; a test compares
ROOT = Path(__file__).resolve().parents[1]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main(folder: Path, cpu: bool) -> None:
    """Install into `folder` unless the same was installed there before; `cpu`: a torch without CUDA, on Linux."""
    ready, python = folder / ".ready", folder / "bin" / "python"
    wanted = fingerprint()
    if ready.exists() and ready.read_text() == wanted and python.exists():
        return
    refuse_unfit(folder)
    if ready.exists():
        ready.unlink()  # a failed install must not look done
    print("installing into %s (about 2 GB; 1 to 5 minutes) ..." % folder, flush=True)
    # --clear where another Python made it, or where making it was broken off.
    clear = folder.exists() and not works(python)
    run([sys.executable, "-m", "venv", str(folder)] + (["--clear"] if clear else []))
    index = ["--extra-index-url", CPU_INDEX] if cpu else []
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(pip + index + ["-c", "constraints.txt", "-e", ".[notebooks,book,test]"])
    part = folder / ".ready.part"
    part.write_text(wanted)
    os.replace(str(part), str(ready))


def fingerprint() -> str:
    """What is to be installed: changes with the project's requirements and the pinned versions."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def refuse_unfit(folder: Path) -> None:
    """Stop with what to do if this Python, or what stands at `folder`, will not do."""
    version = "%d.%d" % sys.version_info[:2]
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        sys.exit(
            "%s is Python %s; this book needs 3.%d to 3.%d. Name another: make book PYTHON=python3.%d"
            % (sys.executable, version, OLDEST[1], NEWEST[1], NEWEST[1])
        )
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            "%s has no module %s, so it cannot make a virtual environment. "
            "On Debian and Ubuntu: sudo apt install python%s-venv" % (sys.executable, missing[0], version)
        )
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        sys.exit("%s exists and is no virtual environment. Name another: make book VENV=folder" % folder)


def works(python: Path) -> bool:
    """Whether `python` runs, has pip and is the version of this Python."""
    check = "import pip, sys; sys.exit(sys.version_info[:2] != %r)" % (sys.version_info[:2],)
    return python.exists() and subprocess.call([str(python), "-c", check], stderr=subprocess.DEVNULL) == 0


def run(command: "list[str]") -> None:
    """Run a step; stop with a readable message if it fails."""
    if subprocess.call(command, cwd=str(ROOT)) != 0:
        sys.exit("Installing stopped at: %s\nThe reason stands above; mend it and call make again." % " ".join(command))


if __name__ == "__main__":
    main(Path(os.path.abspath(sys.argv[1])), cpu="--cpu" in sys.argv[2:])
