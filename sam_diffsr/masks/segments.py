"""Regions without SAM or weights: graph segmentation (Felzenszwalb and Huttenlocher, 2004)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_diffsr.config import check_fields
from sam_diffsr.errors import ArgumentError, DataError, ImageError, MissingDependencyError
from sam_diffsr.masks.regions import label_runs
from sam_diffsr.masks.rle import encode_runs, runs_bbox_xywh

PixelT = TypeVar("PixelT", bound=np.generic)


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphMaskGenerator:
    """Splits an image into regions of similar colour; needs scikit-image, no weights and no network.

    The regions cover the image without overlap, unlike SAM's. The result is deterministic.

    Raises:
        ArgumentError: an option is out of range.
        MissingDependencyError: scikit-image is not installed.
    """

    scale: float = 200.0
    """Preference for large regions, > 0."""
    sigma: float = 0.8
    """Standard deviation of the Gaussian smoothing, >= 0, in pixels at the segmented size."""
    min_size: int = 50
    """Smallest area of a region, >= 1, in pixels at the segmented size."""
    longest_side: int | None = 512
    """Segment larger images at this longest side and enlarge the regions; ``None`` never shrinks."""

    def __post_init__(self) -> None:
        limits = {"scale": "(0, inf)", "sigma": "[0, inf)", "min_size": "[1, inf)"}
        check_fields(self, "", {**limits, "longest_side": "[16, inf)"}, error=ArgumentError)
        _felzenszwalb()

    def label_map(self, image: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Number the regions of an ``(H, W, 3)`` uint8 RGB image: ``(H, W)`` uint16 from 1, without gaps.

        Raises:
            ImageError: another rank, dtype or number of channels.
            DataError: more than 65535 regions.
        """
        check_image(image)
        height, width = image.shape[:2]
        small = shrink_to(image, self.longest_side)
        options: dict[str, Any] = {"scale": self.scale, "sigma": self.sigma, "min_size": self.min_size}
        labels = _felzenszwalb()(small, **options, channel_axis=-1)
        count = int(labels.max()) + 1
        if count > np.iinfo(np.uint16).max:
            raise DataError(f"got {count} regions, more than 65535; raise min_size or scale")
        result = (labels + 1).astype(np.uint16)
        return result if small is image else nearest(result, (height, width))

    def generate(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Find the regions of an image as records like those of SAM's automatic mask generator.

        Args:
            image: ``(H, W, 3)`` uint8 RGB, any H, W >= 1.

        Returns:
            One record per region: ``segmentation`` (compressed COCO RLE), ``area``, ``bbox`` ``[x, y,
            w, h]`` as SAM counts (w = h = 0 for a single pixel), ``predicted_iou`` and ``stability_score``
            (always 1.0), ``point_coords`` (one pixel of the region), ``crop_box``, and ``generator``, which
            SAM's records do not have.

        Raises:
            ImageError: another rank, dtype or number of channels.
            DataError: more than 65535 regions.
        """
        runs = label_runs(self.label_map(image))
        height, width = runs.size
        edges = np.searchsorted(runs.owner, np.arange(runs.count + 1))
        records: list[dict[str, Any]] = []
        for begin, end in pairwise(edges.tolist()):
            starts, stops = runs.starts[begin:end], runs.stops[begin:end]
            longest = int(np.argmax(stops - starts))
            x, y, w, h = runs_bbox_xywh(starts, stops, runs.size)
            px, py = divmod(int(starts[longest] + stops[longest] - 1) // 2, height)
            records.append(
                {
                    "segmentation": encode_runs(starts, stops, runs.size),
                    "area": int((stops - starts).sum()),
                    "bbox": [x, y, w - 1, h - 1],  # as SAM counts
                    "predicted_iou": 1.0,
                    "point_coords": [[px, py]],
                    "stability_score": 1.0,
                    "crop_box": [0, 0, width, height],
                    "generator": "felzenszwalb",
                }
            )
        return records


def check_image(image: NDArray[Any]) -> None:
    """Raise ``ImageError`` unless ``image`` is ``(H, W, 3)`` uint8 with H, W >= 1."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:  # pyright: ignore[reportUnnecessaryIsInstance]
        got = getattr(image, "dtype", type(image).__name__)
        raise ImageError(f"mask generation needs a uint8 array, got {got}")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(f"mask generation needs an RGB image (H, W, 3), got shape {image.shape}")


def shrink_to(image: NDArray[np.uint8], longest_side: int | None) -> NDArray[np.uint8]:
    """Shrink an ``(H, W, 3)`` image to a longest side of at most ``longest_side``."""
    height, width = image.shape[:2]
    if longest_side is None or max(height, width) <= longest_side:
        return image
    factor = longest_side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def nearest(pixels: NDArray[PixelT], size: tuple[int, int]) -> NDArray[PixelT]:
    """Resize an ``(H, W)`` map or ``(H, W, C)`` image to ``(height, width)`` by the nearest pixel."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, pixels.shape, strict=False))
    return pixels[rows[:, None], columns]


def _felzenszwalb() -> Callable[..., NDArray[np.int64]]:
    try:
        from skimage import segmentation  # pyright: ignore
    except ImportError as error:
        raise MissingDependencyError(
            "graph segmentation needs scikit-image; install it with: pip install 'sam-diffsr[segments]'"
        ) from error
    return cast("Callable[..., NDArray[np.int64]]", segmentation.felzenszwalb)  # pyright: ignore
