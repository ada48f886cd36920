"""Writing the arrays of a folder of crops; until the last one is in place nothing of it can be seen."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.data.crops import MANIFEST
from sam_diffsr.errors import OutputError
from sam_diffsr.files import atomic_path

__all__ = ["CropWriter"]


class CropWriter:
    """Fills the arrays of ``CropStore`` source after source; leaving the ``with`` block puts them in place.

    After an error in the block nothing of them stays behind, and crops that were there before are as they
    were. Their manifest goes right before their arrays do. ``write_manifest`` is left to the caller.

    Args:
        folder: where they go; it must exist.
        count: how many crops there will be.
        crop_size: their side.

    Raises:
        OutputError: the disk is too full, or the arrays cannot be put in place.
    """

    def __init__(self, folder: Path, *, count: int, crop_size: int) -> None:
        needed = count * crop_size**2 * (3 + np.dtype(np.uint16).itemsize)
        free = shutil.disk_usage(folder).free
        if needed > free:  # a mapped file on a full disk would end the process without a word
            raise OutputError(
                f"the crops need {needed / 1e9:.1f} GB in {folder}, but only {free / 1e9:.1f} GB are free; "
                "make room and run the preparation again, finished photos are kept"
            )
        layout: dict[str, tuple[Any, tuple[int, ...]]] = {
            "images": (np.uint8, (count, crop_size, crop_size, 3)),
            "labels": (np.uint16, (count, crop_size, crop_size)),
            "origins": (np.int32, (count, 3)),
        }
        self._folder = folder
        self._finishing = contextlib.ExitStack()
        self._temporary = {
            name: self._finishing.enter_context(atomic_path(folder / f"{name}.npy"))
            for name in (*layout, "values", "offsets")
        }
        self._arrays = {
            name: np.lib.format.open_memmap(self._temporary[name], mode="w+", dtype=dtype, shape=shape)
            for name, (dtype, shape) in layout.items()
        }
        self._values: list[NDArray[np.float32]] = []
        self._position = 0

    def __enter__(self) -> CropWriter:
        return self

    def add(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.uint16],
        corners: NDArray[np.int32],
        values: NDArray[np.float32],
    ) -> None:
        """Add the crops of the next source.

        Args:
            images: ``(n, S, S, 3)``.
            labels: ``(n, S, S)``.
            corners: ``(n, 2)`` top and left.
            values: ``(V,)`` of the source's regions.
        """
        stop = self._position + len(corners)
        if len(corners):
            self._arrays["images"][self._position : stop] = images
            self._arrays["labels"][self._position : stop] = labels
        self._arrays["origins"][self._position : stop, 0] = len(self._values)
        self._arrays["origins"][self._position : stop, 1:] = corners
        self._values.append(values)
        self._position = stop

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._finishing:  # renames the files, or takes them away when an error goes through
                if error is not None:
                    raise error
                for array in self._arrays.values():
                    array.flush()
                np.save(self._temporary["values"], np.concatenate(self._values))
                np.save(self._temporary["offsets"], np.cumsum([0, *(len(table) for table in self._values)]))
                (self._folder / MANIFEST).unlink(missing_ok=True)
        except OSError as failure:
            if failure is error:
                raise
            raise OutputError(f"cannot write the crops in {self._folder}: {failure}") from failure
