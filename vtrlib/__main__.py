"""The shell's way in: `python -m vtrlib results`, `python -m vtrlib discovla`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from functools import partial

from vtrlib import canary, check, experiments, ledger
from vtrlib import studies as studies  # importing it fills the registry
from vtrlib.recipes import arguments as discovla

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments after the program's name; by default those of the process.

    Returns:
        The exit status: 0; 1 after a message where an id, the ledger or its folder is at fault, a checked row is
        stale, or something is missing or unfit for a recipe; 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="python -m vtrlib")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    results = commands.add_parser("results", help="run what the ledger lacks")
    results.add_argument("ids", nargs="*", metavar="ID", help="only these experiments; all of them if none is given")
    instead = results.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="say what is present, missing or stale, and run nothing")
    instead.add_argument("--check", action="store_true", help="replay the rows' canaries; fail if one is stale")
    results.set_defaults(action=lambda given: _results(given.ids, given.list, given.check))
    discovla.add(commands)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.action(arguments)
        return status
    except KeyboardInterrupt as stopped:
        again = "Interrupted. What is finished is kept: run the same command again to go on."
        print(f"\n{str(stopped) or again}", file=sys.stderr)
        return 128 + signal.SIGINT


def _results(ids: Sequence[str], only_list: bool, only_check: bool) -> int:
    known = experiments.REGISTRY
    try:
        folder = ledger.results_folder()
        rows = ledger.read_rows(folder)
        chosen = [known[check.one_of("ID", id, known)] for id in dict.fromkeys(ids)] or list(known.values())
    except (OSError, ValueError) as error:
        return _fail(error)
    states = {one.id: experiments.state(one, rows) for one in chosen}
    if only_list:
        if not ids:  # rows that another command made, say on real data
            states |= {id: "present, no experiment of that id" for id in rows if id not in known}
        for id, state in states.items():
            print(f"{id:32} {state}")
        return 0
    status = 0
    for one in chosen:
        if states[one.id] == "present":
            verdict = canary.check(one, rows[one.id])
            if only_check:
                print(f"{one.id}: {verdict.text}", flush=True)
                status |= verdict.state == "stale"
                continue
            if verdict.state != "stale":
                print(
                    f"{one.id}: present. To run it again, delete {folder / one.id}.json, or set "
                    "VTRLIB_RESULTS to another folder, where a row of your own will stand."
                )
                continue
            print(f"{one.id}: {verdict.text}")
        elif only_check:
            print(f"{one.id}: {states[one.id]}. Run: python -m vtrlib results {one.id}")
            status = 1
            continue
        lacking = canary.lacks_data(one)
        if lacking:
            print(f"{one.id}: {states[one.id]}, and {lacking}")
            status |= bool(ids)  # asked for by name
            continue
        try:
            experiments.run(one, folder, partial(print, flush=True))
        except OSError as error:
            return _fail(error)
        print(f"{one.id}: wrote {folder / one.id}.json")
    return status


def _fail(error: Exception) -> int:
    print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
