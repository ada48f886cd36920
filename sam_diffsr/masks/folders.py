"""Masks for whole folders: find the regions of every photo, or encode every file of records.

Results appear whole or not at all, and finished ones are skipped, so a stopped run can simply be repeated.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.errors import ArgumentError, DataError, MissingDependencyError, OutputError, TruncatedError
from sam_diffsr.files import open_folder
from sam_diffsr.image.photos import list_photos, read_photo
from sam_diffsr.masks.sam import SamMaskGenerator, SamOptions, SamPrecision
from sam_diffsr.masks.segments import GraphMaskGenerator
from sam_diffsr.masks.shard import Shard
from sam_diffsr.masks.spe import EncodingOptions, StructureField, check_encoding
from sam_diffsr.masks.store import AMG_TABLE, read_records, read_structure, write_records, write_structure

if TYPE_CHECKING:
    from typing_extensions import Unpack

PathLike = str | os.PathLike[str]


class MaskGenerator(Protocol):
    """The common interface of ``SamMaskGenerator`` and ``GraphMaskGenerator``."""

    def generate(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Find the regions of an ``(H, W, 3)`` uint8 RGB image."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskOutcome:
    """The result for one file of a folder."""

    source: Path
    target: Path
    status: Literal["written", "skipped", "failed"]
    """``skipped``: a whole result existed already."""
    number: int
    """Number of the file, 1-based, of the ``total`` files of this process's part."""
    total: int
    seconds: float = 0.0
    """Time for this file."""
    remaining: float | None = None
    """Estimated seconds for the rest of the part; ``None`` unless the file was written."""
    regions: int = 0
    stored_bytes: int = 0
    """Size of a written field, and of the same field as a float32 ``.npy``."""
    npy_bytes: int = 0
    error: Exception | None = None
    """The reason of a failure."""


