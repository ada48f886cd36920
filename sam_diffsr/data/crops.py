"""Training crops on disk: reads and writes a folder of flat memory-mapped arrays and a manifest.

A folder holds, for N crops of side S cut from M prepared sources::

    images.npy   (N, S, S, 3) uint8    RGB
    labels.npy   (N, S, S)    uint16   region number inside the source; 0 is "no region"
    origins.npy  (N, 3)       int32    source, top, left (pixels of the prepared source)
    values.npy   (V,)         float32  structure value of every region, source after source
    offsets.npy  (M + 1,)     int64    source m owns values[offsets[m]:offsets[m + 1]]
    manifest.json                      written last, so a folder that has one is complete

The structure field of crop n is ``values[offsets[source] + labels[n]]``. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.errors import DataError, OutputError
from sam_diffsr.files import atomic_path, writing

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_AGAIN = "prepare the folder again"
PARTS = "parts"
"""Name of the folder of parts, inside the folder of crops; it is there while the crops are prepared."""
ARRAYS = dict[str, str](images="uint8", labels="uint16", origins="int32", values="float32", offsets="int64")

Crops = tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.int32], NDArray[np.float32]]
"""The crops of one source: images ``(n, S, S, 3)``, label maps ``(n, S, S)``, corners ``(n, 2)`` (top, left),
and structure values ``(V,)`` of the source's regions."""


