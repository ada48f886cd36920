"""Sections of a model card that describe a training run: its data, settings and hours, and its scores."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam_diffsr.config import to_dict
from sam_diffsr.data.crops import read_manifest
from sam_diffsr.errors import ConfigError, DataError, ModelLoadError
from sam_diffsr.pipeline.config import ResolverConfig
from sam_diffsr.training.config import TrainConfig
from sam_diffsr.training.log import CROPS, read_log
from sam_diffsr.training.state import Checkpoint, read_checkpoint

logger = logging.getLogger(__name__)

_MOST_NAMED = 500
"""Most photographs that are listed one by one with their licences."""
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


def data_section(checkpoint: Checkpoint) -> str:
    """Describe the training data of a run in Markdown."""
    config, paragraphs = checkpoint.train_config(), ["## Data"]
    data = config.data

    # photographs
    folder = checkpoint.run / CROPS if data.photos else Path(data.crops) if data.crops else None
    manifest: Mapping[str, Any] = {}
    if folder is not None:
        try:
            manifest = read_manifest(folder)
            paragraphs += _describe_crops(manifest)
        except DataError as error:
            logger.warning("the card does not describe the crops: %s", error)
            paragraphs.append(f"Crops in `{folder.name}`, whose manifest was not found.")

    # synthetic images
    if data.synthetic is not None:
        share, photos = 1.0 if folder is None else data.synthetic_fraction, data.synthetic.photos
        colours = f"photographs in `{Path(photos).name}`" if photos else "natural statistics"
        paragraphs.append(
            f"{share:.0%} of each batch is synthetic, generated during the run: dead leaves with colours and "
            f"textures from {colours}; {data.synthetic.pages:.0%} of these images are pages of text and line "
            "art."
        )

    # augmentation and regions
    chances = {"permuted colour channels": data.augment.permute_channels, "mixup": data.augment.mixup}
    varied = [f"{name} with probability {chance:g}" for name, chance in chances.items() if chance]
    if varied:
        paragraphs.append(f"Augmentation in addition to flips and rotations: {', '.join(varied)}.")
    paragraphs.append(_describe_regions(config, manifest.get("settings") or {}))
    return "\n\n".join(filter(None, paragraphs))


def training_section(denoiser: Checkpoint) -> str:
    """Describe settings and hours of both stages in Markdown; the encoder's only if its run is found."""
    source = denoiser.train_config().diffusion.encoder
    stages = {"denoiser": _facts(denoiser)}
    lines = ["## Training", ""]
    if source is not None:
        try:
            stages = {"encoder": _facts(read_checkpoint(source)), **stages}
        except (ModelLoadError, ConfigError) as error:
            logger.warning("the card does not describe the encoder's training: %s", error)
            lines += [f"The encoder was taken from `{Path(source).name}`.", ""]
    titles = list(dict.fromkeys(title for facts in stages.values() for title in facts))
    rows = [[title, *(facts.get(title, "") for facts in stages.values())] for title in titles]
    return "\n".join([*lines, *_table(["", *stages], rows)])


def training_hours(run: Path, *, steps: int, batch: int) -> float | None:
    """Hours of the first ``steps`` steps, from the log, without pauses; None if it has no speeds."""
    seconds, before = 0.0, 0
    for record in read_log(run):
        speed, step = record.get("images_per_second"), record["step"]
        if speed and step <= steps:
            seconds += (step - before) * batch / speed
            before = step
    return seconds / 3600 if before else None


