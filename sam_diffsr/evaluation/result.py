"""Results of an evaluation as tables, JSON and CSV: scores per image, rows of means, what they depend on."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sam_diffsr.config import to_dict
from sam_diffsr.evaluation.measures import MEASURES, average
from sam_diffsr.evaluation.methods import MethodKind
from sam_diffsr.evaluation.report import text_table
from sam_diffsr.pipeline.config import SamplingConfig

MADE_INPUTS = "MATLAB bicubic of the cropped truth, 8 bit"
"""Text of ``Evaluation.lr`` where inputs were made."""
BETTER = {"PSNR-Y": max, "SSIM-Y": max, "PSNR-RGB": max, "artifacts 1e-4": min, "LPIPS": min, "FID": min} | {
    name: min for name, measure in MEASURES.items() if measure.lower_is_better
}
"""For columns of the summary that have a best value, the function that finds it."""
_SETTINGS = ("sampler", "steps", "start", "spacing", "encoder_share")
_SCORES = ("psnr_y", "ssim_y", "psnr_rgb", "artifacts", "lpips", "seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageScore:
    """Scores of one method on one image."""

    name: str
    psnr_y: float
    """dB; infinite where result and truth are equal."""
    ssim_y: float
    """At most 1."""
    psnr_rgb: float
    """dB, over R, G and B together."""
    artifacts: float
    """LDL's local variance of the residual, >= 0; lower is better."""
    lpips: float | None = None
    """Perceptual distance, lower is better; None if it was not asked for."""
    seconds: float | None = None
    """Wall-clock time from the input in memory to the 8-bit result in memory; None for files."""
    measures: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """Further measures of :data:`~sam_diffsr.evaluation.measures.MEASURES`; None where undefined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One method on all images. The scores are means over the images, None where an image has none."""

    label: str
    """One line that tells it from the others."""
    damage: str = ""
    """Name of the degradation that made the inputs; empty for the usual inputs."""
    method: MethodKind
    name: str
    """Name of the model or of the folder; empty for bicubic."""
    sampling: SamplingConfig | None
    """How the model sampled; None for other kinds."""
    fidelity: float | None = None
    """The fidelity that chose ``sampling``, if one did."""
    images: tuple[ImageScore, ...]
    """In the order of the files."""
    fid: float | None = None
    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    artifacts: float
    lpips: float | None
    seconds: float | None
    measures: dict[str, float | None]
    """Each measure's mean or worst value over the images where it is defined."""


