"""Many files at once: find images, plan where results go, and read, compute and write at the same time.

Nothing in here knows the networks: ``upscale`` is any function from decoded images to PIL images, such as
``resolver.upscale``. One bad file, folder or name never stops the others.
"""

from __future__ import annotations

import dataclasses
import glob
import io
import logging
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from PIL import Image

from sam_diffsr.errors import ArgumentError, CancelledError, ImageError, OutputError
from sam_diffsr.files import printable
from sam_diffsr.image import DecodedImage, check_output, decode_image, image_size, save_image
from sam_diffsr.image.formats import check_file, output_format
from sam_diffsr.image.read import readable_endings
from sam_diffsr.image.save import Quality, check_quality

__all__ = [
    "STDIN",
    "STDOUT",
    "Existing",
    "Extension",
    "Job",
    "Outcome",
    "find_images",
    "overlapped",
    "plan_jobs",
    "run_jobs",
]

logger = logging.getLogger(__name__)

Extension = Literal["png", "jpg", "webp", "tif", "avif", "jp2", "auto"]
"""File type of results; ``auto`` keeps that of the input where it can be written, and is png elsewhere."""
Existing = Literal["error", "skip", "overwrite"]
"""What to do with a result that already exists."""
PathLike = str | os.PathLike[str]

STDIN, STDOUT = Path("<standard input>"), Path("<standard output>")
"""Source and target for the path ``-``."""

