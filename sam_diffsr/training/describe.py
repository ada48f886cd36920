"""Sections of a model card that describe a training run: its data, its settings and its hours.

Configurations are read as plain dictionaries, by the keys that they have, so that runs of other versions can be
described. Unknown facts are left out, never guessed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from sam_diffsr.data.crops import read_manifest
from sam_diffsr.errors import DataError, ModelLoadError
from sam_diffsr.pipeline.card import markdown_table
from sam_diffsr.training.log import read_log
from sam_diffsr.training.state import Checkpoint, read_checkpoint

__all__ = ["data_section", "training_hours", "training_section"]

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]
_MOST_NAMED = 500
"""Most photographs that are listed one by one with their licences."""


def data_section(config: Config, *, run: Path) -> list[str]:
    """Describe the training data.

    Args:
        config: the run's configuration.
        run: the run's folder, which holds the crops of ``data.photos``.

    Returns:
        Lines of Markdown.
    """
    data = _table(config, "data")
    paragraphs: list[list[str]] = [["## Data"]]

    # photographs
    has_crops = bool(data.get("crops") or data.get("photos"))
    manifest: Config = {}
    if has_crops:
        folder = Path(data.get("crops") or run / "crops")
        try:
            manifest = read_manifest(folder)
            paragraphs += _sources(manifest)
        except DataError as error:
            logger.warning("the card does not describe the crops: %s", error)
            paragraphs.append([f"Crops in `{folder.name}`, whose manifest was not found."])
    settings = _table(manifest, "settings")

    # synthetic images
    synthetic: Config | None = data.get("synthetic")
    if synthetic is not None:
        share = float(data.get("synthetic_fraction", 0.0)) if has_crops else 1.0
        photos, pages = synthetic.get("photos"), synthetic.get("pages")
        colours = f"photographs in `{Path(photos).name}`" if photos else "natural statistics"
        drawn = "" if pages is None else f"; {pages:.0%} of these images are pages of text and line art"
        paragraphs.append(
            [
                f"{share:.0%} of each batch is synthetic, generated during the run: dead leaves with colours and "
                f"textures from {colours}{drawn}."
            ]
        )

    # augmentation and regions
    augment = _table(data, "augment")
    varied = [
        text.format(augment[key])
        for key, text in (
            ("permute_channels", "permuted colour channels with probability {:g}"),
            ("mixup", "mixup with probability {:g}"),
        )
        if augment.get(key)
    ]
    if varied:
        paragraphs.append([f"Augmentation in addition to flips and rotations: {', '.join(varied)}."])
    exact = synthetic is not None or bool(settings.get("synthetic"))
    paragraphs.append([_regions(config, settings, exact=exact)])
    return "\n\n".join("\n".join(lines) for lines in paragraphs if any(lines)).split("\n")


def training_section(denoiser: Checkpoint, *, run: Path) -> list[str]:
    """Describe settings and hours of both stages; the encoder's only if its run is found.

    Args:
        denoiser: the exported checkpoint.
        run: folder of its run.

    Returns:
        Lines of Markdown.
    """
    source = cast("str | None", _table(denoiser.config, "diffusion").get("encoder"))
    stages = {"denoiser": _facts(denoiser, run)}
    lines = ["## Training", ""]
    try:
        encoder = read_checkpoint(source) if source is not None and Path(source).exists() else None
    except ModelLoadError:
        encoder = None
    if encoder is not None and source is not None:
        stages = {"encoder": _facts(encoder, Path(source)), **stages}
    elif source is not None:
        logger.warning("the card does not describe the encoder's training: %s is not a run folder", source)
        lines += [f"The encoder was taken from `{Path(source).name}`.", ""]
    titles = list(dict.fromkeys(title for facts in stages.values() for title in facts))
    rows = [[title, *(facts.get(title, "") for facts in stages.values())] for title in titles]
    return [*lines, *markdown_table(["", *stages], rows)]


def training_hours(run: Path, *, steps: int, batch: int) -> float | None:
    """Hours of training steps, from the log, without validations and pauses.

    Args:
        run: folder of the run.
        steps: later steps are not counted.
        batch: images per step.

    Returns:
        Hours, or None if the log has no speeds.
    """
    seconds, before = 0.0, 0
    for record in read_log(run):
        speed, step = record.get("images_per_second"), record["step"]
        if speed and step <= steps:
            seconds += (step - before) * batch / speed
            before = step
    return seconds / 3600 if before else None


def _facts(checkpoint: Checkpoint, run: Path) -> dict[str, str]:
    """Settings and hours of one stage, by title."""
    config = checkpoint.config
    data, optimizer, settings = (_table(config, name) for name in ("data", "optimizer", "run"))
    folder = run if run.is_dir() else run.parent.parent  # of a checkpoint file
    batch, schedule = data.get("batch"), optimizer.get("schedule")
    hours = None if batch is None else training_hours(folder, steps=checkpoint.step, batch=batch)
    short = hours is not None and hours < 0.05
    name = "AdamW" if optimizer.get("name") == "adamw" else "Adam"
    facts = {
        "steps": str(checkpoint.step),
        "batch": _form("{}", batch),
        "patch": _form("{0} x {0} HR pixels", data.get("patch")),
        "loss": optimizer.get("loss", "l1") if checkpoint.stage == "encoder" else "l1 on the noise",
        "optimizer": _form(name + ", learning rate {0:g} ({1})", optimizer.get("lr"), schedule),
        "halved every": _form("{} steps", optimizer.get("halve_every")) if schedule == "halving" else None,
        "gradient norm at most": _form("{:g}", optimizer.get("clip")),
        "averaged weights": _form("decay {:g}", settings.get("ema_decay")),
        "first weights": settings.get("init") or settings.get("start"),
        "precision": settings.get("precision"),
        "seed": _form("{}", settings.get("seed")),
        "hours of training": "less than 0.1" if short else _form("{:.1f}", hours),
    }
    return {title: value for title, value in facts.items() if value is not None}


def _sources(manifest: Config) -> list[list[str]]:
    """Number and origin of the crops; a table of the photographs if any licence is known."""
    settings, sources = _table(manifest, "settings"), cast("list[dict[str, Any]]", manifest["sources"])
    count, side = manifest["crops"], manifest["crop_size"]
    if settings.get("synthetic"):
        return [[f"{count} synthetic images of {side} x {side} pixels."]]

    # several sources are reductions of one photograph
    photos: dict[str, tuple[str, int]] = {}
    for source in sources:
        name = str(source.get("file", "?"))
        licence, crops = photos.get(name, (str(source.get("licence") or ""), 0))
        photos[name] = (licence, crops + int(source.get("crops", 0)))
    factors = sorted({float(source["reduction"]) for source in sources if source.get("reduction")})
    text = f"{count} crops of {side} x {side} pixels from {_count(len(photos), 'photograph')}"
    if factors not in ([], [1.0]):
        text += f", which were reduced by {', '.join(f'{factor:g}' for factor in factors)} first"
    flat = settings.get("min_gradient")
    text += f", without crops flatter than {flat:g} levels." if flat else "."
    skipped = cast("list[Any]", manifest.get("skipped") or [])
    text += f" {_count(len(skipped), 'photograph')} could not be used." if skipped else ""
    if not any(licence for licence, _ in photos.values()) or len(photos) > _MOST_NAMED:
        return [[text]]
    rows = [[name, licence or "unknown", str(crops)] for name, (licence, crops) in sorted(photos.items())]
    return [[text], markdown_table(["photograph", "licence, author", "crops"], rows)]


def _regions(config: Config, settings: Config, *, exact: bool) -> str:
    """Describe where the regions of the structure field come from."""
    data = _table(config, "data")
    if _table(config, "diffusion").get("modulation") == "none":
        return "Structure was not used: the noise had none."
    if data.get("structure") == "zero":
        return "Structure was not used: E = 0 everywhere."
    segmenter = settings.get("segmenter")
    parts: list[str] = []
    if segmenter == "masks":
        parts.append("Regions of the photographs come from mask files.")
    elif segmenter == "none":
        parts.append("The photographs have no regions: E = 0 there.")
    elif segmenter is not None:
        parts.append(f"**The regions of the photographs are not SAM's.** They come from `{segmenter}`.")
    if exact:
        parts.append("Regions of synthetic images are exact.")
    encoding = data.get("encoding") or settings.get("encoding")
    reduction = data.get("reduction") or settings.get("reduction")
    if parts and encoding and reduction:
        parts.append(f"The structure field is `{encoding}`, divided by the {reduction}'s area.")
    return " ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _table(config: Config, name: str) -> Config:
    return cast("Config", config.get(name) or {})


def _form(text: str, *values: Any) -> str | None:
    """Fill in a text, or return None if a value is unknown."""
    return None if any(value is None for value in values) else text.format(*values)
