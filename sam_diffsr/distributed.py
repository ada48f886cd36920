"""Upscaling and masks of folders and object stores on a Ray cluster; results are those of one process."""

from __future__ import annotations

import os
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
from sam_diffsr.pipeline.batch import Existing, FileUpscaler, Outcome
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.stores import as_path, as_uri, check_writable, is_remote, list_files, read_file, write_file

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sam_diffsr.pipeline.batch import FileOptions

__all__ = ["Cluster", "generate_masks", "plan_files", "upscale_files"]

PathLike = str | os.PathLike[str]

_FILES_PER_CALL = 16
"""Files that a worker takes at once: it reads one while it computes another; a killed worker repeats them."""
_STREAMS = 8
"""Files of a call that are fetched from a store, or brought to it, at once."""


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
    found = [path for path in found if output == folder or output not in path.parents]
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
    options: FileOptions = {**files, "existing": "overwrite"}

    def begin(device: str) -> _Work:
        resolver = upscaler.resolver
        own = SuperResolver(resolver.model, resolver.config, device=device, dtype=dtype, name=resolver.name)
        return partial(replace(upscaler, resolver=own).run, **options)

    return _run(jobs, begin, cluster or Cluster(), files.get("existing", "error"))


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
    root, place = (as_path(photos) if isinstance(photos, (str, os.PathLike)) else None), as_path(out)
    if root is not None and is_remote(root):
        found = [source.path for source in _below(root, PHOTO_SUFFIXES, recursive=True, output=place)]
    elif root is not None and root.is_file():
        found = [root]
    else:
        found = list_photos(photos if root is None else root)
    root = None if found == [root] else root
    jobs = [
        Job(source=source, target=target) for source, target in place_targets(found, root, place, ".json")
    ]

    def begin(device: str) -> _Work:
        return partial(map, partial(_find_regions, load(device=device)))

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _MaskOutcome(Outcome):
    regions: int


_Work = Callable[[Sequence[Job]], Iterable[Outcome]]


def _run(
    jobs: Sequence[Job], begin: Callable[[str], _Work], cluster: Cluster, existing: Existing
) -> Iterator[Outcome]:
    """Do what is not done yet."""
    if not jobs:
        return
    places = [replace(job, source=_absolute(job.source), target=_absolute(job.target)) for job in jobs]
    folder = Path(os.path.commonpath({place.target.parent for place in places}))
    stored = set(list_files(folder)) if is_remote(folder) and existing != "overwrite" else None
    waiting: dict[int, Job] = {}
    for number, (job, place) in enumerate(zip(jobs, places, strict=True)):
        if job.problem is not None:
            yield _failed(job, job.problem)
        elif existing == "overwrite" or not (job.target.exists() if stored is None else job.target in stored):
            waiting[number] = place
        elif existing == "skip":
            yield Outcome(job=job, status="skipped", seconds=0.0)
        else:
            text = f"{as_uri(job.target)!r} already exists; choose --overwrite or --skip-existing"
            yield _failed(job, OutputError(text))
    if not waiting:
        return
    with _marker(folder) as marker, connected(cluster.address) as ray:
        load = partial(_begin, begin)
        for number, result in process(
            ray, waiting, load, cluster=cluster, per_call=_FILES_PER_CALL, marker=marker
        ):
            done = isinstance(result, Outcome)
            yield replace(result, job=jobs[number]) if done else _failed(jobs[number], result)


def _failed(job: Job, error: Exception) -> Outcome:
    return Outcome(job=job, status="failed", seconds=0.0, error=error)


def _absolute(path: Path) -> Path:
    return path if is_remote(path) else Path(os.path.abspath(path))


@contextmanager
def _marker(folder: Path) -> Generator[str | None]:
    """Make sure that results can be written; give a file that all nodes must see, if the folder is local."""
    if is_remote(folder):
        check_writable(folder)
        yield None
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark = tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".part")  # noqa: SIM115
    except OSError as error:
        raise OutputError(f"cannot write into the folder {str(folder)!r}: {error.strerror}") from error
    with mark:
        yield mark.name


# In a worker


def _find_regions(generator: MaskGenerator, job: Job) -> Outcome:
    started = time.perf_counter()
    try:
        if job.problem is not None:
            raise job.problem
        job.target.parent.mkdir(parents=True, exist_ok=True)
        regions = generate_file(generator, job.source, job.target)
    except MissingDependencyError:
        raise
    except Exception as error:  # one photo must not take the others with it
        return _failed(job, error)
    return _MaskOutcome(job=job, status="written", seconds=time.perf_counter() - started, regions=regions)


def _begin(begin: Callable[[str], _Work], device: str) -> Callable[[Sequence[Job]], list[Outcome]]:
    """Load, and give the function that does jobs; it works on local copies of the files of a store."""
    work = begin(device)

    def do(jobs: Sequence[Job]) -> list[Outcome]:
        with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as name, ThreadPoolExecutor(_STREAMS) as pool:
            copies = list(pool.map(_fetch, jobs, (Path(name, str(number)) for number in range(len(jobs)))))
            finished = [pool.submit(_finish, *each) for each in zip(jobs, work(copies), strict=True)]
            return [future.result() for future in finished]

    return do


def _fetch(job: Job, folder: Path) -> Job:
    """The job of local files."""
    source, target, problem = job.source, job.target, None
    if is_remote(target):
        target = folder / "result" / target.name
    if is_remote(source):
        source = folder / source.name
        try:
            folder.mkdir()
            source.write_bytes(read_file(job.source))
        except (ImageError, OSError) as error:
            problem = error
    return Job(source=source, target=target, problem=problem)


def _finish(job: Job, outcome: Outcome) -> Outcome:
    """Bring a result to its store, and make the outcome one that can be sent."""
    local, error = outcome.job, outcome.error
    if error is None and is_remote(job.target):
        try:
            write_file(job.target, local.target.read_bytes())
            local.target.unlink()
        except (OutputError, OSError) as failure:
            error = failure
    if error is None:
        return replace(outcome, job=job)
    error = sendable(error)
    for copy, place in ((local.source, job.source), (local.target, job.target)):
        error = type(error)(str(error).replace(str(copy), as_uri(place)))
    return replace(outcome, job=job, status="failed", error=error)
