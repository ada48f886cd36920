"""Upscales many files: reads, computes and writes at the same time; a bad file never stops the others."""

from __future__ import annotations

import io
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from PIL import Image

from sam_diffsr.arguments import is_integer
from sam_diffsr.config import check_choice
from sam_diffsr.errors import ArgumentError, CancelledError
from sam_diffsr.files import printable, writing
from sam_diffsr.image import (
    MAX_PIXELS_DEFAULT,
    Animation,
    DecodedImage,
    decode_frames,
    decode_image,
    image_size,
    save_image,
)
from sam_diffsr.image.formats import check_file, check_image, format_of
from sam_diffsr.image.jobs import STDIN, STDOUT, Existing, Job
from sam_diffsr.image.save import Quality, check_quality
from sam_diffsr.overlap import overlapped
from sam_diffsr.pipeline.images import output_size
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.pipeline.tiles import CPU_BATCH_PIXELS, LARGEST_BATCH

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)

Status = Literal["written", "planned", "skipped", "failed"]
"""``skipped`` only where the result already existed, ``planned`` only in a dry run."""
_PIXELS_TOGETHER = 2**18
"""Pixels of a batch, all of whose results are in memory at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Result of a job."""

    job: Job
    status: Status
    seconds: float
    """Wall-clock time that the image took to be read, computed and saved."""
    size: tuple[int, int] | None = None
    """(height, width) of the result."""
    error: Exception | None = None
    """Why it failed."""


@dataclass(slots=True)
class _Entry:
    """State of a job in progress, with the fields of its outcome."""

    job: Job
    item: Any = None
    """The decoded source, then the large image."""
    status: Status = "written"
    seconds: float = 0.0
    size: tuple[int, int] | None = None
    error: Exception | None = None

    def do(self, step: Callable[[_Entry], None]) -> _Entry:
        """Take a step, unless the outcome is known; an error becomes the outcome."""
        started = time.perf_counter()
        try:
            if self.status == "written":
                step(self)
        except Exception as error:
            self.fail(error)
        self.seconds += time.perf_counter() - started
        return self

    def fail(self, error: Exception) -> None:
        logger.debug("%s failed", printable(self.job.source), exc_info=error)
        self.status, self.error, self.size, self.item = "failed", error, None, None


class FileOptions(TypedDict, total=False):
    """Keyword arguments of :func:`run_jobs` that do not depend on the model."""

    batch_size: int | None
    existing: Existing
    quality: Quality | None
    strip_metadata: bool
    keep_time: bool
    dry_run: bool


