"""What an evaluation found: scores an image, rows of means, and everything that they depend on."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sam_diffsr.config import to_dict
from sam_diffsr.evaluation.measures import MEASURES
from sam_diffsr.evaluation.methods import MethodKind, method_label
from sam_diffsr.evaluation.report import text_table
from sam_diffsr.pipeline.config import SamplingConfig

__all__ = ["MADE_INPUTS", "Evaluation", "ImageScore", "Row"]

MADE_INPUTS = "MATLAB bicubic of the cropped truth, 8 bit"
"""What ``Evaluation.lr`` says where inputs were made."""
_ARTIFACT_UNIT = 1e-4
"""What the table counts artefacts in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageScore:
    """One result on one image."""

    name: str
    """File name."""
    psnr_y: float
    """dB; infinite where result and truth are equal."""
    ssim_y: float
    """At most 1."""
    artifacts: float
    """LDL's local variance of the residual, >= 0; lower is better."""
    lpips: float | None = None
    """Perceptual distance, lower is better; None where it was not asked for."""
    seconds: float | None = None
    """Wall-clock time from the input in memory to the 8-bit result in memory; None for files."""
    measures: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """What was asked for of ``measures.MEASURES``; None where an image has nothing to measure it on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One method on all images."""

    method: MethodKind
    """What it is."""
    name: str
    """Of the model or of the folder; empty for bicubic."""
    sampling: SamplingConfig | None
    """Of the model; None for the others."""
    images: tuple[ImageScore, ...]
    """In the order of the files."""
    fid: float | None = None
    """Of all images together; None where it was not asked for."""

    @property
    def label(self) -> str:
        """One line that tells it from the others."""
        return method_label(self.method, self.name, self.sampling)

    @property
    def psnr_y(self) -> float:
        """Mean over the images, dB."""
        return sum(score.psnr_y for score in self.images) / len(self.images)

    @property
    def ssim_y(self) -> float:
        """Mean over the images."""
        return sum(score.ssim_y for score in self.images) / len(self.images)

    @property
    def artifacts(self) -> float:
        """Mean over the images."""
        return sum(score.artifacts for score in self.images) / len(self.images)

    @property
    def lpips(self) -> float | None:
        """Mean over the images, or None."""
        return _mean([score.lpips for score in self.images])

    @property
    def seconds(self) -> float | None:
        """Mean over the images, or None."""
        return _mean([score.seconds for score in self.images])

    @property
    def measures(self) -> dict[str, float | None]:
        """Each measure over the images that it is defined on: their mean, or the worst."""
        return {
            name: MEASURES[name].of_row([score.measures[name] for score in self.images])
            for name in self.images[0].measures
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What was measured, and how."""

    dataset: str
    """What the images are called."""
    protocol: str
    """Which pixels count."""
    scale: int
    """Upscaling factor."""
    border: int
    """Pixels left out on every side."""
    seed: int
    """Of every image's noise."""
    lr: str
    """Folder of the inputs, or how they were made."""
    cropped: tuple[str, ...]
    """Truths whose sides were no multiples of the scale, and were cropped at the bottom and right."""
    rows: tuple[Row, ...]
    """Bicubic, then for each model its encoder and its settings, then files made elsewhere."""
    machine: dict[str, Any]
    """Device and threads."""
    versions: dict[str, str]
    """Software."""
    commit: str | None
    """Of the library's git checkout, with ``-dirty`` where files differ; None for an installed one."""

    @property
    def timing(self) -> str:
        """What ``seconds`` are, and what they were taken on."""
        return (
            "seconds from the input in memory to the 8-bit result in memory, without loading models, "
            f"reading, scoring and saving{_where(self.machine)}"
        )

    def heading(self) -> str:
        """One line that says what the table is of."""
        count = len(self.rows[0].images)
        parts = [f"x{self.scale}", f"{count} image{'' if count == 1 else 's'}"]
        parts += [f"protocol {self.protocol} (border {self.border})", f"seed {self.seed}"]
        parts += [] if self.lr == MADE_INPUTS else [f"inputs from {self.lr}"]
        if self.cropped:
            parts.append(f"{len(self.cropped)} cropped to a multiple of {self.scale}")
        return ", ".join([self.dataset] * bool(self.dataset) + parts)

    def columns(self) -> tuple[list[str], list[list[str]]]:
        """Header and cells of the summary; columns that no row fills are left out."""
        baseline = self.rows[0].psnr_y
        cells: dict[str, Callable[[Row], str]] = {
            "model": lambda row: row.name,
            "method": lambda row: row.method if row.sampling is None else row.sampling.sampler,
            "steps": lambda row: "" if row.sampling is None else str(row.sampling.steps),
            "start": lambda row: "" if row.sampling is None else _start(row.sampling),
            "spacing": lambda row: "" if row.sampling is None else row.sampling.spacing,
            "PSNR-Y": lambda row: f"{row.psnr_y:.3f}",
            "gain": lambda row: _gain(row.psnr_y, baseline),
            "SSIM-Y": lambda row: f"{row.ssim_y:.4f}",
            "artifacts 1e-4": lambda row: f"{row.artifacts / _ARTIFACT_UNIT:.2f}",
            "LPIPS": lambda row: "" if row.lpips is None else f"{row.lpips:.4f}",
            "FID": lambda row: "" if row.fid is None else f"{row.fid:.2f}",
            **{name: partial(_measured, name=name) for name in self.rows[0].measures},
            "s/image": lambda row: "" if row.seconds is None else _seconds(row.seconds),
        }
        filled = {title: [cell(row) for row in self.rows] for title, cell in cells.items()}
        header = [title for title, column in filled.items() if any(column)]
        return header, [list(row) for row in zip(*(filled[title] for title in header), strict=True)]

    def table(self) -> str:
        """The summary as a text table that Markdown reads, too."""
        return text_table(*self.columns())

    def notes(self) -> list[str]:
        """One line for each column of the summary that does not explain itself."""
        shown = self.columns()[0]
        notes = {name: MEASURES[name].note for name in self.rows[0].measures}
        notes["s/image"] = self.timing
        return [f"{title}: {note}" for title, note in notes.items() if title in shown]

    def cheapest(self) -> list[tuple[Row, Row]]:
        """For each model, its longest ancestral run from noise, and the fewest steps that lose nothing to it.

        That is on each of PSNR-Y, SSIM-Y and artefacts; of equally many steps the highest PSNR-Y counts.
        Models that were not measured so, or where every setting loses, are left out.
        """
        found: list[tuple[Row, Row]] = []
        for name in dict.fromkeys(row.name for row in self.rows):
            rows = [(row, row.sampling) for row in self.rows if row.name == name and row.sampling is not None]
            longest = [(s.steps, row) for row, s in rows if s.sampler == "ddpm" and s.start is None]
            if not longest:
                continue
            most, reference = max(longest, key=lambda pair: pair[0])
            shorter = [
                (s.steps, -row.psnr_y, row)
                for row, s in rows
                if s.steps < most
                and row.psnr_y >= reference.psnr_y
                and row.ssim_y >= reference.ssim_y
                and row.artifacts <= reference.artifacts
            ]
            if shorter:
                found.append((reference, min(shorter, key=lambda entry: entry[:2])[2]))
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values, with the means beside the per-image values; infinity becomes null."""
        data = to_dict(self)
        data["timing"] = self.timing
        for entry, row in zip(data["rows"], self.rows, strict=True):
            entry |= {
                "label": row.label,
                "psnr_y": row.psnr_y,
                "ssim_y": row.ssim_y,
                "artifacts": row.artifacts,
            }
            entry |= {"lpips": row.lpips, "seconds": row.seconds, "measures": row.measures}
        return _finite(data)

    def to_csv(self) -> str:
        """One line for each image and method."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        settings = ("sampler", "steps", "start", "spacing")
        scores = ("psnr_y", "ssim_y", "artifacts", "lpips", "seconds")
        measures = tuple(self.rows[0].measures)
        writer.writerow(["image", "model", "method", *settings, *scores, *measures])
        for row in self.rows:
            setting = ["" if row.sampling is None else getattr(row.sampling, key) for key in settings]
            for score in row.images:
                values = [getattr(score, key) for key in scores]
                values += [score.measures[name] for name in measures]
                writer.writerow([score.name, row.name, row.method, *setting, *values])
        return text.getvalue()


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _measured(row: Row, *, name: str) -> str:
    value = row.measures[name]
    return "" if value is None else f"{value:.3f}"


def _where(machine: Mapping[str, Any]) -> str:
    """What times were taken on, as far as it is known."""
    device, threads = machine.get("device"), machine.get("threads")
    if device is None:
        return ""
    detail = f"{threads} thread{'' if threads == 1 else 's'}" if device == "cpu" else machine["device_name"]
    return f"; on {device}, {detail}"


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _start(sampling: SamplingConfig) -> str:
    return "noise" if sampling.start is None else str(sampling.start)


def _gain(value: float, baseline: float) -> str:
    difference = value - baseline
    return "" if math.isnan(difference) else f"{difference:+.3f}"


def _finite(value: Any) -> Any:
    """JSON has neither infinity nor NaN."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_finite(entry) for entry in value]  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and not math.isfinite(value) else value