def scores_for_card(
    path: str | os.PathLike[str], config: ResolverConfig, *, name: str
) -> tuple[list[str], str]:
    """Front matter that the Hub shows as a table of results, and a section with the scores of all methods.

    The file must have the model of ``config`` at its default sampling, on inputs without damage; of several
    models the one called ``name`` is taken. Otherwise it is a ``DataError``.
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
        rows = [row for row in data["rows"] if row["sampling"] == to_dict(sampling)]
        rows = [row for row in rows if row.get("damage", "") in ("", "bicubic")]
        if not rows:
            start = "noise" if sampling.start is None else sampling.start
            raise DataError(
                f"{path} has no model with the default sampling ({sampling.sampler}, {sampling.steps} steps, "
                f"start {start}, {sampling.spacing}) on inputs without damage; evaluate the exported folder "
                "and export again with its scores"
            )
        if len(names := {row.get("name", "") for row in rows}) > 1:
            rows = [row for row in rows if Path(row["name"]).name == name]
        if not rows:
            raise DataError(
                f"{path} has several models with the default sampling ({', '.join(sorted(names))}), none of "
                f"them called {name}; evaluate the exported folder alone and export again with its scores"
            )
        return _front_matter(data, rows[0], name), _section(data, name)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(
            f"{path} is not what `sam-diffsr evaluate --json` writes ({type(error).__name__}: {error}); "
            "evaluate again with this version"
        ) from error


def _facts(checkpoint: Checkpoint) -> dict[str, str]:
    """Settings and hours of one stage, by title."""
    config = checkpoint.train_config()
    data, optimizer, settings = config.data, config.optimizer, config.run
    hours = training_hours(checkpoint.run, steps=checkpoint.step, batch=data.batch)
    name = {"adam": "Adam", "adamw": "AdamW"}[optimizer.name]
    facts = {
        "steps": str(checkpoint.step),
        "batch": str(data.batch),
        "patch": f"{data.patch} x {data.patch} HR pixels",
        "loss": optimizer.loss if checkpoint.stage == "encoder" else "l1 on the noise",
        "optimizer": f"{name}, learning rate {optimizer.lr:g} ({optimizer.schedule})",
        "halved every": f"{optimizer.halve_every} steps" if optimizer.schedule == "halving" else "",
        "gradient norm at most": f"{optimizer.clip:g}",
        "averaged weights": f"decay {settings.ema_decay:g}",
        "first weights": settings.init or settings.start,
        "precision": settings.precision,
        "seed": str(settings.seed),
        "hours of training": "" if hours is None else f"{hours:.1f}" if hours >= 0.05 else "less than 0.1",
    }
    return {title: value for title, value in facts.items() if value}


def _describe_crops(manifest: Mapping[str, Any]) -> list[str]:
    """Describe number and origin of the crops; list the photographs if any licence is known."""
    settings: Mapping[str, Any] = manifest.get("settings") or {}
    count, side, sources = manifest["crops"], manifest["crop_size"], manifest["sources"]
    if settings.get("synthetic"):
        return [f"{count} synthetic images of {side} x {side} pixels."]

    # a photograph may have several sources, one per reduction
    photos: dict[str, tuple[str, int]] = {}
    for source in sources:
        name = str(source.get("file", "?"))
        licence, crops = photos.get(name, (str(source.get("licence") or ""), 0))
        photos[name] = (licence, crops + int(source.get("crops", 0)))
    factors = sorted({float(source["reduction"]) for source in sources if source.get("reduction")})
    text = f"{count} crops of {side} x {side} pixels from {_count(len(photos), 'photograph')}"
    if factors not in ([], [1.0]):
        text += f", which were reduced by {', '.join(f'{factor:g}' for factor in factors)} first"
    flat, skipped = settings.get("min_gradient"), len(manifest.get("skipped") or [])
    text += f", without crops flatter than {flat:g} levels." if flat else "."
    text += f" {_count(skipped, 'photograph')} could not be used." if skipped else ""
    if not any(licence for licence, _ in photos.values()) or len(photos) > _MOST_NAMED:
        return [text]
    rows = [[name, licence or "unknown", str(crops)] for name, (licence, crops) in sorted(photos.items())]
    return [text, "\n".join(_table(["photograph", "licence, author", "crops"], rows))]


def _describe_regions(config: TrainConfig, settings: Mapping[str, Any]) -> str:
    """Describe where the regions of the structure field come from; ``settings`` are those of the crops."""
    data, segmenter = config.data, settings.get("segmenter")
    if config.diffusion.modulation == "none" or data.structure == "zero":
        return "Structure was not used: E = 0 everywhere."
    known = {
        None: "",
        "masks": "Regions of the photographs come from mask files.",
        "none": "The photographs have no regions: E = 0 there.",
    }
    other = f"**The regions of the photographs are not SAM's.** They come from `{segmenter}`."
    synthetic = data.synthetic is not None or settings.get("synthetic")
    encoding, reduction = (getattr(data, name) or settings.get(name) for name in ("encoding", "reduction"))
    parts = [known.get(segmenter, other), "Regions of synthetic images are exact." if synthetic else ""]
    if any(parts) and encoding and reduction:
        parts.append(f"The structure field is `{encoding}`, divided by the {reduction}'s area.")
    return " ".join(filter(None, parts))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


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
    damages = ",".join(dict.fromkeys(row["damage"] for row in data["rows"] if row.get("damage")))
    asked = f" --degrade {shlex.quote(damages)}" if damages else ""
    asked += "".join(f" --{title.lower()}" for title in ("LPIPS", "FID") if title in shown)
    lines = [
        "## Scores",
        "",
        f"Means over the {len(data['rows'][0]['images'])} images of {_dataset(data)}, x{data['scale']}, "
        f"{inside} (protocol `{protocol}`), seed {seed}; {software}.",
        "",
        *_table(["", *shown], rows),
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


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; bars inside cells are escaped."""

    def line(cells: Sequence[str]) -> str:
        escaped = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
        return "|" + "|".join(f" {cell} " if cell else " " for cell in escaped) + "|"

    return [line(header), line(["---"] * len(header)), *map(line, rows)]
