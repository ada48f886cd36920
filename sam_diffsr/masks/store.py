"""Reads and writes files of masks (records of amg.py and SA-1B) and of structure fields (``.npz``, ``.npy``).

Files appear whole or not at all, and nothing is ever unpickled.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_diffsr.errors import DataError, TruncatedError
from sam_diffsr.files import atomic_path, writing
from sam_diffsr.masks.regions import collect_runs
from sam_diffsr.masks.rle import decode, encode
from sam_diffsr.masks.spe import EncodingOptions, StructureField, check_encoding

if TYPE_CHECKING:
    from typing_extensions import Unpack

PathLike = str | os.PathLike[str]

AMG_TABLE = "metadata.csv"
"""The file that makes a folder one of amg.py without ``--convert-to-rle``."""
_FIELD_SUFFIXES = (".npz", ".npy")

_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""Errors of reading a damaged archive or array."""


def write_records(path: PathLike, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the regions of one image as amg.py's ``--convert-to-rle`` does: a JSON list of records.

    Args:
        path: ``<stem>.json``; its folder must exist.
        records: records of a mask generator. A ``segmentation`` that is an array is encoded as COCO RLE.
            An empty list is valid: no regions.

    Raises:
        DataError: a record has no usable ``segmentation``, or a value that JSON cannot hold.
        OutputError: the file cannot be written.
    """
    try:
        masks: list[Any] = [record["segmentation"] for record in records]
        collect_runs(masks, size=None if records else (1, 1))
        runs = [encode(cast("Any", mask)) if isinstance(mask, np.ndarray) else mask for mask in masks]
        content = [{**rest, "segmentation": mask} for rest, mask in zip(records, runs, strict=True)]
        text = json.dumps(content, allow_nan=False, default=_json_value)
    except KeyError as error:
        raise DataError(f"cannot write {os.fspath(path)!r}: a record has no 'segmentation'") from error
    except (TypeError, ValueError) as error:
        raise DataError(f"cannot write {os.fspath(path)!r}: {error}") from error
    _write("masks", path, text.encode("utf-8"))


def read_records(path: PathLike, *, size: tuple[int, int] | None = None) -> list[dict[str, Any]]:
    """Read the regions of one image.

    Args:
        path: a ``.json`` file, either amg.py's list or SA-1B's ``{"image": ..., "annotations": [...]}``;
            or a folder of amg.py with ``metadata.csv`` and ``0.png``, ``1.png``, ...
        size: ``(height, width)`` of the image that the regions must belong to.

    Returns:
        Records in the file's order, with all their keys; ``segmentation`` is COCO RLE.

    Raises:
        DataError: the file is missing, truncated or malformed, or belongs to an image of another size.
    """
    source = Path(path)
    records, declared = (_read_amg_folder(source), None) if source.is_dir() else _read_json(source)
    if size is not None and declared not in (None, tuple(size)):
        raise DataError(f"{source} belongs to an image of {declared} (height, width), expected {tuple(size)}")
    if records:
        try:
            collect_runs(records, size=declared or size)
        except DataError as error:
            raise DataError(f"{source}: {error}") from error
    return records


def write_structure(path: PathLike, structure: StructureField) -> int:
    """Write a structure field as ``<stem>.npz``: a compressed uint16 label map and the values.

    The folder must exist.

    Returns:
        Size of the file in bytes.

    Raises:
        OutputError: the file cannot be written.
    """
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"labels": structure.labels, "values": structure.values}
    arrays |= {name: np.array(getattr(structure, name) or "") for name in ("encoding", "reduction")}
    if structure.seed is not None:
        arrays["seed"] = np.array(structure.seed, np.int64)
    np.savez_compressed(buffer, **arrays)
    _write("the structure field", path, buffer.getvalue())
    return buffer.tell()


def read_structure(path: PathLike, *, size: tuple[int, int] | None = None) -> StructureField:
    """Read a structure field.

    Args:
        path: an ``.npz`` of ``write_structure``, or a ``.npy`` in the published form: an ``(H, W)``
            floating field, or an object (a pickled ``None``), which means "no regions" and is not opened.
        size: ``(height, width)`` that the field must have; needed for a ``.npy`` without regions.

    Raises:
        DataError: the file is missing, truncated or malformed; a value is NaN; the size is another one;
            or a ``.npy`` has no regions and ``size`` is not given.
    """
    source = Path(path)
    try:
        with source.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            structure = _read_npz(file) if zipped else _read_npy(file, size)
    except FileNotFoundError as error:
        raise DataError(f"{source} does not exist; encode the masks first") from error
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    except _DAMAGED as error:
        raise TruncatedError(
            f"{source} is damaged or not a structure file; encode the masks again"
        ) from error
    if size is not None and structure.size != tuple(size):
        raise DataError(f"{source} is a field of {structure.size} (height, width), expected {tuple(size)}")
    return structure


def find_masks(folder: PathLike, photos: Sequence[Path], *, roots: Sequence[Path] = ()) -> dict[Path, Path]:
    """Find the masks of photos: ``<stem>.npz``, ``.npy``, ``.json`` or an amg.py folder ``<stem>``.

    Masks lie as the photos do: ``trip/b.json`` belongs to ``trip/b.jpg``. A stored field wins over records.
    Places are relative to the first of ``roots`` that holds masks; a photo below none of them is looked up by
    its name alone. Photos without masks are left out. Raises ``DataError`` if there is no such folder.
    """
    base = Path(folder)
    if not base.is_dir():
        raise DataError(f"{base} is not a folder of masks")
    found: dict[Path, Path] = {}
    for photo in photos:
        places = [photo.relative_to(root) for root in roots if photo.is_relative_to(root)]
        for place in places or [Path(photo.name)]:
            stem = base / place.parent / place.stem
            files = [Path(f"{stem}{suffix}") for suffix in (*_FIELD_SUFFIXES, ".json")]
            made = [file for file in files if file.is_file()] + [stem] * (stem / AMG_TABLE).is_file()
            if made:
                found[photo] = made[0]
                break
    return found


def digest_masks(path: Path) -> str:
    """SHA-256 of a file of masks, or of the files of an amg.py folder."""
    total = hashlib.sha256()
    for file in sorted(filter(Path.is_file, path.iterdir())) if path.is_dir() else [path]:
        total.update(file.read_bytes())
    return total.hexdigest()


def load_structure(
    path: PathLike,
    *,
    photo_size: tuple[int, int],
    size: tuple[int, int] | None = None,
    **options: Unpack[EncodingOptions],
) -> StructureField:
    """Read the structure field of a photo of ``photo_size`` from records or a stored field.

    Args:
        path: the file or folder, of the photo at its full size.
        photo_size: ``(height, width)`` of the photo, upright.
        size: the same of the field; ``None`` is ``photo_size``. Masks are reduced to the nearest pixel.
        options: see ``encode_structure``. A stored field must have been made with the same.

    Raises:
        DataError: the file is malformed or of an image of another size; or a stored field has another
            encoding, or is needed at another size.
        ArgumentError: an unknown ``encoding`` or ``reduction``.
    """
    source, size = Path(path), size or photo_size
    if source.suffix.lower() in _FIELD_SUFFIXES and not source.is_dir():
        structure = read_structure(source, size=photo_size)
        made, (encoding, reduction, _) = (structure.encoding, structure.reduction), check_encoding(**options)
        if made not in ((None, None), (encoding, reduction)):
            raise DataError(
                f"{source} was encoded with {made[0]}/{made[1]}, expected {encoding}/{reduction}; encode "
                "the masks again, or ask for the encoding they have"
            )
        if size != photo_size:
            raise DataError(
                f"{source} is a field of the photo at its full size {photo_size}, but it is needed at "
                f"{size}, where regions have other values; give the .json records, or do not reduce the photo"
            )
        return structure

    # Records are reduced, each pixel to the value at its centre, and then encoded.
    masks: Sequence[Any] = read_records(source, size=photo_size)
    if size != photo_size:
        rows, columns = (
            (2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(photo_size, size, strict=True)
        )
        masks = [decode(record["segmentation"])[rows[:, None], columns] for record in masks]
    try:
        return StructureField.from_masks(masks, size=size, **options)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def _read_amg_folder(folder: Path) -> list[dict[str, Any]]:
    """Records of a folder ``OUT/<stem>`` of amg.py: a table, and one picture per mask where 0 is outside."""
    table = folder / AMG_TABLE
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} has no {AMG_TABLE}: it is not a folder of amg.py, or not finished"
        ) from error
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{table} cannot be read ({error})") from error
    records: list[dict[str, Any]] = []
    for number, row in enumerate(rows, start=2):
        try:
            picture = folder / f"{int(row['id'])}.png"
            record: dict[str, Any] = {
                "segmentation": None,
                "area": int(row["area"]),
                "bbox": [float(row[f"bbox_{name}"]) for name in ("x0", "y0", "w", "h")],
                "predicted_iou": float(row["predicted_iou"]),
                "point_coords": [[float(row["point_input_x"]), float(row["point_input_y"])]],
                "stability_score": float(row["stability_score"]),
                "crop_box": [float(row[f"crop_box_{name}"]) for name in ("x0", "y0", "w", "h")],
            }
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{table}: line {number} lacks a column or a number in one") from error
        try:
            with Image.open(picture) as image:
                record["segmentation"] = encode(np.asarray(image.convert("L")))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{picture} is missing or not a readable picture ({error})") from error
        records.append(record)
    return records


def _read_json(source: Path) -> tuple[list[dict[str, Any]], tuple[int, int] | None]:
    """Records of a JSON file, and the ``(height, width)`` that SA-1B's form has."""
    try:
        content: Any = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{source} does not exist; generate the masks first") from error
    except (OSError, ValueError, RecursionError) as error:
        raise TruncatedError(
            f"{source} is truncated or not JSON ({error}); generate the masks again"
        ) from error
    records, size = content, None
    if isinstance(content, dict) and "annotations" in content:
        file = cast("dict[str, Any]", content)
        records, image = file["annotations"], cast("Any", file.get("image"))
        try:
            size = (int(image["height"]), int(image["width"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{source}: 'image' of an SA-1B file must have 'height' and 'width', got {image!r}"
            ) from error
    if not isinstance(records, list):
        raise DataError(f"{source} must hold a list of records or SA-1B's {{'image', 'annotations'}}")
    for index, record in enumerate(cast("list[Any]", records)):
        if not isinstance(record, dict) or "segmentation" not in record:
            raise DataError(f"{source}: record {index} has no 'segmentation'")
    return cast("list[dict[str, Any]]", records), size


def _read_npz(file: IO[bytes]) -> StructureField:
    with np.load(file, allow_pickle=False) as archive:
        found: dict[str, NDArray[Any]] = dict(archive)
    if missing := sorted({"labels", "values"} - found.keys()):
        raise DataError(f"not a structure file: it lacks {missing}, and has {sorted(found)}")
    encoding, reduction = (str(found.get(name, "")) or None for name in ("encoding", "reduction"))
    seed = int(found["seed"]) if "seed" in found else None
    return StructureField(found["labels"], found["values"], encoding, reduction, seed)


def _read_npy(file: IO[bytes], size: tuple[int, int] | None) -> StructureField:
    formats = np.lib.format
    first = formats.read_magic(file) == (1, 0)
    header = formats.read_array_header_1_0(file) if first else formats.read_array_header_2_0(file)
    if header[2].hasobject:
        if size is None:
            raise DataError("the file holds no regions and does not say how large the image is; pass size=")
        return StructureField(np.zeros(size, np.uint16), np.zeros(1, np.float32))
    file.seek(0)
    return StructureField.from_field(np.load(file, allow_pickle=False))


def _json_value(value: Any) -> Any:
    """JSON form of numpy values, and of counts as pycocotools gives them."""
    if isinstance(value, (np.ndarray, np.generic)):
        return cast("NDArray[Any]", value).tolist()
    if isinstance(value, bytes):
        return value.decode("ascii")
    raise TypeError(f"JSON has no form for a value of type {type(value).__name__}")


def _write(what: str, target: PathLike, data: bytes) -> None:
    advice = "check the folder, its permissions and free space"
    with writing(what, target, advice=advice), atomic_path(target) as temporary:
        temporary.write_bytes(data)
