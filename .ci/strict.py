"""What "strict" means here, in one place: the flags and the environment of every command, and of the tests of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["CELL_SECONDS", "ROOT", "SANITIZER", "build_command", "enter", "nbval_command", "warm_fonts"]

ROOT = Path(__file__).resolve().parents[1]
SANITIZER = ROOT / "tests" / "nbval.cfg"
CELL_SECONDS = 300  # no cell may run longer


def build_command(source: Path, output: Path) -> list[str]:
    """The Sphinx build of the book in folder `source` into `output/_build/html`.

    Every warning is an error (-W), all of them are shown (--keep-going), and a reference that leads nowhere is a
    warning (-n). -q leaves the warnings alone on the screen.
    """
    tool = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    return [*tool, "build", str(source), "--path-output", str(output), "-W", "--keep-going", "-n", "-q"]


def nbval_command(notebooks: Path, workers: int = 2) -> list[str]:
    """Run every notebook in folder `notebooks` and compare each output with the stored one.

    --dist loadfile: a notebook's cells need one kernel, so they must stay on one worker.
    """
    return [
        sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "--nbval-cell-timeout", str(CELL_SECONDS),
        "--nbval-sanitize-with", str(SANITIZER), "-n", str(workers), "--dist", "loadfile",
        "--rootdir", str(notebooks.parent), str(notebooks),
    ]  # fmt: skip


def enter(root: Path) -> None:
    """Make this process and all that it starts (kernels, pytest, Sphinx) the same everywhere, for the tree `root`.

    - The tree's own `vtrlib` is imported, not another installed one.
    - No setting of the user reaches a kernel: IPython profile, Matplotlib style, a kernel of the same name, real data,
      another results folder.
    - One thread unless OMP_NUM_THREADS says otherwise, so that times compare and sums round alike.
    """
    cache = root / "_build" / "cache"
    for name in ("VTRLIB_DATA", "VTRLIB_RESULTS", "MPLBACKEND", "PYTHONSTARTUP", "PYTHONWARNINGS"):
        os.environ.pop(name, None)
    os.environ["PYTHONPATH"] = str(root)
    os.environ["PYTHONHASHSEED"] = "0"
    os.environ["IPYTHONDIR"] = str(cache / "ipython")
    os.environ["MPLCONFIGDIR"] = str(cache / "matplotlib")
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def warm_fonts() -> None:
    """Let Matplotlib look for fonts before a cell does: where that takes long it writes a warning to stderr."""
    if not any(Path(os.environ["MPLCONFIGDIR"]).glob("fontlist*.json")):
        subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], stderr=subprocess.DEVNULL, check=False)
