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
from typing import Literal, get_args

from PIL import Image

from sam_diffsr.errors import ArgumentError, CancelledError, OutputError
from sam_diffsr.image import save_image
from sam_diffsr.pipeline.folder import Job

__all__ = ["Existing", "Outcome", "run_jobs"]

logger = logging.getLogger(__name__)

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
    upscale: Callable[[list[Path]], Sequence[Image.Image]],
    *,
    batch_size: int = 1,
    existing: Existing = "error",
    quality: int | None = None,
    strip_metadata: bool = False,
) -> Iterator[Outcome]:
    """Do jobs in order; a job that fails is reported in its outcome and the next one begins.

    Args:
        jobs: from :func:`~sam_diffsr.pipeline.folder.plan_jobs`.
        upscale: makes the large images of some files, such as ``resolver.upscale``.
        batch_size: files given to ``upscale`` together. If that fails, they are tried again one by one.
        existing: what to do where a result is already there; looked at before anything is computed.
        quality: of JPEG and WebP, 1..100; None is the default of :func:`~sam_diffsr.image.save_image`.
        strip_metadata: leave EXIF and colour profile out.

    Yields:
        One outcome per job, as soon as it is known.

    Raises:
        ArgumentError: an argument is out of range, or ``upscale`` says so of one of its own.
        CancelledError: a callback asked to stop.
    """
    if existing not in get_args(Existing):
        raise ArgumentError(f"existing must be one of {', '.join(get_args(Existing))}; got {existing!r}")
    if batch_size < 1:
        raise ArgumentError(f"batch_size must be at least 1, got {batch_size}")
    if quality is not None and not 1 <= quality <= 100:
        raise ArgumentError(f"quality must be in 1..100, got {quality}")
    for first in range(0, len(jobs), batch_size):
        waiting: list[Job] = []
        for job in jobs[first : first + batch_size]:
            if existing == "overwrite" or not job.target.exists():
                waiting.append(job)
            elif existing == "skip":
                yield Outcome(job=job, status="skipped", seconds=0.0)
            else:
                error = OutputError(f"{job.target} is already there; choose to overwrite or to skip it")
                yield Outcome(job=job, status="failed", seconds=0.0, error=error)
        yield from _run_batch(waiting, upscale, quality=quality, strip_metadata=strip_metadata)


def _run_batch(
    jobs: list[Job],
    upscale: Callable[[list[Path]], Sequence[Image.Image]],
    *,
    quality: int | None,
    strip_metadata: bool,
) -> Iterator[Outcome]:
    if not jobs:
        return
    started = time.perf_counter()
    try:
        for job in jobs:
            _refuse_lost_transparency(job)
        images = upscale([job.source for job in jobs])
    except (ArgumentError, CancelledError):  # of the call, not of a file
        raise
    except Exception as error:  # one file must not take the others with it; the caller gets the error
        if len(jobs) > 1:
            for job in jobs:
                yield from _run_batch([job], upscale, quality=quality, strip_metadata=strip_metadata)
            return
        logger.debug("%s failed", jobs[0].source, exc_info=True)
        yield Outcome(job=jobs[0], status="failed", seconds=time.perf_counter() - started, error=error)
        return
    for job, image in zip(jobs, images, strict=True):
        status, failure = "written", None
        try:
            _save(image, job.target, quality=quality, strip_metadata=strip_metadata)
        except Exception as error:  # as above
            logger.debug("%s failed", job.target, exc_info=True)
            status, failure = "failed", error
        yield Outcome(
            job=job,
            status=status,
            seconds=(time.perf_counter() - started) / len(jobs),
            size=None if failure else (image.height, image.width),
            error=failure,
        )


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
