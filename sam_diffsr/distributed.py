"""Folders and object stores on a Ray cluster: the commands' work, one outcome per file."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from sam_diffsr.cluster import Cluster, connected, import_ray, process, sendable
from sam_diffsr.device import Precision
from sam_diffsr.errors import ArgumentError, DataError, ImageError, MissingDependencyError, OutputError
from sam_diffsr.image import MAX_PIXELS_DEFAULT, Animation, DecodedImage, decode_frames
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
from sam_diffsr.image.photos import PHOTO_SUFFIXES, list_photos, read_photo
from sam_diffsr.image.read import readable_endings
from sam_diffsr.image.save import Quality
from sam_diffsr.masks.folders import MaskGenerator
from sam_diffsr.masks.store import write_records
from sam_diffsr.pipeline.batch import PIXELS_TOGETHER, Existing, run_jobs
from sam_diffsr.pipeline.images import output_size
from sam_diffsr.pipeline.memory import CPU_BATCH_PIXELS
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.pipeline.settings import resolve_settings
from sam_diffsr.stores import Store, local_path

if TYPE_CHECKING:
    from PIL import Image
    from typing_extensions import Unpack

    from sam_diffsr.pipeline.settings import RunOptions

__all__ = ["Cluster", "FileOutcome", "Summary", "generate_masks", "upscale_files"]

PathLike = str | os.PathLike[str]

_FILES_PER_CALL = 16
"""Files that a worker takes at once: it reads one while it computes another; a killed worker repeats them."""
_STREAMS = 8
"""Files of a call that are fetched or stored at once, where that is a store's work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileOutcome:
    """The result for one file."""

    source: str
    """Path or URI of the image."""
    target: str
    """Path or URI of its result."""
    status: Literal["written", "skipped", "failed"]
    """``skipped``: the result existed."""
    seconds: float = 0.0
    """Time that a worker took."""
    size: tuple[int, int] | None = None
    """(height, width) of a written image."""
    regions: int | None = None
    """Regions of written masks."""
    error: Exception | None = None
    """Why it failed."""


@dataclass(slots=True)
class Summary:
    """Counts outcomes; ``str`` gives a table of them with the reasons of failures."""

    counts: dict[str, int] = field(default_factory=lambda: {"written": 0, "skipped": 0, "failed": 0})
    """Files by their status."""
    failures: list[FileOutcome] = field(default_factory=list["FileOutcome"])
    """Outcomes with an error."""
    started: float = field(default_factory=time.perf_counter)

    def add(self, outcome: FileOutcome) -> None:
        """Count an outcome."""
        self.counts[outcome.status] += 1
        if outcome.error is not None:
            self.failures.append(outcome)

    def __str__(self) -> str:
        seconds = time.perf_counter() - self.started
        counts = "".join(f"{count:>10}" for count in self.counts.values())
        lines = [
            "".join(f"{name:>10}" for name in (*self.counts, "seconds", "images/s")),
            f"{counts}{seconds:>10.1f}{self.counts['written'] / seconds:>10.2f}",
        ]
        lines += [f"failed: {outcome.source}: {outcome.error}" for outcome in self.failures]
        return "\n".join(lines)


