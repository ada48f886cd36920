"""Regions for a folder of photos, written as records."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.data.mask_jobs import MaskJob, MaskOutcome, check_writable, run_jobs
from sam_diffsr.data.photos import list_photos, reduce_image
from sam_diffsr.data.shard import Shard
from sam_diffsr.errors import ArgumentError, DataError
from sam_diffsr.image import decode_image
from sam_diffsr.masks.sam import SamMaskGenerator
from sam_diffsr.masks.segments import GraphMaskGenerator
from sam_diffsr.masks.store import read_records, write_records

__all__ = ["MaskGenerator", "generate_folder", "load_generator", "plan_generation", "read_photo"]

PathLike = str | os.PathLike[str]


class MaskGenerator(Protocol):
    """What ``SamMaskGenerator`` and ``GraphMaskGenerator`` are."""

    def generate(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Records of an ``(H, W, 3)`` uint8 RGB image."""
        ...


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
    began = check_writable(Path(out))
    generator: list[MaskGenerator] = []

    def work(job: MaskJob) -> dict[str, int]:
        image = read_photo(job.source)
        records = generator[0].generate(image)
        write_records(job.target, records)
        return {"regions": len(records)}

    def prepare() -> None:
        if not generator:
            generator.append(load())

    redo_before = began if overwrite else None
    yield from run_jobs(jobs, work, finished=_has_records, prepare=prepare, redo_before=redo_before)


def _has_records(target: Path) -> bool:
    try:
        read_records(target)
    except DataError:  # cut off by whatever wrote it: done again
        return False
    return True
