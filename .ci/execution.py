"""Run one notebook from the top in a fresh kernel: clean outputs that a second run repeats byte for byte."""

from __future__ import annotations

import ast
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from strict import CELL_SECONDS
from traitlets.config import Config

__all__ = ["Cost", "NotebookFailed", "execute"]

ANSI = re.compile(r"\x1b\[[0-9;]*m")
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {  # as JupyterLab writes it, less the version: else every Python patch release is a diff
    "codemirror_mode": {"name": "ipython", "version": 3}, "file_extension": ".py", "mimetype": "text/x-python",
    "name": "python", "nbconvert_exporter": "python", "pygments_lexer": "ipython3",
}  # fmt: skip
# Evaluated in the kernel. Linux: VmHWM in KiB, because ru_maxrss there starts at the size of the process that forked.
PEAK = (
    "next(int(row.split()[1]) * 1024 for row in open('/proc/self/status') if row.startswith('VmHWM'))"
    if sys.platform == "linux"
    else "__import__('resource').getrusage(0).ru_maxrss"  # bytes on macOS
)


class NotebookFailed(Exception):
    """A cell raised, warned, or ran too long. The message names the notebook, the cell and the error."""


@dataclass(frozen=True)
class Cost:
    """What a run took: wall seconds without the kernel's start, peak MiB of the kernel (None: unknown), threads."""

    seconds: float
    peak_mib: int | None
    threads: int


def execute(path: Path, progress: Callable[[], object] = lambda: None) -> tuple[NotebookNode, Cost]:
    """Run the notebook at `path` in its folder; the file stays as it is.

    Args:
        path: an .ipynb file.
        progress: called after each code cell.

    Returns:
        The notebook with its new outputs, and what the run took.

    Raises:
        NotebookFailed: at the first cell that raises without the tag raises-exception, does not raise with it,
            writes to stderr (a warning), runs longer than CELL_SECONDS, or kills the kernel.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # timings of an earlier run
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
        config=Config({"KernelManager": {"transport_encryption": "auto"}}),  # else each kernel warns that it has none
    )  # fmt: skip
    # LANGUAGE and KERNELSPEC replace what is stored; saved widget state would make the page load scripts from a CDN.
    notebook.metadata.pop("widgets", None)
    notebook.metadata.update(kernelspec=dict(KERNELSPEC), language_info=dict(LANGUAGE))
    with client.setup_kernel():
        start = time.perf_counter()
        number = 0
        for position, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            number += 1
            try:
                client.execute_cell(cell, position)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                raise NotebookFailed(f"{path}: code cell {number}: {_told(cell, error)}") from None
            _check(f"{path}: code cell {number}", cell)
            progress()
        seconds = time.perf_counter() - start
        peak = _peak(client)
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    return notebook, Cost(round(seconds, 1), peak, threads)


def _told(cell: NotebookNode, error: Exception) -> str:
    """The error with the traceback that the kernel gave, in plain text."""
    for output in cell.outputs:
        if output.output_type == "error":
            trace = ANSI.sub("", "\n".join(output.traceback))
            return f"{output.ename}: {output.evalue}\n{trace}"
    return f"{type(error).__name__}: {error}"


def _check(place: str, cell: NotebookNode) -> None:
    """Raise if the cell wrote to stderr, or did not raise although it should."""
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            raise NotebookFailed(f"{place}: wrote to stderr, usually a warning; mend its cause:\n{output.text}")
    raised = any(output.output_type == "error" for output in cell.outputs)
    if "raises-exception" in cell.metadata.get("tags", ()) and not raised:
        raise NotebookFailed(f"{place}: is tagged raises-exception and did not raise; drop the tag or mend the cell")


def _peak(client: NotebookClient) -> int | None:
    """Ask the kernel for its peak memory, in MiB."""

    channel: Any = client.kc

    async def ask() -> Any:
        return await channel.execute("", silent=True, user_expressions={"peak": PEAK}, reply=True, timeout=30)

    reply = run_sync(ask)()
    answer = reply["content"]["user_expressions"]["peak"]
    return round(ast.literal_eval(answer["data"]["text/plain"]) / 2**20) if answer["status"] == "ok" else None
