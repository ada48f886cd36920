"""Cuts one photograph into crops: its reduction, its regions, its textured places, and its parts on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.data.config import MissingMasks
from sam_diffsr.data.crops import Crops
from sam_diffsr.errors import ArgumentError, DataError, ImageError
from sam_diffsr.files import atomic_path, writing
from sam_diffsr.image import decode_image
from sam_diffsr.image.photos import to_uint8
from sam_diffsr.masks.segments import GraphMaskGenerator
from sam_diffsr.masks.spe import MAX_REGIONS, EncodingOptions, encode_label_map
from sam_diffsr.masks.store import find_masks, load_structure
from sam_diffsr.resize import imresize

logger = logging.getLogger(__name__)

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)

Segmenter = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""Takes ``(H, W, 3)`` uint8 RGB, gives ``(H, W)`` region numbers from 1; 0 is "no region"."""
SegmenterChoice = Segmenter | GraphMaskGenerator | Literal["graph", "none"]


@dataclass(frozen=True)
class Cutter:
    """Cuts photos into parts, one file for each photo and reduction."""

    crop_size: int
    min_gradient: float
    segment: Segmenter | None
    masks: Mapping[Path, Path]
    """File of masks of each photo that has some."""
    encoding: EncodingOptions

    def cut(self, file: Path, parts: Mapping[float, Path]) -> dict[str, str] | None:
        """Write the parts of a photo that are missing, by reduction; raises ``OutputError``.

        Gives the kind (``corrupt`` or ``small``) and the reason, if the photo has to be left out.
        """
        missing = {factor: path for factor, path in parts.items() if not path.is_file()}
        if not missing:
            return None
        try:
            photo = decode_image(file).rgb
        except ImageError as error:
            return {"kind": "corrupt", "reason": str(error)}
        (height, width), side = photo.shape[-2:], self.crop_size
        if round(min(height, width) / min(parts)) < side:
            reason = (
                f"{file} is {width}x{height} and, reduced by {min(parts):g}, smaller than a crop of {side}; "
                "lower crop_size or the reductions"
            )
            return {"kind": "small", "reason": reason}
        for factor, path in missing.items():
            image = reduce_image(photo, factor)
            corners = textured_corners(image, crop_size=side, min_gradient=self.min_gradient)
            labels, values = self._regions(file, image, (height, width), needed=len(corners) > 0)
            windows = [(slice(top, top + side), slice(left, left + side)) for top, left in corners]
            arrays: dict[str, Any] = {
                "images": np.array([image[window] for window in windows], np.uint8),
                "labels": np.array([labels[window] for window in windows], np.uint16),
                "corners": corners,
                "values": values,
                "size": np.array(image.shape[:2], np.int64),
            }
            advice = "make room and run it again, finished photos are kept"
            with writing("the crops of a photo", path, advice=advice), atomic_path(path) as temporary:
                np.savez(temporary, **arrays)
        return None

    def _regions(
        self, file: Path, image: NDArray[np.uint8], photo_size: tuple[int, int], *, needed: bool
    ) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
        """Label map of a reduced photo, and a value per label; the segmenter runs only if ``needed``."""
        size = (image.shape[0], image.shape[1])
        if file in self.masks:
            structure = load_structure(self.masks[file], photo_size=photo_size, size=size, **self.encoding)
            return structure.labels, structure.values
        if self.segment is None or not needed:
            return np.zeros(size, np.uint16), np.zeros(1, np.float32)
        labels = np.asarray(self.segment(image))
        if labels.shape != size:
            raise DataError(f"the segmenter must give labels of the image's shape {size}, got {labels.shape}")
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest > MAX_REGIONS:
            raise DataError(f"the segmenter's labels must lie in 0..{MAX_REGIONS}, got {lowest}..{highest}")
        return labels.astype(np.uint16), encode_label_map(labels, **self.encoding)


def resolve_segmenter(segmenter: SegmenterChoice) -> tuple[Segmenter | None, str]:
    """The function that finds regions, and its name for the manifest."""
    if segmenter == "none":
        return None, "none"
    if segmenter == "graph":
        segmenter = GraphMaskGenerator()
    if isinstance(segmenter, GraphMaskGenerator):
        return segmenter.label_map, repr(segmenter)
    if not callable(segmenter):
        raise ArgumentError(f"segmenter must be 'graph', 'none' or a function, got {segmenter!r}")
    return segmenter, str(getattr(segmenter, "__qualname__", type(segmenter).__qualname__))


def find_photo_masks(
    masks: str | os.PathLike[str], files: Sequence[Path], *, roots: Sequence[Path], missing: MissingMasks
) -> dict[Path, Path]:
    """Find the file of masks of each photo; ``DataError`` if some are missing that may not be."""
    found = find_masks(masks, files, roots=roots)
    absent = [file for file in files if file not in found]
    if absent:
        listed = ", ".join(file.name for file in absent[:5]) + (", ..." if len(absent) > 5 else "")
        if missing == "error" or not found:
            raise DataError(
                f"{masks} has no masks for {len(absent)} of {len(files)} photos ({listed}): expected files "
                f"like {absent[0].stem}.npz, .npy or .json; make them with `sam-diffsr masks generate`, "
                "or ask for missing masks to be zero"
            )
        logger.warning("%d of %d photos have no masks and get E = 0: %s", len(absent), len(files), listed)
    return found


def reduce_image(rgb: Tensor, factor: float) -> NDArray[np.uint8]:
    """Reduce a photo ``(1, 3, H, W)`` in [0, 1], antialiased, to ``(H / factor, W / factor, 3)`` uint8."""
    if factor != 1:
        height, width = rgb.shape[-2:]
        rgb = imresize(rgb, size=(max(1, round(height / factor)), max(1, round(width / factor))))
    return to_uint8(rgb)


def gradient_energy(image: NDArray[np.uint8]) -> float:
    """Mean absolute difference between neighbouring pixels of the luma of ``(H, W, 3)``, in 8-bit levels."""
    luma = image.astype(np.float32) @ _LUMA
    return 0.5 * float(np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean())


def textured_corners(image: NDArray[np.uint8], *, crop_size: int, min_gradient: float) -> NDArray[np.int32]:
    """Top and left, ``(n, 2)`` int32, of a centred grid's crops whose energy is at least ``min_gradient``."""
    tops, lefts = (
        range((side % crop_size) // 2, side - crop_size + 1, crop_size) for side in image.shape[:2]
    )
    corners = [
        (top, left)
        for top in tops
        for left in lefts
        if gradient_energy(image[top : top + crop_size, left : left + crop_size]) >= min_gradient
    ]
    return np.array(corners, np.int32).reshape(-1, 2)


def read_header(path: Path) -> dict[str, int]:
    """Size of the reduced photo and number of crops of a part."""
    with np.load(path, allow_pickle=False) as part:
        height, width = part["size"].tolist()
        return {"height": height, "width": width, "crops": len(part["corners"])}


def read_part(path: Path) -> Crops:
    """Read the crops of a part."""
    with np.load(path, allow_pickle=False) as part:
        return part["images"], part["labels"], part["corners"], part["values"]
