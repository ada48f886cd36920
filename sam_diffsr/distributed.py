"""Upscaling and masks of folders and object stores on a Ray cluster; results are those of one process."""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sam_diffsr import stores
from sam_diffsr.cluster import Cluster, connected, find_room, import_ray
from sam_diffsr.device import Precision
from sam_diffsr.errors import (
    ArgumentError,
    ClusterError,
    DataError,
    ImageError,
    OutputError,
    SamDiffsrError,
    TruncatedError,
)
from sam_diffsr.files import open_folder
from sam_diffsr.image import jobs as image_jobs
from sam_diffsr.image.jobs import STDIN, STDOUT, Existing, Extension, Job, Source
from sam_diffsr.image.photos import PHOTO_SUFFIXES, list_photos
from sam_diffsr.image.read import readable_endings
from sam_diffsr.masks.folders import MaskGenerator, MaskOutcome, generate_folder, place_targets
from sam_diffsr.masks.store import read_records
from sam_diffsr.pipeline.batch import FileUpscaler, Outcome
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.stores import as_path, as_uri, is_remote

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from sam_diffsr.pipeline.batch import FileOptions

__all__ = ["Cluster", "generate_masks", "plan_files", "upscale_files"]

PathLike = str | os.PathLike[str]
Row = dict[str, Any]
"""Fields of an outcome without its files: ``status``, ``seconds``, ``error`` and others."""
Work = Callable[[Sequence[Job]], Iterable[Row]]
"""Does jobs of local files; a row for each, in order."""

_FILES_PER_CALL = 16
"""Files that a worker takes at once: it reads one while it computes another; a killed worker repeats them."""
_MOST_CALLS = 10_000
"""Largest number of calls: Ray keeps a record of each, so longer lists get more files per call."""
_TRIES = 3
"""Attempts per call before its files are tried one by one, and per file before it counts as failed."""
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
    """Plan as :func:`~sam_diffsr.image.jobs.plan_jobs` does, whose other arguments these are.

    Args:
        inputs: files, folders or patterns that all nodes can read, or URIs such as ``"s3://bucket/photos"``.
        output: folder that all nodes can write, or a URI.
        recursive: read folders with their subfolders.
        suffix: of the names of results.
        ext: file type of results.

    Raises:
        ImageError: there is no image, or a store cannot be listed.
        ArgumentError: an argument is out of range, or a store cannot be opened.
        MissingDependencyError: Ray is not installed.
    """
    import_ray()
    listed = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    # Only URIs become paths; other inputs stay strings, because "-" and a slash at the end have a meaning.
    *places, target = [as_path(each) if "://" in os.fspath(each) else each for each in (*listed, output)]
    folder = Path(target)
    if any(is_remote(Path(place)) for place in (*places, folder)):
        image_jobs.check_names(suffix, ext)
        found: dict[Path, Source] = {}
        for place in places:
            if is_remote(Path(place)):
                sources = _below(Path(place), readable_endings(), recursive=recursive, output=folder)
            else:
                sources = image_jobs.find_sources([place], recursive=recursive, output=None)
            found |= {source.path: source for source in sources}
        jobs = image_jobs.place_results(list(found.values()), folder, suffix=suffix, ext=ext)
    else:
        jobs = image_jobs.plan_jobs(places, target, recursive=recursive, suffix=suffix, ext=ext)
    if any(job.source is STDIN or job.target is STDOUT for job in jobs):
        raise ArgumentError("a cluster reads and writes files; standard input and output are this process's")
    if videos := [str(job.source) for job in jobs if job.is_video]:
        raise ArgumentError(f"a cluster upscales images; upscale the video {videos[0]!r} without it")
    return jobs


