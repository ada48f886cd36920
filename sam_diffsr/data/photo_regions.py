"""Regions and structure values of a photograph while it is cut: from a segmenter, or from masks on disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.data.config import MissingMasks
from sam_diffsr.errors import ArgumentError, DataError
from sam_diffsr.masks.segments import GraphMaskGenerator
from sam_diffsr.masks.spe import Encoding, EncodingOptions, Reduction, encode_label_map
from sam_diffsr.masks.store import digest_masks, find_masks, load_structure
from sam_diffsr.masks.structure import MAX_REGIONS

__all__ = ["PhotoRegions", "Segmenter"]

logger = logging.getLogger(__name__)

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
        self._masks: dict[Path, Path] = {}
        self._segment: Segmenter | None = None
        self.name = "masks"
        """Name of the source of regions, for the manifest."""
        if masks is None:
            self._segment, self.name = _resolve_segmenter(segmenter)
        else:
            self._masks = find_masks(masks, files, roots=roots)
        self.digests = {file: digest_masks(path) for file, path in self._masks.items()}
        """SHA-256 of the masks of each photo that has some."""
        absent = [] if masks is None else [file for file in files if file not in self._masks]
        if not absent:
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
        does not run unless its labels are ``needed``.

        Raises:
            DataError: masks are malformed or of an image of another size, or the segmenter's labels have
                another shape or are out of range.
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
    if callable(segmenter):
        return segmenter, str(getattr(segmenter, "__qualname__", type(segmenter).__qualname__))
    if segmenter == "graph":
        segmenter = GraphMaskGenerator()
    if isinstance(segmenter, GraphMaskGenerator):
        return segmenter.label_map, repr(segmenter)
    if segmenter == "none":
        return None, "none"
    raise ArgumentError(f"segmenter must be 'graph', 'none' or a function, got {segmenter!r}")
