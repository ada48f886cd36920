"""Many images at once: read, compute and write at the same time.

Nothing in here knows the networks: ``upscale`` is any function from decoded images to PIL images, such as
``resolver.upscale``. One bad file, folder or name never stops the others.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from PIL import Image

from sam_diffsr.errors import ArgumentError, CancelledError, OutputError
from sam_diffsr.files import printable
from sam_diffsr.image import Animation, DecodedImage, check_output, decode_image, image_size, save_image
from sam_diffsr.image.formats import check_file, output_format
from sam_diffsr.image.jobs import STDIN, STDOUT, Job
from sam_diffsr.image.save import Quality, check_quality
from sam_diffsr.pipeline.memory import LARGEST_BATCH

__all__ = [
    "PIXELS_TOGETHER",
    "Existing",
    "Outcome",
    "overlapped",
    "run_jobs",
]

logger = logging.getLogger(__name__)

Existing = Literal["error", "skip", "overwrite"]
"""What to do with a result that already exists."""
PIXELS_TOGETHER = 2**18
"""Pixels of a batch: its results wait in memory for each other."""

B = TypeVar("B")
R = TypeVar("R")
C = TypeVar("C")
W = TypeVar("W")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Result of a job."""

    job: Job
    """The job."""
    status: Literal["written", "planned", "skipped", "failed"]
    """``skipped`` only where the result already existed, ``planned`` only in a dry run."""
    seconds: float
    """Wall-clock time it took."""
    size: tuple[int, int] | None = None
    """(height, width) of the written image."""
    error: Exception | None = None
    """Why it failed."""


def run_jobs(
    jobs: Sequence[Job],
    upscale: Callable[[list[Any]], Sequence[Image.Image]],
    *,
    decode: Callable[[Any], Any] = decode_image,
    result_size: Callable[[int, int], tuple[int, int]] | None = None,
    batch_size: int | None = None,
    pixels_together: int = PIXELS_TOGETHER,
    existing: Existing = "error",
    quality: Quality | None = None,
    strip_metadata: bool = False,
    keep_time: bool = False,
    dry_run: bool = False,
) -> Iterator[Outcome]:
    """Do jobs in order; a job that fails is reported in its outcome and the next one begins.

    While a batch is computed, the one before it is saved and the one after it is decoded, each in a thread of
    its own; no more than that is ahead or behind. What a file format or a folder cannot take is found out
    before the image is computed.

    Args:
        jobs: from :func:`sam_diffsr.image.jobs.plan_jobs`.
        upscale: enlarges some images, given as ``decode`` returns them, such as ``resolver.upscale``.
        decode: reads a file, or an open file for standard input, into what ``upscale`` takes.
        result_size: height and width of a result from those of its source, to compare with the limits of the
            file format; None for results that are not larger.
        batch_size: files given to ``upscale`` together. If that fails, they are tried again one by one. None
            takes up to 8, and fewer of large images.
        pixels_together: pixels of a batch, where ``batch_size`` is None; a larger image goes alone.
        existing: what to do where a result already exists; looked at before an image is computed, and again
            before it is saved.
        quality: of JPEG, WebP, AVIF and HEIC: 1..100 or ``"lossless"``; None is the default of
            :func:`~sam_diffsr.image.save_image`.
        strip_metadata: leave out EXIF, colour profile and all other metadata.
        keep_time: give results the modification time of their sources.
        dry_run: read and check everything, but compute and write nothing.

    Yields:
        One outcome per job, in order, as soon as it is known.

    Raises:
        ArgumentError: an argument is out of range, or ``upscale`` refuses one of its own.
        CancelledError: a callback asked to stop. What was computed before it is saved and reported first.
    """
    if existing not in get_args(Existing):
        raise ArgumentError(f"existing must be one of {', '.join(get_args(Existing))}; got {existing!r}")
    if batch_size is not None and (
        not hasattr(batch_size, "__index__") or batch_size is True or batch_size < 1
    ):
        raise ArgumentError(f"batch_size must be None or a whole number >= 1, got {batch_size!r}")
    if quality is not None:
        check_quality(quality)
    work = _Work(upscale, decode, result_size, existing, quality, strip_metadata, keep_time, dry_run)
    for outcomes in overlapped(
        _batches(jobs, batch_size, pixels_together), read=work.read, compute=work.compute, write=work.save
    ):
        yield from outcomes


def _batches(jobs: Sequence[Job], batch_size: int | None, pixels_together: int) -> Iterator[list[Job]]:
    """Jobs that go together: a given number, or as many as are small."""
    batch: list[Job] = []
    total = 0
    for job in jobs:
        pixels = _pixels(job.source) if batch_size is None and len(jobs) > 1 else 0
        most = LARGEST_BATCH if batch_size is None else batch_size
        if batch and (len(batch) == most or total + pixels > pixels_together):
            yield batch
            batch, total = [], 0
        batch.append(job)
        total += pixels
    if batch:
        yield batch


def _pixels(path: Path) -> int:
    """Pixels of an image, from its header; 0 where that cannot be read, which the decoder explains."""
    try:
        height, width = image_size(path, max_pixels=None)
        return height * width
    except Exception:
        return 0


