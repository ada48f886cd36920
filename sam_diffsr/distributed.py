"""Upscaling and masks of folders and object stores on a Ray cluster; results are those of one process."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sam_diffsr.cluster import Cluster, connected, find_room, import_ray, sendable
from sam_diffsr.device import Precision
from sam_diffsr.errors import ArgumentError, ClusterError, ImageError, MissingDependencyError, OutputError
from sam_diffsr.image.jobs import (
    STDIN,
    STDOUT,
    Existing,
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
from sam_diffsr.pipeline.batch import FileUpscaler, Outcome
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.stores import as_path, as_uri, check_writable, is_remote, list_files, read_file, write_file

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sam_diffsr.pipeline.batch import FileOptions

__all__ = ["Cluster", "generate_masks", "plan_files", "upscale_files"]

PathLike = str | os.PathLike[str]

_FILES_PER_CALL = 16
"""Files that a worker takes at once: it reads one while it computes another; a killed worker repeats them."""
_MOST_CALLS = 10_000
"""Ray keeps a record of each call, so that a long list has more files per call."""
_TRIES = 3
"""Workers that may die in a call before its files are tried one by one, and of one file before it fails."""
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
    if videos := [str(job.source) for job in jobs if job.is_video]:
        raise ArgumentError(f"a cluster upscales images; upscale the video {videos[0]!r} without it")
    return jobs


def _below(folder: Path, endings: Container[str], *, recursive: bool, output: Path) -> list[Source]:
    """Images of a folder of a store, but for those below an output in it; or the one file of that name."""
    sources: list[Source] = []
    for path in list_files(folder, recursive=recursive):
        if path.suffix.lower() in endings and (output == folder or output not in path.parents):
            sources.append(Source(path, folder, path.relative_to(folder).parent))
    if not sources:
        raise ImageError(f"there is no image in {as_uri(folder)}")
    return sources


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
"""Does jobs of local files; an outcome for each, in order."""


def _run(
    jobs: Sequence[Job], begin: Callable[[str], _Work], cluster: Cluster, existing: Existing
) -> Iterator[Outcome]:
    """Yield what needs no worker, then do the rest."""
    if not jobs:
        return
    places = [replace(job, source=_absolute(job.source), target=_absolute(job.target)) for job in jobs]
    folder = Path(os.path.commonpath({place.target.parent for place in places}))
    stored = set(list_files(folder)) if is_remote(folder) and existing != "overwrite" else None
    waiting: dict[int, Job] = {}
    for number, (job, place) in enumerate(zip(jobs, places, strict=True)):
        try:
            if job.problem is not None:
                raise job.problem
            exists = job.target in stored if stored is not None else job.source == job.target or None
            done = job.is_done(existing, exists=exists, name=as_uri(job.target))
        except Exception as error:
            yield _failed(job, error)
            continue
        if done:
            yield Outcome(job=job, status="skipped", seconds=0.0)
        else:
            waiting[number] = place
    if not waiting:
        return
    with _marker(folder) as marker, connected(cluster.address) as ray:
        workers, gpus = find_room(ray, cluster, marker=marker)
        for number, outcome in _on_workers(ray, waiting, begin, workers, cluster.num_cpus, gpus):
            yield replace(outcome, job=jobs[number])


def _on_workers(
    ray: Any, waiting: dict[int, Job], begin: Callable[[str], _Work], workers: int, cpus: float, gpus: float
) -> Iterator[tuple[int, Outcome]]:
    """Do numbered jobs as they come; another worker does those of one that dies."""
    for most in (_FILES_PER_CALL, 1):  # Ray repeats the call of a dead worker, if need be for ever; we count
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Attempts).remote()
        count = len(waiting)
        together = max(min(most, -(-count // (4 * workers))), -(-count // _MOST_CALLS))
        data = ray.data.from_items(
            [{"number": number, "job": job} for number, job in waiting.items()],
            override_num_blocks=-(-count // together),
        )
        data.context.enable_progress_bars = False
        results = data.map_batches(
            _Worker,
            fn_constructor_args=(begin, bool(gpus), max(1, int(cpus)), attempts),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=min(workers, count)),
            num_cpus=cpus,
            num_gpus=gpus or None,
        )
        try:
            for row in results.iter_rows():
                if row["number"] < 0:
                    raise row["result"]
                if row["result"] is not None and waiting.pop(row["number"], None) is not None:
                    yield row["number"], row["result"]
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ClusterError(f"the cluster gave up: {reason}; finished results are kept") from error
        if not waiting:
            return
    for number, job in waiting.items():
        text = f"{_TRIES} workers died of it; give a worker more memory, or leave it out"
        yield number, _failed(job, ClusterError(text))


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


class _Attempts:
    """An actor that counts how often a call was begun."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, first: int) -> int:
        self._begun[first] += 1
        return self._begun[first]


class _Worker:
    """An actor of Ray Data. Its own errors are results of number -1; a call that kills workers gives None."""

    def __init__(self, begin: Callable[[str], _Work], gpu: bool, threads: int, attempts: Any) -> None:
        if not gpu:
            torch.set_num_threads(threads)
        self._attempts = attempts
        self._problem: Exception | None = None
        try:
            self._work = begin("auto" if gpu else "cpu")
        except Exception as error:  # raised again where the results arrive
            self._problem = error

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        import ray

        numbers: list[int] = [int(number) for number in batch["number"]]
        if ray.get(self._attempts.begin.remote(numbers[0])) > _TRIES:  # pyright: ignore
            return {"number": numbers, "result": [None] * len(numbers)}
        try:
            if self._problem is not None:
                raise self._problem
            return {"number": numbers, "result": self._do(list(batch["job"]))}
        except Exception as error:
            return {"number": [-1], "result": [sendable(error)]}

    def _do(self, jobs: list[Job]) -> list[Outcome]:
        """Do jobs on local copies of the files of a store, some of which are copied while others are done."""
        with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as name, ThreadPoolExecutor(_STREAMS) as pool:
            copies = list(pool.map(_fetch, jobs, (Path(name, str(number)) for number in range(len(jobs)))))
            finished = [pool.submit(_finish, *each) for each in zip(jobs, self._work(copies), strict=True)]
            return [future.result() for future in finished]


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
