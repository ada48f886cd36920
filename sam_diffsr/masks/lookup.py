"""Masks and structure fields on disk, found by the name of their photo and brought to its size."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.errors import DataError
from sam_diffsr.masks.rle import decode
from sam_diffsr.masks.spe import EncodingOptions, check_encoding
from sam_diffsr.masks.store import AMG_TABLE, read_records, read_structure
from sam_diffsr.masks.structure import StructureField

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["digest_masks", "find_masks", "load_structure"]

FIELD_SUFFIXES = (".npz", ".npy")
PathLike = str | os.PathLike[str]


def find_masks(folder: PathLike, photos: Sequence[Path], *, roots: Sequence[Path] = ()) -> dict[Path, Path]:
    """Find the masks of photos: ``<stem>.npz``, ``.npy``, ``.json`` or an amg.py folder ``<stem>``.

    Masks lie as the photos do: ``trip/b.json`` belongs to ``trip/b.jpg``. A stored field wins over records.

    Args:
        folder: folder of masks.
        photos: the photos.
        roots: folders that the places of photos are relative to, tried in this order. A photo below none of
            them is looked up by its name alone.

    Returns:
        Photo to masks; photos without masks are left out.

    Raises:
        DataError: there is no such folder.
    """
    base = Path(folder)
    if not base.is_dir():
        raise DataError(f"{base} is not a folder of masks")
    found: dict[Path, Path] = {}
    for photo in photos:
        places = [photo.relative_to(root) for root in roots if photo.is_relative_to(root)]
        for place in places or [Path(photo.name)]:
            stem = base / place.parent / place.stem
            files = [stem.with_name(stem.name + suffix) for suffix in (*FIELD_SUFFIXES, ".json")]
            path = next((file for file in files if file.is_file()), stem)
            if path is not stem or (stem / AMG_TABLE).is_file():
                found[photo] = path
                break
    return found


def digest_masks(path: Path) -> str:
    """SHA-256 of a file of masks, or of the files of an amg.py folder."""
    total = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        total.update(file.read_bytes())
    return total.hexdigest()


def load_structure(
    path: PathLike,
    *,
    photo_size: tuple[int, int],
    size: tuple[int, int] | None = None,
    **options: Unpack[EncodingOptions],
) -> StructureField:
    """Read the structure field of a photo, or of the photo made smaller.

    Args:
        path: records or a stored field, of the photo at its full size.
        photo_size: ``(height, width)`` of the photo, upright.
        size: ``(height, width)`` wanted; ``None`` is ``photo_size``. Masks are reduced to the nearest pixel
            and encoded at this size.
        options: see ``encode_structure``. A stored field must have been made with the same.

    Raises:
        DataError: the file is malformed or of an image of another size; or a stored field has another
            encoding, or is needed at another size.
        ArgumentError: an unknown ``encoding`` or ``reduction``.
    """
    source = Path(path)
    size = photo_size if size is None else size

    # Records are reduced with the photo, then encoded.
    if source.suffix.lower() not in FIELD_SUFFIXES or source.is_dir():
        masks: Sequence[Any] = read_records(source, size=photo_size)
        if size != photo_size:
            masks = _shrink_masks(masks, photo_size, size)
        try:
            return StructureField.from_masks(masks, size=size, **options)
        except DataError as error:
            raise DataError(f"{source}: {error}") from error

    # A stored field can be used only as it is.
    structure = read_structure(source, size=photo_size)
    made = (structure.encoding, structure.reduction)
    encoding, reduction, _ = check_encoding(**options)
    if made != (None, None) and made != (encoding, reduction):
        raise DataError(
            f"{source} was encoded with {made[0]}/{made[1]}, expected {encoding}/{reduction}; encode "
            "the masks again, or ask for the encoding they have"
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
    """Masks at a smaller size; each pixel takes the value at its centre."""
    rows, columns = (
        (2 * np.arange(after) + 1) * before // (2 * after) for before, after in zip(old, new, strict=True)
    )
    masks = (decode(record["segmentation"])[rows[:, None], columns] for record in records)
    return list(map(np.ascontiguousarray, masks))
