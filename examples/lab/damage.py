"""Make low-resolution images, clean and damaged.

    python examples/lab/damage.py HR OUT --jpeg 50 30 --noise 5 10

HR is a file or a folder. ``OUT/clean`` gets MATLAB's bicubic reductions in 8 bit, which are what models are
trained on and scored with; ``OUT/jpeg30`` the same after JPEG of quality 30, ``OUT/noise10`` with Gaussian
noise of that standard deviation, out of 255, rounded. Each is a folder for ``sam-diffsr evaluate --lr``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from sam_diffsr.evaluation.pairs import read_pair
from sam_diffsr.image.jobs import find_images


def write(hr: Path, out: Path, *, scale: int, jpeg: list[int], noise: list[float], seed: int) -> None:
    """Write all versions of one image."""
    clean = read_pair(hr, scale=scale).lr[0].permute(1, 2, 0).numpy()
    (out / "clean").mkdir(parents=True, exist_ok=True)
    Image.fromarray(clean).save(out / "clean" / f"{hr.stem}.png")
    for quality in jpeg:
        folder = out / f"jpeg{quality}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(clean).save(folder / f"{hr.stem}.jpg", quality=quality)
    for sigma in noise:
        folder = out / f"noise{sigma:g}"
        folder.mkdir(exist_ok=True)
        added = np.random.default_rng(seed).normal(0, sigma, clean.shape)
        noisy = np.rint(clean + added).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{hr.stem}.png")


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("hr", type=Path, help="image file or flat folder")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--jpeg", type=int, nargs="+", default=[], metavar="Q", help="qualities")
    parser.add_argument("--noise", type=float, nargs="+", default=[], metavar="SIGMA", help="out of 255")
    parser.add_argument("--scale", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    args = parser.parse_args()
    files = find_images(args.hr) if args.hr.is_dir() else [args.hr]
    for path in files:
        write(path, args.out, scale=args.scale, jpeg=args.jpeg, noise=args.noise, seed=args.seed)
    print(f"{len(files)} images in {', '.join(sorted(path.name for path in args.out.iterdir()))}")


if __name__ == "__main__":
    main()
