"""Upscaling and masks of folders and object stores on a Ray cluster; results are those of one process."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sam_diffsr.cluster import Cluster, connected, import_ray, process, sendable
from sam_diffsr.device import Precision
from sam_diffsr.errors import ArgumentError, ImageError, MissingDependencyError, OutputError
from sam_diffsr.image.jobs import (
    STDIN,
    STDOUT,
    Extension,
    Job,
    Source,
    check_names,
    find_sources,
    place_results,
    plan_jobs,
)
from sam_diffsr.image.photos import PHOTO_SUFFIXES, list_photos
from sam_diffsr.image.read import readable_endings
from sam_diffsr.masks.folders import MaskGenerator, MaskOutcome, generate_file, place_targets
from sam_diffsr.pipeline.batch import Existing, Outcome
from sam_diffsr.pipeline.files import FileUpscaler
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.stores import as_path, as_uri, check_writable, is_remote, list_files, read_file, write_file

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sam_diffsr.pipeline.files import FileOptions

__all__ = ["Cluster", "generate_masks", "plan_files", "upscale_files"]

PathLike = str | os.PathLike[str]

_FILES_PER_CALL = 16
"""Files that a worker takes at once: it reads one while it computes another; a killed worker repeats them."""
_STREAMS = 8
"""Files of a call that are fetched or stored at once, where that is a store's work."""


def plan_files(
    inputs: PathLike | Sequence[PathLike],
    output: PathLike,
    *,
    recursive: bool = False,
    suffix: str | None = None,
    ext: Extension | None = None,
) -> list[Job]:
    """Plan as :func:`~sam_diffsr.image.jobs.plan_jobs` does; folders and files can be URIs, too.

    Args:
        inputs: files, folders or patterns that all nodes can read, or URIs such as ``"s3://bucket/photos"``.
        output: folder that all nodes can write, or a URI.
        recursive: read folders with their subfolders.
        suffix: of the names of results, as for ``plan_jobs``.
        ext: file type of results, as for ``plan_jobs``.

    Raises:
        ImageError: there is no image, or a store cannot be listed.
        ArgumentError: an argument is out of range, or a store cannot be opened.
        MissingDependencyError: Ray is not installed.
    """
    import_ray()
    listed = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    local = [as_path(place) if "://" in os.fspath(place) else place for place in listed]
    folder = as_path(output)
    if not any(is_remote(Path(place)) for place in [*local, folder]):
        named = folder if "://" in os.fspath(output) else output  # whose last slash has a meaning
        jobs = plan_jobs(local, named, recursive=recursive, suffix=suffix, ext=ext)
    else:
        check_names(suffix, ext)
        found: dict[Path, Source] = {}
        for place in local:
            if is_remote(Path(place)):
                sources = _below(Path(place), readable_endings(), recursive=recursive, output=folder)
            else:
                sources = find_sources([place], recursive=recursive, output=None)
            found |= {source.path: source for source in sources}
        jobs = place_results(list(found.values()), folder, suffix=suffix, ext=ext)
    if any(job.source is STDIN or job.target is STDOUT for job in jobs):
        raise ArgumentError("a cluster reads and writes files; standard input and output are this process's")
    return jobs


def _below(folder: Path, endings: Container[str], *, recursive: bool, output: Path) -> list[Source]:
    """Images of a folder of a store, but for those below an output in it."""
    found = [path for path in list_files(folder, recursive=recursive) if path.suffix.lower() in endings]
    if output != folder:
        found = [path for path in found if output not in path.parents]
    if not found:
        raise ImageError(f"there is no image in {as_uri(folder)}")
    return [
        Source(path, folder, Path() if path == folder else path.parent.relative_to(folder)) for path in found
    ]


