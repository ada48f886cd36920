"""Reads the scores that ``sam-diffsr evaluate --json`` wrote, and shows them in a model card."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sam_diffsr.config import to_dict
from sam_diffsr.errors import DataError
from sam_diffsr.pipeline.card import markdown_table
from sam_diffsr.pipeline.config import SamplingConfig

__all__ = ["ScoreRow", "Scores", "model_index", "read_scores", "scores_section"]

_UNNAMED_FOLDERS = frozenset({"HR", "GT", "GTmod12", "original"})
"""Folder names that say nothing of the data set, which is then their parent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """Means of one method."""

    label: str
    """Name of the method."""
    sampling: Mapping[str, Any] | None
    """Sampling of a model; None for bicubic and other methods."""
    psnr_y: float | None
    """dB; None if result and truth were equal."""
    ssim_y: float
    """Structural similarity, at most 1."""
    artifacts: float | None = None
    """LDL's local variance of the residual."""
    lpips: float | None = None
    """Perceptual distance, lower is better."""
    fid: float | None = None
    """Fréchet distance of the sets of images."""
    seconds: float | None = None
    """Mean time per image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Scores of all methods, and how they were measured."""

    dataset: str
    """Folder of the images."""
    images: int
    """Number of images."""
    scale: int
    """Upscaling factor."""
    protocol: str
    """Evaluation protocol."""
    border: int
    """Pixels left out on every side."""
    seed: int
    """Seed of the noise."""
    software: str
    """Version and commit."""
    timing: str | None = None
    """What the times include, and the machine."""
    rows: tuple[ScoreRow, ...]
    """Methods in the order of the table."""

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
    """Read the file of ``sam-diffsr evaluate --json``.

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


def scores_section(name: str, scores: Scores) -> str:
    """Section of a model card with a table of scores and the command that gives them."""
    columns = {
        "PSNR-Y": [_number(row.psnr_y, 2, missing="equal") for row in scores.rows],
        "SSIM-Y": [_number(row.ssim_y, 4) for row in scores.rows],
        "artifacts 1e-4": [
            _number(None if row.artifacts is None else row.artifacts * 1e4, 2) for row in scores.rows
        ],
        "LPIPS": [_number(row.lpips, 4) for row in scores.rows],
        "FID": [_number(row.fid, 2) for row in scores.rows],
        "s/image": [_number(row.seconds, 2) for row in scores.rows] if scores.timing else [],
    }
    shown = {title: column for title, column in columns.items() if any(column)}
    rows = [
        [row.label, *(column[index] for column in shown.values())] for index, row in enumerate(scores.rows)
    ]
    asked = "".join(f" --{title.lower()}" for title in ("LPIPS", "FID") if title in shown)
    border = f"without a border of {scores.border} pixels" if scores.border else "on whole images"
    lines = [
        "## Scores",
        "",
        f"Means over the {scores.images} images of {scores.dataset_name}, x{scores.scale}, {border} "
        f"(protocol `{scores.protocol}`), seed {scores.seed}; {scores.software}.",
        "",
        *markdown_table(["", *shown], rows),
        *([] if "s/image" not in shown else ["", f"s/image: {scores.timing}."]),
        "",
        "```sh",
        f"sam-diffsr evaluate --hr {scores.dataset_name} --model {shlex.quote(name)} "
        f"--protocol {scores.protocol} --seed {scores.seed}{asked}",
        "```",
    ]
    return "\n".join(lines)


def model_index(name: str, scores: Scores, row: ScoreRow) -> list[str]:
    """Front matter that the Hub shows as a table of results."""
    values = {"psnr": ("PSNR-Y", row.psnr_y), "ssim": ("SSIM-Y", row.ssim_y), "lpips": ("LPIPS", row.lpips)}
    known = {key: (title, value) for key, (title, value) in values.items() if value is not None}
    dataset = json.dumps(scores.dataset_name)
    lines = ["metrics:", *(f"- {key}" for key in known)]
    lines += [
        "model-index:",
        f"- name: {json.dumps(name)}",
        "  results:",
        "  - task:",
        "      type: image-to-image",
        f"      name: Image super-resolution x{scores.scale}",
        "    dataset:",
        f"      type: {dataset}",
        f"      name: {dataset}",
        "    metrics:",
    ]
    for key, (title, value) in known.items():
        lines += [
            f"    - type: {key}",
            f"      name: {title} (protocol {scores.protocol})",
            f"      value: {round(value, 4)}",
        ]
    return lines


def _number(value: float | None, digits: int, *, missing: str = "") -> str:
    return missing if value is None else f"{value:.{digits}f}"


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
