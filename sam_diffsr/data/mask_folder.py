"""Masks for a folder of photos, and fields for a folder of masks: resumable, and one bad file stops nothing.

Every file appears whole or not at all, so whatever a killed run has left behind is finished.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.data.mask_source import find_records
from sam_diffsr.data.photos import list_photos, reduce_image
from sam_diffsr.data.shard import Shard
from sam_diffsr.errors import ArgumentError, DataError, MissingDependencyError, OutputError
from sam_diffsr.image import decode_image
from sam_diffsr.masks.sam import SamMaskGenerator
from sam_diffsr.masks.segments import GraphMaskGenerator
from sam_diffsr.masks.spe import Encoding, Reduction
from sam_diffsr.masks.store import read_records, read_structure, write_records, write_structure
from sam_diffsr.masks.structure import StructureField

__all__ = [
    "MaskGenerator",
    "MaskJob",
    "MaskOutcome",
    "encode_folder",
    "generate_folder",
    "load_generator",
    "plan_generation",
    "read_photo",
]

PathLike = str | os.PathLike[str]


class MaskGenerator(Protocol):
    """What ``SamMaskGenerator`` and ``GraphMaskGenerator`` are."""

    def generate(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Records of an ``(H, W, 3)`` uint8 RGB image."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskJob:
    """One file to make."""

    source: Path
    target: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskOutcome:
    """What became of a job."""

    job: MaskJob
    status: Literal["written", "skipped", "failed"]
    """``skipped`` only where a whole result was there already."""
    number: int
    """Which job it is, 1-based ..."""
    total: int
    """... of how many in this process's part."""
    seconds: float = 0.0
    """Wall-clock time it took."""
    remaining: float | None = None
    """Seconds that the rest will take at the pace so far; ``None`` before anything was written."""
    regions: int = 0
    """Regions written."""
    stored: int = 0
    """Bytes written, of a field."""
    plain: int = 0
    """Bytes of the same field as a float32 ``.npy``."""
    error: Exception | None = None
    """Why it failed."""


