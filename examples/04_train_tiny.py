"""Train a tiny model in a minute or two: ``python examples/04_train_tiny.py OUT [--steps N]``.

Both stages of the ``tiny`` presets, from synthetic images that are made on the way: no data set, no masks, no
download. Then the result is exported, loaded again and used. It is a demonstration of the whole path, not a
model to use: the bundled one is better.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from PIL import Image

from sam_diffsr import SuperResolver
from sam_diffsr.evaluation.validation import FolderValidator
from sam_diffsr.pipeline.config import SamplingConfig
from sam_diffsr.training import export_run, load_config, read_log, resolver_config, train

HERE = Path(__file__).resolve().parent
SAMPLING = SamplingConfig(sampler="ddim", steps=1, start=6)
"""One step from the encoder's image, which is what little training is good for."""


def run_stage(stage: Literal["encoder", "denoiser"], name: str, out: Path, *, overrides: list[str]) -> None:
    """Train one stage, scored on the middle of a photograph that it does not see; say what came of it."""
    config = load_config(f"tiny/{name}", overrides=overrides)
    validator = FolderValidator(
        HERE,
        resolver_config(config, sampling=SAMPLING),
        method="encoder" if stage == "encoder" else "model",
        limit=1,
        crop=192,
    )
    train(stage, config, out / name, validate=validator)
    log = read_log(out / name)
    losses = [record["loss"] for record in log if "loss" in record]
    scores = log[-1]["validation"]
    print(
        f"{stage}: loss {losses[0]:.4f} -> {losses[-1]:.4f}, PSNR-Y {scores['psnr_y']:.2f} dB "
        f"(bicubic {scores['bicubic_psnr_y']:.2f} dB)"
    )


def main() -> None:
    """Train, export, upscale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for both runs, the model and the picture")
    parser.add_argument("--steps", type=int, help="steps of each stage (default: those of the presets)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    args = parser.parse_args()
    out: Path = args.out

    overrides = [f"run.device={args.device}", f"diffusion.encoder={out / 'rrdb'}"]
    if args.steps is not None:
        overrides.append(f"run.steps={args.steps}")
    run_stage("encoder", "rrdb", out, overrides=overrides)
    run_stage("denoiser", "diffusion", out, overrides=overrides)

    export_run(out / "diffusion", out / "model", sampling=SAMPLING)
    resolver = SuperResolver.from_pretrained(out / "model", device=args.device)
    large = resolver.upscale(Image.open(HERE / "chelsea_lr.png").crop((30, 10, 78, 58)))
    large.save(out / "chelsea_x4.png")
    print(f"{resolver}: {out / 'chelsea_x4.png'} is {large.width} x {large.height}")


if __name__ == "__main__":
    main()