def run_jobs(
    jobs: Sequence[Job],
    upscale: Callable[[list[Any]], Sequence[Image.Image]],
    *,
    decode: Callable[[Any], Any] = decode_image,
    result_size: Callable[[int, int], tuple[int, int]] | None = None,
    batch_size: int | None = None,
    pixels_together: int = _PIXELS_TOGETHER,
    existing: Existing = "error",
    quality: Quality | None = None,
    strip_metadata: bool = False,
    keep_time: bool = False,
    dry_run: bool = False,
) -> Iterator[Outcome]:
    """Do jobs in order; a job that fails is reported in its outcome and the next one begins.

    What a file format or a folder cannot take is found out before the image is computed.

    Args:
        jobs: from :func:`sam_diffsr.image.jobs.plan_jobs`.
        upscale: enlarges some images, such as ``resolver.upscale``.
        decode: reads a file, or an open file for standard input, into what ``upscale`` takes.
        result_size: (height, width) of a result from those of its source, for the limits of the file format.
        batch_size: files given to ``upscale`` together; None takes up to 8, and fewer of large images. If a
            batch fails, its files are tried again one by one.
        pixels_together: pixels of a batch, where ``batch_size`` is None; a larger image goes alone.
        existing: what to do where a result already exists, before it is computed or when it is to be saved.
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
    check_choice(existing, Existing, what="existing", error=ArgumentError)
    if batch_size is not None and not (is_integer(batch_size) and batch_size >= 1):
        raise ArgumentError(f"batch_size must be None or a whole number >= 1, got {batch_size!r}")
    options: dict[str, Any] = {"strip_metadata": strip_metadata}
    if quality is not None:
        check_quality(quality)
        options["quality"] = quality

    def skips(entry: _Entry) -> bool:
        if done := entry.job.is_done(existing):
            entry.status, entry.size = "skipped", None
        return done

    def read(entry: _Entry) -> None:
        job, target = entry.job, entry.job.target
        if job.problem is not None:
            raise job.problem
        if skips(entry):
            return
        if target is not STDOUT:
            check_file(target)
        item = decode(io.BytesIO(sys.stdin.buffer.read()) if job.source is STDIN else job.source)
        if isinstance(item, Animation):
            form = target.with_suffix(job.ending) if target is STDOUT else target
            item = item.as_target_holds(form, repr(str(job.source)))
        if isinstance(item, DecodedImage | Animation):
            height, width = item.rgb.shape[-2:]
            if result_size is not None:
                height, width = result_size(height, width)
            entry.size = height, width
            streamed = target is STDOUT
            file_format = format_of(Path(f"result{job.ending}") if streamed else target)
            name, info = "the image" if streamed else repr(str(target)), item.format.metadata
            size = width, height
            check_image(name, file_format, item.format.pil_mode, size, {} if strip_metadata else info)
            if quality is not None:
                check_quality(quality, file_format)
        entry.item, entry.status = item, "planned" if dry_run else "written"

    def compute(entries: list[_Entry]) -> list[_Entry]:
        started, waiting = time.perf_counter(), [entry for entry in entries if entry.status == "written"]
        try:
            images: Sequence[Image.Image] = upscale([entry.item for entry in waiting]) if waiting else []
        except (ArgumentError, CancelledError):  # of the call, not of a file
            raise
        except Exception as error:
            for entry in waiting:
                if len(waiting) == 1:
                    entry.fail(error)
                else:
                    compute([entry])
            return entries
        for entry, image in zip(waiting, images, strict=True):
            entry.item, entry.size = image, (image.height, image.width)
            entry.seconds += (time.perf_counter() - started) / len(waiting)
        return entries

    def save(entry: _Entry) -> None:
        job = entry.job
        if job.target is STDOUT:
            save_image(entry.item, sys.stdout.buffer, ending=job.ending, **options)
        elif not skips(entry):  # another run can have been faster
            with writing("the image", job.target):
                job.target.parent.mkdir(parents=True, exist_ok=True)
            save_image(entry.item, job.target, **options)
            if keep_time:
                job.copy_time()

    for entries in overlapped(
        _batches(jobs, batch_size, pixels_together),
        read=lambda batch: [_Entry(job).do(read) for job in batch],
        compute=compute,
        write=lambda entries: [entry.do(save) for entry in entries],
    ):
        for e in entries:
            yield Outcome(job=e.job, status=e.status, seconds=e.seconds, size=e.size, error=e.error)


def _batches(jobs: Sequence[Job], batch_size: int | None, pixels_together: int) -> Iterator[list[Job]]:
    """Jobs that go together: a given number, or as many as are small."""
    batch: list[Job] = []
    total = 0
    for job in jobs:
        pixels = 0
        if batch_size is None and len(jobs) > 1:
            with suppress(Exception):  # which the decoder explains
                pixels = math.prod(image_size(job.source, max_pixels=None))
        if batch and (len(batch) == (batch_size or LARGEST_BATCH) or total + pixels > pixels_together):
            yield batch
            batch, total = [], 0
        batch.append(job)
        total += pixels
    if batch:
        yield batch


@dataclass(frozen=True, kw_only=True, slots=True)
class FileUpscaler:
    """A model with the options of a list of files."""

    resolver: SuperResolver
    seed: int = 0
    """Seed of every file, so that a result does not depend on the other files."""
    factor: Callable[[int, int], float | None] = lambda height, width: None
    """Final factor of an image by its height and width; None is the model's own."""
    max_pixels: int | None = MAX_PIXELS_DEFAULT
    """Largest image that is read; None for no limit."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further arguments of :meth:`SuperResolver.upscale`."""
    watch: Callable[[int], AbstractContextManager[Mapping[str, Any]]] = lambda count: nullcontext({})
    """Gives arguments of ``upscale`` while so many files are computed, such as its ``callback``."""

    def run(self, jobs: Sequence[Job], **files: Unpack[FileOptions]) -> Iterator[Outcome]:
        """Do jobs as :func:`run_jobs` does."""
        # A CPU gains little from batches: there, results are saved as soon as they are made.
        together = CPU_BATCH_PIXELS if self.resolver.device.type == "cpu" else _PIXELS_TOGETHER
        return run_jobs(
            jobs,
            self._enlarge,
            decode=lambda source: decode_frames(source, max_pixels=self.max_pixels),
            result_size=self.result_size,
            pixels_together=together,
            **files,
        )

    def result_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result of an image."""
        scale, factor = self.resolver.scale, self.factor(height, width)
        return output_size(height, width, scale=scale, outscale=factor, max_pixels=self.max_pixels)

    def _enlarge(self, images: list[DecodedImage | Animation]) -> list[Image.Image]:
        """Enlarge images of one factor together, and animations one by one."""
        resolver: Any = self.resolver  # whose public methods take images before they are decoded
        results: list[Image.Image] = []

        def together(image: DecodedImage | Animation) -> tuple[object, float | None]:
            return isinstance(image, Animation) and id(image), self.factor(*image.rgb.shape[-2:])

        for (moving, factor), found in groupby(images, together):
            group = list(found)
            with self.watch(len(group)) as further:
                options: dict[str, Any] = {"progress": False, "max_pixels": self.max_pixels}
                options |= {"outscale": factor, **self.options, **further}
                if moving:
                    results.append(resolver.upscale_animation(group[0], seed=self.seed, **options))
                else:
                    results += resolver.upscale(group, seed=[self.seed] * len(group), **options)
        return results
