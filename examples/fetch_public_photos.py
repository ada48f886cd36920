"""Write the five evaluation photographs: ``python examples/fetch_public_photos.py FOLDER [--scenes]``.

They come inside scikit-learn (china, flower) and scikit-image (astronaut, coffee, chelsea), so no network is
needed: ``pip install "sam-diffsr[eval]"``. Each is cropped at the bottom and at the right to a multiple of 8.
No model of this project was trained on them. ``--scenes`` writes four others of scikit-image instead, to look
at: a flat sky, a printed page, a brick wall and grass.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from sklearn import datasets


def photographs() -> dict[str, np.ndarray]:
    """Name to ``(H, W, 3)`` uint8."""
    return {
        "china": datasets.load_sample_image("china.jpg"),
        "flower": datasets.load_sample_image("flower.jpg"),
        "astronaut": data.astronaut(),
        "coffee": data.coffee(),
        "chelsea": data.chelsea(),
    }


def scenes() -> dict[str, np.ndarray]:
    """Name to ``(H, W, 3)`` or, for gray ones, ``(H, W)`` uint8."""
    return {"rocket": data.rocket(), "page": data.page(), "brick": data.brick(), "grass": data.grass()}


def main() -> None:
    """Crop and write each as PNG."""
    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], ["--scenes"]):
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, photo in (scenes() if sys.argv[2:] else photographs()).items():
        height, width = (size // 8 * 8 for size in photo.shape[:2])
        Image.fromarray(photo[:height, :width]).save(folder / f"{name}.png")
        print(f"{folder / name}.png: {width} x {height}")


if __name__ == "__main__":
    main()