def _below(folder: Path, endings: Container[str], *, recursive: bool, output: Path) -> list[Source]:
    """Images of a folder of a store, but for those below an output in it; or the one file of that name."""
    sources = [
        Source(path, folder, path.relative_to(folder).parent)
        for path in stores.list_files(folder, recursive=recursive)
        if path.suffix.lower() in endings and (output == folder or output not in path.parents)
    ]
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
    """Do jobs on a cluster. Results are those of ``upscaler.run(jobs)``, bit for bit with as many threads.

    Results appear whole or not at all, and those that exist are found before anything is read: a stopped run
    is finished with ``existing="skip"``.

    Args:
        jobs: from :func:`plan_files`.
        upscaler: a model, which is sent to the workers, and its options.
        cluster: the workers; None is ``Cluster()``.
        dtype: floating type of the networks.
        **files: arguments of :func:`~sam_diffsr.pipeline.batch.run_jobs`.

    Returns:
        Outcomes, one per job, in the order in which they are known. The work begins with the first.

    Raises:
        OutputError: the output cannot be written.
        ClusterError: the cluster does not answer or has no room for a worker, or a node lacks this package or
            does not see the output folder.
        ArgumentError: an argument is out of range.
    """
    if files.get("dry_run"):
        raise ArgumentError("dry_run is for a single process; a cluster does the jobs")
    if files.get("keep_time") and any(is_remote(path) for job in jobs for path in (job.source, job.target)):
        raise ArgumentError("keep_time is for local files; a store gives each file its own time")
    existing, files["existing"] = files.get("existing", "error"), "overwrite"

    def begin(device: str) -> Work:
        sent = upscaler.resolver
        own = SuperResolver(sent.model, sent.config, device=device, dtype=dtype, name=sent.name)
        return lambda jobs: map(_row, replace(upscaler, resolver=own).run(jobs, **files))

    return (Outcome(job=job, **row) for job, row in _run(jobs, begin, cluster or Cluster(), existing))


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
        overwrite: make finished files again. Truncated ones are made again anyway, but not in a store, where
            only the names of files are looked at.

    Yields:
        An outcome per photo, in the order in which they are known.

    Raises:
        DataError: no photos, or two with one target. Others are those of :func:`upscale_files` and ``load``.
    """
    import_ray()
    root, folder = (as_path(photos) if isinstance(photos, (str, os.PathLike)) else None), as_path(out)
    if root is not None and is_remote(root):
        found = [source.path for source in _below(root, PHOTO_SUFFIXES, recursive=True, output=folder)]
    else:
        found = [root] if root is not None and root.is_file() else list_photos(root or photos)
    pairs = place_targets(found, None if found == [root] else root, folder, ".json")
    jobs = [Job(source=source, target=target) for source, target in pairs]

    def begin(device: str) -> Work:
        return partial(map, partial(_find_regions, load(device=device)))

    rows = _run(jobs, begin, cluster or Cluster(), "overwrite" if overwrite else "skip", _has_records)
    for number, (job, row) in enumerate(rows, start=1):
        yield MaskOutcome(source=job.source, target=job.target, number=number, total=len(jobs), **row)


def _run(
    jobs: Sequence[Job],
    begin: Callable[[str], Work],
    cluster: Cluster,
    existing: Existing,
    is_whole: Callable[[Path], bool] = lambda target: True,
) -> Iterator[tuple[Job, Row]]:
    """Yield what needs no worker, then let workers do the rest by ``begin(device)``.

    Local results that are not whole are made again.
    """
    if not jobs:
        return
    places = [replace(job, source=_absolute(job.source), target=_absolute(job.target)) for job in jobs]
    folder = Path(os.path.commonpath({place.target.parent for place in places}))
    stored = set(stores.list_files(folder)) if is_remote(folder) and existing != "overwrite" else None
    waiting: dict[int, Job] = {}
    for number, (job, place) in enumerate(zip(jobs, places, strict=True)):
        try:
            if job.problem is not None:
                raise job.problem
            exists = job.target in stored if stored is not None else job.source == job.target or None
            done = job.is_done(existing, exists=exists, name=as_uri(job.target))
            done = done and (stored is not None or is_whole(job.target))
        except Exception as error:
            yield job, _failed(error)
            continue
        if done:
            yield job, {"status": "skipped", "seconds": 0.0}
        else:
            waiting[number] = place
    if not waiting:
        return
    if is_remote(folder):
        stores.check_writable(folder)
    with nullcontext() if is_remote(folder) else open_folder(folder) as seen, connected(cluster) as ray:
        room = find_room(ray, cluster, marker=seen and seen.name)
        for number, row in _on_workers(ray, waiting, begin, room):
            yield jobs[number], row


def _on_workers(
    ray: Any, waiting: dict[int, Job], begin: Callable[[str], Work], room: Cluster
) -> Iterator[tuple[int, Row]]:
    """Do numbered jobs as they come; another worker does those of one that dies."""
    workers, cpus, gpus = room.workers or 1, room.num_cpus, room.num_gpus
    for most in (_FILES_PER_CALL, 1):  # Ray repeats the call of a dead worker, if need be for ever; we count
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Attempts).remote()
        count = len(waiting)
        calls = min(math.ceil(count / min(most, math.ceil(count / (4 * workers)))), _MOST_CALLS)
        rows = [{"number": number, "job": job} for number, job in waiting.items()]
        data = ray.data.from_items(rows, override_num_blocks=calls)
        data.context.enable_progress_bars = False
        results = data.map_batches(
            _Worker,
            fn_constructor_args=(begin, "auto" if gpus else "cpu", max(1, int(cpus)), attempts),
            batch_size=count // calls,  # that of the smallest block; with GPUs, Ray asks for a size
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
        if not waiting or calls == count:  # nothing is left, or each file was alone
            break
    text = f"{_TRIES} workers were killed while they did this file; give workers more memory, or leave it out"
    yield from ((number, _failed(ClusterError(text))) for number in waiting)


def _row(outcome: Outcome | MaskOutcome) -> Row:
    names = ("status", "seconds", "size", "regions", "error")
    return {name: getattr(outcome, name) for name in names if hasattr(outcome, name)}


def _failed(error: Exception, seconds: float = 0.0) -> Row:
    return {"status": "failed", "seconds": seconds, "error": error}


def _absolute(path: Path) -> Path:
    return path if is_remote(path) else Path(os.path.abspath(path))


def _has_records(target: Path) -> bool:
    try:
        read_records(target)
    except TruncatedError:
        return False
    return True


# In a worker


class _Attempts:
    """An actor that counts how often a call was begun."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, first: int) -> int:
        self._begun[first] += 1
        return self._begun[first]


