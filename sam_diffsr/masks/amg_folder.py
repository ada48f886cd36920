"""Reader of the folders that segment-anything's ``amg.py`` writes without ``--convert-to-rle``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam_diffsr.errors import DataError
from sam_diffsr.masks.rle import encode

__all__ = ["METADATA", "read_amg_folder"]

METADATA = "metadata.csv"


def read_amg_folder(folder: Path) -> list[dict[str, Any]]:
    """Read ``metadata.csv`` and the mask pictures it lists.

    Args:
        folder: ``OUT/<stem>`` of ``amg.py``, with ``0.png``, ``1.png``, ... where 0 is outside.

    Returns:
        One record per row, in the record schema of SAM's automatic mask generator, ``segmentation`` as
        compressed COCO RLE.

    Raises:
        DataError: the table or a picture is missing or malformed.
    """
    table = folder / METADATA
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} has no {METADATA}: it is not a folder of amg.py, or not finished"
        ) from error
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{table} cannot be read ({error})") from error
    records: list[dict[str, Any]] = []
    for number, row in enumerate(rows, start=2):
        try:
            record: dict[str, Any] = {
                "segmentation": None,
                "area": int(row["area"]),
                "bbox": [float(row[f"bbox_{name}"]) for name in ("x0", "y0", "w", "h")],
                "predicted_iou": float(row["predicted_iou"]),
                "point_coords": [[float(row["point_input_x"]), float(row["point_input_y"])]],
                "stability_score": float(row["stability_score"]),
                "crop_box": [float(row[f"crop_box_{name}"]) for name in ("x0", "y0", "w", "h")],
            }
            picture = folder / f"{int(row['id'])}.png"
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{table}: line {number} is incomplete or malformed ({error!r})") from error
        record["segmentation"] = _read_mask(picture)
        records.append(record)
    return records


def _read_mask(picture: Path) -> dict[str, Any]:
    try:
        with Image.open(picture) as image:
            mask = np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{picture} is missing or not a readable picture ({error})") from error
    return encode(mask)
