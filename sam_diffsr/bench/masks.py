"""Times structural position encoding against a straightforward implementation, and by sizes and regions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.bench.result import BenchResult, at_least, time_in_turns
from sam_diffsr.masks.rle import decode, encode
from sam_diffsr.masks.spe import StructureField, encode_structure, position_field
from sam_diffsr.masks.store import write_structure


def measure_masks(
    *,
    size: tuple[int, int] = (1356, 2040),
    regions: int = 100,
    region_counts: Sequence[int] = (10, 1000),
    megapixels: Sequence[float] = (0.5, 12.0),
    repeats: int = 9,
) -> BenchResult:
    """Time structural position encoding on made-up regions, and weigh the stored field.

    ``size`` is ``(height, width)`` of the image; images with other numbers of regions and of other sizes are
    compared with it. Raises ``ArgumentError`` for values below 1.
    """
    height, width = size
    at_least(1, {"height": height, "width": width, "regions": regions, "repeats": repeats})
    records = made_up_records(size, regions)
    others = {f"{count} regions": made_up_records(size, count) for count in region_counts}
    for amount in megapixels:
        factor = (amount * 1e6 / (height * width)) ** 0.5
        scaled = (max(1, round(height * factor)), max(1, round(width * factor)))
        others[f"{amount:g} megapixels"] = made_up_records(scaled, regions)
    tasks: dict[str, Callable[[], object]] = {
        "encode": partial(encode_structure, records),
        "straightforward": partial(straightforward_structure, records),
        **{name: partial(encode_structure, other) for name, other in others.items()},
    }
    what = f"structure fields, {regions} regions at {height}x{width}"
    timed = time_in_turns(what, tasks, repeats=repeats)
    with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as folder:
        stored = write_structure(Path(folder, "field.npz"), StructureField.from_masks(records))
    difference = np.abs(encode_structure(records).numpy() - straightforward_structure(records)).max()
    scaling = [{"image": name, "ratio": timed.ratio(name, "encode")} for name in others]
    return BenchResult(
        name="masks",
        figures={
            "encode_speedup": timed.ratio("straightforward", "encode"),
            "encode_difference": float(difference),
            "smaller_than_npy": (4 * height * width + 128) / stored,
        },
        tables={"encode_scaling": scaling},
        settings={"size": list(size), "regions": regions, "repeats": repeats},
        seconds=timed.medians(),
    )


def made_up_records(size: tuple[int, int], count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Overlapping wavy blobs in a ``(height, width)`` image as run-length records, large ones first."""
    rng = np.random.default_rng(seed)
    height, width = size
    records: list[dict[str, Any]] = []
    for index in range(count):
        radius = max(2.0, 0.35 * min(size) * (index + 1) ** -0.4)
        y, x, phase = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0, 6.28)
        reach = 1.4 * radius
        top, bottom = max(0, int(y - reach)), min(height, int(y + reach) + 2)
        left, right = max(0, int(x - reach)), min(width, int(x + reach) + 2)
        rows, columns = np.arange(top, bottom)[:, None] - y, np.arange(left, right)[None] - x
        angle = np.arctan2(rows, columns)
        wavy = radius * (1 + 0.25 * np.sin(3 * angle + phase) + 0.1 * np.sin(9 * angle))
        mask = np.zeros(size, np.bool_)
        mask[top:bottom, left:right] = rows**2 + columns**2 <= wavy**2
        records.append({"segmentation": encode(mask)})
    return records


def straightforward_structure(records: Sequence[dict[str, Any]]) -> NDArray[np.float32]:
    """Structure field ``(H, W)`` as the paper describes it: the mean of ``mask * field`` per region."""
    height, width = records[0]["segmentation"]["size"]
    field = position_field((height, width)).astype(np.float32)
    structure = np.zeros((height, width), np.float32)
    for record in records:
        mask = np.ascontiguousarray(decode(record["segmentation"]))
        structure[mask] = (field * mask).mean()
    return structure
