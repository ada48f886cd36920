"""The log of a run: one JSON object a line, which any tool can read while the run goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from sam_diffsr.errors import OutputError
from sam_diffsr.files import atomic_path

__all__ = ["RunLog", "read_log"]

NAME = "log.jsonl"


class RunLog:
    """Appends records; on resume, what was logged after the checkpoint is dropped.

    Args:
        folder: the run's folder.
        step: steps done so far; records of later steps are removed.

    Raises:
        OutputError: the log cannot be written, now or by ``write``.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        self.path = folder / NAME
        kept = [record for record in read_log(folder) if record["step"] <= step]
        try:
            with atomic_path(self.path) as temporary:
                temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one record."""
        line = json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise _cannot_write(self.path, error) from error


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All whole records of a run; a last line that was cut off is left out."""
    path = folder / NAME
    records: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return records


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write the log {path}: {error}; checkpoints are kept, make room and resume")