_UNREADABLE_ENDINGS = frozenset(
    {".heic", ".heif", ".hif", ".jxl", ".svg", ".eps", ".pdf", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw"}
)
"""Images that are counted as left out where nothing reads them."""
_MOST_TOGETHER = 8
"""Files of a batch, unless the caller chooses."""
_PIXELS_TOGETHER = 2**18
"""Pixels of a batch: its results wait in memory for each other."""

B = TypeVar("B")
R = TypeVar("R")
C = TypeVar("C")
W = TypeVar("W")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One image to upscale."""

    source: Path
    """File to read, or ``STDIN``."""
    target: Path
    """File to write, whose ending chooses the format, or ``STDOUT``."""
    problem: Exception | None = None
    """Why it cannot be done, where that is known from the beginning."""


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


# Finding and planning


def find_images(folder: PathLike, *, recursive: bool = False, exclude: PathLike | None = None) -> list[Path]:
    """List a folder's images by their endings, sorted; hidden files and folders are left out.

    Args:
        folder: where to look.
        recursive: look into subfolders as well (symbolic links to folders are not followed). One that cannot
            be read is logged as a warning.
        exclude: a folder whose content is left out, such as an output folder inside the input.

    Raises:
        ImageError: there is no such folder, or it cannot be read.
    """
    files, unreadable = _walk(Path(folder), recursive=recursive, exclude=exclude)
    for problem in unreadable.values():
        logger.warning("%s", problem)
    return files


def _walk(
    root: Path, *, recursive: bool, exclude: PathLike | None
) -> tuple[list[Path], dict[Path, ImageError]]:
    """Images below a folder, and the subfolders that cannot be read."""
    if not os.path.isdir(root):
        raise ImageError(f"{root} is not a folder; expected a folder of images")
    excluded = None if exclude is None else os.path.realpath(exclude)
    endings = readable_endings()
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    unreadable: dict[Path, ImageError] = {}

    def refused(error: OSError) -> None:
        where = Path(os.fsdecode(error.filename or root))
        unreadable[where] = ImageError(f"cannot read the folder {str(where)!r}: {error.strerror}")

    for parent, folders, files in os.walk(root, onerror=refused):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) != excluded
        )
        for name in sorted(files):
            ending = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if ending in endings:
                found.append(Path(parent, name))
            else:
                left_out[ending if ending in _UNREADABLE_ENDINGS else "other"] += 1
        if not recursive:
            left_out["subfolders"] += len(folders)
            break
    if root in unreadable:
        raise unreadable[root]
    _log_left_out(root, left_out)
    return found, unreadable


def _log_left_out(root: Path, left_out: Counter[str]) -> None:
    count = left_out.pop("subfolders", 0)
    parts = [f"{count} subfolder{'s'[: count > 1]} (--recursive reads them)"] if count else []
    if count := left_out.pop("other", 0):
        parts.append(f"{count} file{'s'[: count > 1]} that {'are' if count > 1 else 'is'} no image")
    for ending, count in sorted(left_out.items()):
        advice = " (install sam-diffsr[heif])" if ending in (".heic", ".heif", ".hif") else ""
        parts.append(f"{count} {ending}{advice}")
    if parts:
        logger.info("left out of %s: %s", printable(root), ", ".join(parts))


def plan_jobs(
    inputs: PathLike | Sequence[PathLike],
    output: PathLike | None = None,
    *,
    recursive: bool = False,
    suffix: str | None = None,
    ext: Extension | None = None,
) -> list[Job]:
    """Decide which files are read and where each result goes; nothing is read or written yet.

    Args:
        inputs: a file, a folder, a glob pattern (``"photos/*.jpg"``, ``**`` for any depth), ``"-"`` for
            standard input, or several.
        output: a file name if one file is read and the name ends like an image; ``"-"`` for standard output;
            otherwise a folder, in which results are called ``{stem}_{suffix}.{ext}``. Results from a folder
            that is read recursively keep their place in its tree. None puts ``{stem}_{suffix}.{ext}`` next to
            a file, and ``{name}_{suffix}/{stem}.{ext}`` next to a folder.
        recursive: read folders with their subfolders.
        suffix: None is ``"out"``; an empty one gives ``{stem}.{ext}``.
        ext: None is ``"png"``, because JPEG would take away again part of what was added.

    Returns:
        The jobs in a stable order. Files that are themselves the result of another job are not read, so a
        folder can be upscaled into itself twice. Of files with one result name, such as ``a.jpg`` and
        ``a.png``, each result is called after the whole name: ``a_jpg_out.png``.

    Raises:
        ImageError: a folder or pattern has no image.
        ArgumentError: an option does not go with the output, or several results would go into one file.
    """
    if ext is not None and ext not in get_args(Extension):
        raise ArgumentError(f"ext must be one of {', '.join(get_args(Extension))}; got {ext!r}")
    if suffix and (os.path.basename(suffix) != suffix or "\0" in suffix):
        raise ArgumentError(f"suffix is part of a file name and has no folder in it, got {suffix!r}")
    listed = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    folder = None if output is None else _expand(output)
    found = _find_sources(listed, recursive=recursive, output=folder)
    single = len(found) == 1 and len(listed) == 1 and found[0].base is None

    # One file to one name.
    if output is not None and os.fspath(output) == "-":
        target: Path | None = STDOUT
    elif folder is None:
        target = STDOUT if single and found[0].path is STDIN else None
    else:
        target = folder if _names_a_file(folder, os.fspath(output or "")) else None
    if target is not None:
        if not single:
            raise ArgumentError(
                "results of a folder, a pattern or several files go into a folder, but "
                f"{target} is a file name"
            )
        if target is not STDOUT and (suffix is not None or ext is not None):
            raise ArgumentError(
                f"suffix and ext name the results in a folder, but {target} is a file name; leave them out"
            )
        return [Job(source=found[0].path, target=target, problem=found[0].problem)]

    # Every file into a folder.
    names: dict[Path, list[_Source]] = defaultdict(list)
    for source in found:
        names[source.target(folder, suffix, ext)].append(source)
    jobs: dict[int, Job] = {}
    for target, sources in names.items():
        for source in sources:
            own = target if len(sources) == 1 else source.target(folder, suffix, ext, whole=True)
            jobs[id(source)] = Job(source=source.path, target=own, problem=source.problem)
    return _distinct([jobs[id(source)] for source in found])


@dataclass(frozen=True, slots=True)
class _Source:
    """A file to read, with the folder that was asked for and its place in that."""

    path: Path
    base: Path | None = None
    place: Path = Path()
    pattern: bool = False
    problem: Exception | None = None

    def target(
        self, folder: Path | None, suffix: str | None, ext: str | None, *, whole: bool = False
    ) -> Path:
        """Where the result goes; ``whole`` calls it after the whole name of the source."""
        ending = self.path.suffix.lower()
        chosen = ext or "png"
        if chosen == "auto":
            chosen = ending[1:] if output_format(ending) and ending not in (".apng", ".jpe") else "png"
            chosen = {"jpeg": "jpg", "tiff": "tif"}.get(chosen, chosen)
        tail = "out" if suffix is None else suffix
        stem = "stdin" if self.path is STDIN else self.path.stem
        if whole:
            stem = f"{stem}_{ending[1:]}"
        if folder is None and self.base is not None and not self.pattern:
            root = Path(os.path.realpath(self.base))
            return root.with_name(f"{root.name}_{tail or 'out'}") / self.place / f"{stem}.{chosen}"
        name = f"{stem}_{tail}.{chosen}" if tail else f"{stem}.{chosen}"
        return (self.path.parent if folder is None else folder / self.place) / name


def _find_sources(inputs: Sequence[PathLike], *, recursive: bool, output: Path | None) -> list[_Source]:
    found: dict[str, _Source] = {}
    for text in inputs:
        path = _expand(text)
        if os.fspath(text) == "-":
            sources = [_Source(STDIN)]
        elif os.path.isdir(path):
            files, unreadable = _walk(path, recursive=recursive, exclude=output if recursive else None)
            sources = [_Source(file, path, file.parent.relative_to(path)) for file in files]
            sources += [_Source(where, path, problem=problem) for where, problem in unreadable.items()]
            if not sources:
                deeper = "" if recursive else " (subfolders are read only when asked for)"
                raise ImageError(f"the folder {path} has no image{deeper}; looked for {_endings()}")
        elif not os.path.lexists(path) and glob.has_magic(os.fspath(path)):
            sources = [_Source(file, file.parent, pattern=True) for file in _matches(path)]
            if not sources:
                raise ImageError(f"no file matches {str(path)!r}; quote the pattern and check the folder")
        else:  # a missing file is found out when it is read, so that the others still go on
            sources = [_Source(path)]
        for source in sources:
            found.setdefault(os.path.realpath(source.path), source)
    return list(found.values())


def _matches(pattern: Path) -> list[Path]:
    """Files that match; leading folders that exist are taken literally, even with brackets in their names."""
    root, rest = Path(pattern.anchor), list(pattern.parts[bool(pattern.anchor) :])
    while len(rest) > 1 and os.path.isdir(root / rest[0]):
        root /= rest.pop(0)
    names = sorted(glob.glob(os.path.join(*rest), root_dir=root, recursive=True))
    return [root / name for name in names if os.path.isfile(root / name)]


def _expand(text: PathLike) -> Path:
    """A path with ``~`` for the home folder, unless there is a file of that very name."""
    text = os.fspath(text)
    return Path(text if os.path.lexists(text) else os.path.expanduser(text))


def _names_a_file(path: Path, text: str) -> bool:
    """Whether an output that is no folder yet ends like an image."""
    ending = path.suffix.lower()
    if text.endswith(("/", os.sep)) or os.path.isdir(path):
        return False
    if output_format(ending) is not None:
        return True
    if ending in readable_endings() | _UNREADABLE_ENDINGS | {".avif", ".jp2", ".gif"}:
        raise ArgumentError(f"results cannot be written as {ending}: {path}; use {_written()}")
    return False


def _distinct(jobs: Sequence[Job]) -> list[Job]:
    """Leave out sources that are results themselves, and refuse every further job for one target."""
    targets = {os.path.realpath(job.target) for job in jobs if job.problem is None}
    targets -= {os.path.realpath(job.target) for job in jobs if _same_file(job)}
    first: dict[Path, Path] = {}
    kept: list[Job] = []
    for job in jobs:
        if os.path.realpath(job.source) in targets:
            continue
        other = first.setdefault(job.target, job.source) if job.problem is None else job.source
        if other != job.source:
            error = ArgumentError(
                f"{other} and {job.source} would both be written to {job.target}; use another output folder"
            )
            job = dataclasses.replace(job, problem=error)
        kept.append(job)
    return kept


def _same_file(job: Job) -> bool:
    return os.path.realpath(job.target) == os.path.realpath(job.source)


def _endings() -> str:
    return ", ".join(sorted(readable_endings()))


def _written() -> str:
    return ", ".join(f".{name}" for name in get_args(Extension) if output_format(f".{name}") is not None)


# Doing the work


def run_jobs(
    jobs: Sequence[Job],
    upscale: Callable[[list[Any]], Sequence[Image.Image]],
    *,
    decode: Callable[[Any], Any] = decode_image,
    result_size: Callable[[int, int], tuple[int, int]] | None = None,
    batch_size: int | None = None,
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
        jobs: from :func:`plan_jobs`.
        upscale: enlarges some images, given as ``decode`` returns them, such as ``resolver.upscale``.
        decode: reads a file, or an open file for standard input, into what ``upscale`` takes.
        result_size: height and width of a result from those of its source, to compare with the limits of the
            file format; None for results that are not larger.
        batch_size: files given to ``upscale`` together. If that fails, they are tried again one by one. None
            takes up to 8, and fewer of large images.
        existing: what to do where a result already exists; looked at before anything is computed.
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
        _batches(jobs, batch_size), read=work.read, compute=work.compute, write=work.save
    ):
        yield from outcomes


def _batches(jobs: Sequence[Job], batch_size: int | None) -> Iterator[list[Job]]:
    """Jobs that go together: a given number, or as many as are small."""
    batch: list[Job] = []
    total = 0
    for job in jobs:
        pixels = _pixels(job.source) if batch_size is None and len(jobs) > 1 else 0
        most = _MOST_TOGETHER if batch_size is None else batch_size
        if batch and (len(batch) == most or total + pixels > _PIXELS_TOGETHER):
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
            if job.target is not STDOUT and self.existing != "overwrite" and os.path.exists(job.target):
                if self.existing == "skip":
                    return _Entry(job, outcome=Outcome(job=job, status="skipped", seconds=0.0))
                raise OutputError(
                    f"{str(job.target)!r} already exists; choose --overwrite or --skip-existing"
                )
            if job.target is not STDOUT:
                check_file(job.target)
            item = self.decode(io.BytesIO(sys.stdin.buffer.read()) if job.source is STDIN else job.source)
            size = self._check(job, item) if isinstance(item, DecodedImage) else None
            planned = Outcome(job=job, status="planned", seconds=0.0, size=size) if self.dry_run else None
            return _Entry(job, item=item, outcome=planned)
        except Exception as error:  # one file must not take the others with it; the caller gets the error
            return _Entry(job, outcome=_failure(job, error, time.perf_counter() - started))

    def _check(self, job: Job, image: DecodedImage) -> tuple[int, int]:
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
                save_image(image, sys.stdout.buffer, strip_metadata=self.strip_metadata, **options)
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