def upscale_files(
    jobs: Sequence[Job],
    upscaler: FileUpscaler,
    *,
    cluster: Cluster | None = None,
    dtype: Precision = "auto",
    **files: Unpack[FileOptions],
) -> Iterator[Outcome]:
    """Do jobs on a cluster. Each result is the one that ``upscaler.run(jobs)`` writes, bit for bit.

    Results appear whole or not at all, and those that exist are found before anything is read: a stopped run
    is finished with ``existing="skip"``.

    Args:
        jobs: from :func:`plan_files`.
        upscaler: a model, which is sent to the workers, and its options.
        cluster: the workers; None is ``Cluster()``.
        dtype: floating type of the networks.
        **files: arguments of :func:`~sam_diffsr.pipeline.batch.run_jobs`.

    Yields:
        An outcome per job, in the order in which they are known.

    Raises:
        OutputError: the output cannot be written.
        ClusterError: the cluster does not answer or has no room for a worker, or a node lacks this package or
            does not see the output folder.
        ArgumentError: an argument is out of range.
    """
    if files.get("dry_run"):
        raise ArgumentError("dry_run is for a single process; a cluster does the jobs")
    existing = files.get("existing", "error")
    options: FileOptions = {**files, "existing": "overwrite"}

    def begin(device: str) -> _Work:
        resolver = upscaler.resolver
        own = SuperResolver(resolver.model, resolver.config, device=device, dtype=dtype, name=resolver.name)
        return partial(replace(upscaler, resolver=own).run, **options)

    return _run(jobs, begin, cluster or Cluster(), existing)


def generate_masks(
    photos: PathLike | Sequence[PathLike],
    out: PathLike,
    load: Callable[..., MaskGenerator],
    *,
    cluster: Cluster | None = None,
    overwrite: bool = False,
) -> Iterator[MaskOutcome]:
    """Find the regions of photos on a cluster, as :func:`~sam_diffsr.masks.folders.generate_folder` does.

    Args:
        photos: a folder (searched with its subfolders), a file or a list of files, which all nodes can read;
            or the URI of a folder or file.
        out: folder or URI to write; it keeps the tree of ``photos``.
        load: gives a worker its generator; called with ``device``. For example
            ``functools.partial(load_generator, "vit_h")``.
        cluster: the workers; None is ``Cluster()``.
        overwrite: make finished files again.

    Yields:
        An outcome per photo, in the order in which they are known.

    Raises:
        DataError: no photos, or two with one target. Others are those of :func:`upscale_files` and ``load``.
    """
    import_ray()
    root = as_path(photos) if isinstance(photos, (str, os.PathLike)) else None
    if root is not None and is_remote(root):
        sources = _below(root, PHOTO_SUFFIXES, recursive=True, output=as_path(out))
        found = [source.path for source in sources]
        root = None if found == [root] else root
    elif root is not None and root.is_file():
        found, root = [root], None
    else:
        found = list_photos(photos if root is None else root)
    jobs = [
        Job(source=source, target=target)
        for source, target in place_targets(found, root, as_path(out), ".json")
    ]

    def begin(device: str) -> _Work:
        generator = load(device=device)

        def one(job: Job) -> Outcome:
            started = time.perf_counter()
            try:
                if job.problem is not None:
                    raise job.problem
                job.target.parent.mkdir(parents=True, exist_ok=True)
                regions = generate_file(generator, job.source, job.target)
            except MissingDependencyError:
                raise
            except Exception as error:  # one photo must not take the others with it
                return Outcome(job=job, status="failed", seconds=0.0, error=error)
            return _MaskOutcome(
                job=job, status="written", seconds=time.perf_counter() - started, regions=regions
            )

        return lambda jobs: map(one, jobs)

    outcomes = _run(jobs, begin, cluster or Cluster(), "overwrite" if overwrite else "skip")
    for number, outcome in enumerate(outcomes, start=1):
        yield MaskOutcome(
            source=outcome.job.source,
            target=outcome.job.target,
            status="failed" if outcome.error is not None else outcome.status,  # pyright: ignore
            number=number,
            total=len(jobs),
            seconds=outcome.seconds,
            regions=getattr(outcome, "regions", 0),
            error=outcome.error,
        )