def load_generator(
    model: str = "vit_h",
    *,
    device: str = "auto",
    precision: SamPrecision | None = None,
    longest_side: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> MaskGenerator:
    """Load the mask generator ``"graph"`` (no weights), or one of ``SamMaskGenerator.from_pretrained``.

    ``device``, ``precision`` and ``options`` (``SamOptions``) are SAM's; larger images are segmented
    at ``longest_side``. ``None`` stands for the generator's own default.

    Raises:
        ArgumentError: an option is out of range or belongs to SAM only.
        ModelLoadError: SAM's weights cannot be loaded.
        MissingDependencyError: a package is missing.
    """
    options, given = options or {}, {"longest_side": longest_side, "precision": precision}
    common: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if model != "graph":
        return SamMaskGenerator.from_pretrained(model, options=SamOptions(**options), device=device, **common)
    if foreign := sorted({*options, *common} - {"longest_side"}):
        raise ArgumentError(f"graph segmentation has no option {', '.join(foreign)}; they belong to SAM")
    return GraphMaskGenerator(**common)


def generate_folder(
    photos: PathLike | Sequence[PathLike],
    out: PathLike,
    load: Callable[[], MaskGenerator],
    *,
    shard: Shard | None = None,
    overwrite: bool = False,
) -> Iterator[MaskOutcome]:
    """Find the regions of photos and write them as ``<stem>.json`` records.

    Args:
        photos: a folder (searched with its subfolders), a file, or a list of files.
        out: folder to write; it keeps the tree of ``photos``.
        load: gives the generator; called when the first photo needs it.
        shard: the part of the photos that this process does; ``None`` is all.
        overwrite: make finished files again.

    Yields:
        One outcome per photo. A photo without regions gives an empty list of records.

    Raises:
        DataError: no photos, or two with one target.
        OutputError: the folder or a file cannot be written.
        SamDiffsrError: any error of ``load``.
    """
    root = Path(photos) if isinstance(photos, (str, os.PathLike)) else None
    if root is not None and root.is_file():
        photos, root = [root], None
    jobs = place_targets(list_photos(photos), root, Path(out), ".json")
    load = functools.cache(load)

    def work(photo: Path, target: Path) -> dict[str, Any]:
        records = load().generate(read_photo(photo))
        write_records(target, records)
        return {"regions": len(records)}

    jobs = (shard or Shard()).select(jobs)
    return _run(jobs, work, begin=load, out=Path(out), check=read_records, overwrite=overwrite)


def encode_folder(
    records: PathLike,
    out: PathLike,
    *,
    photos: PathLike | None = None,
    shard: Shard | None = None,
    overwrite: bool = False,
    **options: Unpack[EncodingOptions],
) -> Iterator[MaskOutcome]:
    """Encode files of records as structure fields ``<stem>.npz``.

    Args:
        records: a folder of ``.json`` files or amg.py folders, searched with its subfolders.
        out: folder to write; it keeps the tree of ``records``.
        photos: folder of the photos. With it sizes are checked, and empty lists of records can be encoded.
        shard: the part of the files that this process does; ``None`` is all.
        overwrite: make finished files again.
        options: ``encoding``, ``reduction`` and ``seed``, see ``encode_structure``.

    Yields:
        One outcome per file. An existing field with another encoding, reduction or seed is a failure.

    Raises:
        DataError: no records, no photos, or two files with one target.
        ArgumentError: an unknown ``encoding`` or ``reduction``, or a negative ``seed``.
        OutputError: the folder or a file cannot be written.
    """
    root, out = Path(records), Path(out)
    jobs = place_targets(find_records(root), root, out, ".npz")
    wanted = _describe(*check_encoding(**options))
    photo_of: dict[Path, Path] = {}
    if photos is not None:
        photo_of = {out / path.relative_to(photos).with_suffix(".npz"): path for path in list_photos(photos)}

    def work(source: Path, target: Path) -> dict[str, Any]:
        size = None  # the photo, where it is known, says how large the masks must be
        if photos is not None:
            if target not in photo_of:
                raise DataError(f"{photos} has no photo for {source}")
            height, width, _ = read_photo(photo_of[target]).shape
            size = (height, width)
        found = read_records(source, size=size)
        if not found and size is None:
            raise DataError(
                f"{source} holds no regions and does not say how large the image is; name the folder of "
                "the photos as well"
            )
        structure = StructureField.from_masks(found, size=size, **options)
        stored, npy = write_structure(target, structure), 4 * structure.labels.size + 128
        return {"regions": len(found), "stored_bytes": stored, "npy_bytes": npy}

    def check(target: Path) -> None:
        structure = read_structure(target)
        made = _describe(structure.encoding, structure.reduction, structure.seed)
        if made != wanted:
            raise ArgumentError(
                f"{target} exists, encoded with {made} and not {wanted}; overwrite it or use another folder"
            )

    return _run((shard or Shard()).select(jobs), work, out=out, check=check, overwrite=overwrite)


def find_records(folder: PathLike) -> list[Path]:
    """List the ``.json`` files and amg.py folders below a folder, no hidden ones; raises ``DataError``."""
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder of mask records")
    found = [path for path in root.rglob("*.json") if path.is_file()]
    found += [path.parent for path in root.rglob(AMG_TABLE)]
    seen = [path for path in found if not any(part[0] == "." for part in path.relative_to(root).parts)]
    if not seen:
        raise DataError(f"{root} has no mask records; expected .json files or folders of amg.py")
    return sorted(seen)


def place_targets(
    sources: Sequence[Path], root: Path | None, out: Path, suffix: str
) -> list[tuple[Path, Path]]:
    """Pair each source with its target below ``out``, in the place that it has below ``root``.

    Raises ``DataError`` if two have one target.
    """
    jobs: dict[Path, Path] = {}
    for source in sources:
        place = Path(source.resolve().name)  # of one file, or of a folder of amg.py itself
        if root is not None and source != root:
            place = source.relative_to(root)
        stem = place.name if source.is_dir() else place.stem
        target = out / place.parent / f"{stem}{suffix}"
        other = jobs.setdefault(target, source)
        if other != source:
            raise DataError(f"{other} and {source} would both be written to {target}; rename one of them")
    return [(source, target) for target, source in jobs.items()]


def _run(
    jobs: Sequence[tuple[Path, Path]],
    work: Callable[[Path, Path], Mapping[str, Any]],
    *,
    begin: Callable[[], object] = lambda: None,
    out: Path,
    check: Callable[[Path], object],
    overwrite: bool,
) -> Iterator[MaskOutcome]:
    """Make the targets that are not whole; only errors that would hit every file end the run.

    ``work`` makes the target of a source and gives fields of its outcome; ``begin`` is called before.
    """
    open_folder(out).close()
    spent, written = 0.0, 0
    for number, (source, target) in enumerate(jobs, start=1):
        outcome = functools.partial(MaskOutcome, source=source, target=target, number=number, total=len(jobs))
        if not overwrite and target.is_file():
            try:
                check(target)
                yield outcome(status="skipped")
                continue
            except TruncatedError:  # by another tool: make it again
                pass
            except (ArgumentError, DataError) as error:  # made with other options, or of another kind
                yield outcome(status="failed", error=error)
                continue
        begin()
        open_folder(target.parent).close()
        started = time.perf_counter()
        try:
            result = work(source, target)
        except (OutputError, MissingDependencyError):
            raise
        except Exception as error:  # the outcome carries it, and the other files are still made
            yield outcome(status="failed", error=error, seconds=time.perf_counter() - started)
            continue
        seconds = time.perf_counter() - started
        spent, written = spent + seconds, written + 1
        remaining = spent / written * (len(jobs) - number)
        yield outcome(status="written", seconds=seconds, remaining=remaining, **result)


def _describe(encoding: str | None, reduction: str | None, seed: int | None) -> str:
    """The choices that a field's values depend on."""
    return f"random, seed {seed}" if encoding == "random" else f"{encoding}/{reduction}"
