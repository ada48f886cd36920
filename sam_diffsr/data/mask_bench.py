"""What masks cost: encoding against the straightforward way, the codec against pycocotools, reading a crop.

Everything is timed in one process, in turns, on made-up regions; what counts are the ratios.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_diffsr.errors import ArgumentError
from sam_diffsr.masks.rle import decode, encode
from sam_diffsr.masks.spe import encode_structure, position_field
from sam_diffsr.masks.store import read_structure, write_structure
from sam_diffsr.masks.structure import StructureField

__all__ = ["MaskBench", "made_up_records", "run_mask_bench", "straightforward_structure"]

CROP = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskBench:
    """Result of :func:`run_mask_bench`; times are medians in milliseconds."""

    size: tuple[int, int]
    """``(height, width)`` of the image."""
    regions: int
    """Regions of the main comparison."""
    encode_ms: float
    """``encode_structure`` from run lengths."""
    straightforward_ms: float
    """Decode each mask, multiply with the field, take the mean, paint."""
    encode_speedup: float
    """The second through the first."""
    encode_difference: float
    """Largest difference between the two fields."""
    by_regions: list[dict[str, float]]
    """Time against the number of regions; ``ratio`` is to the main comparison's."""
    by_megapixels: list[dict[str, float]]
    """Time against the size of the image; likewise."""
    rle_encode_ratio: float | None
    """Our time for a mask through pycocotools', which gets arrays in its own layout; ``None`` without it."""
    rle_decode_ratio: float | None
    """Likewise for decoding."""
    field_crop_ms: float
    """Reading one 160 x 160 crop of the field from the stored whole one."""
    image_crop_ms: float
    """Reading the crop of the image from its PNG file."""
    crop_ratio: float
    """The first through the second."""
    stored_bytes: int
    """Size of the stored field."""
    smaller_than_npy: float
    """A float32 ``.npy`` of it through that."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "size": list(self.size)}


def run_mask_bench(
    *,
    size: tuple[int, int] = (1356, 2040),
    regions: int = 100,
    region_counts: Sequence[int] = (10, 100, 1000),
    megapixels: Sequence[float] = (0.5, 2.77, 12.0),
    repeats: int = 9,
    say: Callable[[str], object] = lambda line: None,
) -> MaskBench:
    """Measure.

    Args:
        size: ``(height, width)`` of the image, at least 160 each.
        regions: how many for the main comparison, >= 1.
        region_counts: numbers of regions for the cost at ``size``.
        megapixels: sizes for the cost with ``regions``.
        repeats: measurements of each, >= 1.
        say: called with a line on what is measured.

    Raises:
        ArgumentError: a value out of range.
    """
    if min(size) < CROP or regions < 1 or repeats < 1:
        raise ArgumentError(
            f"expected sides >= {CROP}, regions >= 1 and repeats >= 1; got {size}, {regions}, {repeats}"
        )
    records = made_up_records(size, regions)
    say(f"{regions} regions at {size[0]}x{size[1]}")
    fast = encode_structure(records).numpy()
    slow = straightforward_structure(records)
    ours, straightforward = _in_turns(
        repeats, lambda: encode_structure(records), lambda: straightforward_structure(records)
    )
    say("number of regions")
    made = [made_up_records(size, count) for count in region_counts]
    by_regions = [
        {"regions": count, **cost}
        for count, cost in zip(region_counts, _costs(repeats, records, made), strict=True)
    ]
    say("size of the image")
    scaled = [_scaled_records(size, amount, regions) for amount in megapixels]
    by_megapixels = [
        {"megapixels": amount, **cost}
        for amount, cost in zip(megapixels, _costs(repeats, records, scaled), strict=True)
    ]
    say("run lengths")
    rle_encode, rle_decode = _against_pycocotools(records[:10], repeats)
    say("crops")
    crops = _crops(StructureField.from_masks(records), repeats)
    return MaskBench(
        size=size,
        regions=regions,
        encode_ms=ours,
        straightforward_ms=straightforward,
        encode_speedup=straightforward / ours,
        encode_difference=float(np.abs(fast - slow).max()),
        by_regions=by_regions,
        by_megapixels=by_megapixels,
        rle_encode_ratio=rle_encode,
        rle_decode_ratio=rle_decode,
        **crops,
    )


def made_up_records(size: tuple[int, int], count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Overlapping wavy blobs as compressed run lengths, large ones first, as SAM's regions often are."""
    rng = np.random.default_rng(seed)
    height, width = size
    records: list[dict[str, Any]] = []
    for index in range(count):
        radius = max(2.0, 0.35 * min(size) * (index + 1) ** -0.4)
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        phase = rng.uniform(0, 6.28)
        reach = 1.4 * radius
        top, bottom = max(0, int(y - reach)), min(height, int(y + reach) + 2)
        left, right = max(0, int(x - reach)), min(width, int(x + reach) + 2)
        rows = np.arange(top, bottom)[:, None] - y
        columns = np.arange(left, right)[None] - x
        angle = np.arctan2(rows, columns)
        wavy = radius * (1 + 0.25 * np.sin(3 * angle + phase) + 0.1 * np.sin(9 * angle))
        mask = np.zeros(size, np.bool_)
        mask[top:bottom, left:right] = rows**2 + columns**2 <= wavy**2
        records.append({"segmentation": encode(mask)})
    return records