def upscale_files(
    inputs: PathLike | Sequence[PathLike],
    output: PathLike,
    *,
    model: SuperResolver | PathLike | None = None,
    cluster: Cluster | None = None,
    precision: Precision = "auto",
    recursive: bool = False,
    suffix: str | None = None,
    ext: Extension | None = None,
    existing: Existing = "error",
    quality: Quality | None = None,
    strip_metadata: bool = False,
    keep_time: bool = False,
    seed: int = 0,
    wrap: bool = False,
    outscale: float | Callable[[int, int], float | None] | None = None,
    max_pixels: int | None = MAX_PIXELS_DEFAULT,
    **options: Unpack[RunOptions],
) -> Iterator[FileOutcome]:
    """Upscale files on a cluster; each result is that of a single process, bit for bit.

    Results appear whole or not at all. What exists is found before anything is read, so that a stopped run
    is finished with ``existing="skip"``.

    Args:
        inputs: as for :func:`~sam_diffsr.image.jobs.plan_jobs`, where all nodes can read them; or URIs of
            folders and files in one store, such as ``"s3://bucket/photos"``.
        output: folder or URI; results are named as ``plan_jobs`` does.
        model: a model, or what ``SuperResolver.from_pretrained`` takes. It is sent to the workers.
        cluster: the workers; None is ``Cluster()``.
        precision: floating type of the networks.
        recursive: read folders with their subfolders.
        suffix: as for ``plan_jobs``.
        ext: as for ``plan_jobs``.
        existing: what to do where a result exists.
        quality: as for :func:`~sam_diffsr.save_image`.
        strip_metadata: leave out EXIF, colour profile and all other metadata.
        keep_time: give results that are no objects of a store the modification time of their sources.
        seed: seed of the noise of every file.
        wrap: as for ``SuperResolver.upscale``.
        outscale: final factor, or a function that gives it (or None) for a height and width.
        max_pixels: as for ``SuperResolver.upscale``.
        **options: further arguments of ``SuperResolver.upscale``.

    Returns:
        An outcome per file, in the order in which they are known.

    Raises:
        ImageError: no image is found.
        ArgumentError: an argument is out of range, or the inputs are in several stores.
        OutputError: the output cannot be written.
        ClusterError: the cluster does not answer or has no room for a worker, or a node lacks this package or
            does not see the output folder.
        MissingDependencyError: Ray is not installed.
    """
    cluster = cluster or Cluster()
    import_ray(local=cluster.address is None)
    check_names(suffix, ext)
    stores = _Stores.of(_listed(inputs), output)
    jobs = stores.plan(_listed(inputs), output, recursive=recursive, suffix=suffix, ext=ext)
    resolver = (
        model if isinstance(model, SuperResolver) else SuperResolver.from_pretrained(model, device="cpu")
    )
    resolve_settings(resolver.config, **options)

    def factor(height: int, width: int) -> float | None:
        return outscale(height, width) if callable(outscale) else outscale

    def result_size(height: int, width: int) -> tuple[int, int]:
        final, scale = factor(height, width), resolver.scale
        size = output_size(height, width, scale=scale, outscale=final, max_pixels=max_pixels)
        return size or (height * scale, width * scale)

    def begin(device: str) -> _Work:
        own = SuperResolver(resolver.model, resolver.config, device=device, dtype=precision)
        further: Any = {"wrap": wrap, "max_pixels": max_pixels, "progress": False, **options}

        def enlarge(images: list[DecodedImage | Animation]) -> list[Image.Image]:
            results: list[Image.Image] = []
            for (moving, final), together in groupby(
                images,
                lambda image: (isinstance(image, Animation) and id(image), factor(*image.rgb.shape[-2:])),
            ):
                group: Any = list(together)
                if moving:
                    results.append(own.upscale_animation(group[0], seed=seed, outscale=final, **further))
                else:
                    results += cast("Any", own.upscale)(
                        group, seed=[seed] * len(group), outscale=final, **further
                    )
            return results

        def work(jobs: Sequence[Job]) -> Iterator[_Fields]:
            for outcome in run_jobs(
                jobs,
                enlarge,
                decode=partial(decode_frames, max_pixels=max_pixels),
                result_size=result_size,
                batch_size=options.get("batch_size"),
                pixels_together=CPU_BATCH_PIXELS if own.device.type == "cpu" else PIXELS_TOGETHER,
                existing="overwrite",
                quality=quality,
                strip_metadata=strip_metadata,
                keep_time=keep_time,
            ):
                yield {"seconds": outcome.seconds, "size": outcome.size, "error": outcome.error}

        return work

    return _run(jobs, begin, stores, cluster, Path(output), existing)


def generate_masks(
    photos: PathLike | Sequence[PathLike],
    out: PathLike,
    load: Callable[..., MaskGenerator],
    *,
    cluster: Cluster | None = None,
    overwrite: bool = False,
) -> Iterator[FileOutcome]:
    """Find the regions of photos on a cluster, as :func:`~sam_diffsr.masks.folders.generate_folder` does.

    Args:
        photos: a folder (searched with its subfolders), a file or a list of files, which all nodes can read;
            or URIs of such.
        out: folder or URI to write; it keeps the tree of ``photos``.
        load: gives the generator of a worker, called with ``device``; such as
            ``functools.partial(load_generator, "vit_h")``.
        cluster: the workers; None is ``Cluster()``.
        overwrite: make finished files again.

    Returns:
        An outcome per photo, in the order in which they are known.

    Raises:
        DataError: no photos, or two with one target. Other errors are those of :func:`upscale_files`, or of
            ``load``.
    """
    cluster = cluster or Cluster()
    import_ray(local=cluster.address is None)
    stores = _Stores.of(_listed(photos), out)
    jobs = stores.plan_masks(photos, out)

    def begin(device: str) -> _Work:
        generator = load(device=device)

        def fields(job: Job) -> _Fields:
            started = time.perf_counter()
            try:
                if job.problem is not None:
                    raise job.problem
                records = generator.generate(read_photo(job.source))
                job.target.parent.mkdir(parents=True, exist_ok=True)
                write_records(job.target, records)
            except MissingDependencyError:
                raise
            except Exception as error:  # one photo must not take the others with it
                return {"error": error}
            return {"seconds": time.perf_counter() - started, "regions": len(records)}

        return lambda jobs: map(fields, jobs)

    return _run(jobs, begin, stores, cluster, Path(out), "overwrite" if overwrite else "skip")


