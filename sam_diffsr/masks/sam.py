"""Regions from Segment Anything (paper section 3.2), through its own automatic mask generator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sam_diffsr.device import resolve_device
from sam_diffsr.errors import ArgumentError, ImageError, MissingDependencyError
from sam_diffsr.hub import HubOptions
from sam_diffsr.masks.rle import decode, encode, encode_runs, rle_runs, runs_bbox_xywh
from sam_diffsr.masks.sam_model import build_sam, import_segment_anything, make_generator
from sam_diffsr.masks.sam_options import OutputMode, SamOptions
from sam_diffsr.masks.sam_weights import find_weights, read_weights
from sam_diffsr.masks.segments import check_image, enlarge_labels, shrink_to

__all__ = ["SamMaskGenerator", "SamPrecision"]

SamPrecision = Literal["fp32", "fp16", "bf16"]

_INDEX_LIMIT = 2**31 - 1
"""Most elements of a tensor that CUDA's kernels for enlarging and finding non-zeros can index."""
_WIDTH_LIMIT = 2**15 - 1
"""The stability score adds up a row of a mask in int16."""


class SamMaskGenerator:
    """Finds regions with SAM; records and options are those of ``SamAutomaticMaskGenerator``.

    Args:
        sam: a ``segment_anything.modeling.Sam``; moved to ``device`` and put in evaluation mode.
        options: what the automatic mask generator can be told.
        device: ``"auto"`` (CUDA, else MPS, else CPU) or a torch device.
        precision: type that the image encoder computes in, on CUDA; the prompt encoder and the mask
            decoder stay in float32, in which alone the positions of points are exact enough.
        longest_side: larger images are segmented at this longest side and the masks enlarged. SAM works
            at 1024 anyway, so that 1024 costs no detail to speak of, but much less memory and time.

    Raises:
        ArgumentError: the device cannot be had, or an argument is out of range.
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
        import_segment_anything()
        self.options = options or SamOptions()
        self.device = resolve_device(device)
        if precision not in get_args(SamPrecision):
            raise ArgumentError(
                f"precision must be one of {', '.join(get_args(SamPrecision))}; got {precision!r}"
            )
        if precision != "fp32" and self.device.type != "cuda":
            raise ArgumentError(f"precision={precision!r} needs a CUDA device, got {self.device}; use 'fp32'")
        if longest_side is not None and longest_side < 16:
            raise ArgumentError(f"longest_side must be None or >= 16, got {longest_side}")
        if self.options.min_mask_region_area > 0:
            _require_opencv()
        self.precision = precision
        self.longest_side = longest_side
        autocast = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        self._generator: Any = make_generator(
            sam.to(self.device).eval(), self.options, self.device, autocast=autocast
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        device: str | torch.device = "auto",
        precision: SamPrecision = "fp32",
        longest_side: int | None = None,
        points_per_side: int | None = SamOptions.points_per_side,
        points_per_batch: int = SamOptions.points_per_batch,
        pred_iou_thresh: float = SamOptions.pred_iou_thresh,
        stability_score_thresh: float = SamOptions.stability_score_thresh,
        stability_score_offset: float = SamOptions.stability_score_offset,
        box_nms_thresh: float = SamOptions.box_nms_thresh,
        crop_n_layers: int = SamOptions.crop_n_layers,
        crop_nms_thresh: float = SamOptions.crop_nms_thresh,
        crop_overlap_ratio: float = SamOptions.crop_overlap_ratio,
        crop_n_points_downscale_factor: int = SamOptions.crop_n_points_downscale_factor,
        point_grids: Sequence[NDArray[Any]] | None = SamOptions.point_grids,
        min_mask_region_area: int = SamOptions.min_mask_region_area,
        output_mode: OutputMode = SamOptions.output_mode,
    ) -> SamMaskGenerator:
        """Load SAM's published weights.

        Args:
            pretrained_model_name_or_path: ``"vit_b"``, ``"vit_l"`` or ``"vit_h"`` (fetched from the
                official repositories on the Hub), a native ``.pth`` or a ``.safetensors`` file, a folder
                with ``model.safetensors``, or a Hub id. The size of the model is read off the weights.
            revision: of the Hub repository.
            subfolder: folder inside the folder or repository.
            cache_dir: download cache instead of the Hub client's own.
            token: access token for the Hub.
            force_download: download again what is in the cache.
            local_files_only: use only what is in the cache.
            device: as for the class.
            precision: as for the class.
            longest_side: as for the class.
            points_per_side: points of the prompt grid along one side.
            points_per_batch: points decoded together: memory against speed, same result.
            pred_iou_thresh: masks that the model itself rates lower are dropped.
            stability_score_thresh: masks that depend more on the cut-off are dropped.
            stability_score_offset: how far the cut-off is moved for the stability score, in logits.
            box_nms_thresh: of two masks whose boxes overlap more, the lower rated is dropped.
            crop_n_layers: how many times to repeat on ever smaller crops.
            crop_nms_thresh: as ``box_nms_thresh``, between crops.
            crop_overlap_ratio: overlap of crops, as a fraction of the short side.
            crop_n_points_downscale_factor: by how much each layer of crops thins the grid.
            point_grids: grids of your own, one for each layer; set ``points_per_side=None``.
            min_mask_region_area: holes and islands of fewer pixels are removed; needs OpenCV.
            output_mode: form of ``segmentation`` in the records.

        Raises:
            ModelLoadError: the weights cannot be found, reached or read, or are damaged.
            CheckpointMismatchError: they are not SAM's.
            ArgumentError: as for the class and for ``SamOptions``.
            MissingDependencyError: as for the class.
        """
        options = SamOptions(
            points_per_side=points_per_side,
            points_per_batch=points_per_batch,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_score_thresh,
            stability_score_offset=stability_score_offset,
            box_nms_thresh=box_nms_thresh,
            crop_n_layers=crop_n_layers,
            crop_nms_thresh=crop_nms_thresh,
            crop_overlap_ratio=crop_overlap_ratio,
            crop_n_points_downscale_factor=crop_n_points_downscale_factor,
            point_grids=point_grids,
            min_mask_region_area=min_mask_region_area,
            output_mode=output_mode,
        )
        import_segment_anything()  # this and the device before a download of gigabytes
        device = resolve_device(device)
        hub = HubOptions(
            revision=revision,
            subfolder=subfolder,
            cache_dir=cache_dir,
            token=token,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        path = find_weights(pretrained_model_name_or_path, hub)
        sam = build_sam(read_weights(path), source=str(path))
        return cls(sam, options=options, device=device, precision=precision, longest_side=longest_side)

    def generate(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Find the regions of an image.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.

        Returns:
            Records as SAM's generator gives them, in its order: ``segmentation`` (see ``output_mode``),
            ``area``, ``bbox`` ``[x, y, w, h]``, ``predicted_iou``, ``point_coords``,
            ``stability_score``, ``crop_box``. Empty when SAM finds nothing. All in pixels of ``image``.

        Raises:
            ImageError: another rank, dtype or number of channels; too large to be segmented in one
                piece without ``longest_side``; or too thin for SAM or for the crops.
        """
        check_image(image)
        small = shrink_to(image, self.longest_side)
        height, width = small.shape[:2]
        self._generator.points_per_batch = self._batch_for(height, width)
        self._check_crops(height, width)
        found: list[dict[str, Any]] = self._generator.generate(small)
        size = (image.shape[0], image.shape[1])
        records = [self._record(record, (height, width), size) for record in found if record["area"] > 0]
        return [record for record in records if record["area"] > 0]

    def _batch_for(self, height: int, width: int) -> int:
        """Points per batch with which no tensor of masks has 2**31 elements."""
        side = self._generator.predictor.model.image_encoder.img_size
        fits = _INDEX_LIMIT // (3 * max(height * width, side * side))
        if fits < 1 or width > _WIDTH_LIMIT:
            raise ImageError(
                f"an image of {height} x {width} is too large for SAM's mask decoder in one piece; "
                "set longest_side (1024 is what SAM works at)"
            )
        return min(self.options.points_per_batch, fits)

    def _check_crops(self, height: int, width: int) -> None:
        """Refuse what would reach SAM as a picture without rows or columns."""
        side = self._generator.predictor.model.image_encoder.img_size
        for crop_width, crop_height in self._generator.crop_sizes(height, width):
            longest, shortest = max(crop_width, crop_height), min(crop_width, crop_height)
            if shortest < 1 or int(shortest * side / longest + 0.5) < 1:
                raise ImageError(
                    f"an image of {height} x {width} is too thin for SAM with "
                    f"crop_n_layers={self.options.crop_n_layers}: its short side would be 0 pixels of {side}"
                )

    def _record(
        self, record: dict[str, Any], size: tuple[int, int], full_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Give one record the size of the image and the form asked for."""
        segmentation: dict[str, Any] = record["segmentation"]
        record = dict(record)
        if size != full_size:
            mask = enlarge_labels(decode(segmentation), full_size)
            segmentation = encode(mask, compressed=False)
            starts, stops, _ = rle_runs(segmentation)
            down, across = full_size[0] / size[0], full_size[1] / size[1]
            x, y, w, h = runs_bbox_xywh(starts, stops, full_size[0])
            record["area"] = int((stops - starts).sum())
            record["bbox"] = [x, y, w - 1, h - 1]  # as SAM counts
            record["point_coords"] = [[px * across, py * down] for px, py in record["point_coords"]]
            x, y, w, h = record["crop_box"]
            left, top = round(x * across), round(y * down)
            record["crop_box"] = [left, top, round((x + w) * across) - left, round((y + h) * down) - top]
        if self.options.output_mode == "binary_mask":
            record["segmentation"] = np.ascontiguousarray(decode(segmentation))
        elif self.options.output_mode == "coco_rle":
            starts, stops, _ = rle_runs(segmentation)
            record["segmentation"] = encode_runs(starts, stops, full_size)
        else:
            record["segmentation"] = segmentation
        return record


def _require_opencv() -> None:
    try:
        import cv2  # pyright: ignore  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "min_mask_region_area > 0 needs OpenCV; install it with: pip install opencv-python-headless, "
            "or leave the option at 0"
        ) from error
