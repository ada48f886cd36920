"""What a model card says of a run: its data, its effort, its settings.

Configurations are read as plain dictionaries and by the keys that they have, so that runs of earlier and
later versions can be described, too. What is not known is left out, never guessed.
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
"""Photographs that are listed one by one, for the sake of their licences."""


def data_section(config: Config, *, run: Path) -> list[str]:
    """What the batches of a run were made of.

    Args:
        config: of the run.
        run: its folder, which holds the crops of a plain folder of photographs.
    """
    data = _table(config, "data")
    lines = ["## Data"]
    manifest: Config | None = None
    if data.get("crops") or data.get("photos"):
        folder = Path(data["crops"]) if data.get("crops") else run / "crops"
        try:
            manifest = read_manifest(folder)
        except DataError as error:
            logger.warning("the card does not describe the crops: %s", error)
            lines += [
                "",
                f"Crops in `{folder.name}`, whose manifest was not there when this was written.",
            ]
    if manifest is not None:
        lines += ["", *_sources(manifest)]
    synthetic: Config | None = data.get("synthetic")
    if synthetic is not None:
        alone = manifest is None and not (data.get("crops") or data.get("photos"))
        share = 1.0 if alone else float(data.get("synthetic_fraction", 0.0))
        lines += ["", _synthetic(synthetic, share=share)]
    augmented = _augmented(_table(data, "augment"))
    lines += ["", augmented] if augmented else []
    regions = _regions(config, _table(manifest or {}, "settings"), synthetic=synthetic is not None)
    return lines + (["", regions] if regions else [])


def training_section(denoiser: Checkpoint, *, run: Path) -> list[str]:
    """Settings and effort of both stages, as far as the first one can be found.

    Args:
        denoiser: checkpoint that is exported.
        run: folder of its run.
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
        logger.warning("the card does not describe the encoder's training: %s is no run folder", source)
        lines += [f"The encoder was taken from `{Path(source).name}`.", ""]
    titles = list(dict.fromkeys(title for facts in stages.values() for title in facts))
    rows = [[title, *(facts.get(title, "") for facts in stages.values())] for title in titles]
    return [*lines, *markdown_table(["", *stages], rows)]


def training_hours(run: Path, *, steps: int, batch: int) -> float | None:
    """Time spent on training steps, from the log; validation and pauses do not count.

    Args:
        run: folder of the run.
        steps: later ones are not counted.
        batch: images a step.

    Returns:
        Hours, or None where the log says nothing of it.
    """
    seconds, before = 0.0, 0
    for record in read_log(run):
        speed, step = record.get("images_per_second"), record["step"]
        if speed and step <= steps:
            seconds += (step - before) * batch / speed
            before = step
    return seconds / 3600 if before else None


def _facts(checkpoint: Checkpoint, run: Path) -> dict[str, str]:
    config = checkpoint.config
    data, optimizer, settings = (_table(config, name) for name in ("data", "optimizer", "run"))
    folder = run if run.is_dir() else run.parent.parent  # of a checkpoint inside it
    batch = data.get("batch")
    hours = None if batch is None else training_hours(folder, steps=checkpoint.step, batch=batch)
    optimizer_name = {"adamw": "AdamW"}.get(str(optimizer.get("name")), "Adam")
    loss = optimizer.get("loss", "l1") if checkpoint.stage == "encoder" else "l1 on the noise"
    facts: dict[str, str | None] = {
        "steps": str(checkpoint.step),
        "batch": None if batch is None else str(batch),
        "patch": _form("{0} x {0} HR pixels", data.get("patch")),
        "loss": loss,
        "optimizer": _form(
            optimizer_name + ", learning rate {0:g} ({1})", optimizer.get("lr"), optimizer.get("schedule")
        ),
        "halved every": _form("{} steps", optimizer.get("halve_every"))
        if optimizer.get("schedule") == "halving"
        else None,
        "gradient norm at most": _form("{:g}", optimizer.get("clip")),
        "averaged weights": _form("decay {:g}", settings.get("ema_decay")),
        "first weights": settings.get("init") or settings.get("start"),
        "arithmetic": settings.get("precision"),
        "seed": _form("{}", settings.get("seed")),
        "hours of training": None
        if hours is None
        else (f"{hours:.1f}" if hours >= 0.05 else "less than 0.1"),
    }
    return {title: value for title, value in facts.items() if value is not None}


def _sources(manifest: Config) -> list[str]:
    settings, sources = _table(manifest, "settings"), cast("list[dict[str, Any]]", manifest["sources"])
    side = manifest["crop_size"]
    if settings.get("synthetic"):
        return [f"{manifest['crops']} synthetic images of {side} x {side} pixels."]
    photos: dict[str, tuple[str, int]] = {}
    for source in sources:
        name = str(source.get("file", "?"))
        licence, count = photos.get(name, (str(source.get("licence") or ""), 0))
        photos[name] = (licence, count + int(source.get("crops", 0)))
    factors = sorted({float(source["reduction"]) for source in sources if source.get("reduction")})
    reduced = ", ".join(f"{factor:g}" for factor in factors)
    text = f"{manifest['crops']} crops of {side} x {side} pixels from {_count(len(photos), 'photograph')}"
    text += "" if factors in ([], [1.0]) else f", which were reduced by {reduced} first"
    flat = settings.get("min_gradient")
    text += f", without crops flatter than {flat:g} levels." if flat else "."
    skipped = cast("list[Any]", manifest.get("skipped") or [])
    text += f" {_count(len(skipped), 'photograph')} could not be used." if skipped else ""
    lines = [text]
    if any(licence for licence, _ in photos.values()) and len(photos) <= _MOST_NAMED:
        rows = [[name, licence or "unknown", str(count)] for name, (licence, count) in sorted(photos.items())]
        lines += ["", *markdown_table(["photograph", "licence, author", "crops"], rows)]
    return lines


def _synthetic(synthetic: Config, *, share: float) -> str:
    colours = "natural statistics"
    if synthetic.get("photos"):
        colours = f"photographs in `{Path(synthetic['photos']).name}`"
    pages = synthetic.get("pages")
    drawn = "" if pages is None else f"; {pages:.0%} of these images are pages of text and line art"
    return (
        f"{share:.0%} of each batch is synthetic, drawn while the run goes on: dead leaves with colours and "
        f"textures from {colours}{drawn}."
    )


def _augmented(augment: Config) -> str:
    parts = [
        text.format(augment[key])
        for key, text in (
            ("permute_channels", "channels in another order with a probability of {:g}"),
            ("mixup", "blended by twos with a probability of {:g}"),
        )
        if augment.get(key)
    ]
    return f"Beside turns and mirror images, windows were varied: {', '.join(parts)}." if parts else ""


def _regions(config: Config, settings: Config, *, synthetic: bool) -> str:
    data = _table(config, "data")
    if _table(config, "diffusion").get("modulation") == "none":
        return "Structure was not used: the noise carried none."
    if data.get("structure") == "zero":
        return "Structure was not used: E = 0 everywhere."
    segmenter = settings.get("segmenter")
    parts: list[str] = []
    if segmenter == "masks":
        parts.append("Regions of the photographs come from mask files that were made before.")
    elif segmenter == "none":
        parts.append("The photographs have no regions: E = 0 there.")
    elif segmenter is not None:
        parts.append(f"**The regions of the photographs are not SAM's.** They come from `{segmenter}`.")
    if synthetic or settings.get("synthetic"):
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
    """Fill a text in, or give nothing where a value is not known."""
    return None if any(value is None for value in values) else text.format(*values)
