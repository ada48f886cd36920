"""Where the regions of a photo come from while crops are prepared: a segmenter, or masks made before."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sam_diffsr.data.config import MissingMasks
from sam_diffsr.data.mask_source import MaskSource, digest_masks, load_structure
from sam_diffsr.errors import ArgumentError, DataError
from sam_diffsr.masks.segments import GraphMaskGenerator
from sam_diffsr.masks.spe import Encoding, Reduction, encode_label_map

__all__ = ["RegionSource", "Segmenter", "find_masks"]

logger = logging.getLogger(__name__)

Segmenter = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""Takes ``(H, W, 3)`` uint8 RGB, gives ``(H, W)`` region numbers from 1; 0 is "no region"."""

MAX_LABEL = int(np.iinfo(np.uint16).max)
Field = tuple[NDArray[np.uint16], NDArray[np.float32]]
"""Label map of a photo and one value a label, that of label 0 ("no region") being 0."""


def find_masks(
    masks: str | os.PathLike[str] | None,
    files: Sequence[Path],
    *,
    roots: Sequence[Path],
    missing: MissingMasks,
) -> dict[Path, Path]:
    """Each photo's masks, all looked for before any work; empty without a folder of masks.

    Args:
        masks: the folder of masks.
        files: the photos.
        roots: folders that a photo's place is taken from, tried in this order; none looks for the name alone.
        missing: ``"error"``, or ``"zero"`` to leave photos without masks out of the result.

    Raises:
        DataError: no such folder, or photos without masks.
    """
    if masks is None:
        return {}
    source = MaskSource(masks)
    found: dict[Path, Path] = {}
    for file in files:
        places = [root for root in roots if file.is_relative_to(root)] or [None]
        for root in places:
            path = source.get(file, root=root)
            if path is not None:
                found[file] = path
                break
    absent = [file.name for file in files if file not in found]
    if not absent:
        return found
    listed = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
    if missing == "error" or not found:
        raise DataError(
            f"{source.folder} has no masks for {len(absent)} of {len(files)} photos ({listed}): expected "
            f"files like {Path(absent[0]).stem}.npz, .npy or .json; make them with `sam-diffsr masks "
            "generate`, or ask for missing masks to be zero"
        )
    logger.warning("%d of %d photos have no masks and get E = 0: %s", len(absent), len(files), listed)
    return found


class RegionSource:
    """Gives the structure field of a photo that may have been made smaller.

    Args:
        segmenter: ``"graph"``, ``"none"``, a ``GraphMaskGenerator`` or a function; not used with ``masks``.
        masks: each photo's masks, if they come from files; photos without an entry get E = 0.
        encoding: see ``masks.spe``.
        reduction: see ``masks.spe``.
        from_files: whether regions come from ``masks``.

    Raises:
        ArgumentError: an unknown segmenter.
    """

    def __init__(
        self,
        segmenter: Segmenter | GraphMaskGenerator | Literal["graph", "none"],
        masks: Mapping[Path, Path],
        *,
        encoding: Encoding,
        reduction: Reduction,
        from_files: bool,
    ) -> None:
        self._segment, self.name = (None, "masks") if from_files else _resolve_segmenter(segmenter)
        self._masks = masks
        self._encoding: Encoding = encoding
        self._reduction: Reduction = reduction
        self._digests = {file: digest_masks(path) for file, path in masks.items()}

    def digest(self, file: Path) -> str | None:
        """SHA-256 of a photo's masks; None when it has none."""
        return self._digests.get(file)

    def field(self, file: Path, image: NDArray[np.uint8], photo: torch.Tensor, *, needed: bool) -> Field:
        """Regions of one photo.

        Args:
            file: the photo.
            image: ``(H, W, 3)`` uint8 as it is used.
            photo: ``(1, 3, H', W')`` as it was read.
            needed: False when nothing will be cut from it, so that no segmenter needs to run.

        Raises:
            DataError: masks are malformed or of an image of another size, or the segmenter's labels are of
                another shape or out of range.
        """
        size = (image.shape[0], image.shape[1])
        if file in self._masks:
            structure = load_structure(
                self._masks[file],
                photo_size=(photo.shape[-2], photo.shape[-1]),
                size=size,
                encoding=self._encoding,
                reduction=self._reduction,
            )
            return structure.labels, structure.values
        if self._segment is None or not needed:
            return np.zeros(size, np.uint16), np.zeros(1, np.float32)
        labels = np.asarray(self._segment(image))
        if labels.shape != size:
            raise DataError(f"the segmenter must give labels of the image's shape {size}, got {labels.shape}")
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest > MAX_LABEL:
            raise DataError(f"the segmenter's labels must lie in 0..{MAX_LABEL}, got {lowest}..{highest}")
        values = encode_label_map(labels, encoding=self._encoding, reduction=self._reduction)
        return labels.astype(np.uint16), values


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
