"""Score bicubic, the encoder and three fidelities: ``python examples/06_evaluate.py [PHOTO ...]``.

Each photograph is reduced by MATLAB's bicubic, enlarged again and compared with the original on Y without a
border of 4 pixels. ``sam-diffsr evaluate --hr FOLDER`` does the same with LPIPS, FID, damaged inputs and a
page to look at.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sam_diffsr import SuperResolver
from sam_diffsr.evaluation import evaluate_methods, sampling_grid
from sam_diffsr.evaluation.methods import bicubic_method, model_methods


def main() -> None:
    """Read the arguments, score, print."""
    photos = [Path(name) for name in sys.argv[1:]] or [Path(__file__).resolve().parent / "chelsea.png"]
    resolver = SuperResolver.from_pretrained()
    fidelities = [1.0, 0.5, 0.0]
    settings = sampling_grid(resolver.config, fidelities=fidelities)
    methods = [bicubic_method(resolver.scale), *model_methods(resolver, name="model", settings=settings)]
    rows = evaluate_methods(photos, methods, scale=resolver.scale).rows
    names = ["bicubic", "encoder", *(f"fidelity {fidelity:g}" for fidelity in fidelities)]
    print(f"{'':14}{'PSNR-Y':>8}{'SSIM-Y':>8}")
    for name, row in zip(names, rows, strict=True):
        print(f"{name:14}{row.psnr_y:8.2f}{row.ssim_y:8.4f}")


if __name__ == "__main__":
    main()
