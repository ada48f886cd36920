"""Runs over a folder, file by file: resumable, shared between processes, and one bad file stops nothing.

Every file appears whole or not at all, so whatever a killed run has left behind is finished.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from sam_diffsr.data.claims import claim, remove_stale_claim
from sam_diffsr.errors import DataError, MissingDependencyError, OutputError

__all__ = ["MaskJob", "MaskOutcome", "check_writable", "run_jobs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskJob:
    """One file to make."""

    source: Path
    target: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskOutcome:
    """What became of a job."""

    job: MaskJob
    status: Literal["written", "skipped", "elsewhere", "failed"]
    """``skipped`` only where a whole result was there already; ``elsewhere``: another process is at it."""
    number: int
    """Which job it is, 1-based ..."""
    total: int
    """... of how many in this process's part."""
    seconds: float = 0.0
    """Wall-clock time it took."""
    remaining: float | None = None
    """Seconds that the rest will take at the pace so far; ``None`` before anything was written."""
    regions: int = 0
    """Regions written."""
    stored: int = 0
    """Bytes written, of a field."""
    plain: int = 0
    """Bytes of the same field as a float32 ``.npy``."""
    error: Exception | None = None
    """Why it failed."""


def run_jobs(
    jobs: Sequence[MaskJob],
    work: Callable[[MaskJob], Mapping[str, int]],
    *,
    finished: Callable[[Path], bool],
    redo_before: float | None = None,
    prepare: Callable[[], None] | None = None,
) -> Iterator[MaskOutcome]:
    """Do what is not done, each file claimed first; what another process is at gets a second look at the end.

    Args:
        jobs: what to make.
        work: makes one file and gives numbers for its outcome.
        finished: whether a file that is there is whole; may raise ``DataError``.
        redo_before: modification time up to which a finished file is made again; ``None`` keeps all.
        prepare: called before the first and every further piece of work.

    Yields:
        One outcome per job.

    Raises:
        OutputError: a file cannot be written; the next one would fare no better.
        MissingDependencyError: likewise.
    """
    spent, done = 0.0, 0
    later: list[tuple[int, MaskJob]] = []

    def attempt(number: int, job: MaskJob) -> MaskOutcome:
        nonlocal spent, done
        place: dict[str, Any] = {"job": job, "number": number, "total": len(jobs)}
        started = time.perf_counter()
        try:
            if _is_done(job.target, finished, redo_before):
                return MaskOutcome(status="skipped", **place)
        except DataError as error:
            return MaskOutcome(status="failed", error=error, **place)
        _make_folder(job.target.parent)
        with claim(job.target) as is_ours:
            if not is_ours:
                return MaskOutcome(status="elsewhere", **place)
            if _is_done(job.target, finished, redo_before):  # since the first look
                return MaskOutcome(status="skipped", **place)
            if prepare is not None:
                prepare()
            try:
                numbers = work(job)
            except (OutputError, MissingDependencyError):
                raise
            except Exception as error:  # one bad file must not take the others with it; the caller gets it
                seconds = time.perf_counter() - started
                return MaskOutcome(status="failed", error=error, seconds=seconds, **place)
        seconds = time.perf_counter() - started
        spent, done = spent + seconds, done + 1
        return MaskOutcome(
            status="written",
            seconds=seconds,
            remaining=spent / done * (len(jobs) - number),
            **place,
            **cast("dict[str, Any]", numbers),
        )

    for number, job in enumerate(jobs, start=1):
        outcome = attempt(number, job)
        if outcome.status == "elsewhere":
            later.append((number, job))
        else:
            yield outcome
    for number, job in later:
        yield attempt(number, job)


def check_writable(folder: Path) -> float:
    """Find out before the work whether its result can be kept.

    Returns:
        The time by the clock of the folder's file system.

    Raises:
        OutputError: the folder cannot be created or written.
    """
    _make_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError as error:
        raise OutputError(f"cannot write into the folder {folder}: {error.strerror or error}") from error


def _is_done(target: Path, finished: Callable[[Path], bool], redo_before: float | None) -> bool:
    try:
        modified = target.stat().st_mtime
    except OSError:
        return False
    if redo_before is not None and modified <= redo_before:
        return False
    if not finished(target):
        return False
    remove_stale_claim(target)  # of a process that was killed after the file was whole
    return True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {folder}: {error.strerror or error}") from error
