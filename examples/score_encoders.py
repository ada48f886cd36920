"""Score runs of stage 1 on photographs: ``python examples/score_encoders.py RUN ... --hr FOLDER ...``.

For each run the means over each folder of PSNR-Y and SSIM-Y of its averaged weights' image (x4 by MATLAB
bicubic, 8 bit, border as wide as the scale), and PSNR-Y again with the mean error of each channel taken away
from each image. Runs in bfloat16 are off by up to 2 of 255 in colour until their end in float32;
on smooth photographs that hides everything else.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import torch

from sam_diffsr.config import from_dict
from sam_diffsr.evaluation import psnr_y, ssim_y
from sam_diffsr.evaluation.metrics import inside
from sam_diffsr.evaluation.pairs import read_pair, to_uint8
from sam_diffsr.models import ModelConfig, build_model
from sam_diffsr.models.rrdb import RRDBEncoder
from sam_diffsr.pipeline.batch import find_images
from sam_diffsr.training import read_checkpoint


def load(run: Path) -> tuple[RRDBEncoder, int]:
    """The encoder with the averaged weights of a run's newest checkpoint, and its scale."""
    checkpoint = read_checkpoint(run)
    model = build_model(from_dict(ModelConfig, checkpoint.config["model"], where=f"{run}: model"))
    encoder = model.encoder.to(memory_format=torch.channels_last).eval()
    encoder.load_state_dict(checkpoint.ema)
    return encoder, model.config.scale


def scores(encoder: RRDBEncoder, folder: Path, *, scale: int) -> tuple[float, float, float]:
    """Means of PSNR-Y, PSNR-Y without errors of colour, and SSIM-Y."""
    rows: list[tuple[float, float, float]] = []
    for path in find_images(folder):
        pair = read_pair(path, scale=scale)
        with torch.inference_mode():
            sr = encoder(pair.lr / 255)
        right = sr - inside(sr - pair.hr / 255, scale).mean((-2, -1), keepdim=True)
        psnr, without, ssim = (
            float(score(to_uint8(image), pair.hr, border=scale, data_range=255))
            for score, image in ((psnr_y, sr), (psnr_y, right), (ssim_y, sr))
        )
        rows.append((psnr, without, ssim))
    psnr, without, ssim = (fmean(column) for column in zip(*rows, strict=True))
    return psnr, without, ssim


def main() -> None:
    """Parse, score, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of sam-diffsr train rrdb")
    parser.add_argument("--hr", type=Path, nargs="+", required=True, help="folders of photographs")
    args = parser.parse_args()
    print("| run | photographs | PSNR-Y | the same, colours right | SSIM-Y |")
    print("| --- | --- | --- | --- | --- |")
    for run in args.runs:
        encoder, scale = load(run)
        for folder in args.hr:
            psnr, without, ssim = scores(encoder, folder, scale=scale)
            print(f"| {run.name} | {folder.name} | {psnr:.3f} | {without:.3f} | {ssim:.4f} |", flush=True)


if __name__ == "__main__":
    main()
