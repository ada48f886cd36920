"""Structure fields for a folder of mask records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sam_diffsr.data.mask_folder import read_photo
from sam_diffsr.data.mask_jobs import MaskJob, MaskOutcome, check_writable, run_jobs
from sam_diffsr.data.mask_source import find_records
from sam_diffsr.data.photos import list_photos
from sam_diffsr.data.shard import Shard
from sam_diffsr.errors import DataError
from sam_diffsr.masks.spe import Encoding, Reduction
from sam_diffsr.masks.store import read_records, read_structure, write_structure
from sam_diffsr.masks.structure import StructureField

__all__ = ["encode_folder"]

PathLike = str | os.PathLike[str]


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
    wanted = _describe(encoding, reduction, seed)
    began = check_writable(Path(out))

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
        made = _describe(structure.encoding, structure.reduction, structure.seed)
        if made != wanted:
            raise DataError(
                f"{target} is there already, encoded with {made} and not {wanted}; overwrite it or choose "
                "another folder"
            )
        return True

    todo = [MaskJob(source=source, target=target) for target, source in jobs.items()]
    todo = (shard or Shard()).select(todo)
    yield from run_jobs(todo, work, finished=finished, redo_before=began if overwrite else None)


def _describe(encoding: str | None, reduction: str | None, seed: int | None) -> str:
    """What decides a field's values besides the regions."""
    return f"random, seed {seed}" if encoding == "random" else f"{encoding}/{reduction}"


def _photos_by_place(folder: Path) -> dict[Path, Path]:
    return {path.relative_to(folder).with_suffix(""): path for path in list_photos(folder)}
