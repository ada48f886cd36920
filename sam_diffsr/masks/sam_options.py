"""Options of SAM's automatic mask generator, documented and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.errors import ArgumentError

__all__ = ["OutputMode", "SamOptions"]

OutputMode = Literal["coco_rle", "uncompressed_rle", "binary_mask"]


@dataclass(frozen=True, kw_only=True)
class SamOptions:
    """What ``segment_anything.SamAutomaticMaskGenerator`` can be told; same names and defaults.

    Only ``output_mode`` has another default, because run lengths are what is stored and encoded.

    Raises:
        ArgumentError: a value is out of range, or two of them exclude each other.
    """

    points_per_side: int | None = 32
    """The image is prompted with a grid of this many points squared; ``None`` with ``point_grids``."""
    points_per_batch: int = 64
    """Points that go through the mask decoder together, >= 1: memory against speed, same result."""
    pred_iou_thresh: float = 0.88
    """Masks that the model itself rates lower, in [0, 1], are dropped."""
    stability_score_thresh: float = 0.95
    """Masks that change more when the cut-off is moved, in [0, 1], are dropped."""
    stability_score_offset: float = 1.0
    """How far the cut-off is moved for the stability score, >= 0, in logits."""
    box_nms_thresh: float = 0.7
    """Of two masks whose boxes overlap more than this (IoU, in [0, 1]), the lower rated is dropped."""
    crop_n_layers: int = 0
    """Layer i = 1, 2, ... repeats everything on 4**i overlapping crops, which finds smaller things."""
    crop_nms_thresh: float = 0.7
    """As ``box_nms_thresh``, between crops."""
    crop_overlap_ratio: float = 512 / 1500
    """Overlap of crops in the first layer, in [0, 1), as a fraction of the image's short side."""
    crop_n_points_downscale_factor: int = 1
    """Layer i has ``points_per_side / factor**i`` points a side, >= 1."""
    point_grids: Sequence[NDArray[Any]] | None = None
    """One ``(P, 2)`` array of (x, y) in [0, 1] for each layer, instead of ``points_per_side``."""
    min_mask_region_area: int = 0
    """Holes and islands of fewer pixels are removed; anything above 0 needs OpenCV."""
    output_mode: OutputMode = "coco_rle"
    """``segmentation`` of a record: compressed or uncompressed COCO RLE, or an ``(H, W)`` bool array."""

    def __post_init__(self) -> None:
        self._check_grid()
        for name, lowest in (
            ("points_per_batch", 1),
            ("crop_n_layers", 0),
            ("crop_n_points_downscale_factor", 1),
            ("min_mask_region_area", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise ArgumentError(f"{name} must be an integer >= {lowest}, got {value!r}")
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArgumentError(f"{name} must be in [0, 1], got {getattr(self, name)!r}")
        if not 0 <= self.crop_overlap_ratio < 1:
            raise ArgumentError(f"crop_overlap_ratio must be in [0, 1), got {self.crop_overlap_ratio!r}")
        if not self.stability_score_offset >= 0:
            raise ArgumentError(f"stability_score_offset must be >= 0, got {self.stability_score_offset!r}")
        if self.output_mode not in get_args(OutputMode):
            raise ArgumentError(
                f"output_mode must be one of {', '.join(get_args(OutputMode))}; got {self.output_mode!r}"
            )

    def _check_grid(self) -> None:
        if (self.points_per_side is None) == (self.point_grids is None):
            given = "neither" if self.point_grids is None else "both (set points_per_side=None)"
            raise ArgumentError(f"exactly one of points_per_side and point_grids must be given, got {given}")
        if self.point_grids is None:
            side = self.points_per_side
            if not isinstance(side, int) or isinstance(side, bool) or side < 1:
                raise ArgumentError(f"points_per_side must be an integer >= 1, got {side!r}")
            if side // self.crop_n_points_downscale_factor**self.crop_n_layers < 1:
                raise ArgumentError(
                    f"points_per_side={side} leaves no point in layer {self.crop_n_layers} when divided by "
                    f"crop_n_points_downscale_factor={self.crop_n_points_downscale_factor} per layer"
                )
            return
        if len(self.point_grids) != self.crop_n_layers + 1:
            raise ArgumentError(
                f"point_grids must hold one array for each of {self.crop_n_layers + 1} layers, "
                f"got {len(self.point_grids)}"
            )
        for index, grid in enumerate(self.point_grids):
            if np.ndim(grid) != 2 or np.shape(grid)[1] != 2 or not len(grid):
                raise ArgumentError(f"point_grids[{index}] must be (P, 2) with P >= 1, got {np.shape(grid)}")
