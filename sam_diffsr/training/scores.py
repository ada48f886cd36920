"""Scores for a model card, from the file that ``sam-diffsr evaluate --json`` wrote."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam_diffsr.config import to_dict
from sam_diffsr.errors import DataError
from sam_diffsr.pipeline.card import markdown_table
from sam_diffsr.pipeline.config import ResolverConfig

__all__ = ["scores_for_card"]

_COLUMNS = {
    "PSNR-Y": ("psnr_y", 1, 2),
    "SSIM-Y": ("ssim_y", 1, 4),
    "artifacts 1e-4": ("artifacts", 1e4, 2),
    "LPIPS": ("lpips", 1, 4),
    "FID": ("fid", 1, 2),
    "s/image": ("seconds", 1, 2),
}
"""Title to key, factor and digits."""
_METRICS = {"psnr": "PSNR-Y", "ssim": "SSIM-Y", "lpips": "LPIPS"}
"""The Hub's names of metrics, to titles."""
_UNNAMED_FOLDERS = ("HR", "GT", "GTmod12", "original")
"""Folder names that say nothing of the data set, which is then their parent."""


def scores_for_card(
    path: str | os.PathLike[str], config: ResolverConfig, *, name: str
) -> tuple[list[str], str]:
    """Front matter that the Hub shows as a table of results, and a section with the scores of all methods.

    The file must have the model of ``config`` at its default sampling; otherwise it is a ``DataError``.
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
        if data["scale"] != config.model.scale:
            raise DataError(f"{path} has scores at x{data['scale']}, but the model is x{config.model.scale}")
        sampling = config.sampling
        row = next((row for row in data["rows"] if row["sampling"] == to_dict(sampling)), None)
        if row is None:
            start = "noise" if sampling.start is None else sampling.start
            raise DataError(
                f"{path} has no model with the default sampling ({sampling.sampler}, {sampling.steps} steps, "
                f"start {start}, {sampling.spacing}); evaluate the exported folder and export again with its "
                "scores"
            )
        return _front_matter(data, row, name), _section(data, name)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(
            f"{path} is not what `sam-diffsr evaluate --json` writes ({type(error).__name__}: {error}); "
            "evaluate again with this version"
        ) from error


def _section(data: Mapping[str, Any], name: str) -> str:
    """A table of scores, and the command that gives them."""
    protocol, border, seed, timing = data["protocol"], data["border"], data["seed"], data.get("timing")
    columns = {title: [_cell(row, title) for row in data["rows"]] for title in _COLUMNS}
    columns["s/image"] *= bool(timing)
    shown = {title: column for title, column in columns.items() if any(column)}
    rows = list(zip([row["label"] for row in data["rows"]], *shown.values(), strict=True))
    inside = f"without a border of {border} pixels" if border else "on whole images"
    software = f"sam-diffsr {data['versions']['sam-diffsr']}"
    software += f", commit {data['commit']}" if data.get("commit") else ""
    asked = "".join(f" --{title.lower()}" for title in ("LPIPS", "FID") if title in shown)
    lines = [
        "## Scores",
        "",
        f"Means over the {len(data['rows'][0]['images'])} images of {_dataset(data)}, x{data['scale']}, "
        f"{inside} (protocol `{protocol}`), seed {seed}; {software}.",
        "",
        *markdown_table(["", *shown], rows),
        *(["", f"s/image: {timing}."] if "s/image" in shown else []),
        "",
        "```sh",
        f"sam-diffsr evaluate --hr {_dataset(data)} --model {shlex.quote(name)} --protocol {protocol} "
        f"--seed {seed}{asked}",
        "```",
    ]
    return "\n".join(lines)


def _front_matter(data: Mapping[str, Any], row: Mapping[str, Any], name: str) -> list[str]:
    keys = {metric: _COLUMNS[title][0] for metric, title in _METRICS.items()}
    known = {metric: row[key] for metric, key in keys.items() if row.get(key) is not None}
    dataset = json.dumps(_dataset(data))
    lines = [
        "metrics:",
        *(f"- {metric}" for metric in known),
        "model-index:",
        f"- name: {json.dumps(name)}",
        "  results:",
        "  - task:",
        "      type: image-to-image",
        f"      name: Image super-resolution x{data['scale']}",
        "    dataset:",
        f"      type: {dataset}",
        f"      name: {dataset}",
        "    metrics:",
    ]
    for metric, value in known.items():
        lines += [
            f"    - type: {metric}",
            f"      name: {_METRICS[metric]} (protocol {data['protocol']})",
            f"      value: {round(value, 4)}",
        ]
    return lines


def _dataset(data: Mapping[str, Any]) -> str:
    """Name of the data set without the folders above it."""
    path = Path(data["dataset"])
    return (path.parent.name if path.name in _UNNAMED_FOLDERS else path.name) or "images"


def _cell(row: Mapping[str, Any], title: str) -> str:
    key, factor, digits = _COLUMNS[title]
    if row.get(key) is None:
        return "equal" if key == "psnr_y" else ""
    return f"{row[key] * factor:.{digits}f}"
