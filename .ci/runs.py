"""Run notebooks and keep what they print and what they take: for a book built here, or stored in the repository."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import nbformat
from checks import pair_faults
from execution import Cost, NotebookFailed, execute
from freshness import fingerprint, with_outputs
from nbformat import NotebookNode
from tqdm import tqdm
from vtrlib import ledger

__all__ = ["machine", "refresh", "store"]


def refresh(root: Path) -> Path:
    """Bring `root/_build/executed` up to date: a copy of each notebook with its outputs, and book/runs.json.

    A notebook runs unless its copy's ticket holds the fingerprint of now; its prose is always that of now.

    Returns:
        The folder of the copies.

    Raises:
        NotebookFailed: a pair has drifted, or a cell failed; the copies made before it stay.
    """
    _refuse_drift(root)
    executed, costs, ran = root / "_build" / "executed", {}, False
    record = executed / "book" / "runs.json"
    books = _books(root)
    for old in executed.glob("notebooks/*.ipynb"):
        if not (root / "notebooks" / old.name).exists():
            old.unlink()
    if not record.exists():
        shutil.rmtree(executed, ignore_errors=True)  # without the machine's row no cost can be told
    for path in books:
        copy = executed / "notebooks" / path.name
        ticket = copy.with_suffix(".json")
        done = json.loads(ticket.read_text("utf-8")) if ticket.exists() and copy.exists() else {}
        wanted = fingerprint(path, root)
        if done.get("fingerprint") == wanted:
            print(f"{path.name}: nothing it reads has changed, outputs kept")
            costs[path.stem] = Cost(**done["cost"])
            _write(with_outputs(nbformat.read(path, 4), nbformat.read(copy, 4)), copy)
            continue
        ticket.unlink(missing_ok=True)  # first: a ticket must never vouch for another copy
        notebook, cost = _run(path)
        _write(notebook, copy)
        ledger.write_text(ticket, json.dumps({"fingerprint": wanted, "cost": asdict(cost)}))
        costs[path.stem], ran = cost, True
    where = machine() if ran or not record.exists() else json.loads(record.read_text("utf-8"))["machine"]
    _write_record(record, costs, where)
    return executed


def store(root: Path, paths: list[Path]) -> None:
    """Run notebooks and store their outputs in place, and what they took in `root/book/runs.json`.

    Args:
        root: the tree.
        paths: the notebooks; empty for all.

    Raises:
        NotebookFailed: a pair has drifted, or a cell failed; that notebook stays as it was.
    """
    _refuse_drift(root)
    record, where = root / "book" / "runs.json", machine()
    old = json.loads(record.read_text("utf-8")) if record.exists() else {"machine": {}, "notebooks": {}}
    names, before = {path.stem for path in _books(root)}, old["machine"]
    kept = {name: Cost(**cost) for name, cost in old["notebooks"].items() if name in names}
    if any(before.get(key) != where[key] for key in ("cpu", "cores", "memory_gib", "gpu")):
        if paths and kept:
            print("times of the other notebooks came from another machine and are dropped; `make run` measures all")
        kept = {}
    for path in paths or _books(root):
        notebook, cost = _run(path)
        _write(notebook, path)
        kept[path.stem] = cost
        _write_record(record, kept, where)  # after each, so that a later failure loses nothing


def machine() -> dict[str, Any]:
    """This computer and what runs on it: cpu, cores, memory_gib, gpu, python, torch, vtrlib, date, commit."""
    import torch  # noqa: F401  ledger.hardware() names the GPU only where torch is loaded

    versions = ledger.versions()
    return {
        **{key: value for key, value in ledger.hardware().items() if key != "threads"},  # each notebook tells its own
        **{key: versions[key] for key in ("python", "torch", "vtrlib")},
        "date": date.today().isoformat(),
        "commit": ledger.commit(),
    }


def _books(root: Path) -> list[Path]:
    return sorted((root / "notebooks").glob("*.ipynb"))


def _refuse_drift(root: Path) -> None:
    """Which half of a drifted pair is meant, nobody can know: stop before an edit is run over."""
    if faults := pair_faults(root):
        raise NotebookFailed("\n".join(faults))


def _run(path: Path) -> tuple[NotebookNode, Cost]:
    """Execute with a progress bar, or one line where nobody watches."""
    cells = sum(cell.cell_type == "code" for cell in nbformat.read(path, 4).cells)
    print(f"{path.name}: running {cells} code cells", flush=True)
    with tqdm(total=cells, unit="cell", leave=False, disable=not sys.stderr.isatty()) as bar:
        notebook, cost = execute(path, bar.update)
    print(f"{path.name}: {cost.seconds:.1f} s, peak memory {cost.peak_mib or '?'} MiB, {cost.threads} thread(s)")
    return notebook, cost


def _write(notebook: NotebookNode, path: Path) -> None:
    nbformat.validate(notebook)
    ledger.write_text(path, nbformat.writes(notebook) + "\n")


def _write_record(path: Path, costs: dict[str, Cost], where: dict[str, Any]) -> None:
    record = {"machine": where, "notebooks": {name: asdict(costs[name]) for name in sorted(costs)}}
    ledger.write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
