"""Many files at once: upscale and save them, and keep one bad file from stopping the rest.

Nothing in here knows the networks: ``upscale`` is any function from paths to PIL images, such as
``resolver.upscale``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from sam_diffsr.errors import ArgumentError, CancelledError, OutputError
from sam_diffsr.image import save_image
from sam_diffsr.pipeline.folder import Job
from sam_diffsr.pipeline.overlap import overlapped

__all__ = ["Existing", "Outcome", "run_jobs"]

logger = logging.getLogger(__name__)

_MOST_TOGETHER = 8
"""Files in a batch where the caller does not say."""
_PIXELS_TOGETHER = 2**18
"""Likewise of all their images: their results wait in memory for each other."""

Existing = Literal["error", "skip", "overwrite"]
"""What to do where a result is already there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a job."""

    job: Job
    """The job."""
    status: Literal["written", "skipped", "failed"]
    """``skipped`` only where the result was there already."""
    seconds: float
    """Wall-clock time it took."""
    size: tuple[int, int] | None = None
    """(height, width) of what was written."""
    error: Exception | None = None
    """Why it failed."""


def run_jobs(
    jobs: Sequence[Job],
    upscale: Callable[[list[Any]], Sequence[Image.Image]],
    *,
    decode: Callable[[Path], Any] | None = None,
    batch_size: int | None = None,
    existing: Existing = "error",
    quality: int | None = None,
    strip_metadata: bool = False,
) -> Iterator[Outcome]:
    """Do jobs in order; a job that fails is reported in its outcome and the next one begins.

    While a batch is computed, the one before it is saved and the one after it is decoded, each in a thread of
    its own; no more than that is ahead or behind.

    Args:
        jobs: from :func:`~sam_diffsr.pipeline.folder.plan_jobs`.
        upscale: makes the large images of some files, given as ``decode`` gives them, such as
            ``resolver.upscale``.
        decode: reads a file into what ``upscale`` takes instead of its path; None leaves that to ``upscale``.
        batch_size: files given to ``upscale`` together. If that fails, they are tried again one by one. None
            takes up to 8, and fewer of large images.
        existing: what to do where a result is already there; looked at before anything is computed.
        quality: of JPEG and WebP, 1..100; None is the default of :func:`~sam_diffsr.image.save_image`.
        strip_metadata: leave EXIF and colour profile out.

    Yields:
        One outcome per job, in order, as soon as it is known.

    Raises:
        ArgumentError: an argument is out of range, or ``upscale`` says so of one of its own.
        CancelledError: a callback asked to stop. What was computed before it is saved and reported first.
    """
    if existing not in get_args(Existing):
        raise ArgumentError(f"existing must be one of {', '.join(get_args(Existing))}; got {existing!r}")
    if batch_size is not None and batch_size < 1:
        raise ArgumentError(f"batch_size must be None or at least 1, got {batch_size}")
    if quality is not None and not 1 <= quality <= 100:
        raise ArgumentError(f"quality must be in 1..100, got {quality}")
    work = _Work(upscale, decode or _same, existing, quality, strip_metadata)
    for outcomes in overlapped(
        _batches(jobs, batch_size), read=work.read, compute=work.compute, write=work.save
    ):
        yield from outcomes


def _same(path: Path) -> Path:
    return path


def _batches(jobs: Sequence[Job], batch_size: int | None) -> Iterator[list[Job]]:
    """Jobs that go together: a given number, or as many as are small."""
    batch: list[Job] = []
    total = 0
    for job in jobs:
        pixels = _pixels(job.source) if batch_size is None else 0
        most = _MOST_TOGETHER if batch_size is None else batch_size
        if batch and (len(batch) == most or total + pixels > _PIXELS_TOGETHER):
            yield batch
            batch, total = [], 0
        batch.append(job)
        total += pixels
    if batch:
        yield batch


def _pixels(path: Path) -> int:
    """Of an image, from its header; 0 where that cannot be read, which the decoder says better."""
    try:
        with closing(Image.open(path)) as image:
            return image.width * image.height
    except Exception:
        return 0


@dataclass(frozen=True, slots=True)
class _Entry:
    """A job on its way: what was read for it, then its large image, or why it needs nothing more."""

    job: Job
    item: Any = None
    seconds: float = 0.0
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class _Work:
    """Reading, computing and saving with the options of one call."""

    upscale: Callable[[list[Any]], Sequence[Image.Image]]
    decode: Callable[[Path], Any]
    existing: Existing
    quality: int | None
    strip_metadata: bool

    def read(self, jobs: list[Job]) -> list[_Entry]:
        """Read a batch; what is wrong with a file is in its outcome."""
        return [self._read(job) for job in jobs]

    def _read(self, job: Job) -> _Entry:
        started = time.perf_counter()
        if self.existing != "overwrite" and job.target.exists():
            if self.existing == "skip":
                return _Entry(job, outcome=Outcome(job=job, status="skipped", seconds=0.0))
            error = OutputError(
                f"{job.target} is already there; choose --overwrite or --skip-existing (existing= in Python)"
            )
            return _Entry(job, outcome=_failure(job, error, 0.0))
        try:
            _refuse_lost_transparency(job)
            return _Entry(job, item=self.decode(job.source))
        except Exception as error:  # one file must not take the others with it; the caller gets the error
            return _Entry(job, outcome=_failure(job, error, time.perf_counter() - started))

    def compute(self, batch: list[_Entry]) -> list[_Entry]:
        """Make the large images of those that need one."""
        ready = iter(self._large_images([entry for entry in batch if entry.outcome is None]))
        return [next(ready) if entry.outcome is None else entry for entry in batch]

    def _large_images(self, batch: list[_Entry]) -> list[_Entry]:
        if not batch:
            return []
        started = time.perf_counter()
        try:
            images = self.upscale([entry.item for entry in batch])
        except (ArgumentError, CancelledError):  # of the call, not of a file
            raise
        except Exception as error:  # as above
            if len(batch) > 1:
                return [result for entry in batch for result in self._large_images([entry])]
            job = batch[0].job
            return [_Entry(job, outcome=_failure(job, error, time.perf_counter() - started))]
        seconds = (time.perf_counter() - started) / len(batch)
        return [
            _Entry(entry.job, item=image, seconds=seconds) for entry, image in zip(batch, images, strict=True)
        ]

    def save(self, batch: list[_Entry]) -> list[Outcome]:
        """Save a batch."""
        return [self._save(entry) if entry.outcome is None else entry.outcome for entry in batch]

    def _save(self, entry: _Entry) -> Outcome:
        started, job, image = time.perf_counter(), entry.job, entry.item
        try:
            _save(image, job.target, quality=self.quality, strip_metadata=self.strip_metadata)
        except Exception as error:  # as above
            return _failure(job, error, entry.seconds)
        seconds = entry.seconds + time.perf_counter() - started
        return Outcome(job=job, status="written", seconds=seconds, size=(image.height, image.width))


def _failure(job: Job, error: Exception, seconds: float) -> Outcome:
    logger.debug("%s failed", job.source, exc_info=error)
    return Outcome(job=job, status="failed", seconds=seconds, error=error)


def _refuse_lost_transparency(job: Job) -> None:
    """Say before the work, not after it, that JPEG has no transparency."""
    if job.target.suffix.lower() not in (".jpeg", ".jpg"):
        return
    try:
        with closing(Image.open(job.source)) as image:
            transparent = image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info
    except Exception:  # the reader says it better
        return
    if transparent:
        raise OutputError(f"{job.source} has transparency, which JPEG cannot hold; write it as png or webp")


def _save(image: Image.Image, target: Path, *, quality: int | None, strip_metadata: bool) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {target.parent}: {error}") from error
    if quality is None:
        save_image(image, target, strip_metadata=strip_metadata)
    else:
        save_image(image, target, quality=quality, strip_metadata=strip_metadata)
