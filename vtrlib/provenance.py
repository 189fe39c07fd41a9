"""Where a result came from: the machine, the versions, the commit. No host name and no path of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["checkout", "commit", "hardware", "versions"]

# What can change a number: a commit is clean while these are, whatever happens to prose, pages and results.
_SOURCES = ("vtrlib", "pyproject.toml", "constraints.txt")
_PACKAGES = (
    "vtrlib", "torch", "numpy", "scipy", "scikit-learn", "transformers", "tokenizers", "accelerate", "av",
)  # fmt: skip


def checkout() -> Path | None:
    """The root of the repository that holds this package, or None where it was installed without one."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "book").is_dir() else None


def commit() -> str:
    """The commit of the code that runs: "abc1234", "abc1234+changes" where sources differ from it, or "unknown"."""
    root = checkout()
    if root is None:
        return "unknown"
    head = _output("git", "-C", str(root), "rev-parse", "--short=7", "HEAD")
    changes = _output("git", "-C", str(root), "--no-optional-locks", "status", "--porcelain", "--", *_SOURCES)
    if not head or changes is None:
        return "unknown"
    return f"{head}+changes" if changes else head


def hardware() -> dict[str, Any]:
    """What this process runs on.

    Returns:
        cpu (model name), cores (of the machine), memory_gib (one decimal), gpu (name or None), threads (of torch;
        before it is imported, what OMP_NUM_THREADS asks for, else all cores).
    """
    cores = os.cpu_count() or 1
    torch = sys.modules.get("torch")  # a result made without torch used no GPU: no reason to import it here
    gpu = None
    if torch is not None and torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
    elif torch is not None and torch.backends.mps.is_available():
        gpu = "Apple MPS"
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(asked) if asked.isdecimal() and int(asked) > 0 else cores
    return {
        "cpu": _cpu(),
        "cores": cores,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "gpu": gpu,
        "threads": torch.get_num_threads() if torch is not None else threads,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a number can depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    # Arm kernels print no model name: the architecture is all that can be said.
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine() or "unknown"


def _output(*command: str) -> str | None:
    """What a command prints, stripped, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
