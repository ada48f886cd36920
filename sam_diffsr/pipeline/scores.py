"""What a model card says of quality: the file that ``sam-diffsr evaluate --json`` writes, read again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sam_diffsr.config import to_dict
from sam_diffsr.errors import DataError
from sam_diffsr.pipeline.config import SamplingConfig

__all__ = ["ScoreRow", "Scores", "read_scores"]

_UNNAMED_FOLDERS = frozenset({"HR", "GT", "GTmod12", "original"})
"""Folders that are called by what they hold; the data set is their parent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """Means of one method."""

    label: str
    """What it is."""
    sampling: Mapping[str, Any] | None
    """How a model sampled; None for bicubic and the like."""
    psnr_y: float | None
    """dB; None where result and truth were equal."""
    ssim_y: float
    """At most 1."""
    artifacts: float | None = None
    """LDL's local variance of the residual."""
    lpips: float | None = None
    """Perceptual distance."""
    fid: float | None = None
    """Distance of the sets of images."""
    seconds: float | None = None
    """Mean time of an image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Means of all methods, and how they were measured."""

    dataset: str
    """Where the images were."""
    images: int
    """How many."""
    scale: int
    """Upscaling factor."""
    protocol: str
    """Which pixels counted."""
    border: int
    """Pixels left out on every side."""
    seed: int
    """Of the noise."""
    software: str
    """Version and commit."""
    timing: str | None = None
    """What times are of, and where they were taken."""
    rows: tuple[ScoreRow, ...]
    """In the order of the table."""

    @property
    def dataset_name(self) -> str:
        """The data set without the folders above it."""
        path = Path(self.dataset)
        name = path.parent.name if path.name in _UNNAMED_FOLDERS else path.name
        return name or "images"

    def row_of(self, sampling: SamplingConfig) -> ScoreRow | None:
        """The first row of a model that sampled like this."""
        wanted = to_dict(sampling)
        return next((row for row in self.rows if row.sampling is not None and row.sampling == wanted), None)


def read_scores(path: str | os.PathLike[str]) -> Scores:
    """Read what ``sam-diffsr evaluate --json`` wrote.

    Raises:
        DataError: the file cannot be read, is not JSON, or lacks a key.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read the scores in {path}: {error}") from error
    except ValueError as error:
        raise DataError(
            f"{path} is not JSON ({error}); expected the file of `sam-diffsr evaluate --json`"
        ) from error
    try:
        return _parse(data)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(
            f"{path} is not what `sam-diffsr evaluate --json` writes ({type(error).__name__}: {error}); "
            "evaluate again with this version"
        ) from error


def _parse(data: Any) -> Scores:
    rows = cast("list[dict[str, Any]]", data["rows"])
    version = f"sam-diffsr {data['versions']['sam-diffsr']}"
    return Scores(
        dataset=str(data["dataset"]),
        images=len(rows[0]["images"]),
        scale=int(data["scale"]),
        protocol=str(data["protocol"]),
        border=int(data["border"]),
        seed=int(data["seed"]),
        timing=data.get("timing"),
        software=version if data.get("commit") is None else f"{version}, commit {data['commit']}",
        rows=tuple(
            ScoreRow(
                label=str(row["label"]),
                sampling=row["sampling"],
                psnr_y=row["psnr_y"],
                ssim_y=float(row["ssim_y"]),
                artifacts=row.get("artifacts"),
                lpips=row.get("lpips"),
                fid=row.get("fid"),
                seconds=row.get("seconds"),
            )
            for row in rows
        ),
    )
