"""Compare today's fidelity with that of version 0.1: ``python examples/lab/fidelity.py photos5 -m small``.

Version 0.1 took one ancestral step per five timesteps, from ``1 - fidelity`` of the schedule.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch

from sam_diffsr import SuperResolver
from sam_diffsr.evaluation import psnr_y
from sam_diffsr.evaluation.perceptual import lpips_distance
from sam_diffsr.image import decode_image
from sam_diffsr.resize import imresize


def main() -> None:
    """Print PSNR-Y, LPIPS and seconds of both mappings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="photographs")
    parser.add_argument("-m", "--model", default="small")
    parser.add_argument("--limit", type=int, help="photographs to read")
    args = parser.parse_args()
    resolver, lpips = SuperResolver.from_pretrained(args.model), lpips_distance("cpu")
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for file in sorted(args.folder.iterdir())[: args.limit]:
        hr = decode_image(file).rgb
        hr = hr[..., : hr.shape[-2] // 4 * 4, : hr.shape[-1] // 4 * 4]
        pairs.append(((imresize(hr, 0.25).clamp(0, 1) * 255).round() / 255, hr))

    print("| fidelity | 0.1: steps | PSNR-Y | LPIPS | seconds | now: steps | PSNR-Y | LPIPS | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for fidelity in (1.0, 0.75, 0.5, 0.25, 0.0):
        start = round((1 - fidelity) * 99)
        old: dict[str, Any] = {"sampler": "ddpm", "steps": math.ceil((start + 1) / 5)}
        old["start"] = "noise" if fidelity == 0 else start
        cells = [f"{fidelity:g}"]
        ways: list[tuple[int, dict[str, Any]]] = [
            (old["steps"], old),
            (int(fidelity < 1), {"fidelity": fidelity}),
        ]
        for steps, options in ways:
            began = time.perf_counter()
            scores: list[tuple[float, float]] = []
            results = [resolver.upscale_tensor(lr, seeds=[0], **options) for lr, _ in pairs]
            seconds = (time.perf_counter() - began) / len(pairs)
            for sr, (_, hr) in zip(results, pairs, strict=True):
                x, y = ((image * 255).round().to(torch.uint8) for image in (sr, hr))
                inside = slice(4, -4)
                distance = lpips(x[..., inside, inside], y[..., inside, inside])
                scores.append((float(psnr_y(x, y, border=4, data_range=255)), distance))
            psnr, distance = (sum(column) / len(pairs) for column in zip(*scores, strict=True))
            cells += [str(steps), f"{psnr:.2f}", f"{distance:.3f}", f"{seconds:.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