class _Worker:
    """An actor of Ray Data. Its own error has the number -1; a call tried too often gives None per file."""

    def __init__(self, begin: Callable[[str], Work], device: str, threads: int, attempts: Any) -> None:
        if device == "cpu":
            torch.set_num_threads(threads)
        self._attempts = attempts
        self._problem: Exception | None = None
        try:
            self._work = begin(device)
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
            return {"number": [-1], "result": [_sendable(error)]}

    def _do(self, jobs: list[Job]) -> list[Row]:
        """Do jobs on local copies of the files of a store, some of which are copied while others are done."""
        with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as name, ThreadPoolExecutor(_STREAMS) as pool:
            copies = list(pool.map(_fetch, jobs, (Path(name, str(number)) for number in range(len(jobs)))))
            rows = zip(jobs, copies, self._work(copies), strict=True)
            return [future.result() for future in [pool.submit(_finish, *row) for row in rows]]


def _fetch(job: Job, folder: Path) -> Job:
    """The job of local files."""
    source, target, problem = job.source, job.target, None
    if is_remote(target):
        target = folder / "result" / target.name
    if is_remote(source):
        source = folder / source.name
        try:
            folder.mkdir()
            source.write_bytes(stores.read_file(job.source))
        except (ImageError, OSError) as error:
            problem = error
    return Job(source=source, target=target, problem=problem)


def _finish(job: Job, copy: Job, row: Row) -> Row:
    """Bring a result to its store, and make a row that can be sent."""
    error = row.get("error")
    if error is None and is_remote(job.target):
        try:
            stores.write_file(job.target, copy.target.read_bytes())
            copy.target.unlink()
        except OSError as failure:
            error = failure
    if error is None:
        return row
    error = _sendable(error, (copy.source, job.source), (copy.target, job.target))
    return _failed(error, row["seconds"])


def _sendable(error: Exception, *renamed: tuple[Path, Path]) -> SamDiffsrError:
    """An error of ours, which can be pickled, with the places of files instead of those of their copies."""
    ours = isinstance(error, SamDiffsrError)
    text = str(error) if ours else f"{type(error).__name__}: {' '.join(str(error).split())}"
    for copy, place in renamed:
        text = text.replace(str(copy), as_uri(place))
    return type(error)(text) if ours else SamDiffsrError(text)


def _find_regions(generator: MaskGenerator, job: Job) -> Row:
    if job.problem is not None:
        return _failed(job.problem)
    try:
        (outcome,) = generate_folder([job.source], job.target.parent, lambda: generator, overwrite=True)
    except (DataError, OutputError) as error:  # ends a process, but not the work of the others
        return _failed(error)
    return _row(outcome)
