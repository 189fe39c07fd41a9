"""The commands behind the Makefile that need Python: book, page, run and notebooks. `make help` says what each does."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import strict


def main() -> int:
    """Run one command; 0 if all is well, 1 with the faults on stderr if not."""
    parser = argparse.ArgumentParser(prog="make.py", description=__doc__)
    parser.add_argument("--root", type=Path, default=strict.ROOT, help="the tree to work on")
    parser.add_argument("command", choices=("book", "page", "run", "notebooks"))
    parser.add_argument("paths", nargs="*", type=Path, help="for run: these notebooks instead of all")
    options = parser.parse_args()
    root = options.root.resolve()
    strict.enter(root)
    if options.command != "page":
        strict.warm_fonts()
    if options.command == "notebooks":
        return subprocess.run(strict.nbval_command(root / "notebooks")).returncode
    # Only now: these load Jupyter and IPython, which read their settings from the environment.
    import building
    import execution
    import runs

    start = time.perf_counter()
    try:
        if options.command == "run":
            runs.store(root, [path.resolve() for path in options.paths])
            return 0
        building.clear(root)
        source = building.stage(root, runs.refresh(root) if options.command == "book" else None)
        print("building the pages; any warning stops it ...", flush=True)
        page = building.build(root, source)
    except (building.BuildFailed, execution.NotebookFailed, OSError) as fault:  # OSError: no right to write, disk full
        print(f"{fault}\n\nmake {options.command} stopped: the reason stands above.", file=sys.stderr)
        return 1
    print(f"The book is {page}\n{page.as_uri()}\nIt took {time.perf_counter() - start:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
