"""Compares samplers, steps and starts: PSNR-Y, LPIPS and seconds of a model, and the Pareto frontier.

    python examples/lab/frontier.py photos frontier.txt --model sam-diffsr-x4-small

One row per setting, as tab-separated text: the encoder alone, every sampler, number of steps and start, and
blends of the encoder's image with each result. All crops are of one size, so ``s/image`` is the least time
of any of them. LPIPS needs the weights that ``examples/lab/lpips_weights.py`` makes. ``frontier`` marks
settings that no other one beats in PSNR-Y (to 0.01 dB), LPIPS (to 0.001) and number of steps at once;
``quality`` leaves the steps out.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from sam_diffsr import SuperResolver
from sam_diffsr.diffusion.samplers import SamplerName
from sam_diffsr.evaluation.metrics import psnr_y
from sam_diffsr.evaluation.pairs import read_image
from sam_diffsr.evaluation.perceptual import lpips_distance
from sam_diffsr.resize import imresize

SAMPLERS: tuple[SamplerName, ...] = ("ddpm", "ddim", "dpmpp_2m")
Scores = dict[str, list[tuple[float, float, float]]]
"""For each setting and image: PSNR-Y in dB, LPIPS, seconds."""


def middle(image: Tensor, side: int) -> Tensor:
    """The square in the middle of an image ``(1, 3, H, W)``."""
    top, left = ((size - side) // 2 for size in image.shape[-2:])
    return image[..., top : top + side, left : left + side].contiguous()


def back_project(sr: Tensor, lr: Tensor, scale: int) -> Tensor:
    """One step of back-projection, which holds the result to its input."""
    return (sr + imresize(lr - imresize(sr, 1 / scale), scale)).clamp(0, 1)


def dominated(row: tuple[float, ...], others: list[tuple[float, ...]]) -> bool:
    """Whether another row is at least as good everywhere and better somewhere; lower is better."""
    return any(all(a <= b for a, b in zip(o, row, strict=True)) and o != row for o in others)


@torch.inference_mode()
def measure(args: argparse.Namespace) -> Iterator[Scores]:
    """Score every setting on one image after the other; yields all scores so far."""
    resolver = SuperResolver.from_pretrained(args.model, device=args.device, dtype="fp32")
    distance, scale = lpips_distance(resolver.device), resolver.scale
    scores: Scores = {}

    def add(label: str, image: Tensor, hr: Tensor, lr: Tensor, seconds: float) -> None:
        if args.back_project:
            image = back_project(image, lr, scale)
        output = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        inside = (..., slice(scale, -scale), slice(scale, -scale))
        quality = psnr_y(output, hr, border=scale, data_range=255).item()
        scores.setdefault(label, []).append((quality, distance(output[inside], hr[inside]), seconds))

    files = sorted(path for path in Path(args.photos).iterdir() if path.is_file())[: args.limit]
    counts: list[int] = args.steps
    starts: list[int | None] = [None if start == "noise" else int(start) for start in args.starts]
    for number, file in enumerate(files):
        hr = middle(read_image(file), args.crop)
        lr = (imresize(hr, 1 / scale).float() / 255).to(resolver.device)
        started = time.perf_counter()
        encoded = resolver.model.encoder_image(resolver.model.encode(lr)).float()
        spent = time.perf_counter() - started
        add("bicubic\t\t\t", imresize(lr, scale), hr, lr, 0.0)
        add("encoder\t\t\t", encoded, hr, lr, spent)
        for sampler, steps, start in itertools.product(SAMPLERS, counts, starts):
            if (start is not None and start + 1 < steps) or (steps == 1 and sampler != "ddim"):
                continue  # not possible, or the same as ddim
            started = time.perf_counter()
            sample = resolver.upscale_tensor(
                lr, seeds=[0], sampler=sampler, steps=steps, start="noise" if start is None else start
            )
            spent = time.perf_counter() - started
            for blend in (0.0, *args.blends):
                mixed = blend * encoded + (1 - blend) * sample
                place = "noise" if start is None else start
                add(f"{sampler}\t{steps}\t{place}\t{blend or ''}", mixed, hr, lr, spent)
        print(f"[{number + 1}/{len(files)}] {file.name}", file=sys.stderr, flush=True)
        yield scores


def table(scores: Scores) -> str:
    """Means over the images, best PSNR-Y first, with the frontier marked (bicubic does not count)."""
    means: dict[str, tuple[float, float, int, float]] = {}
    for label, values in scores.items():
        psnr, lpips, seconds = zip(*values, strict=True)
        steps = int(label.split("\t")[1] or 0)
        means[label] = (sum(psnr) / len(psnr), sum(lpips) / len(lpips), steps, min(seconds))
    ranked = {label: (-round(p, 2), round(d, 3), n) for label, (p, d, n, _) in means.items()}
    others = [row for label, row in ranked.items() if not label.startswith("bicubic")]
    lines = ["sampler\tsteps\tstart\tblend\tPSNR-Y\tLPIPS\ts/image\tfrontier\tquality"]
    for label, (psnr, lpips, _, seconds) in sorted(means.items(), key=lambda item: -item[1][0]):
        best = not dominated(ranked[label], list(others))
        quality = not dominated(ranked[label][:2], [row[:2] for row in others])
        marks = f"{'*' if best else ''}\t{'*' if quality else ''}"
        lines.append(f"{label}\t{psnr:.3f}\t{lpips:.4f}\t{seconds:.2f}\t{marks}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the table after every image."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", help="folder of photographs")
    parser.add_argument("out", type=Path, help="file to write, tab-separated")
    parser.add_argument("--model", help="bundled name, folder or file (default: photo)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=int, default=8, help="photographs to use (default: 8)")
    parser.add_argument("--crop", type=int, default=384, help="side of the square from each middle (384)")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 3, 4, 6])
    parser.add_argument("--starts", nargs="+", default=["3", "6", "12", "25", "50", "75", "noise"])
    parser.add_argument("--blends", type=float, nargs="*", default=[0.25, 0.5, 0.75], help="encoder's shares")
    parser.add_argument("--back-project", action="store_true", help="hold every result to its input first")
    args = parser.parse_args()
    for scores in measure(args):
        args.out.write_text(table(scores), encoding="utf-8")


if __name__ == "__main__":
    main()