def straightforward_structure(records: Sequence[dict[str, Any]]) -> NDArray[np.float32]:
    """The field the way the paper reads: decode, multiply with the position field, take the mean, paint."""
    height, width = records[0]["segmentation"]["size"]
    field = position_field((height, width)).astype(np.float32)
    structure = np.zeros((height, width), np.float32)
    for record in records:
        mask = np.ascontiguousarray(decode(record["segmentation"]))
        structure[mask] = (field * mask).mean()
    return structure


def _against_pycocotools(
    records: Sequence[dict[str, Any]], repeats: int
) -> tuple[float | None, float | None]:
    try:
        coco: Any = importlib.import_module("pycocotools.mask")
    except ImportError:
        return None, None
    masks = [np.ascontiguousarray(decode(record["segmentation"])) for record in records]
    theirs = [np.asfortranarray(mask.astype(np.uint8)) for mask in masks]
    coded = [coco.encode(mask) for mask in theirs]
    our_encoding, their_encoding, our_decoding, their_decoding = _in_turns(
        repeats,
        lambda: [encode(mask) for mask in masks],
        lambda: [coco.encode(mask) for mask in theirs],
        lambda: [decode(record["segmentation"]) for record in records],
        lambda: [coco.decode(code) for code in coded],
    )
    return our_encoding / their_encoding, our_decoding / their_decoding


def _crops(structure: StructureField, repeats: int) -> dict[str, Any]:
    height, width = structure.size
    top, left = (height - CROP) // 2, (width - CROP) // 2
    with tempfile.TemporaryDirectory() as folder:
        field, photo = Path(folder) / "field.npz", Path(folder) / "photo.png"
        stored = write_structure(field, structure)
        Image.fromarray(_made_up_photo(structure)).save(photo)

        def image_crop() -> NDArray[np.uint8]:
            with closing(Image.open(photo)) as image:
                return np.asarray(image.crop((left, top, left + CROP, top + CROP)))

        field_ms, image_ms = _in_turns(
            repeats, lambda: read_structure(field).crop(top, left, CROP, CROP), image_crop
        )
    return {
        "field_crop_ms": field_ms,
        "image_crop_ms": image_ms,
        "crop_ratio": field_ms / image_ms,
        "stored_bytes": stored,
        "smaller_than_npy": (4 * height * width + 128) / stored,
    }


def _made_up_photo(structure: StructureField) -> NDArray[np.uint8]:
    """Flat regions with a little grain, so that PNG has something to do as with a photo."""
    rng = np.random.default_rng(1)
    colours = rng.integers(30, 220, (len(structure.values), 3))
    grain = rng.normal(0, 4, (*structure.size, 3))
    return np.clip(colours[structure.labels] + grain, 0, 255).astype(np.uint8)


def _scaled_records(size: tuple[int, int], megapixels: float, count: int) -> list[dict[str, Any]]:
    """Regions of an image of the same shape and another size."""
    factor = (megapixels * 1e6 / (size[0] * size[1])) ** 0.5
    return made_up_records((max(1, round(size[0] * factor)), max(1, round(size[1] * factor))), count)


def _costs(
    repeats: int, main: list[dict[str, Any]], others: Sequence[list[dict[str, Any]]]
) -> list[dict[str, float]]:
    """Time to encode each, and as a multiple of that of the main comparison's records."""
    first, *rest = _in_turns(repeats, *(partial(encode_structure, records) for records in (main, *others)))
    return [{"ms": taken, "ratio": taken / first} for taken in rest]


def _in_turns(repeats: int, *works: Callable[[], object]) -> list[float]:
    """Median time of each in milliseconds; in turns, so that what else the machine does hits them alike."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for taken, work in zip(times, works, strict=True):
            started = time.perf_counter()
            work()
            taken.append(1000 * (time.perf_counter() - started))
    return [float(np.median(taken)) for taken in times]
