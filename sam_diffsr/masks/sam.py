"""Regions from Segment Anything (paper section 3.2), through its own automatic mask generator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import sam_diffsr.masks.sam_model as sam_model
from sam_diffsr.config import check_choice, check_fields
from sam_diffsr.device import resolve_device
from sam_diffsr.errors import ArgumentError, ImageError, MissingDependencyError
from sam_diffsr.hub import HubKeywords, HubOptions
from sam_diffsr.masks.rle import bbox_xywh, decode, encode, encode_runs, rle_runs
from sam_diffsr.masks.segments import check_image, nearest, shrink_to

if TYPE_CHECKING:
    from typing_extensions import Unpack

SamPrecision = Literal["fp32", "fp16", "bf16"]
OutputMode = Literal["coco_rle", "uncompressed_rle", "binary_mask"]

_INDEX_LIMIT = 2**31 - 1
"""Most elements of a tensor that the CUDA kernels for resizing and for finding non-zeros can index."""
_WIDTH_LIMIT = 2**15 - 1
"""The stability score sums a row of a mask in int16."""


@dataclass(frozen=True, kw_only=True)
class SamOptions:
    """Options of ``segment_anything.SamAutomaticMaskGenerator``, under its names and with its defaults.

    Only ``output_mode`` has another default: run lengths are stored and encoded directly.

    Raises:
        ArgumentError: a value is out of range, or two of them exclude each other.
    """

    points_per_side: int | None = 32
    """Points of the prompt grid along one side; ``None`` with ``point_grids``."""
    points_per_batch: int = 64
    """Points that the mask decoder takes at once, >= 1. More is faster and takes more memory."""
    pred_iou_thresh: float = 0.88
    """Masks whose quality the model rates lower, in [0, 1], are dropped."""
    stability_score_thresh: float = 0.95
    """Masks with a lower stability under a moved cut-off, in [0, 1], are dropped."""
    stability_score_offset: float = 1.0
    """Shift of the cut-off for the stability score, >= 0, in logits."""
    box_nms_thresh: float = 0.7
    """Of two masks whose boxes overlap more than this (IoU, in [0, 1]), the lower rated is dropped."""
    crop_n_layers: int = 0
    """Crop layers. Layer i = 1, 2, ... repeats the search on 4**i overlapping crops, for small objects."""
    crop_nms_thresh: float = 0.7
    """The same threshold between crops."""
    crop_overlap_ratio: float = 512 / 1500
    """Overlap of crops in the first layer, in [0, 1), as a fraction of the image's short side."""
    crop_n_points_downscale_factor: int = 1
    """Layer i has ``points_per_side / factor**i`` points along one side, >= 1."""
    point_grids: Sequence[NDArray[Any]] | None = None
    """One ``(P, 2)`` array of (x, y) in [0, 1] per layer, instead of ``points_per_side``."""
    min_mask_region_area: int = 0
    """Holes and islands of fewer pixels are removed; anything above 0 needs OpenCV."""
    output_mode: OutputMode = "coco_rle"
    """Form of ``segmentation``: compressed or uncompressed COCO RLE, or an ``(H, W)`` bool array."""

    def __post_init__(self) -> None:
        if (self.points_per_side is None) == (self.point_grids is None):
            given = "neither" if self.point_grids is None else "both (set points_per_side=None)"
            raise ArgumentError(f"exactly one of points_per_side and point_grids must be given, got {given}")
        at_least_one = ("points_per_side", "points_per_batch", "crop_n_points_downscale_factor")
        for name in (*at_least_one, "crop_n_layers", "min_mask_region_area"):
            value, low = getattr(self, name), int(name in at_least_one)
            if (name, value) != ("points_per_side", None) and (type(value) is not int or value < low):
                raise ArgumentError(f"{name} must be an integer >= {low}, got {value!r}")
        shares = ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh")
        limits = {**dict.fromkeys(shares, "[0, 1]"), "crop_overlap_ratio": "[0, 1)"}
        check_fields(self, "", {**limits, "stability_score_offset": "[0, inf)"}, error=ArgumentError)
        layers, factor = self.crop_n_layers, self.crop_n_points_downscale_factor
        if self.points_per_side is not None and self.points_per_side // factor**layers < 1:
            raise ArgumentError(
                f"points_per_side={self.points_per_side} leaves no point in layer {layers} when divided by "
                f"crop_n_points_downscale_factor={factor} per layer"
            )
        if self.point_grids is not None and len(self.point_grids) != layers + 1:
            got = len(self.point_grids)
            raise ArgumentError(f"point_grids must hold one array for each of {layers + 1} layers, got {got}")
        for index, grid in enumerate(self.point_grids or ()):
            if np.ndim(grid) != 2 or np.shape(grid)[1] != 2 or not len(grid):
                raise ArgumentError(f"point_grids[{index}] must be (P, 2) with P >= 1, got {np.shape(grid)}")