_Fields = dict[str, Any]
"""Fields of an outcome: ``seconds``, ``size``, ``regions`` and ``error``, as far as they are known."""
_Work = Callable[[Sequence[Job]], Iterable[_Fields]]


@dataclass(frozen=True, slots=True)
class _Stores:
    """Where images and results lie; None for this machine, or folders that the nodes share."""

    sources: Store | None
    targets: Store | None

    @classmethod
    def of(cls, inputs: Sequence[PathLike], output: PathLike) -> _Stores:
        """Open the stores of URIs."""
        opened = [None if local_path(place) is not None else Store.open(str(place)) for place in inputs]
        if len({store and store.scheme for store in opened}) > 1:
            raise ArgumentError("some inputs lie in another store than others; use one call for each store")
        targets = None if local_path(output) is not None else Store.open(str(output))
        return cls(opened[0] if opened else None, targets)

    def plan(
        self,
        inputs: Sequence[PathLike],
        output: PathLike,
        *,
        recursive: bool,
        suffix: str | None,
        ext: Extension | None,
    ) -> list[Job]:
        """Plan to upscale, as ``plan_jobs`` does."""
        if self.sources is None and self.targets is None:
            local = [local_path(place) or place for place in inputs]
            jobs = plan_jobs(local, local_path(output), recursive=recursive, suffix=suffix, ext=ext)
        else:
            found = self._find(inputs, readable_endings(), recursive=recursive)
            jobs = place_results(found, self.folder(output), suffix=suffix, ext=ext)
        if any(job.source is STDIN or job.target is STDOUT for job in jobs):
            raise ArgumentError("a cluster reads and writes files, not standard input and output")
        return jobs

    def plan_masks(self, photos: PathLike | Sequence[PathLike], out: PathLike) -> list[Job]:
        """Plan to find regions, as ``generate_folder`` does."""
        inputs = _listed(photos)
        if self.sources is None:
            places = [Path(local_path(place) or place) for place in inputs]
            base = places[0] if len(places) == 1 and not places[0].is_file() else None
            files = list_photos(places if base is None else base)
            found = [Source(file, base, file.parent.relative_to(base) if base else Path()) for file in files]
        else:
            found = self._find(inputs, PHOTO_SUFFIXES, recursive=True)
        jobs: dict[Path, Job] = {}
        for source in found:
            target = source.target(self.folder(out), "", "json")
            other = jobs.setdefault(target, Job(source=source.path, target=target)).source
            if other != source.path:
                raise DataError(
                    f"{other} and {source.path} would both be written to {target}; rename one of them"
                )
        return list(jobs.values())

    def folder(self, output: PathLike) -> Path:
        """The output as a path to plan with."""
        store = self.targets
        return Path(local_path(output) or "") if store is None else store.as_path(store.root)

    def _find(self, inputs: Sequence[PathLike], endings: Iterable[str], *, recursive: bool) -> list[Source]:
        """Files of a store, or local ones whose results go to a store."""
        if self.sources is None:
            return find_sources(
                [local_path(place) or place for place in inputs], recursive=recursive, output=None
            )
        found: list[Source] = []
        for store in (Store.open(str(uri)) for uri in inputs):
            base = store.as_path(store.root)
            for path in map(store.as_path, store.list(recursive=recursive)):
                if path.suffix.lower() in endings:
                    found.append(
                        Source(path, base, Path() if path == base else path.parent.relative_to(base))
                    )
        if not found:
            raise ImageError(
                f"no images in {', '.join(map(str, inputs))}; looked for {' '.join(sorted(endings))}"
            )
        return found

    def row(self, job: Job) -> tuple[str, str]:
        """Source and target as a worker takes them: absolute paths, or paths of their stores."""
        return _real(self.sources, job.source), _real(self.targets, job.target)

    def outcome(self, job: Job, status: Literal["written", "skipped", "failed"], **rest: Any) -> FileOutcome:
        """The outcome of a job, with the names that the user knows."""
        return FileOutcome(
            source=_shown(self.sources, job.source),
            target=_shown(self.targets, job.target),
            status=status,
            **rest,
        )

    @contextmanager
    def marker(self, folder: Path) -> Generator[str | None]:
        """Make sure that results can be written; give a file that the nodes must see, if they are local."""
        if self.targets is not None:
            self.targets.check_writable()
            yield None
            return
        mark = os.path.abspath(folder / f".{secrets.token_hex(8)}.part")
        try:
            os.makedirs(folder, exist_ok=True)
            open(mark, "xb").close()
        except OSError as error:
            raise OutputError(f"cannot write into the folder {folder}: {error.strerror or error}") from error
        try:
            yield mark
        finally:
            os.unlink(mark)


