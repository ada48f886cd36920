"""Turn the finished runs into the bundled model: ``python examples/export_small.py RUN CROPS OUT ...``.

The card names every photograph with its author and licence (from the crops' manifest), how long both stages
trained (from their logs), and the scores (from ``sam-diffsr evaluate --json``). Without ``--scores`` the card
has none: export, evaluate, export again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import cast

import torch

from sam_diffsr.data import CropStore
from sam_diffsr.diffusion.samplers import SamplerName
from sam_diffsr.pipeline.config import SamplingConfig
from sam_diffsr.training import export_run, read_checkpoint, read_log

NAME = "sam-diffsr-x4-small"
LICENSE = "cc-by-sa-4.0"


def data_section(crops: Path) -> list[str]:
    """What the crops were cut from."""
    manifest = CropStore(crops).manifest
    photos: dict[str, tuple[str, int]] = {}
    for source in manifest["sources"]:
        licence, count = photos.get(source["file"], (source["licence"], 0))
        photos[source["file"]] = (licence, count + source["crops"])
    settings = manifest["settings"]
    side = settings["crop_size"]
    factors = ", ".join(f"{factor:g}" for factor in settings["reductions"])
    rows = [f"| {file} | {licence} | {count} |" for file, (licence, count) in sorted(photos.items())]
    return [
        "## Data",
        "",
        f"{manifest['crops']} crops of {side} x {side} pixels from {len(photos)} photographs of Debian's "
        "packages lomiri-wallpapers-16.04, lomiri-wallpapers-20.04 and lebiniou-data, reduced by "
        f"{factors} (which removes JPEG and demosaicing blur), without flat ones. That is very little. No "
        "evaluation photograph is among them.",
        "",
        "| photograph | licence, author | crops |",
        "| --- | --- | --- |",
        *rows,
        "",
        f"**The regions are not SAM's.** They come from graph segmentation (`{settings['segmenter']}`); the "
        f"structure field is `{settings['encoding']}` with the mean over the `{settings['reduction']}`.",
    ]


def effort_section(run: Path, encoder: Path) -> list[str]:
    """What stage 1 was; the export adds stage 2."""
    config = read_checkpoint(encoder).config
    data, optimizer = config["data"], config["optimizer"]
    patch = f"{data['patch']} x {data['patch']}"
    steps = read_checkpoint(encoder).step
    hours = {stage: _hours(folder) for stage, folder in (("encoder", encoder), ("denoiser", run))}
    return [
        "## Effort",
        "",
        f"Encoder: {steps} steps of {data['batch']} patches of {patch} HR pixels by L1, Adam from "
        f"{optimizer['lr']:g} down ({optimizer['schedule']}), {hours['encoder']:.1f} hours. Denoiser: below, "
        f"{hours['denoiser']:.1f} hours. Both mostly on one CPU core; no GPU was involved. It is a small "
        "model that trained for a short time, and more of both would help.",
    ]


def _hours(run: Path) -> float:
    """Sum of the time between the lines of a log."""
    images = read_checkpoint(run).config["data"]["batch"]
    seconds, before = 0.0, 0
    for record in read_log(run):
        if "images_per_second" in record:
            seconds += (record["step"] - before) * images / record["images_per_second"]
            before = record["step"]
    return seconds / 3600


def scores_section(path: Path) -> list[str]:
    """Means over the evaluation photographs."""
    result = json.loads(path.read_text(encoding="utf-8"))
    rows: list[str] = []
    for row in result["rows"]:
        sampling = row["sampling"]
        name = row["method"]
        if sampling is not None:
            start = "noise" if sampling["start"] is None else f"t = {sampling['start']}"
            name = f"{sampling['sampler']}, {sampling['steps']} steps from {start}"
        rows.append(f"| {name} | {row['psnr_y']:.2f} | {row['ssim_y']:.4f} |")
    return [
        "## Scores",
        "",
        "scikit-learn's two sample photographs and scikit-image's astronaut, coffee and chelsea; LR by "
        "MATLAB bicubic, rounded to 8 bit; PSNR and SSIM on Y without a border of "
        f"{result['border']} pixels; means of the five.",
        "",
        "| | PSNR-Y | SSIM-Y |",
        "| --- | --- | --- |",
        *rows,
        "",
        "```sh",
        "python examples/fetch_public_photos.py photos5 && sam-diffsr evaluate --hr photos5",
        "```",
    ]


def main() -> None:
    """Parse and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the denoiser's run")
    parser.add_argument("crops", type=Path, help="folder of crops that it was trained on")
    parser.add_argument("out", type=Path, help="model folder to write")
    parser.add_argument("--encoder", type=Path, required=True, help="folder of the encoder's run")
    parser.add_argument("--sampler", required=True, help="default sampler")
    parser.add_argument("--steps", type=int, required=True, help="default number of steps")
    parser.add_argument("--start", type=int, help="default timestep to start from (none: pure noise)")
    parser.add_argument("--scores", type=Path, help="JSON of sam-diffsr evaluate")
    args = parser.parse_args()

    sections = [*data_section(args.crops), "", *effort_section(args.run, args.encoder)]
    if args.scores is not None:
        sections += ["", *scores_section(args.scores)]
    export_run(
        args.run,
        args.out,
        sampling=SamplingConfig(
            sampler=cast("SamplerName", args.sampler), steps=args.steps, start=args.start
        ),
        name=NAME,
        license=LICENSE,
        details="\n".join(sections),
        dtype=torch.float16,
    )
    print(args.out)


if __name__ == "__main__":
    main()
