"""Which real data are here and whether they are what the cards say: `python -m vtrlib.datasets`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vtrlib.datasets.cards import CARDS, markdown
from vtrlib.datasets.folders import verify


def main(argv: Sequence[str] | None = None) -> int:
    """Check the data folder; exit status 0 where every file that is there is as its card says, else 1."""
    parser = argparse.ArgumentParser(prog="python -m vtrlib.datasets", description="Check real data by their sha256.")
    parser.add_argument("folder", nargs="?", default=os.environ.get("VTRLIB_DATA"), help="default: VTRLIB_DATA")
    parser.add_argument("--cards", action="store_true", help="print the data cards as Markdown and check nothing")
    arguments = parser.parse_args(argv)
    if arguments.cards:
        print(markdown())
        return 0
    try:
        verify(arguments.folder)  # says so where there is nothing to check
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    status = 0
    for name in CARDS:
        if not (Path(arguments.folder) / name).is_dir():
            print(f"{name:24} not here")
            continue
        faults = verify(arguments.folder, name)
        print("\n  ".join([f"{name:24} {'differs from its card:' if faults else 'complete'}", *faults]))
        status |= bool(faults)
    return status


if __name__ == "__main__":
    sys.exit(main())
