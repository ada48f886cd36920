"""Make masks for a folder of photographs, encode them, and show the first one's regions and structure field.

    python examples/05_masks.py photos masks [PICTURE]

``masks`` gets ``<stem>.json`` (records as Segment Anything's own tool writes them) and ``<stem>.npz`` (the
structure field) for each photograph, in the tree of ``photos``;
``sam-diffsr data prepare photos crops --reductions 1 --masks masks`` takes them. Regions here come from graph
segmentation, which needs no weights, only scikit-image; for those of Segment Anything put
``SamMaskGenerator.from_pretrained("vit_h")`` in the place of ``GraphMaskGenerator()``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sam_diffsr.image.photos import list_photos
from sam_diffsr.masks import (
    GraphMaskGenerator,
    StructureField,
    draw_structure,
    write_records,
    write_structure,
)
from sam_diffsr.masks.folders import place_targets


def main() -> None:
    """Read the arguments and make the masks."""
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: 05_masks.py PHOTOS MASKS [PICTURE]")
    photos, masks = Path(sys.argv[1]), Path(sys.argv[2])
    generator = GraphMaskGenerator()
    for number, (photo, target) in enumerate(place_targets(list_photos(photos), photos, masks, ".json")):
        image = np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"))
        records = generator.generate(image)
        structure = StructureField.from_masks(records, size=image.shape[:2])
        target.parent.mkdir(parents=True, exist_ok=True)
        write_records(target, records)
        write_structure(target.with_suffix(".npz"), structure)
        low, high = float(structure.values.min()), float(structure.values.max())
        print(f"{photo.name}: {len(records)} regions, E from {low:.4f} to {high:.4f}")
        if len(sys.argv) == 4 and number == 0:
            draw_structure(image, structure).save(sys.argv[3])


if __name__ == "__main__":
    main()