def means(images: Sequence[ImageScore]) -> dict[str, Any]:
    """The scores of a :class:`Row` of these images."""
    values = {key: [getattr(score, key) for score in images] for key in _SCORES}
    return {
        **{key: None if None in column else average(column) for key, column in values.items()},
        "measures": {
            name: MEASURES[name].of_row([score.measures[name] for score in images])
            for name in images[0].measures
        },
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Rows of scores, and how they were measured."""

    dataset: str
    protocol: str
    """Which pixels count, see :data:`~sam_diffsr.evaluation.evaluate.Protocol`."""
    scale: int
    border: int
    """Pixels left out on every side."""
    seed: int
    lr: str
    """Folder of the inputs, or how they were made."""
    cropped: tuple[str, ...]
    """Truths that were cropped to a multiple of the scale."""
    gray: tuple[str, ...] = ()
    """Gray truths that were scored on their gray values."""
    rows: tuple[Row, ...]
    """For each damage: bicubic, then each model's encoder and settings, then files made elsewhere."""
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    """Git commit of the library's checkout, ``-dirty`` if files differ; None for an installed library."""

    @property
    def timing(self) -> str:
        """Explanation of ``seconds``, with the device."""
        device, threads = self.machine.get("device"), self.machine.get("threads", 0)
        detail = _count(threads, "thread") if device == "cpu" else self.machine.get("device_name")
        return (
            "seconds from the input in memory to the 8-bit result in memory, without loading models, "
            "reading, scoring and saving" + (f"; on {device}, {detail}" if device else "")
        )

    def heading(self) -> str:
        """One line that describes the table."""
        parts = [
            self.dataset,
            f"x{self.scale}",
            _count(len(self.rows[0].images), "image"),
            f"protocol {self.protocol} (border {self.border})",
            f"seed {self.seed}",
            "" if self.lr == MADE_INPUTS else f"inputs from {self.lr}",
            f"{_count(len(self.gray), 'gray image')} scored on gray values" if self.gray else "",
            f"{len(self.cropped)} cropped to a multiple of {self.scale}" if self.cropped else "",
        ]
        return ", ".join(filter(None, parts))

    def columns(self) -> tuple[list[str], list[list[str]]]:
        """Header and cells of the summary, without columns that are empty and not asked for."""
        baseline = {row.damage: row.psnr_y for row in reversed(self.rows)}  # the first row of each damage
        lines = [_cells(row, gain=row.psnr_y - baseline[row.damage]) for row in self.rows]
        asked = self.rows[0].measures
        header = [title for title in lines[0] if title in asked or any(line[title] for line in lines)]
        return header, [[line[title] for title in header] for line in lines]

    def table(self) -> str:
        """The summary as a Markdown table."""
        return text_table(*self.columns())

    def notes(self) -> list[str]:
        """One line per column of the summary that needs an explanation."""
        notes = {name: MEASURES[name].note for name in self.rows[0].measures} | {"s/image": self.timing}
        return [f"{title}: {notes[title]}" for title in self.columns()[0] if title in notes]

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values; JSON has neither infinity nor NaN, so they become null."""
        text = json.dumps({**to_dict(self), "timing": self.timing})
        return json.loads(text, parse_constant=lambda name: None)

    def to_csv(self) -> str:
        """One line per image and method."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        header = ["image", "damage", "model", "method", "fidelity", *_SETTINGS, *_SCORES]
        writer.writerow([*header, *self.rows[0].measures])
        for row in self.rows:
            method = [row.damage, row.name, row.method, row.fidelity]
            method += [getattr(row.sampling, key, "") for key in _SETTINGS]
            for score in row.images:
                values = [getattr(score, key) for key in _SCORES]
                writer.writerow([score.name, *method, *values, *score.measures.values()])
        return text.getvalue()


def _cells(row: Row, *, gain: float) -> dict[str, str]:
    """Cells of a row of the summary by their headings; empty where there is nothing to say."""
    sampling = row.sampling
    cells = {"damage": row.damage, "model": row.name, "method": row.method}
    cells |= {"fidelity": _number(row.fidelity, "g"), "steps": "", "start": "", "spacing": ""}
    if sampling is not None:
        start = "noise" if sampling.start is None else str(sampling.start)
        share = f", {sampling.encoder_share:.0%} encoder" if sampling.encoder_share else ""
        cells |= {"method": sampling.sampler + share, "steps": str(sampling.steps), "start": start}
        cells["spacing"] = sampling.spacing
    return {
        **cells,
        "PSNR-Y": _number(row.psnr_y, ".3f"),
        "gain": _number(gain, "+.3f"),
        "SSIM-Y": _number(row.ssim_y, ".4f"),
        "PSNR-RGB": _number(row.psnr_rgb, ".3f"),
        "artifacts 1e-4": _number(row.artifacts / 1e-4, ".2f"),
        "LPIPS": _number(row.lpips, ".4f"),
        "FID": _number(row.fid, ".2f"),
        **{name: _number(value, ".3f") for name, value in row.measures.items()},
        "s/image": _number(row.seconds, ".2f" if (row.seconds or 0) >= 1 else ".3f"),
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _number(value: float | None, form: str) -> str:
    """A number as text; empty where there is none."""
    return "" if value is None or math.isnan(value) else format(value, form)
