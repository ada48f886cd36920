"""Regions and structure fields that were made before, found by the name of the photo they belong to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.errors import ArgumentError, DataError
from sam_diffsr.masks.amg_folder import METADATA
from sam_diffsr.masks.rle import decode
from sam_diffsr.masks.spe import Encoding, Reduction
from sam_diffsr.masks.store import read_records, read_structure
from sam_diffsr.masks.structure import StructureField

__all__ = ["MaskSource", "find_records", "load_structure"]

FIELD_SUFFIXES = (".npz", ".npy")
PathLike = str | os.PathLike[str]


class MaskSource:
    """A folder with one ``<stem>.npz``, ``.npy``, ``.json`` or amg.py folder for each photo.

    Files lie as the photos do: ``trip/b.jpg`` belongs to ``trip/b.json``. A stored field goes before records.

    Args:
        folder: where they are.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, folder: PathLike) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(f"{self.folder} is not a folder of masks")

    def get(self, photo: Path, *, root: Path | None = None) -> Path | None:
        """Give the file of a photo, or None when there is none.

        Args:
            photo: the photo.
            root: folder of photos; ``None`` looks for the name alone.
        """
        place = photo.relative_to(root) if root is not None else Path(photo.name)
        base = self.folder / place.parent / place.stem
        for suffix in (*FIELD_SUFFIXES, ".json"):
            path = base.with_name(base.name + suffix)
            if path.is_file():
                return path
        return base if (base / METADATA).is_file() else None


def find_records(folder: PathLike) -> list[Path]:
    """List the ``.json`` files and amg.py folders below a folder, sorted; hidden ones are left out.

    Raises:
        DataError: there is no such folder, or nothing in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder of mask records")
    found = [path for path in root.rglob("*.json") if path.is_file()]
    found += [path.parent for path in root.rglob(METADATA)]
    found = [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    if not found:
        raise DataError(f"{root} has no mask records; expected .json files or folders of amg.py")
    return sorted(found)


def digest_masks(path: Path) -> str:
    """SHA-256 of a file, or of the files in a folder of amg.py."""
    total = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        total.update(file.read_bytes())
    return total.hexdigest()


def load_structure(
    path: PathLike,
    *,
    photo_size: tuple[int, int],
    size: tuple[int, int] | None = None,
    encoding: Encoding = "rope",
    reduction: Reduction = "image",
) -> StructureField:
    """Read the structure field of a photo, or of the photo made smaller.

    Args:
        path: records or a stored field, of the photo at its full size.
        photo_size: ``(height, width)`` of the photo, upright; checked.
        size: ``(height, width)`` of the photo as it is used; ``None`` is ``photo_size``. Masks take the
            nearest pixel, and are encoded at this size.
        encoding: as ``encode_structure``; a stored field that says what it is must be the same.
        reduction: as ``encoding``.

    Raises:
        DataError: the file is malformed or of an image of another size; a stored field was encoded
            otherwise, or is needed at another size than the photo's.
        ArgumentError: unknown ``encoding`` or ``reduction``.
    """
    source = Path(path)
    size = photo_size if size is None else size
    if source.suffix.lower() not in FIELD_SUFFIXES or source.is_dir():
        records = read_records(source, size=photo_size)
        try:
            if size == photo_size:
                return StructureField.from_masks(records, size=size, encoding=encoding, reduction=reduction)
            return StructureField.from_masks(
                _shrink_masks(records, photo_size, size), size=size, encoding=encoding, reduction=reduction
            )
        except ArgumentError:
            raise
        except DataError as error:
            raise DataError(f"{source}: {error}") from error
    structure = read_structure(source, size=photo_size)
    made = (structure.encoding, structure.reduction)
    if made != (None, None) and made != (encoding, reduction):
        raise DataError(
            f"{source} was encoded with {made[0]}/{made[1]}, expected {encoding}/{reduction}; encode "
            "the masks again, or ask for what they are"
        )
    if size != photo_size:
        raise DataError(
            f"{source} is a field of the photo at its full size {photo_size}, but it is needed at {size}, "
            "where regions have other values; give the .json records, or do not reduce the photo"
        )
    return structure


def _shrink_masks(
    records: Sequence[Mapping[str, Any]], old: tuple[int, int], new: tuple[int, int]
) -> list[NDArray[np.bool_]]:
    """Masks at a smaller size: each pixel takes what lies at its centre."""
    rows, columns = (_centres(before, after) for before, after in zip(old, new, strict=True))
    return [
        np.ascontiguousarray(decode(record["segmentation"])[rows[:, None], columns]) for record in records
    ]


def _centres(before: int, after: int) -> NDArray[np.int64]:
    return (2 * np.arange(after, dtype=np.int64) + 1) * before // (2 * after)