class SamMaskGenerator:
    """Finds regions with SAM; its records are those of ``SamAutomaticMaskGenerator``.

    Args:
        sam: a ``segment_anything.modeling.Sam``; moved to ``device`` and put in evaluation mode.
        options: options of the automatic mask generator.
        device: ``"auto"`` (CUDA, else MPS, else CPU) or a torch device.
        precision: type of the image encoder on CUDA. The prompt encoder and the mask decoder stay in float32,
            since the positions of points need it.
        longest_side: segment larger images at this longest side and enlarge the masks. SAM itself works at
            1024, so 1024 loses hardly any detail and saves much memory and time.

    Raises:
        ArgumentError: the device does not exist, or an argument is out of range.
        MissingDependencyError: segment-anything, torchvision or (for ``min_mask_region_area``) OpenCV is
            missing or broken.
    """

    def __init__(
        self,
        sam: nn.Module,
        *,
        options: SamOptions | None = None,
        device: str | torch.device = "auto",
        precision: SamPrecision = "fp32",
        longest_side: int | None = None,
    ) -> None:
        sam_model.import_segment_anything()
        self.options = options or SamOptions()
        self.device = resolve_device(device)
        check_choice(precision, SamPrecision, what="precision", error=ArgumentError)
        if precision != "fp32" and self.device.type != "cuda":
            raise ArgumentError(f"precision={precision!r} needs a CUDA device, got {self.device}; use 'fp32'")
        if longest_side is not None and longest_side < 16:
            raise ArgumentError(f"longest_side must be None or >= 16, got {longest_side}")
        if self.options.min_mask_region_area > 0:
            try:
                import cv2  # pyright: ignore  # noqa: F401
            except ImportError as error:
                raise MissingDependencyError(
                    "min_mask_region_area > 0 needs OpenCV; install it with: "
                    "pip install opencv-python-headless, or leave the option at 0"
                ) from error
        self.precision, self.longest_side = precision, longest_side
        autocast = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        sam, given = sam.to(self.device).eval(), vars(self.options)
        self._generator: Any = sam_model.make_generator(sam, given, self.device, autocast=autocast)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        options: SamOptions | None = None,
        device: str | torch.device = "auto",
        precision: SamPrecision = "fp32",
        longest_side: int | None = None,
        **hub: Unpack[HubKeywords],
    ) -> SamMaskGenerator:
        """Load SAM's published weights; the other arguments are those of the class and of ``HubOptions``.

        The name is ``"vit_b"``, ``"vit_l"`` or ``"vit_h"`` (fetched from the official repositories on the
        Hub), a native ``.pth`` or a ``.safetensors`` file, a folder with ``model.safetensors``, or a Hub id.
        The weights tell the size of the model.

        Raises:
            ModelLoadError: the weights cannot be found, reached or read, or are damaged.
            CheckpointMismatchError: they are not SAM's.
            ArgumentError: an argument or option is out of range.
            MissingDependencyError: see the class.
        """
        sam_model.import_segment_anything()  # fails, as the device does, before a download of gigabytes
        device = resolve_device(device)
        path = sam_model.find_weights(pretrained_model_name_or_path, HubOptions(**hub))
        sam = sam_model.build_sam(sam_model.read_weights(path), source=str(path))
        return cls(sam, options=options, device=device, precision=precision, longest_side=longest_side)

    def generate(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Find the regions of an image.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.

        Returns:
            SAM's records in its order, in pixels of ``image``: ``segmentation`` (see ``output_mode``),
            ``area``, ``bbox`` ``[x, y, w, h]``, ``predicted_iou``, ``point_coords``,
            ``stability_score``, ``crop_box``. Empty when SAM finds nothing.

        Raises:
            ImageError: another rank, dtype or number of channels; too large without ``longest_side``; or too
                thin for SAM or for the crops.
        """
        check_image(image)
        small = shrink_to(image, self.longest_side)
        height, width = small.shape[:2]

        # Every tensor of masks must stay below 2**31 elements.
        side = self._generator.predictor.model.image_encoder.img_size
        fits = _INDEX_LIMIT // (3 * max(height * width, side * side))
        if fits < 1 or width > _WIDTH_LIMIT:
            raise ImageError(
                f"an image of {width} x {height} is too large for SAM's mask decoder in one piece; "
                "set longest_side (SAM itself works at 1024)"
            )
        self._generator.points_per_batch = min(self.options.points_per_batch, fits)

        # SAM shrinks the image and every crop to its own size.
        for crop in self._generator.crop_sizes(height, width):
            if min(crop) < 1 or int(min(crop) * side / max(crop) + 0.5) < 1:
                raise ImageError(
                    f"an image of {width} x {height} is too thin for SAM with "
                    f"crop_n_layers={self.options.crop_n_layers}: its short side would be 0 pixels of {side}"
                )
        found: list[dict[str, Any]] = self._generator.generate(small)
        full_size = (image.shape[0], image.shape[1])
        records = [self._record(record, full_size) for record in found if record["area"] > 0]
        return [record for record in records if record["area"] > 0]

    def _record(self, record: dict[str, Any], full_size: tuple[int, int]) -> dict[str, Any]:
        """Bring one record to the size of the image and the requested form."""
        record, segmentation = dict(record), record["segmentation"]
        size: tuple[int, int] = tuple(segmentation["size"])
        if size != full_size:
            mask = nearest(decode(segmentation), full_size)
            segmentation = encode(mask, compressed=False)
            down, across = full_size[0] / size[0], full_size[1] / size[1]
            x, y, w, h = bbox_xywh(segmentation)
            record["area"] = int(mask.sum())
            record["bbox"] = [x, y, w - 1, h - 1]  # as SAM counts
            record["point_coords"] = [[px * across, py * down] for px, py in record["point_coords"]]
            x, y, w, h = record["crop_box"]
            left, top = round(x * across), round(y * down)
            record["crop_box"] = [left, top, round((x + w) * across) - left, round((y + h) * down) - top]
        if self.options.output_mode == "binary_mask":
            segmentation = np.ascontiguousarray(decode(segmentation))
        elif self.options.output_mode == "coco_rle":
            segmentation = encode_runs(*rle_runs(segmentation))
        return {**record, "segmentation": segmentation}