_Work = Callable[[Sequence[Job]], Iterable[Outcome]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _MaskOutcome(Outcome):
    regions: int


def _run(
    jobs: Sequence[Job], begin: Callable[[str], _Work], cluster: Cluster, existing: Existing
) -> Iterator[Outcome]:
    """Do what is not there yet."""
    if not jobs:
        return
    folder = _common_folder(jobs)
    there = set(list_files(folder)) if is_remote(folder) and existing != "overwrite" else None
    waiting: dict[int, Job] = {}
    for number, job in enumerate(jobs):
        if job.problem is not None:
            yield Outcome(job=job, status="failed", seconds=0.0, error=job.problem)
        elif existing == "overwrite" or not (job.target.exists() if there is None else job.target in there):
            waiting[number] = job
        elif existing == "skip":
            yield Outcome(job=job, status="skipped", seconds=0.0)
        else:
            text = f"{as_uri(job.target)!r} already exists; choose --overwrite or --skip-existing"
            yield Outcome(job=job, status="failed", seconds=0.0, error=OutputError(text))
    if not waiting:
        return
    with _marker(folder) as marker, connected(cluster.address) as ray:
        items = {number: (_absolute(job.source), _absolute(job.target)) for number, job in waiting.items()}
        results = process(
            ray, items, partial(_begin, begin), cluster=cluster, per_call=_FILES_PER_CALL, marker=marker
        )
        for number, result in results:
            if isinstance(result, Outcome):
                yield replace(result, job=waiting[number])
            else:
                yield Outcome(job=waiting[number], status="failed", seconds=0.0, error=result)


def _absolute(path: Path) -> Path:
    return path if is_remote(path) else Path(os.path.abspath(path))


def _common_folder(jobs: Sequence[Job]) -> Path:
    """The folder that all results lie in."""
    return Path(os.path.commonpath({_absolute(job.target).parent for job in jobs}))


@contextmanager
def _marker(folder: Path) -> Generator[str | None]:
    """Make sure that results can be written; give a file that all nodes must see, if the folder is local."""
    if is_remote(folder):
        check_writable(folder)
        yield None
        return
    mark = folder / f".{secrets.token_hex(8)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch(exist_ok=False)
    except OSError as error:
        raise OutputError(f"cannot write into the folder {str(folder)!r}: {error.strerror}") from error
    try:
        yield str(mark)
    finally:
        mark.unlink(missing_ok=True)


# In a worker


def _begin(
    begin: Callable[[str], _Work], device: str
) -> Callable[[Sequence[tuple[Path, Path]]], list[Outcome]]:
    """Load, and give the function that does files; those of a store are local copies meanwhile."""
    work = begin(device)

    def do(places: Sequence[tuple[Path, Path]]) -> list[Outcome]:
        with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as name, ThreadPoolExecutor(_STREAMS) as pool:
            folders = [Path(name, str(number)) for number in range(len(places))]
            jobs = list(pool.map(_fetch, places, folders))
            finished = [pool.submit(_finish, *each) for each in zip(places, work(jobs), strict=True)]
            return [future.result() for future in finished]

    return do


def _fetch(place: tuple[Path, Path], folder: Path) -> Job:
    """A job of local files."""
    (source, target), problem = place, None
    if is_remote(target):
        target = folder / "result" / target.name
    if is_remote(source):
        copy = folder / source.name
        try:
            folder.mkdir()
            copy.write_bytes(read_file(source))
        except (ImageError, OSError) as error:
            problem = error
        source = copy
    return Job(source=source, target=target, problem=problem)


def _finish(place: tuple[Path, Path], outcome: Outcome) -> Outcome:
    """Bring a result to its store, and make the outcome one that can be sent."""
    local, error = outcome.job, outcome.error
    source, target = place
    if error is None and is_remote(target):
        try:
            write_file(target, local.target.read_bytes())
            local.target.unlink()
        except (OutputError, OSError) as failure:
            error = failure
    job = Job(source=source, target=target)
    if error is None:
        return replace(outcome, job=job)
    text = str(sendable(error)).replace(str(local.source), as_uri(source))
    error = type(sendable(error))(text.replace(str(local.target), as_uri(target)))
    return replace(outcome, job=job, status="failed", error=error)
