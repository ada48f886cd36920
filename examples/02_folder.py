"""Upscale every image of a folder: ``python examples/02_folder.py PHOTOS OUT``.

Existing results are skipped, so a stopped run can be repeated; an unreadable file does not stop the others.
``sam-diffsr upscale`` does the same with more options.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sam_diffsr import SamDiffsrError, SuperResolver, save_image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}


def main() -> None:
    """Read the two paths and upscale."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    photos, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    resolver = SuperResolver.from_pretrained()
    failed = 0
    for photo in sorted(path for path in photos.iterdir() if path.suffix.lower() in SUFFIXES):
        target = out / f"{photo.name}_x{resolver.scale}.png"
        if target.exists():
            print(f"{target}: exists")
            continue
        try:
            large = resolver.upscale(photo)
            save_image(large, target)
        except SamDiffsrError as error:
            print(f"{photo}: {error}", file=sys.stderr)
            failed += 1
            continue
        print(f"{target}: {large.width} x {large.height}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
