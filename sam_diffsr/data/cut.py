"""Cuts one photograph into crops: its regions, its reduction, its textured places, and its parts on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.data.config import MissingMasks
from sam_diffsr.data.crops import Crops
from sam_diffsr.errors import ArgumentError, DataError, ImageError, OutputError
from sam_diffsr.files import atomic_path
from sam_diffsr.image import decode_image
from sam_diffsr.image.photos import to_uint8
from sam_diffsr.masks.segments import GraphMaskGenerator
from sam_diffsr.masks.spe import MAX_REGIONS, Encoding, EncodingOptions, Reduction, encode_label_map
from sam_diffsr.masks.store import digest_masks, find_masks, load_structure
from sam_diffsr.resize import imresize

__all__ = [
    "PhotoRegions",
    "Segmenter",
    "cut_photo",
    "gradient_energy",
    "read_part",
    "read_part_header",
    "reduce_image",
    "textured_corners",
]

logger = logging.getLogger(__name__)

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)

Segmenter = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""Takes ``(H, W, 3)`` uint8 RGB, gives ``(H, W)`` region numbers from 1; 0 is "no region"."""


class PhotoRegions:
    """Gives the regions of photos that may have been reduced.

    The arguments are those of ``prepare_crops``; ``roots`` are the folders that the places of photos are
    relative to. Raises ``ArgumentError`` for an unknown segmenter, and ``DataError`` for missing masks.
    """

    def __init__(
        self,
        segmenter: Segmenter | GraphMaskGenerator | Literal["graph", "none"],
        *,
        masks: str | os.PathLike[str] | None,
        missing: MissingMasks,
        files: Sequence[Path],
        roots: Sequence[Path],
        encoding: Encoding,
        reduction: Reduction,
    ) -> None:
        self._encoding = EncodingOptions(encoding=encoding, reduction=reduction)
        self._masks = {} if masks is None else find_masks(masks, files, roots=roots)
        self._segment, self.name = _resolve_segmenter(segmenter) if masks is None else (None, "masks")
        self.digests = {file: digest_masks(path) for file, path in self._masks.items()}
        """SHA-256 of the masks of each photo that has some."""
        absent = [file for file in files if file not in self._masks]
        if masks is None or not absent:
            return
        listed = ", ".join(file.name for file in absent[:5]) + (", ..." if len(absent) > 5 else "")
        if missing == "error" or len(absent) == len(files):
            raise DataError(
                f"{masks} has no masks for {len(absent)} of {len(files)} photos ({listed}): expected files "
                f"like {absent[0].stem}.npz, .npy or .json; make them with `sam-diffsr masks generate`, "
                "or ask for missing masks to be zero"
            )
        logger.warning("%d of %d photos have no masks and get E = 0: %s", len(absent), len(files), listed)

    def find(
        self, file: Path, image: NDArray[np.uint8], *, photo_size: tuple[int, int], needed: bool
    ) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
        """Give the label map ``(H, W)`` of a photo, and one value per label, 0 for "no region".

        ``image`` is the photo after its reduction from ``photo_size``, ``(H, W, 3)`` uint8. The segmenter
        does not run unless its labels are ``needed``. Raises ``DataError`` for masks that are malformed or of
        an image of another size, and for labels of another shape or out of range.
        """
        size = (image.shape[0], image.shape[1])
        if file in self._masks:
            structure = load_structure(self._masks[file], photo_size=photo_size, size=size, **self._encoding)
            return structure.labels, structure.values
        if self._segment is None or not needed:
            return np.zeros(size, np.uint16), np.zeros(1, np.float32)
        labels = np.asarray(self._segment(image))
        if labels.shape != size:
            raise DataError(f"the segmenter must give labels of the image's shape {size}, got {labels.shape}")
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest > MAX_REGIONS:
            raise DataError(f"the segmenter's labels must lie in 0..{MAX_REGIONS}, got {lowest}..{highest}")
        return labels.astype(np.uint16), encode_label_map(labels, **self._encoding)


def _resolve_segmenter(
    segmenter: Segmenter | GraphMaskGenerator | Literal["graph", "none"],
) -> tuple[Segmenter | None, str]:
    """The function, and its name for the manifest."""
    if callable(segmenter):
        return segmenter, str(getattr(segmenter, "__qualname__", type(segmenter).__qualname__))
    if segmenter == "graph":
        segmenter = GraphMaskGenerator()
    if isinstance(segmenter, GraphMaskGenerator):
        return segmenter.label_map, repr(segmenter)
    if segmenter == "none":
        return None, "none"
    raise ArgumentError(f"segmenter must be 'graph', 'none' or a function, got {segmenter!r}")


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
    height, width = image.shape[:2]
    corners = [
        (top, left)
        for top in range((height % crop_size) // 2, height - crop_size + 1, crop_size)
        for left in range((width % crop_size) // 2, width - crop_size + 1, crop_size)
        if gradient_energy(image[top : top + crop_size, left : left + crop_size]) >= min_gradient
    ]
    return np.array(corners, np.int32).reshape(-1, 2)


def cut_photo(
    file: Path, parts: Mapping[float, Path], regions: PhotoRegions, *, crop_size: int, min_gradient: float
) -> tuple[str, str] | None:
    """Write the missing parts of a photo, one per reduction; raises ``OutputError``.

    Gives the kind (``corrupt`` or ``small``) and the reason, if the photo has to be left out.
    """
    missing = {factor: path for factor, path in parts.items() if not path.is_file()}
    if not missing:
        return None
    try:
        photo = decode_image(file).rgb
    except ImageError as error:
        return "corrupt", str(error)
    height, width = photo.shape[-2:]
    if round(min(height, width) / min(parts)) < crop_size:
        return "small", (
            f"{file} is {height}x{width}; reduced by {min(parts):g} it is smaller than a crop "
            f"of {crop_size}; lower crop_size or the reductions"
        )
    for factor, path in missing.items():
        image = reduce_image(photo, factor)
        corners = textured_corners(image, crop_size=crop_size, min_gradient=min_gradient)
        found = regions.find(file, image, photo_size=(height, width), needed=len(corners) > 0)
        windows = [(slice(top, top + crop_size), slice(left, left + crop_size)) for top, left in corners]
        try:
            with atomic_path(path) as temporary:
                np.savez(
                    temporary,
                    images=np.array([image[window] for window in windows], np.uint8),
                    labels=np.array([found[0][window] for window in windows], np.uint16),
                    corners=corners,
                    values=found[1],
                    size=np.array(image.shape[:2], np.int64),
                )
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error}; make room and run it again, finished photos are kept"
            ) from error
    return None


def read_part_header(path: Path) -> dict[str, int]:
    """Size of the reduced photo and number of crops."""
    with np.load(path, allow_pickle=False) as part:
        height, width = (int(side) for side in part["size"])
        return {"height": height, "width": width, "crops": len(part["corners"])}


def read_part(path: Path) -> Crops:
    """Read the crops of a part."""
    with np.load(path, allow_pickle=False) as part:
        return part["images"], part["labels"], part["corners"], part["values"]