def _real(store: Store | None, path: Path) -> str:
    return os.path.abspath(path) if store is None else store.of_path(path)


def _shown(store: Store | None, path: Path) -> str:
    return str(path) if store is None else store.uri(store.of_path(path))


def _listed(inputs: PathLike | Sequence[PathLike]) -> Sequence[PathLike]:
    return [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs


def _run(
    jobs: Sequence[Job],
    begin: Callable[[str], _Work],
    stores: _Stores,
    cluster: Cluster,
    folder: Path,
    existing: Existing,
) -> Iterator[FileOutcome]:
    """Do what is not there yet."""
    there = set[str]() if stores.targets is None or existing == "overwrite" else set(stores.targets.list())
    waiting: dict[int, Job] = {}
    for number, job in enumerate(jobs):
        place = _real(stores.targets, job.target)
        exists = place in there or (stores.targets is None and os.path.exists(place))
        if job.problem is not None:
            yield stores.outcome(job, "failed", error=job.problem)
        elif existing == "overwrite" or not exists:
            waiting[number] = job
        elif existing == "skip":
            yield stores.outcome(job, "skipped")
        else:
            where = _shown(stores.targets, job.target)
            error = OutputError(f"{where!r} already exists; choose --overwrite or --skip-existing")
            yield stores.outcome(job, "failed", error=error)
    if not waiting:
        return
    if any(job.target == folder for job in jobs):
        folder = folder.parent
    with stores.marker(folder) as marker, connected(cluster.address) as ray:
        results = process(
            ray,
            {number: stores.row(job) for number, job in waiting.items()},
            partial(_begin, begin, stores),
            cluster=cluster,
            per_call=_FILES_PER_CALL,
            marker=marker,
        )
        for number, result in results:
            fields = {"error": result} if isinstance(result, Exception) else result
            status = "written" if fields.get("error") is None else "failed"
            yield stores.outcome(waiting[number], status, **fields)


# In a worker


def _begin(
    begin: Callable[[str], _Work], stores: _Stores, device: str
) -> Callable[[Sequence[Any]], list[_Fields]]:
    """Load, and give the function that does some files; those of a store have local copies meanwhile."""
    work = begin(device)

    def fetch(folder: Path, number: int, place: tuple[str, str]) -> Job:
        source, target, problem = Path(place[0]), Path(place[1]), None
        own = folder / str(number)
        if stores.targets is not None:
            target = own / "result" / target.name
        if stores.sources is not None:
            source = own / source.name
            try:
                own.mkdir()
                source.write_bytes(stores.sources.read(place[0]))
            except (ImageError, OSError) as error:
                problem = error
        return Job(source=source, target=target, problem=problem)

    def finish(place: tuple[str, str], job: Job, fields: _Fields) -> _Fields:
        error: Exception | None = fields.get("error")
        if error is None and stores.targets is not None:
            try:
                stores.targets.write(place[1], job.target.read_bytes())
                job.target.unlink()
            except (OutputError, OSError) as failure:
                error = failure
        if error is None:
            return fields
        error = sendable(error)
        for store, copy, path in zip(
            (stores.sources, stores.targets), (job.source, job.target), place, strict=True
        ):
            if store is not None:
                error = type(error)(str(error).replace(str(copy), store.uri(path)))
        return {"seconds": fields.get("seconds", 0.0), "error": error}

    def do(places: Sequence[tuple[str, str]]) -> list[_Fields]:
        with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as name, ThreadPoolExecutor(_STREAMS) as pool:
            jobs = list(pool.map(partial(fetch, Path(name)), range(len(places)), places))
            finished = [pool.submit(finish, *one) for one in zip(places, jobs, work(jobs), strict=True)]
            return [future.result() for future in finished]

    return do
