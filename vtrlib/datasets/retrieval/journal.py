"""Answers on their way to a file: what is known survives the process that found it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from vtrlib.check import listed

__all__ = ["Journal", "differing"]

_ADVICE = "Go on with the old settings, or remove the file to begin again."


class Journal:
    """Lines of JSON: first the settings, then batches of answers.

    A batch is one line, on the disk before `add` returns. A line that a killed process
    left unfinished is cut off. While it is open no other process can open it, where the
    system has such locks.

    Args:
        path: of the journal; made if need be.
        settings: those of the answers, as JSON gives them.

    Attributes:
        answers: by subject and frame.

    Raises:
        ValueError: it is of other settings, which the message names; or a line in the
            middle cannot be read.
        FileExistsError: another process has it open.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.answers = path, dict[tuple[str, int], str]()
        self._stream: IO[bytes] = path.open("a+b")
        try:
            self._lock()
            self._read(settings)
        except BaseException:
            self._stream.close()
            raise

    def add(self, answers: Mapping[tuple[str, int], str]) -> None:
        """Keep some answers."""
        self._write([[subject, frame, text] for (subject, frame), text in answers.items()])
        self.answers.update(answers)

    def remove(self) -> None:
        """Delete the file, after it is closed: everything in it stands elsewhere."""
        self.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def _read(self, settings: Any) -> None:
        self._stream.seek(0)
        data = self._stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self._stream.truncate(len(whole))
        lines = whole.split(b"\n")[:-1]
        if not lines:
            self._write({"settings": settings})
            return
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if number == 1:
                    found = entry["settings"]
                else:
                    self.answers |= {(str(s), int(n)): str(text) for s, n, text in entry}
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{self.path}: line {number}: cannot be read ({error}). Remove the "
                    "file to begin again."
                ) from error
        if names := differing(found, settings):
            raise ValueError(
                f"{self.path}: was begun with other settings: {listed(names, 8)}. {_ADVICE}"
            )

    def _write(self, entry: Any) -> None:
        self._stream.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FileExistsError(
                f"{self.path}: another process is writing it. Wait for it, or choose "
                "another path."
            ) from None


def differing(found: Any, expected: Mapping[str, Any], above: str = "") -> list[str]:
    """Which settings differ, by name, with both values; empty if none does."""
    if not isinstance(found, Mapping):
        return [f"{above or 'settings'}: {found!r:.60}, not {expected!r:.60}"]
    names = []
    for name in sorted({*found, *expected}):
        old, new = found.get(name), expected.get(name)
        if isinstance(new, Mapping):
            names += differing(old, new, f"{above}{name}.")
        elif old != new:
            names.append(f"{above}{name}: {old!r:.60}, not {new!r:.60}")
    return names