class CropStore:
    """Read-only view of a folder of ``prepare_crops`` or ``synthesize_crops``; the arrays are memory-mapped.

    Raises:
        DataError: the folder is unfinished or damaged, or its arrays do not fit the manifest.
    """

    # The module's docstring describes the arrays.
    images: NDArray[np.uint8]
    labels: NDArray[np.uint16]
    origins: NDArray[np.int32]
    values: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        shapes = _shapes(len(self), self.crop_size) | {"offsets": (len(self.manifest["sources"]) + 1,)}
        for name, dtype in ARRAYS.items():
            setattr(self, name, _open(self.path / f"{name}.npy", dtype, shapes.get(name)))
        if int(self.offsets[-1]) != len(self.values):
            raise DataError(
                f"{self.path}: offsets.npy ends at {int(self.offsets[-1])}, but values.npy has "
                f"{len(self.values)} entries; {_AGAIN}"
            )

    def __len__(self) -> int:
        return int(self.manifest["crops"])

    @property
    def crop_size(self) -> int:
        """Side of every crop in HR pixels."""
        return int(self.manifest["crop_size"])

    @property
    def skipped(self) -> list[dict[str, Any]]:
        """Photos that were left out: ``file``, ``kind`` (``corrupt`` or ``small``) and ``reason``."""
        return list(self.manifest.get("skipped", []))

    def structure(self, index: int) -> NDArray[np.float32]:
        """Structure field of one crop, ``(S, S)`` float32; errors as for ``window``."""
        return self.window(index, 0, 0, self.crop_size)[1]

    def window(
        self, index: int, top: int, left: int, side: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Read a window inside crop ``index``, ``(side, side, 3)`` uint8, and of its field, ``(side, side)``.

        Raises ``DataError`` for a label without a value.
        """
        rows, columns = slice(top, top + side), slice(left, left + side)
        labels = self.labels[index, rows, columns]
        source = int(self.origins[index, 0])
        table = self.values[int(self.offsets[source]) : int(self.offsets[source + 1])]
        highest = int(labels.max())
        if highest >= len(table):
            raise DataError(
                f"{self.path}: crop {index} has label {highest}, but source {source} has only "
                f"{len(table)} values; {_AGAIN}"
            )
        return self.images[index, rows, columns], np.take(np.asarray(table), labels)


def _shapes(count: int, side: int) -> dict[str, tuple[int, ...]]:
    return {"images": (count, side, side, 3), "labels": (count, side, side), "origins": (count, 3)}


def _open(path: Path, dtype: str, shape: tuple[int, ...] | None) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; {_AGAIN}") from error
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is damaged or not a plain array ({error}); {_AGAIN}") from error
    if str(array.dtype) != dtype:
        raise DataError(f"{path}: expected {dtype}, got {array.dtype}; {_AGAIN}")
    if shape not in (None, array.shape):
        raise DataError(f"{path}: expected shape {shape} from the manifest, got {array.shape}; {_AGAIN}")
    return array


def write_crops(
    folder: Path,
    crops: Iterable[Crops],
    *,
    sources: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    skipped: Sequence[Mapping[str, Any]] = (),
) -> CropStore:
    """Write a folder of crops, source after source; ``sources`` and ``settings`` tell number and side.

    All files are put in place at the end, the manifest last. After an error nothing new stays behind. Raises
    ``OutputError`` if the disk is too full or a file cannot be put in place.
    """
    count, side = sum(source["crops"] for source in sources), settings["crop_size"]
    manifest = {"format_version": FORMAT_VERSION, "crops": count, "crop_size": side}
    manifest |= {"settings": settings, "sources": sources, "skipped": skipped}
    needed = count * side**2 * (3 + np.dtype(np.uint16).itemsize)
    with (
        writing("the crops in", folder, advice="make room and run it again"),
        contextlib.ExitStack() as stack,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if needed > free:  # a mapped file on a full disk kills the process
            raise OSError(f"they need {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free")
        names = [MANIFEST, *(f"{name}.npy" for name in ARRAYS)]  # the first one is put in place last
        paths = {name: stack.enter_context(atomic_path(folder / name)) for name in names}
        images, labels, origins = (
            np.lib.format.open_memmap(paths[f"{name}.npy"], mode="w+", dtype=ARRAYS[name], shape=shape)
            for name, shape in _shapes(count, side).items()
        )
        tables: list[NDArray[np.float32]] = []
        start = 0
        for number, (cut, cut_labels, corners, values) in enumerate(crops):
            rows = slice(start, start := start + len(corners))
            if len(corners):
                images[rows], labels[rows] = cut, cut_labels
            origins[rows, 0], origins[rows, 1:] = number, corners
            tables.append(values)
        for array in (images, labels, origins):
            array.flush()
        np.save(paths["values.npy"], np.concatenate(tables))
        np.save(paths["offsets.npy"], np.cumsum([0, *map(len, tables)]))
        paths[MANIFEST].write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        (folder / MANIFEST).unlink(missing_ok=True)
    return CropStore(folder)


def photo_digest(file: Path) -> str | None:
    """SHA-256 of a photo; None if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:  # reading the photo will report it
        return None


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read ``manifest.json``; ``DataError`` if it is missing, damaged, of another version or lacks a key."""
    path = folder / MANIFEST
    try:
        manifest: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        if not folder.exists():
            raise DataError(
                f"there is no folder {folder}; `sam-diffsr data prepare` makes crops of photographs"
            ) from error
        raise DataError(
            f"{folder} has no {MANIFEST}: it is not a prepared folder, or its preparation was cut off; "
            "run the preparation again, finished photos are kept"
        ) from error
    except ValueError as error:  # neither JSON nor text
        raise DataError(f"{path} is damaged ({error}); {_AGAIN}") from error
    if not isinstance(manifest, dict) or cast("Any", manifest).get("format_version") != FORMAT_VERSION:
        raise DataError(f"{path}: expected format_version {FORMAT_VERSION}; {_AGAIN} with this version")
    if missing := sorted({"crops", "crop_size", "sources"} - manifest.keys()):
        raise DataError(f"{path} lacks {missing}; {_AGAIN}")
    return cast("dict[str, Any]", manifest)


def finished_crops(
    folder: Path, is_wanted: Callable[[dict[str, Any]], bool], *, overwrite: bool
) -> CropStore | None:
    """Open a folder if its manifest is the wanted one.

    Raises ``OutputError`` for another one, or arrays without one, that may not be overwritten.
    """
    try:
        manifest = read_manifest(folder)
    except DataError:
        manifest = {}
    if manifest and is_wanted(manifest):
        try:
            return CropStore(folder)
        except DataError:  # damaged since
            if not overwrite:
                raise
    # Next to parts, arrays without a manifest are those of a preparation that was cut off.
    names = [MANIFEST] if (folder / PARTS).is_dir() else [MANIFEST, *(f"{name}.npy" for name in ARRAYS)]
    held = next((name for name in names if (folder / name).exists()), None)
    if held is not None and not overwrite:
        what = "crops of other photos or settings" if held == MANIFEST else f"{held}, but no {MANIFEST}"
        raise OutputError(
            f"{folder} holds {what}; nothing was changed: "
            "choose another folder, or replace them with --overwrite (overwrite=True)"
        )
    return None