def load_generator(
    model: str = "vit_h",
    *,
    device: str = "auto",
    precision: Literal["fp32", "fp16", "bf16"] | None = None,
    longest_side: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> MaskGenerator:
    """Load what finds the regions.

    Args:
        model: ``"graph"`` (no weights), or what ``SamMaskGenerator.from_pretrained`` takes.
        device: for SAM.
        precision: for SAM; ``None`` is its default.
        longest_side: larger images are segmented at this longest side; ``None`` is the generator's default.
        options: further options of SAM's automatic mask generator, by their names.

    Raises:
        ArgumentError: an option that the generator does not have, or out of range.
        ModelLoadError: SAM's weights cannot be loaded.
        MissingDependencyError: a package that the generator needs is missing.
    """
    chosen = dict(options or {})
    if longest_side is not None:
        chosen["longest_side"] = longest_side
    if precision is not None:
        chosen["precision"] = precision
    if model != "graph":
        return SamMaskGenerator.from_pretrained(model, device=device, **chosen)
    foreign = sorted(chosen.keys() - {"longest_side"})
    if foreign:
        raise ArgumentError(f"graph segmentation has no option {', '.join(foreign)}; they belong to SAM")
    return GraphMaskGenerator(**chosen)


def read_photo(path: PathLike) -> NDArray[np.uint8]:
    """Read a photo upright, ``(H, W, 3)`` uint8 RGB; raises ``ImageError``."""
    return reduce_image(decode_image(path).rgb, 1)


def plan_generation(photos: PathLike | Sequence[PathLike], out: PathLike) -> list[MaskJob]:
    """Decide which photo gives which ``.json``; the tree of a folder is kept. Nothing is written.

    Raises:
        DataError: no photos, or two that would be written to one file.
    """
    root = Path(photos) if isinstance(photos, (str, os.PathLike)) else None
    if root is not None and root.is_file():
        photos, root = [root], None
    files = list_photos(photos)
    jobs: dict[Path, Path] = {}
    for file in files:
        place = file.relative_to(root) if root is not None else Path(file.name)
        target = Path(out) / place.parent / f"{place.stem}.json"
        other = jobs.setdefault(target, file)
        if other != file:
            raise DataError(f"{other} and {file} would both be written to {target}; rename one of them")
    return [MaskJob(source=source, target=target) for target, source in jobs.items()]


def generate_folder(
    photos: PathLike | Sequence[PathLike],
    out: PathLike,
    load: Callable[[], MaskGenerator],
    *,
    shard: Shard | None = None,
    overwrite: bool = False,
) -> Iterator[MaskOutcome]:
    """Find the regions of photos and write ``<stem>.json`` records; what is there already is kept.

    Args:
        photos: a folder (searched with its subfolders), a file, or a list of files.
        out: folder to write; the tree of ``photos`` is kept in it.
        load: gives the generator; called when the first photo needs it.
        shard: the part of the photos that this process does; ``None`` is all.
        overwrite: do finished photos again.

    Yields:
        One outcome per photo, as soon as it is known. A photo without regions gives an empty list.

    Raises:
        DataError: no photos, or two with one target.
        OutputError: the folder cannot be written. It is also raised at the first file that cannot.
        SamDiffsrError: from ``load``.
    """
    jobs = (shard or Shard()).select(plan_generation(photos, out))
    _check_writable(Path(out))
    generator: list[MaskGenerator] = []

    def work(job: MaskJob) -> dict[str, int]:
        image = read_photo(job.source)
        records = generator[0].generate(image)
        write_records(job.target, records)
        return {"regions": len(records)}

    def prepare() -> None:
        if not generator:
            generator.append(load())

    yield from _run(jobs, work, finished=_has_records, prepare=prepare, overwrite=overwrite)


def encode_folder(
    records: PathLike,
    out: PathLike,
    *,
    photos: PathLike | None = None,
    encoding: Encoding = "rope",
    reduction: Reduction = "image",
    seed: int = 0,
    shard: Shard | None = None,
    overwrite: bool = False,
) -> Iterator[MaskOutcome]:
    """Turn records into stored structure fields ``<stem>.npz``; what is there already is kept.

    Args:
        records: a folder of ``.json`` files or amg.py folders, searched with its subfolders.
        out: folder to write; the tree of ``records`` is kept in it.
        photos: folder of the photos; with it the sizes are checked, and an empty list is understood.
        encoding: as ``encode_structure``.
        reduction: as ``encode_structure``.
        seed: as ``encode_structure``.
        shard: the part of the files that this process does; ``None`` is all.
        overwrite: do finished files again.

    Yields:
        One outcome per file. A field that is there, but was encoded otherwise, is a failure.

    Raises:
        DataError: no records, no photos, or two with one target.
        ArgumentError: unknown ``encoding`` or ``reduction``, or a negative ``seed``.
        OutputError: as ``generate_folder``.
    """
    root = Path(records)
    jobs: dict[Path, Path] = {}
    for source in find_records(root):
        place = source.relative_to(root)
        stem = source.name if source.is_dir() else source.stem
        target = Path(out) / place.parent / f"{stem}.npz"
        if target in jobs:
            raise DataError(f"{jobs[target]} and {source} would both be written to {target}; remove one")
        jobs[target] = source
    sizes = {} if photos is None else _photos_by_place(Path(photos))
    StructureField.from_masks(
        [], size=(1, 1), encoding=encoding, reduction=reduction, seed=seed
    )  # checks them
    _check_writable(Path(out))

    def work(job: MaskJob) -> dict[str, int]:
        size = None
        if photos is not None:
            photo = sizes.get(job.target.relative_to(out).with_suffix(""))
            if photo is None:
                raise DataError(f"{photos} has no photo for {job.source}")
            height, width = read_photo(photo).shape[:2]
            size = (height, width)
        found = read_records(job.source, size=size)
        if not found and size is None:
            raise DataError(
                f"{job.source} says that there are no regions, but not how large the image is; name "
                "the folder of the photos as well"
            )
        structure = StructureField.from_masks(
            found, size=size, encoding=encoding, reduction=reduction, seed=seed
        )
        stored = write_structure(job.target, structure)
        return {"regions": len(found), "stored": stored, "plain": 4 * structure.labels.size + 128}

    def finished(target: Path) -> bool:
        try:
            structure = read_structure(target)
        except DataError:
            return False
        made = (structure.encoding, structure.reduction)
        if made != (encoding, reduction):
            raise DataError(
                f"{target} is there already, encoded with {made[0]}/{made[1]} and not {encoding}/"
                f"{reduction}; overwrite it or choose another folder"
            )
        return True

    todo = [MaskJob(source=source, target=target) for target, source in jobs.items()]
    yield from _run((shard or Shard()).select(todo), work, finished=finished, overwrite=overwrite)


def _run(
    jobs: Sequence[MaskJob],
    work: Callable[[MaskJob], Mapping[str, int]],
    *,
    finished: Callable[[Path], bool],
    overwrite: bool,
    prepare: Callable[[], None] | None = None,
) -> Iterator[MaskOutcome]:
    spent, done = 0.0, 0
    for number, job in enumerate(jobs, start=1):
        place: dict[str, Any] = {"job": job, "number": number, "total": len(jobs)}
        started = time.perf_counter()
        try:
            if not overwrite and job.target.is_file() and finished(job.target):
                yield MaskOutcome(status="skipped", **place)
                continue
        except DataError as error:
            yield MaskOutcome(status="failed", error=error, **place)
            continue
        if prepare is not None:
            prepare()
        try:
            _make_folder(job.target.parent)
            numbers = work(job)
        except (OutputError, MissingDependencyError):  # not of this file: the next one would fare no better
            raise
        except Exception as error:  # one bad file must not take the others with it; the caller gets the error
            yield MaskOutcome(status="failed", error=error, seconds=time.perf_counter() - started, **place)
            continue
        seconds = time.perf_counter() - started
        spent, done = spent + seconds, done + 1
        yield MaskOutcome(
            status="written",
            seconds=seconds,
            remaining=spent / done * (len(jobs) - number),
            **place,
            **cast("dict[str, Any]", numbers),
        )


def _has_records(target: Path) -> bool:
    try:
        read_records(target)
    except DataError:  # cut off by whatever wrote it: done again
        return False
    return True


def _photos_by_place(folder: Path) -> dict[Path, Path]:
    return {path.relative_to(folder).with_suffix(""): path for path in list_photos(folder)}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {folder}: {error.strerror or error}") from error


def _check_writable(folder: Path) -> None:
    """Find out before the work whether its result can be kept."""
    _make_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write into the folder {folder}: {error.strerror or error}") from error