@dataclass(frozen=True, slots=True)
class _Entry:
    """A job on its way: its decoded source, then its large image, or an outcome that needs nothing more."""

    job: Job
    item: Any = None
    seconds: float = 0.0
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class _Work:
    """Reading, computing and saving with the options of one call."""

    upscale: Callable[[list[Any]], Sequence[Image.Image]]
    decode: Callable[[Any], Any]
    result_size: Callable[[int, int], tuple[int, int]] | None
    existing: Existing
    quality: Quality | None
    strip_metadata: bool
    keep_time: bool
    dry_run: bool

    def read(self, jobs: list[Job]) -> list[_Entry]:
        """Read a batch; problems of a file are in its outcome."""
        return [self._read(job) for job in jobs]

    def _read(self, job: Job) -> _Entry:
        started = time.perf_counter()
        try:
            if job.problem is not None:
                raise job.problem
            if self._skips(job):
                return _Entry(job, outcome=Outcome(job=job, status="skipped", seconds=0.0))
            if job.target is not STDOUT:
                check_file(job.target)
            item = self.decode(io.BytesIO(sys.stdin.buffer.read()) if job.source is STDIN else job.source)
            if isinstance(item, Animation):
                form = job.target.with_suffix(job.ending) if job.target is STDOUT else job.target
                item = item.as_target_holds(form, repr(str(job.source)))
            size = self._check(job, item) if isinstance(item, DecodedImage | Animation) else None
            planned = Outcome(job=job, status="planned", seconds=0.0, size=size) if self.dry_run else None
            return _Entry(job, item=item, outcome=planned)
        except Exception as error:  # one file must not take the others with it; the caller gets the error
            return _Entry(job, outcome=_failure(job, error, time.perf_counter() - started))

    def _skips(self, job: Job) -> bool:
        """Whether a result already exists and is to be kept; refuses it where that is an error."""
        if job.target is STDOUT or self.existing == "overwrite" or not os.path.exists(job.target):
            return False
        if self.existing == "skip":
            return True
        raise OutputError(f"{str(job.target)!r} already exists; choose --overwrite or --skip-existing")

    def _check(self, job: Job, image: DecodedImage | Animation) -> tuple[int, int]:
        """Size of the result; refuses what its file could not hold."""
        height, width = image.rgb.shape[-2:]
        if self.result_size is not None:
            height, width = self.result_size(height, width)
        if job.target is not STDOUT:
            check_output(
                job.target, image.format, width=width, height=height, strip_metadata=self.strip_metadata
            )
            if self.quality is not None:
                check_quality(self.quality, output_format(job.target.suffix))
        return height, width

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
            options: dict[str, Any] = {} if self.quality is None else {"quality": self.quality}
            if job.target is STDOUT:
                save_image(
                    image, sys.stdout.buffer, ending=job.ending, strip_metadata=self.strip_metadata, **options
                )
            elif self._skips(job):  # another run was faster
                return Outcome(job=job, status="skipped", seconds=entry.seconds)
            else:
                _make_folder(job.target.parent)
                save_image(image, job.target, strip_metadata=self.strip_metadata, **options)
                if self.keep_time and job.source is not STDIN:
                    state = job.source.stat()
                    os.utime(job.target, ns=(state.st_atime_ns, state.st_mtime_ns))
        except Exception as error:  # as above
            return _failure(job, error, entry.seconds)
        seconds = entry.seconds + time.perf_counter() - started
        return Outcome(job=job, status="written", seconds=seconds, size=(image.height, image.width))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {str(folder)!r}: {error.strerror}") from error


def _failure(job: Job, error: Exception, seconds: float) -> Outcome:
    logger.debug("%s failed", printable(job.source), exc_info=error)
    return Outcome(job=job, status="failed", seconds=seconds, error=error)


# Overlap


def overlapped(
    batches: Iterable[B], *, read: Callable[[B], R], compute: Callable[[R], C], write: Callable[[C], W]
) -> Iterator[W]:
    """Give ``write(compute(read(batch)))`` of every batch, in order.

    While the calling thread computes a batch, the one before it is written and the one after it is read, each
    in a thread of its own, in which torch computes with one thread. A single batch is done without threads.

    Args:
        batches: taken one by one, at most one ahead of the one that is computed.
        read: called in the reading thread.
        compute: called in the calling thread.
        write: called in the writing thread.

    Yields:
        What was written. An error of one of the functions is raised in its batch's place, after everything
        before it.
    """
    coming = iter(batches)
    batch, following = next(coming, None), next(coming, None)
    if batch is None:
        return
    if following is None:
        yield write(compute(read(batch)))
        return
    with _helper() as reader, _helper() as writer:
        ahead: Future[R] | None = reader.submit(read, batch)
        behind: Future[W] | None = None
        while ahead is not None:
            try:
                content = ahead.result()
                ahead = None if following is None else reader.submit(read, following)
                following = next(coming, None)
                computed = compute(content)
                del content  # a batch is not kept longer than it is needed
            except BaseException:
                if behind is not None:
                    yield behind.result()
                raise
            before, behind = behind, writer.submit(write, computed)
            del computed
            if before is not None:
                yield before.result()
        if behind is not None:
            yield behind.result()


@contextmanager
def _helper() -> Generator[ThreadPoolExecutor]:
    """An executor of one thread in which torch does not start threads of its own.

    Such threads would be more than there are cores, and from then on those of the caller no longer wait for
    each other awake, but sleep and are woken at every operation: a small network then takes twice as long.
    """
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(_compute_alone).result()
        torch.set_num_threads(threads)  # it is a thread's own, but new threads begin with what was set last
        yield executor


def _compute_alone() -> None:
    torch.get_num_threads()  # a thread takes over the number of the others when it first asks
    torch.set_num_threads(1)
